// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The processor's time, which every machine counts, stands for its cycles.
func TestCounter(t *testing.T) {
	c, err := startCounter(unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_CPU_CLOCK)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	got, err := c.Stop()
	if err != nil || got < uint64(50*time.Millisecond) {
		t.Errorf("counted %d ns in at least 50 ms, %v", got, err)
	}
}

func TestCycles(t *testing.T) {
	c, err := StartCycles()
	if err != nil {
		t.Fatal(err)
	}
	if c == nil {
		t.Log("this machine does not count cycles")
		return
	}
	if got, err := c.Stop(); err != nil || got == 0 {
		t.Errorf("counted %d cycles, %v", got, err)
	}
}
