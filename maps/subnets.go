// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// SubnetFlags are what the gateway mode of a network says about the family of a subnet.
type SubnetFlags uint32

// The flags of a subnet.
const (
	// Open: members are reached at their own addresses from outside of the network.
	Open = SubnetFlags(bpf.TCSubnetFlagSUBNET_OPEN)
	// OpenPorts: they are reached only at ports that are published there ([Publish.Direct]).
	OpenPorts = SubnetFlags(bpf.TCSubnetFlagSUBNET_PUBLISHED)
	// OwnAddresses: what members send leaves the host with their own addresses.
	OwnAddresses = SubnetFlags(bpf.TCSubnetFlagSUBNET_OWN)

	subnetFlags = Open | OpenPorts | OwnAddresses
)

// Subnet maps a prefix to its network.
type Subnet struct {
	Prefix netip.Prefix
	Net    uint32 // network index
	Flags  SubnetFlags
}

// String is for logs.
func (s Subnet) String() string {
	return fmt.Sprintf("subnet %s net %d flags %#x", s.Prefix, s.Net, uint32(s.Flags))
}

func (s Subnet) raw() (bpf.TCSubnetKey, uint32) { return subnetKey(s.Prefix), s.Net | uint32(s.Flags) }

// subnetKey masks the prefix: the trie ignores host bits but returns them, so two keys of one
// entry would differ here.
func subnetKey(p netip.Prefix) bpf.TCSubnetKey {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return bpf.TCSubnetKey{Prefixlen: uint32(bits), Addr: bpf.IPOf(p.Addr())}
}

func subnetFrom(k bpf.TCSubnetKey, v uint32) Subnet {
	addr, bits := netip.AddrFrom16(k.Addr.B), int(k.Prefixlen)
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	flags := SubnetFlags(v) & subnetFlags
	return Subnet{Prefix: netip.PrefixFrom(addr, bits), Net: v &^ uint32(flags), Flags: flags}
}

// Subnets is fl_subnet: networks by longest prefix.
type Subnets struct {
	view[bpf.TCSubnetKey, uint32, Subnet]
}

// Delete removes a prefix; absent is success.
func (t *Subnets) Delete(p netip.Prefix) (deleted bool, err error) {
	return t.view.Delete(Subnet{Prefix: p})
}
