// SPDX-License-Identifier: Apache-2.0

package entries

import (
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl/uplink"
	"github.com/fairlead-net/fairlead/maps"
)

// OfUplinks returns the entries of the host's uplinks.
func OfUplinks(ups []uplink.Uplink) []maps.Uplink {
	es := make([]maps.Uplink, len(ups))
	for i, u := range ups {
		es[i] = maps.Uplink{IfIndex: u.IfIndex, IPv4: u.IPv4, IPv6: u.IPv6, Stack: u.Stack, Below: u.Below, LAN: u.LAN}
	}
	return es
}

// HostAddrs returns the entries of the host's addresses, sorted: its own, which are the keys of
// own, and those of the host ports of networks.
func HostAddrs(own map[netip.Addr]uint32, nets []*model.Network, announced []netip.Addr) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(own)+3*len(nets)+len(announced))
	addrs = append(addrs, announced...)
	for a := range own {
		addrs = append(addrs, a)
	}
	for _, n := range nets {
		for _, g := range append(n.GatewayPrefixes(), n.NodePrefixes()...) {
			addrs = append(addrs, g.Addr())
		}
		if n.OnHostIPv6() {
			addrs = append(addrs, n.GatewayMAC.LinkLocal())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// OfHostNets returns the entries of prefixes all of whose addresses are the host's own.
func OfHostNets(local []netip.Prefix) []maps.Subnet {
	es := make([]maps.Subnet, len(local))
	for i, prefix := range local {
		es[i] = maps.Subnet{Prefix: prefix, Net: 1}
	}
	return es
}
