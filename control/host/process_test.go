// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcessAlive(t *testing.T) {
	pid := os.Getpid()
	start, err := ProcessStart(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		pid   int
		start uint64
		want  bool
	}{
		{pid, start, true}, {pid, 0, true}, {pid, start + 1, false}, {0, start, false}, {1 << 30, 0, false},
	} {
		if got := ProcessAlive(tc.pid, tc.start); got != tc.want {
			t.Errorf("process %d that started at %d is alive: %t, want %t", tc.pid, tc.start, got, tc.want)
		}
	}
}

// Without a free file descriptor nothing is known of a process. Its sandbox must not be removed for that.
func TestProcessAliveWithoutDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err := os.Open("/proc/self/stat")
	alive := ProcessAlive(os.Getpid(), 0)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Fatalf("open without descriptors: %v", err)
	}
	if !alive {
		t.Error("a process that cannot be read is not alive, want alive")
	}
}
