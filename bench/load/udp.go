// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long to wait for datagrams in flight.
const settle = 50 * time.Millisecond

// patience is how long a server may take to read the first datagrams.
const patience = 2 * time.Second

// serveUDP counts datagrams; a byte on a TCP connection queries the count.
func serveUDP(o Options) error {
	var received atomic.Uint64
	fd, err := bind(unix.SOCK_DGRAM, o.Address)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- count(o, fd, &received) }()
	go func() {
		b := make([]byte, 8)
		failed <- acceptEach(o.Address, func(fd int) {
			defer unix.Close(fd)
			for readFull(fd, b[:1]) == nil {
				binary.BigEndian.PutUint64(b, received.Load())
				if writeAll(fd, b) != nil {
					return
				}
			}
		})
	}()
	return <-failed
}

func count(o Options, fd int, received *atomic.Uint64) error {
	if err := pin(o.CPU); err != nil {
		return err
	}
	b := make([]byte, o.Size)
	for {
		if _, err := unix.Read(fd, b); err != nil {
			return fmt.Errorf("receive datagram: %w", err)
		}
		received.Add(1)
	}
}

func runUDP(o Options) (Measures, error) {
	control, before, err := firstDatagram(o)
	if err != nil {
		return nil, err
	}
	defer unix.Close(control)
	fd, err := dial(unix.SOCK_DGRAM, o.Address)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, o.Size)
	sent := 0
	began := time.Now()
	for end := began.Add(o.Duration); time.Now().Before(end); sent++ {
		switch _, err := unix.Write(fd, b); {
		case errors.Is(err, unix.ENOBUFS): // dropped before it was sent
		case err != nil:
			return nil, fmt.Errorf("send datagram: %w", err)
		}
	}
	took := time.Since(began).Seconds()
	after, err := askSettled(control, before)
	if err != nil {
		return nil, err
	}
	received := float64(after - before)
	return Measures{"rate": received / took, "sent": float64(sent) / took, "loss": 1 - received/float64(sent)}, nil
}

// firstDatagram waits until the server answers and datagrams arrive. It returns the control
// connection and the count.
func firstDatagram(o Options) (control int, received uint64, err error) {
	repeat(func() (err error) {
		if control, err = dialTCP(o.Address); err != nil {
			return err
		}
		if received, err = ask(control); err != nil {
			unix.Close(control)
		}
		return err
	})
	fd, err := dial(unix.SOCK_DGRAM, o.Address)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	for {
		if _, err := unix.Write(fd, make([]byte, o.Size)); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return 0, 0, fmt.Errorf("send datagram: %w", err)
		}
		time.Sleep(settle)
		if seen, err := ask(control); err != nil || seen != received {
			return control, seen, err
		}
	}
}

// askSettled queries the count after waiting for datagrams to arrive, and repeats that for a
// while if the count has not changed: the server may have to wait for a processor.
func askSettled(control int, before uint64) (uint64, error) {
	for deadline := time.Now().Add(patience); ; {
		time.Sleep(settle)
		late := time.Now().After(deadline)
		after, err := ask(control)
		if err != nil || after != before {
			return after, err
		}
		if late {
			return 0, errors.New("no datagram arrived")
		}
	}
}

// ask queries the number of datagrams that the server has read.
func ask(fd int) (uint64, error) {
	b := make([]byte, 8)
	if err := writeAll(fd, b[:1]); err != nil {
		return 0, err
	}
	if err := readFull(fd, b); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}
