// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"testing"
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
