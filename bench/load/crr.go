// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// serveCRR answers one byte on each connection and closes it.
func serveCRR(o Options) error {
	b := make([]byte, 1)
	return acceptEach(o.Address, func(fd int) {
		defer unix.Close(fd)
		if readFull(fd, b) == nil {
			_ = writeAll(fd, b) // the client detects an error
		}
	})
}

func runCRR(o Options) (Measures, error) {
	b := make([]byte, 1)
	repeat(func() error { return transact(o, b) })
	times := newLatencies()
	began := time.Now()
	for last, end := began, began.Add(o.Duration); last.Before(end); {
		if err := transact(o, b); err != nil {
			return nil, err
		}
		now := time.Now()
		times = append(times, now.Sub(last))
		last = now
	}
	return times.measures(time.Since(began))
}

// The number of connections of runCRR60000, and how many of them are compared at either end.
const (
	manyConnections = 60_000
	endConnections  = 5_000
)

func runCRR60000(o Options) (Measures, error) {
	b := make([]byte, 1)
	repeat(func() error { return transact(o, b) })
	times := newLatencies()
	began := time.Now()
	for i := range manyConnections {
		start := time.Now()
		if err := transact(o, b); err != nil {
			return nil, fmt.Errorf("connection %d: %w", i+1, err)
		}
		times = append(times, time.Since(start))
	}
	took := time.Since(began)
	kept := times.kept(endConnections)
	m, err := times.measures(took)
	if err == nil {
		m["kept"] = kept
	}
	return m, err
}

// kept returns the ratio of the median of the first n to that of the last n.
func (l Latencies) kept(n int) float64 {
	first, last := slices.Clone(l[:n]), slices.Clone(l[len(l)-n:])
	return first.median() / last.median()
}

// transact opens a connection, exchanges one byte and waits until the server has closed.
func transact(o Options, b []byte) error {
	fd, err := dial(unix.SOCK_STREAM, o.Address)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := exchange(fd, b); err != nil {
		return err
	}
	switch n, err := unix.Read(fd, b); {
	case err != nil:
		return err
	case n != 0:
		return errors.New("the server sent more than its answer")
	}
	return nil
}
