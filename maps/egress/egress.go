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

// Egress is the addresses of one network.
type Egress struct {
	Net        uint32     // network index
	IPv4, IPv6 netip.Addr // zero: the uplink's
}

// String is for logs.
func (e Egress) String() string { return fmt.Sprintf("egress net %d %s %s", e.Net, e.IPv4, e.IPv6) }

func (e Egress) raw() (uint32, bpf.TCEgress) {
	return e.Net, bpf.TCEgress{Ip4: bpf.IPOf(e.IPv4), Ip6: bpf.IPOf(e.IPv6)}
}

func from(net uint32, v bpf.TCEgress) Egress {
	return Egress{Net: net, IPv4: v.Ip4.Addr(), IPv6: v.Ip6.Addr()}
}

// Table is the choices by network.
type Table struct {
	table.View[uint32, bpf.TCEgress, Egress]
}

// New returns the table in a map.
func New(m *ebpf.Map) (*Table, error) {
	v, err := table.NewView(bpf.TCMapFlEgress, m, Egress.raw, from)
	return &Table{v}, err
}
