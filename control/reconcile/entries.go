// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// entries are table entries of some objects.
type entries struct {
	endpoints  []maps.Endpoint
	fdb        []maps.FDBEntry
	neighbours []maps.Neighbour
	publishes  []maps.Publish
	subnets    []maps.Subnet
}

func (e *entries) add(o entries) {
	e.endpoints = append(e.endpoints, o.endpoints...)
	e.fdb = append(e.fdb, o.fdb...)
	e.neighbours = append(e.neighbours, o.neighbours...)
	e.publishes = append(e.publishes, o.publishes...)
	e.subnets = append(e.subnets, o.subnets...)
}

// networkFlags returns the flags that every endpoint of a network has.
func networkFlags(n *model.Network) maps.EndpointFlags {
	var f maps.EndpointFlags
	for _, s := range []struct {
		on   bool
		flag maps.EndpointFlags
	}{
		{n.AntiSpoof, maps.AntiSpoof}, {n.Internal, maps.Internal},
		{n.ICC, maps.ICC}, {n.Masquerade, maps.Masquerade},
	} {
		if s.on {
			f |= s.flag
		}
	}
	return f
}

// gateway returns a network's gateway address of a family, or the zero Addr.
func gateway(n *model.Network, is4 bool) netip.Addr {
	s, _ := n.Subnet(is4)
	return s.Gateway
}

// gatewayPrefixes returns the gateway addresses with the prefix lengths of their subnets.
func gatewayPrefixes(n *model.Network) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range n.Subnets {
		if s.Gateway.IsValid() {
			ps = append(ps, netip.PrefixFrom(s.Gateway, s.Prefix.Bits()))
		}
	}
	return ps
}

// hostPortEntries returns the entries of a network and its host port, whose ends are the given
// devices.
func hostPortEntries(n *model.Network, gatewayIf, hostPortIf uint32) entries {
	gw4, gw6 := gateway(n, true), gateway(n, false)
	flags := maps.HostPort | networkFlags(n)
	if n.DNS {
		flags |= maps.DNS
	}
	e := memberEntries(maps.Endpoint{
		IfIndex: hostPortIf, Net: n.Index, MAC: n.GatewayMAC, GatewayMAC: n.GatewayMAC,
		IPv4: gw4, IPv6: gw6, Gateway4: gw4, Gateway6: gw6,
		Flags:      flags,
		HostPortIf: hostPortIf, GatewayIf: gatewayIf,
	}, n.EnableIPv6)
	for _, s := range n.Subnets {
		e.subnets = append(e.subnets, maps.Subnet{Prefix: s.Prefix, Net: n.Index})
	}
	return e
}

// endpointEntries returns the entries of an endpoint whose host end is the given device.
func endpointEntries(ep *model.Endpoint, net *network, hostIf uint32, published bool) entries {
	n := net.want
	flags := networkFlags(n)
	if published && !n.Internal {
		flags |= maps.Published
	}
	if !ep.Bandwidth.Ingress.IsZero() {
		flags |= maps.Shaped
	}
	return memberEntries(maps.Endpoint{
		IfIndex: hostIf, Net: n.Index, MAC: ep.MAC, GatewayMAC: n.GatewayMAC,
		IPv4: ep.Addr(true), IPv6: ep.Addr(false),
		Gateway4: gateway(n, true), Gateway6: gateway(n, false),
		Flags:      flags,
		HostPortIf: net.hostPort, GatewayIf: net.gateway, MTU: uint32(mtu(n)),
	}, ep.IPv6.IsValid())
}

// memberEntries returns the entries that make a member known by device, MAC and addresses, with
// IPv6 also by the link-local address that the kernel derives from the MAC.
func memberEntries(m maps.Endpoint, v6 bool) entries {
	e := entries{
		endpoints: []maps.Endpoint{m},
		fdb:       []maps.FDBEntry{{Net: m.Net, MAC: m.MAC, IfIndex: m.IfIndex, Flags: m.Flags}},
	}
	addrs := []netip.Addr{m.IPv4, m.IPv6}
	if v6 {
		addrs = append(addrs, model.MAC(m.MAC).LinkLocal())
	}
	for _, a := range addrs {
		if a.IsValid() {
			e.neighbours = append(e.neighbours, maps.Neighbour{
				Net: m.Net, Addr: a, MAC: m.MAC, IfIndex: m.IfIndex, Flags: m.Flags,
			})
		}
	}
	return e
}

// portRun stands for the entries of count consecutive ports, of which first is the first.
type portRun struct {
	first maps.Publish
	count uint16
}

// publishRuns returns the entries of a publish whose backend is an endpoint. An internal network
// publishes nothing.
func publishRuns(p *model.Publish, ep *model.Endpoint, n *model.Network, hostIf uint32) []portRun {
	if n.Internal {
		return nil
	}
	hosts := []netip.Addr{p.HostIP}
	if !p.HostIP.IsValid() {
		hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	var runs []portRun
	for _, host := range hosts {
		backend := n.Backend(ep, host)
		if !backend.IsValid() {
			continue
		}
		runs = append(runs, portRun{count: p.Count, first: maps.Publish{
			HostIP: host, Port: p.HostPort, Proto: uint8(p.Proto),
			Backend: backend, BackendPort: p.Port,
			IfIndex: hostIf, Net: n.Index, ID: p.ID,
		}})
	}
	return runs
}

// appendRuns appends the entries that the runs stand for.
func appendRuns(es []maps.Publish, runs []portRun) []maps.Publish {
	for _, run := range runs {
		es = slices.Grow(es, int(run.count))
		for i := range run.count {
			e := run.first
			e.Port += i
			e.BackendPort += i
			es = append(es, e)
		}
	}
	return es
}

// Keys of the entries in the tables.
type (
	fdbKey struct {
		net uint32
		mac maps.MAC
	}
	neighbourKey struct {
		net  uint32
		addr netip.Addr
	}
	publishKey struct {
		host  netip.Addr
		port  uint16
		proto uint8
	}
)

func keyOfEndpoint(e maps.Endpoint) uint32 { return e.IfIndex }
func keyOfFDB(e maps.FDBEntry) fdbKey      { return fdbKey{e.Net, e.MAC} }
func keyOfNeighbour(e maps.Neighbour) neighbourKey {
	return neighbourKey{e.Net, e.Addr}
}
func keyOfPublish(e maps.Publish) publishKey { return publishKey{e.HostIP, e.Port, e.Proto} }
func keyOfSubnet(e maps.Subnet) netip.Prefix { return e.Prefix }

// without returns the entries of a whose keys are not in b.
func without[E any, K comparable](a, b []E, key func(E) K) []E {
	if len(a) == 0 || len(b) == 0 {
		return a
	}
	keep := make(map[K]bool, len(b))
	for _, e := range b {
		keep[key(e)] = true
	}
	var out []E
	for _, e := range a {
		if !keep[key(e)] {
			out = append(out, e)
		}
	}
	return out
}

// without returns the entries that have no successor in o.
func (e *entries) without(o *entries) entries {
	return entries{
		endpoints:  without(e.endpoints, o.endpoints, keyOfEndpoint),
		fdb:        without(e.fdb, o.fdb, keyOfFDB),
		neighbours: without(e.neighbours, o.neighbours, keyOfNeighbour),
		publishes:  without(e.publishes, o.publishes, keyOfPublish),
		subnets:    without(e.subnets, o.subnets, keyOfSubnet),
	}
}
