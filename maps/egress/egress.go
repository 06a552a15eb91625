// SPDX-License-Identifier: Apache-2.0

// Package egress is fl_egress: the addresses that networks chose to masquerade with.
package egress

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
)

// Addrs is what a network chose.
type Addrs struct {
	Net        uint32     // network index
	IPv4, IPv6 netip.Addr // zero: the uplink's
}

// String is for logs.
func (a Addrs) String() string { return fmt.Sprintf("egress net %d %s %s", a.Net, a.IPv4, a.IPv6) }

func (a Addrs) raw() (uint32, bpf.TCEgress) {
	return a.Net, bpf.TCEgress{Ip4: toIP(a.IPv4), Ip6: toIP(a.IPv6)}
}

func from(net uint32, v bpf.TCEgress) Addrs {
	return Addrs{Net: net, IPv4: fromIP(v.Ip4), IPv6: fromIP(v.Ip6)}
}

func toIP(a netip.Addr) bpf.TCIp {
	if !a.IsValid() {
		return bpf.TCIp{}
	}
	return bpf.TCIp{B: a.As16()}
}

func fromIP(ip bpf.TCIp) netip.Addr {
	if ip == (bpf.TCIp{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(ip.B).Unmap()
}

// Table is the choices by network.
type Table struct {
	table.View[uint32, bpf.TCEgress, Addrs]
}

// New returns the table in a map.
func New(m *ebpf.Map) (*Table, error) {
	v, err := table.NewView(bpf.TCMapFlEgress, m, Addrs.raw, from)
	return &Table{v}, err
}
