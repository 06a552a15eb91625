// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// guestTime bounds one guest, from power on to power off.
const guestTime = 120 * time.Second

// kernel is one of the kernels tested: that of a Debian suite.
type kernel struct {
	series string // "6.1"
	suite  string
	tcx    bool // whether it has tcx; the guest checks that Fairlead knows
}

func matrix() []kernel {
	return []kernel{
		{series: "6.1", suite: "bookworm"}, // the oldest that Fairlead supports
		{series: "6.12", suite: "trixie", tcx: true},
	}
}

// modules are those the guests need and no kernel of the matrix has built in.
// The kernel cannot ask for any: no modprobe is there.
func modules() []string { return []string{"veth", "sch_ingress", "cls_bpf"} }

// lateModules are loaded by the tests, who want to know what is without them.
func lateModules() []string { return []string{"sch_tbf"} }

// netfilterModules are loaded after the programs were verified without them.
func netfilterModules() []string { return []string{"nf_conntrack"} }

func TestKernelMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("boots emulated machines")
	}
	if runtime.GOARCH != "amd64" {
		t.Skipf("the kernels and the emulator are for amd64, this machine is %s", runtime.GOARCH)
	}
	busybox := mustFind(t, "busybox", "busybox-static")
	qemu := mustFind(t, "qemu-system-x86_64", "qemu-system-x86")
	programs := build(t)
	for _, k := range matrix() {
		t.Run(k.series, func(t *testing.T) {
			image := unpack(t, k.deb(t))
			var root cpio
			for _, dir := range []string{"bin", "dev", "late", "modules", "netfilter", "proc", "root", "run", "sys", "tmp", "var"} {
				root.dir(dir)
			}
			root.file("bin/busybox", mustRead(t, busybox))
			root.link("bin/ping", "busybox")
			root.file("bin/fairlead", mustRead(t, filepath.Join(programs, "fairlead")))
			root.file("bin/guest", mustRead(t, filepath.Join(programs, "guest")))
			root.link("init", "bin/guest")
			for dir, names := range map[string][]string{"modules": modules(), "late": lateModules(), "netfilter": netfilterModules()} {
				for i, m := range loadOrder(t, busybox, image, names) {
					root.file(fmt.Sprintf("%s/%02d-%s.ko", dir, i, m.name), m.content)
				}
			}
			initrd := filepath.Join(t.TempDir(), "initramfs")
			must(t, os.WriteFile(initrd, root.archive(), 0o600))

			g := guest{qemu: qemu, kernel: vmlinuz(t, image), initrd: initrd, args: fmt.Sprintf("-tcx=%t", k.tcx)}
			g.run(t)
		})
	}
}

// build compiles what runs in the guests, without cgo and so without libraries,
// and returns its directory.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/fairlead", "./test/kernels/guest")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// mustFind finds a command of a Debian package.
func mustFind(t *testing.T, command, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(command)
	if err != nil {
		t.Fatalf("%v (apt-get install %s; make test does)", err, pkg)
	}
	return path
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	return content
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
