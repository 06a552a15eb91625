// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/vm"
	"github.com/fairlead-net/fairlead/bench/vm/guest"
	"github.com/fairlead-net/fairlead/test/machine"
)

// guestTime limits one guest, from power on to power off. It takes five minutes beside another guest on two
// processors: half of that the verifier, a third the two daemons of the encrypted network.
const guestTime = 8 * time.Minute

// kernel is one of the kernels tested.
type kernel struct {
	vm.Kernel
	tcx bool // whether it has tcx; the guest checks that Fairlead detects that
}

func matrix() []kernel {
	return []kernel{
		{Kernel: vm.Kernel{Series: "6.1", Suite: "bookworm"}}, // the oldest that Fairlead supports
		{Kernel: vm.Kernel{Series: "6.12", Suite: "trixie"}, tcx: true},
	}
}

// guestProgram is the guests' init.
const guestProgram = "github.com/fairlead-net/fairlead/test/kernels/guest"

// kernelOptions omit what makes an emulated kernel slower and does not change what is tested.
const kernelOptions = "mitigations=off init_on_alloc=0"

// modules lists the modules that the guests need and that no kernel of the matrix has built
// in. The kernel cannot load any on demand, because there is no modprobe.
func modules() []string { return []string{"veth", "sch_ingress", "cls_bpf"} }

// lateModules are loaded by the tests, which check what happens without them.
func lateModules() []string { return []string{"sch_tbf"} }

// netfilterModules are loaded after the programs were verified without them.
func netfilterModules() []string { return []string{"nf_conntrack"} }

// uplinkModules provide devices that this machine's kernel may lack.
func uplinkModules() []string { return []string{"8021q", "macvlan", "ipvlan", "bonding"} }

// wireguardModules are loaded after encryption was refused without them.
func wireguardModules() []string { return []string{"wireguard"} }

func TestKernelMatrix(t *testing.T) {
	t.Parallel()
	programs := build(t, "github.com/fairlead-net/fairlead/cmd/fairlead", "github.com/fairlead-net/fairlead/cmd/fairlead-store", guestProgram)
	onEach(t, func(t *testing.T, k kernel, image vm.Image) {
		run(t, vm.Machine{
			Image: image, Root: archive(t, programs, image), Args: fmt.Sprintf("-tcx=%t", k.tcx), CPUs: 2, Time: 3 * guestTime, Append: kernelOptions,
		})
	})
}

// build compiles the packages that run in guests, and returns the directory of the programs.
func build(t *testing.T, packages ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots emulated machines")
	}
	if runtime.GOARCH != "amd64" {
		t.Skipf("the kernels and the emulator are for amd64, this machine is %s", runtime.GOARCH)
	}
	must(t, vm.Needs())
	programs := t.TempDir()
	must(t, vm.Build(t.Context(), programs, packages...))
	return programs
}

// onEach runs a test for each kernel.
func onEach(t *testing.T, test func(*testing.T, kernel, vm.Image)) {
	for _, k := range matrix() {
		t.Run(k.Series, func(t *testing.T) {
			t.Parallel() // each is emulated on one processor
			test(t, k, k.image(t))
		})
	}
}

// image returns the kernel and its modules.
func (k kernel) image(t *testing.T) vm.Image {
	t.Helper()
	deb, err := k.Fetch(t.Context())
	must(t, err)
	image, err := vm.Unpack(t.Context(), deb, t.TempDir())
	must(t, err)
	return image
}

// base returns a root directory with compiled programs, of which guest is the init.
func base(t *testing.T, programs string, names ...string) *vm.Archive {
	t.Helper()
	var root vm.Archive
	for _, dir := range []string{"dev", "proc", "root", "run", "sys", "tmp", "var"} {
		root.Dir(dir)
	}
	for _, name := range append(names, "guest") {
		content, err := os.ReadFile(filepath.Join(programs, name))
		must(t, err)
		root.File("bin/"+name, content)
	}
	root.Link("init", "bin/guest")
	return &root
}

// archive returns the root directory of a guest of the matrix.
func archive(t *testing.T, programs string, image vm.Image) []byte {
	t.Helper()
	root := base(t, programs, "fairlead", "fairlead-store")
	must(t, root.Busybox("ping"))
	must(t, root.Modules(image, guest.Modules, modules()...))
	must(t, root.Modules(image, "/late", lateModules()...))
	must(t, root.Modules(image, "/netfilter", netfilterModules()...))
	must(t, root.Modules(image, "/uplinks", uplinkModules()...))
	must(t, root.Modules(image, "/wireguard", wireguardModules()...))
	return root.Bytes()
}

// endWhenOver cancels a guest that does not end in time.
func endWhenOver(ctx context.Context, cancel context.CancelCauseFunc, watch *machine.Watch) {
	for !watch.Over(guestTime) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second / 10):
		}
	}
	cancel(fmt.Errorf("the guest did not end within %s", watch.Stretch(guestTime)))
}

// run boots the guest and makes a subtest of each step it reports.
func run(t *testing.T, m vm.Machine) {
	t.Helper()
	watch := machine.Start()
	defer watch.Stop()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	go endWhenOver(ctx, cancel, watch)
	out, err := m.Run(ctx)
	t.Logf("the guest ran for %s", out.Took.Round(time.Second/10))
	var detail []string
	running := "none" // the step that the guest has begun and not ended
	for line := range strings.Lines(out.Report) {
		line = strings.TrimRight(line, "\r\n")
		verdict, rest, _ := strings.Cut(line, " ")
		switch verdict {
		case "begin":
			running = rest
		case "ok", "FAIL":
			running = "none"
			name, text, _ := strings.Cut(rest, " ")
			t.Run(name, func(t *testing.T) {
				t.Log(strings.Join(append([]string{text}, detail...), "\n"))
				if verdict == "FAIL" {
					t.Fail()
				}
			})
			detail = nil
		default: // belongs to the step whose result follows
			detail = append(detail, line)
		}
	}
	if err != nil {
		t.Errorf("%v\nrunning step: %s; last, it said:\n%s", err, running, strings.Join(detail, "\n"))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
