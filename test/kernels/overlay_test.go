// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/vm"
	"github.com/fairlead-net/fairlead/bench/vm/guest"
)

// overlayTests chooses the tests. The default, a quarter of the transfers, takes half a minute, all take ten.
var overlayTests = flag.String("overlay", "^TestTransfers$/far=kernel_under=ipv6", "the `tests` of test/overlay that guests run, as go test -run has it")

const overlayTime = time.Hour // beside anything else

// ended matches the result of a test in the output of go test -v by a serial port, which ends lines with CR LF.
var ended = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\w+) \(.*\)\r?$`)

// TestOverlay runs tests of test/overlay on the kernels of the matrix.
func TestOverlay(t *testing.T) {
	t.Parallel()
	programs := build(t, guestProgram)
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-trimpath", "-vet=off", "-ldflags=-w", "-o", filepath.Join(programs, "tests"),
		"github.com/fairlead-net/fairlead/test/overlay")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	onEach(t, func(t *testing.T, _ kernel, image vm.Image) {
		root := base(t, programs, "tests")
		must(t, root.Busybox())
		for _, name := range []string{"ip", "bridge", "tc", "ethtool", "ping"} {
			must(t, root.Program(name))
		}
		must(t, root.Modules(image, guest.Modules, append(modules(), "bridge", "vxlan")...))
		out, err := vm.Machine{
			Image: image, Root: root.Bytes(), Args: "-tests=" + *overlayTests, CPUs: 2, Time: overlayTime, Append: kernelOptions,
		}.Run(t.Context())
		t.Logf("the guest ran for %s", out.Took.Round(time.Second/10))
		passed := 0
		for _, line := range ended.FindAllStringSubmatch(out.Report, -1) {
			t.Log(line[1], line[2])
			if line[1] == "PASS" {
				passed++
			} else {
				t.Errorf("%s: %s", line[2], line[1])
			}
		}
		if err != nil || passed == 0 {
			t.Errorf("%d tests passed, %v; the guest said:\n%s", passed, err, out.Report)
		}
	})
}
