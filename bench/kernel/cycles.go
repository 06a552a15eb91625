// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Cycles counts processor cycles, of user programs, kernel and interrupts, on all processors.
type Cycles struct{ fds []int }

// StartCycles starts counting. It returns nil if this machine, usually a virtual one, does
// not count cycles.
func StartCycles() (*Cycles, error) {
	c, err := startCounter(unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CPU_CYCLES)
	// ENOENT and EOPNOTSUPP: no such counter exists here (perf_event_open(2)).
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return c, err
}

// startCounter counts an event on each processor.
func startCounter(kind uint32, config uint64) (_ *Cycles, retErr error) {
	c := new(Cycles)
	defer func() {
		if retErr != nil {
			c.close()
		}
	}()
	attr := unix.PerfEventAttr{Type: kind, Config: config, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	for cpu := range runtime.NumCPU() {
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("count cycles of processor %d: %w", cpu, err)
		}
		c.fds = append(c.fds, fd)
	}
	return c, nil
}

// Stop stops counting and returns the number of cycles.
func (c *Cycles) Stop() (total uint64, err error) {
	defer c.close()
	for _, fd := range c.fds {
		var b [8]byte
		if n, err := unix.Read(fd, b[:]); err != nil || n != len(b) {
			return 0, fmt.Errorf("read a cycle counter: %d bytes: %w", n, err)
		}
		total += binary.NativeEndian.Uint64(b[:])
	}
	return total, nil
}

func (c *Cycles) close() {
	for _, fd := range c.fds {
		unix.Close(fd)
	}
}
