// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// Subnet maps a prefix to its network.
type Subnet struct {
	Prefix netip.Prefix
	Net    uint32 // network index
}

// String is for logs.
func (s Subnet) String() string { return fmt.Sprintf("subnet %s net %d", s.Prefix, s.Net) }

func (s Subnet) raw() (bpf.TCSubnetKey, uint32) { return subnetKey(s.Prefix), s.Net }

// subnetKey masks the prefix: the trie ignores host bits but returns them, so two keys of one
// entry would differ here.
func subnetKey(p netip.Prefix) bpf.TCSubnetKey {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return bpf.TCSubnetKey{Prefixlen: uint32(bits), Addr: toIP(p.Addr())}
}

func subnetFrom(k bpf.TCSubnetKey, net uint32) Subnet {
	addr, bits := netip.AddrFrom16(k.Addr.B), int(k.Prefixlen)
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	return Subnet{Prefix: netip.PrefixFrom(addr, bits), Net: net}
}

// Subnets is fl_subnet: networks by longest prefix.
type Subnets struct {
	view[bpf.TCSubnetKey, uint32, Subnet]
}

// Delete removes a prefix; absent is success.
func (t *Subnets) Delete(p netip.Prefix) (deleted bool, err error) {
	return t.view.Delete(Subnet{Prefix: p})
}
