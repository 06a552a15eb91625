// SPDX-License-Identifier: Apache-2.0

package load

import (
	"time"

	"golang.org/x/sys/unix"
)

// serveRR answers each message of Size bytes with itself.
func serveRR(o Options) error {
	b := make([]byte, o.Size)
	return acceptEach(o.Address, func(fd int) {
		defer unix.Close(fd)
		if noDelay(fd) != nil {
			return
		}
		for readFull(fd, b) == nil && writeAll(fd, b) == nil {
		}
	})
}

func runRR(o Options) (Measures, error) {
	b := make([]byte, o.Size)
	var fd int
	repeat(func() (err error) {
		if fd, err = dialTCP(o.Address); err != nil {
			return err
		}
		if err = exchange(fd, b); err != nil {
			unix.Close(fd)
		}
		return err
	})
	defer unix.Close(fd)
	times := newLatencies()
	began := time.Now()
	for last, end := began, began.Add(o.Duration); last.Before(end); {
		if err := exchange(fd, b); err != nil {
			return nil, err
		}
		now := time.Now()
		times = append(times, now.Sub(last))
		last = now
	}
	return times.measures(time.Since(began))
}
