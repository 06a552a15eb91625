// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// piece is the number of bytes written or read at once.
const piece = 128 << 10

// serveStream reads each connection to its end and sends the client the number of bytes.
func serveStream(o Options) error {
	return acceptEach(o.Address, func(fd int) {
		go func() { // ends with the client
			defer unix.Close(fd)
			if pin(o.CPU) == nil {
				swallow(fd)
			}
		}()
	})
}

func swallow(fd int) {
	b := make([]byte, piece)
	for total := uint64(0); ; {
		n, err := unix.Read(fd, b)
		if err != nil {
			return
		}
		if n == 0 {
			_ = writeAll(fd, binary.BigEndian.AppendUint64(nil, total)) // the client detects an error
			return
		}
		total += uint64(n)
	}
}

// flow is the result of one stream.
type flow struct {
	bytes uint64
	err   error
}

func runStream(o Options) (Measures, error) {
	repeat(func() error { _, err := stream(o.lasting(0)); return err })
	began := time.Now()
	flows := make(chan flow)
	for range o.Streams {
		go func() {
			n, err := uint64(0), pin(o.CPU)
			if err == nil {
				n, err = stream(o)
			}
			flows <- flow{n, err}
		}()
	}
	var total uint64
	var errs []error
	for range o.Streams {
		f := <-flows
		total += f.bytes
		errs = append(errs, f.err)
	}
	took := time.Since(began)
	return Measures{"gbps": float64(total) * 8 / 1e9 / took.Seconds()}, errors.Join(errs...)
}

// lasting returns o with another duration.
func (o Options) lasting(d time.Duration) Options {
	o.Duration = d
	return o
}

// stream writes for the duration, and returns how many bytes the server has read.
func stream(o Options) (uint64, error) {
	fd, err := dial(unix.SOCK_STREAM, o.Address)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	b := make([]byte, piece)
	for end := time.Now().Add(o.Duration); time.Now().Before(end); {
		if err := writeAll(fd, b); err != nil {
			return 0, err
		}
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return 0, err
	}
	if err := readFull(fd, b[:8]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}
