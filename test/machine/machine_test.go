// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/machine"
)

// Three programs per processor make everything at least three times slower.
func TestSlowness(t *testing.T) {
	for range 3 * runtime.NumCPU() {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Wait() })
	}
	w := machine.Start()
	defer w.Stop()
	time.Sleep(time.Second)
	if s := w.Slowness(); s < 2.5 {
		t.Errorf("the machine is %.1f times slower, want 3 at least", s)
	}
	if w.Over(time.Second) || !w.Over(10*time.Millisecond) {
		t.Errorf("after %v, one second that stretches to %v is over, or 10 ms are not", w.Took(), w.Stretch(time.Second))
	}
}
