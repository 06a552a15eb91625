// SPDX-License-Identifier: Apache-2.0

package entries

import (
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// HostPort is the indices of the devices of a network's host port, and what else the entries of all
// its members depend on.
type HostPort struct {
	Gateway  uint32   // the end with the addresses
	Port     uint32   // the end with the program
	MAC      maps.MAC // of the parent of members that are on its link; Gateway is its index
	Services bool     // the network has services
}

// OfNetwork returns the entries of a network and its host port.
func OfNetwork(n *model.Network, hp HostPort) Set {
	if n.OnLink() { // its addresses are those of others: the subnet is not the network's
		return Set{FDB: []maps.FDBEntry{{Net: n.Index, MAC: hp.MAC, IfIndex: hp.Gateway, Flags: maps.HostPort}}}
	}
	gw4, gw6 := gateway(n, model.V4), gateway(n, model.V6)
	flags := maps.HostPort | networkFlags(n, hp)
	if n.DNS {
		flags |= maps.DNS
	}
	s := ofMember(maps.Endpoint{
		IfIndex: hp.Port, Net: n.Index, MAC: n.GatewayMAC, GatewayMAC: n.GatewayMAC,
		IPv4: gw4, IPv6: gw6, Gateway4: gw4, Gateway6: gw6,
		Flags:      flags,
		HostPortIf: hp.Port, GatewayIf: hp.Gateway,
	}, n.OnHostIPv6())
	for _, own := range n.NodePrefixes() {
		s.Neighbours = append(s.Neighbours, maps.Neighbour{
			Net: n.Index, Addr: own.Addr(), MAC: n.GatewayMAC, IfIndex: hp.Port, Flags: flags,
		})
	}
	if n.VNI != 0 {
		s.Tunnels = []maps.Tunnel{{
			Net: n.Index, VNI: n.VNI, MTU: uint16(n.DeviceMTU()), NodeMAC: maps.MAC(n.NodeMAC()), GatewayMAC: maps.MAC(n.GatewayMAC), HostPortIf: hp.Port,
			Node4: n.NodeIPv4, Node6: n.NodeIPv6, Encrypted: n.Encrypted,
		}}
		s.VNIs = []maps.VNI{{VNI: n.VNI, Net: n.Index, Encrypted: n.Encrypted, Services: hp.Services}}
	}
	if n.EgressIPv4.IsValid() || n.EgressIPv6.IsValid() {
		s.Egresses = []maps.Egress{{Net: n.Index, IPv4: n.EgressIPv4, IPv6: n.EgressIPv6}}
	}
	for _, sub := range n.Subnets {
		s.Subnets = append(s.Subnets, maps.Subnet{Prefix: sub.Prefix, Net: n.Index, Flags: subnetFlags(n, model.FamilyOf(sub.Prefix.Addr()))})
	}
	return s
}

// Roles is what an endpoint is for others.
type Roles struct {
	Published bool // the backend of a published port
	Pooled    bool // a backend of a service
	Router    bool // the router of its network's other members,
	Serves    bool // whose program, if it has one, runs
}

// OfEndpoint returns the entries of an endpoint whose host end is the given device.
func OfEndpoint(ep *model.Endpoint, n *model.Network, hp HostPort, hostIf uint32, is Roles) Set {
	flags := networkFlags(n, hp)
	if n.Router != "" && !is.Router {
		flags |= maps.Gated
	}
	if is.Published && !n.Closed() && slices.ContainsFunc(n.Subnets, func(s model.Subnet) bool { return !n.Routed(model.FamilyOf(s.Prefix.Addr())) }) {
		flags |= maps.Published
	}
	if is.Pooled {
		flags |= maps.Published | maps.Pooled // replies of both are translated
	}
	if !ep.Bandwidth.Ingress.IsZero() {
		flags |= maps.Shaped
	}
	s := ofMember(maps.Endpoint{
		IfIndex: hostIf, Net: n.Index, MAC: ep.MAC, GatewayMAC: n.GatewayMAC,
		IPv4: ep.Addr(model.V4), IPv6: ep.Addr(model.V6),
		Gateway4: gateway(n, model.V4), Gateway6: gateway(n, model.V6),
		Flags:      flags,
		HostPortIf: hp.Port, GatewayIf: hp.Gateway, MTU: uint32(n.DeviceMTU()),
	}, ep.IPv6.IsValid())
	if is.Router && is.Serves {
		s.Neighbours = append(s.Neighbours, maps.Neighbour{Net: n.Index, Router: true, MAC: ep.MAC, IfIndex: hostIf, Flags: flags})
	}
	return s
}

// ofMember returns the entries that make a member known by device, MAC and addresses, with IPv6
// also by the link-local address that the kernel derives from the MAC.
func ofMember(m maps.Endpoint, v6 bool) Set {
	flags := m.Flags &^ maps.OnLink
	s := Set{
		Endpoints: []maps.Endpoint{m},
		FDB:       []maps.FDBEntry{{Net: m.Net, MAC: m.MAC, IfIndex: m.IfIndex, Flags: flags}},
	}
	addrs := []netip.Addr{m.IPv4, m.IPv6}
	if v6 {
		addrs = append(addrs, model.MAC(m.MAC).LinkLocal())
	}
	for _, a := range addrs {
		if a.IsValid() {
			s.Neighbours = append(s.Neighbours, maps.Neighbour{
				Net: m.Net, Addr: a, MAC: m.MAC, IfIndex: m.IfIndex, Flags: flags,
			})
		}
	}
	return s
}

// networkFlags returns the flags that every endpoint of a network has.
func networkFlags(n *model.Network, hp HostPort) maps.EndpointFlags {
	var f maps.EndpointFlags
	for _, s := range []struct {
		on   bool
		flag maps.EndpointFlags
	}{
		{n.AntiSpoof, maps.AntiSpoof}, {n.Internal, maps.Internal}, {n.OnLink(), maps.OnLink},
		{n.ICC, maps.ICC}, {n.Masquerade, maps.Masquerade}, {n.VNI != 0 && hp.Services, maps.RemotePool},
		{n.Routed(model.V4), maps.OwnIPv4}, {n.Routed(model.V6), maps.OwnIPv6},
		{n.EgressIPv4.IsValid() || n.EgressIPv6.IsValid(), maps.ChosenEgress},
		{(subnetFlags(n, model.V4)|subnetFlags(n, model.V6))&(maps.Open|maps.OpenPorts) != 0, maps.Reached},
	} {
		if s.on {
			f |= s.flag
		}
	}
	return f
}

// subnetFlags returns what the gateway mode of a family means for packets to its members from outside.
func subnetFlags(n *model.Network, f model.Family) (flags maps.SubnetFlags) {
	if n.Internal {
		return 0
	}
	if !n.Masquerade || n.Routed(f) {
		flags |= maps.OwnAddresses
	}
	switch model.GatewayMode(n.Options, f) {
	case model.GatewayUnprotected:
		flags |= maps.Open
	case model.GatewayRouted:
		flags |= maps.OpenPorts
	}
	return flags
}

// gateway returns the host's address in a network as the gateway of a family, or the zero Addr.
func gateway(n *model.Network, f model.Family) netip.Addr {
	if n.OnLink() {
		return netip.Addr{}
	}
	s, _ := n.Subnet(f)
	return s.Gateway
}
