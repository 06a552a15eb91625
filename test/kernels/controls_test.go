// SPDX-License-Identifier: Apache-2.0

package kernels

import (
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
	t.Parallel()
	programs := build(t, guestProgram)
	all := matrix()
	image := all[len(all)-1].image(t)
	root := base(t, programs)
	for _, dir := range []string{"opt", "var/lib"} {
		root.Dir(dir)
	}
	must(t, root.Busybox("sh"))
	for _, name := range []string{"ip", "nft"} {
		must(t, root.Program(name))
	}
	must(t, root.Modules(image, guest.Modules, controlModules()...))
	run(t, vm.Machine{Image: image, Root: root.Bytes(), Args: "-controls=true", CPUs: 2, Time: 3 * guestTime, Append: kernelOptions})
}
