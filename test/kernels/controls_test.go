// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/fairlead-net/fairlead/bench/vm"
	"github.com/fairlead-net/fairlead/bench/vm/guest"
)

// controlModules are those of a bridge with the rules of a Docker Engine.
func controlModules() []string {
	return []string{
		"veth", "bridge", "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq",
		"nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6",
	}
}

// Attacks whose effect on netfilter depends on settings of the whole machine run in a guest, without Fairlead. They are the
// controls of tests that run the same with Fairlead.
func TestControls(t *testing.T) {
	if testing.Short() {
		t.Skip("boots an emulated machine")
	}
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skipf("the kernel and the emulator are for amd64, this machine is %s", runtime.GOARCH)
	}
	must(t, vm.Needs())
	programs := t.TempDir()
	must(t, vm.Build(t.Context(), programs, "github.com/fairlead-net/fairlead/test/kernels/guest"))
	all := matrix()
	deb, err := all[len(all)-1].Fetch(t.Context())
	must(t, err)
	image, err := vm.Unpack(t.Context(), deb, t.TempDir())
	must(t, err)
	var root vm.Archive
	for _, dir := range []string{"dev", "opt", "proc", "root", "run", "sys", "tmp", "var/lib"} {
		root.Dir(dir)
	}
	content, err := os.ReadFile(filepath.Join(programs, "guest"))
	must(t, err)
	root.File("bin/guest", content)
	root.Link("init", "bin/guest")
	must(t, root.Busybox("sh"))
	for _, name := range []string{"ip", "nft"} {
		must(t, root.Program(name))
	}
	must(t, root.Modules(image, guest.Modules, controlModules()...))
	run(t, vm.Machine{Image: image, Root: root.Bytes(), Args: "-controls=true", CPUs: 2, Time: 3 * guestTime, Append: kernelOptions})
}
