// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/maps"
)

// The networks of a world, by index.
const (
	netPlain    = 1 // a, b, c
	netOther    = 2 // d
	netNoICC    = 3 // e, f
	netInternal = 4 // g, h
	netRouted   = 5 // i: not masqueraded
)

const baseFlags = maps.AntiSpoof | maps.ICC | maps.Masquerade

var networks = map[uint32]struct {
	flags   maps.EndpointFlags
	members []string
}{
	netPlain:    {baseFlags, []string{"a", "b", "c"}},
	netOther:    {baseFlags, []string{"d"}},
	netNoICC:    {baseFlags &^ maps.ICC, []string{"e", "f"}},
	netInternal: {baseFlags | maps.Internal, []string{"g", "h"}},
	netRouted:   {baseFlags &^ maps.Masquerade, []string{"i"}},
}

// Addresses outside the networks. The uplink's network is 192.0.2.0/24 and 2001:db8:0:1::/64.
var (
	uplink4  = ip("192.0.2.10")
	uplink6  = ip("2001:db8:0:1::10")
	second4  = ip("192.0.2.11") // another address of the uplink
	second6  = ip("2001:db8:0:1::11")
	router4  = ip("192.0.2.1")
	router6  = ip("2001:db8:0:1::1")
	remote4  = ip("198.51.100.7") // beyond the router
	remote6  = ip("2001:db8:0:2::7")
	narrow4  = ip("198.51.100.193") // beyond a route with MTU 1300
	narrow6  = ip("2001:db8:0:3::7")
	chosen4  = ip("198.51.100.65") // beyond a route that prefers second4
	chosen6  = ip("2001:db8:0:4::7")
	barred4  = ip("203.0.113.129") // unreachable
	barred6  = ip("2001:db8:0:5::7")
	strange4 = ip("203.0.113.1") // behind a device that is not an uplink
	strange6 = ip("2001:db8:0:6::7")
)

const (
	narrowMTU  = 1300
	routerMAC  = "02:00:00:00:00:01"
	publishTCP = 8080 // wildcard -> b:80
	publishUDP = 5353 // wildcard -> b:53
	publishOne = 8443 // second address only -> c:443
	publishOth = 9090 // wildcard -> d:90, TCP and UDP
	xlatTCP    = 8046 // wildcard -> b:80 in the other family
	xlatUDP    = 5346 // wildcard -> b:53 in the other family
)

// member is an endpoint or the host port of a network.
type member struct {
	maps.Endpoint
	name string
}

// topology is the model of a world's devices.
type topology struct {
	members map[string]member // a…i, and gw1…gw5: the host ports
	uplink  device
	other   device // not an uplink
}

func memberMAC(net, host uint32) maps.MAC { return maps.MAC{2, 0xfd, 0, 0, byte(net), byte(host)} }

func memberIP4(net, host uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(net), 0, byte(host)})
}

func memberIP6(net, host uint32) netip.Addr {
	return ip(fmt.Sprintf("fd00:%d::%x", net, host))
}

// linkLocal returns the link-local address that an interface derives from its MAC.
func linkLocal(m maps.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// build makes the devices. The peers of the endpoints stay in the same namespace without
// addresses: flooded packets must not be answered.
func build(tb testing.TB, ns *netns) topology {
	tb.Helper()
	for _, f := range []string{"ipv6/conf/default/disable_ipv6", "ipv6/conf/all/disable_ipv6"} {
		ns.sysctl(tb, f, "1")
	}
	cmds := []string{"link set lo up"}
	veth := func(name, mac, peer string) {
		cmds = append(cmds,
			fmt.Sprintf("link add %s address %s type veth peer name %s", name, mac, peer),
			fmt.Sprintf("link set %s up", name), fmt.Sprintf("link set %s up arp off", peer))
	}
	veth("up0", "02:00:00:00:00:10", "up0p")
	veth("oth0", "02:00:00:00:00:20", "oth0p")
	routed := []string{"up0", "oth0"}
	for n := range uint32(5) {
		n++
		gw := fmt.Sprintf("gw%d", n)
		veth(gw, macText(memberMAC(n, 1)), fmt.Sprintf("hp%d", n))
		routed = append(routed, gw)
		for _, m := range networks[n].members {
			veth("h-"+m, "02:aa:00:00:00:"+fmt.Sprintf("%02x", m[0]), "s-"+m)
		}
	}
	ns.ip(tb, cmds...)
	for _, d := range routed {
		ns.sysctl(tb, "ipv6/conf/"+d+"/disable_ipv6", "0")
		ns.sysctl(tb, "ipv6/conf/"+d+"/forwarding", "1")
		ns.sysctl(tb, "ipv4/conf/"+d+"/forwarding", "1")
	}
	ns.ip(tb, routes()...)
	return makeTopology(ns.devices(tb))
}

func routes() []string {
	cmds := []string{
		"address add 192.0.2.10/24 dev up0", "address add 192.0.2.11/24 dev up0",
		// The kernel would choose the last address added.
		"address add 2001:db8:0:1::11/64 dev up0 nodad preferred_lft 0",
		"address add 2001:db8:0:1::10/64 dev up0 nodad",
		"address add 203.0.113.2/25 dev oth0", "address add 2001:db8:0:6::2/64 dev oth0 nodad",
		"route add default via 192.0.2.1", "route add default via 2001:db8:0:1::1",
		"route add 198.51.100.192/26 via 192.0.2.1 mtu lock 1300", "route add 2001:db8:0:3::/64 via 2001:db8:0:1::1 mtu lock 1300",
		"route add 198.51.100.64/26 via 192.0.2.1 src 192.0.2.11",
		"route add 2001:db8:0:4::/64 via 2001:db8:0:1::1 src 2001:db8:0:1::11",
		"route add unreachable 203.0.113.128/25", "route add unreachable 2001:db8:0:5::/64",
	}
	for n := range uint32(5) {
		n++
		cmds = append(cmds, fmt.Sprintf("address add %s/24 dev gw%d", memberIP4(n, 1), n),
			fmt.Sprintf("address add %s/64 dev gw%d nodad", memberIP6(n, 1), n))
	}
	return cmds
}

func macText(m maps.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func makeTopology(devs map[string]device) topology {
	t := topology{members: make(map[string]member), uplink: devs["up0"], other: devs["oth0"]}
	for n, nw := range networks {
		base := maps.Endpoint{
			Net: n, GatewayMAC: memberMAC(n, 1), Gateway4: memberIP4(n, 1), Gateway6: memberIP6(n, 1),
			HostPortIf: devs[fmt.Sprintf("hp%d", n)].index, GatewayIf: devs[fmt.Sprintf("gw%d", n)].index,
			Flags: nw.flags,
		}
		host := base
		host.IfIndex, host.MAC, host.IPv4, host.IPv6 = base.HostPortIf, base.GatewayMAC, base.Gateway4, base.Gateway6
		host.Flags |= maps.HostPort
		name := fmt.Sprintf("gw%d", n)
		t.members[name] = member{host, name}
		for i, name := range nw.members {
			e, h := base, uint32(i+2)
			e.IfIndex, e.MAC, e.IPv4, e.IPv6 = devs["h-"+name].index, memberMAC(n, h), memberIP4(n, h), memberIP6(n, h)
			if name == "b" || name == "c" || name == "d" {
				e.Flags |= maps.Published
			}
			t.members[name] = member{e, name}
		}
	}
	return t
}

// fill writes the topology to the maps.
func (t topology) fill(tb testing.TB, set *maps.Set) {
	tb.Helper()
	put := func(_ bool, err error) { tb.Helper(); must(tb, err) }
	for _, a := range []netip.Addr{uplink4, uplink6, second4, second6, ip("203.0.113.2"), ip("2001:db8:0:6::2")} {
		put(set.HostAddrs.Put(a))
	}
	for _, m := range t.members {
		put(set.Endpoints.Put(m.Endpoint))
		put(set.FDB.Put(maps.FDBEntry{Net: m.Net, MAC: m.MAC, IfIndex: m.IfIndex, Flags: m.Flags}))
		for _, a := range []netip.Addr{m.IPv4, m.IPv6, linkLocal(m.MAC)} {
			put(set.Neighbours.Put(maps.Neighbour{Net: m.Net, Addr: a, MAC: m.MAC, IfIndex: m.IfIndex, Flags: m.Flags}))
		}
		if m.Flags&maps.HostPort == 0 {
			continue
		}
		put(set.HostAddrs.Put(m.IPv4))
		put(set.HostAddrs.Put(m.IPv6))
		put(set.Subnets.Put(maps.Subnet{Prefix: netip.PrefixFrom(m.IPv4, 24), Net: m.Net}))
		put(set.Subnets.Put(maps.Subnet{Prefix: netip.PrefixFrom(m.IPv6, 64), Net: m.Net}))
	}
	put(set.Uplinks.Put(maps.Uplink{IfIndex: t.uplink.index, IPv4: uplink4, IPv6: uplink6}))
	for _, p := range t.publishes() {
		put(set.Publishes.Put(p))
	}
}

func (t topology) publishes() []maps.Publish {
	var all []maps.Publish
	for _, f := range families() {
		for _, p := range []struct {
			host          netip.Addr
			port, backend uint16
			proto         uint8
			to            string
			id            uint32
		}{
			{f.any, publishTCP, 80, uint8(tcp), "b", 101},
			{f.any, publishUDP, 53, uint8(udp), "b", 102},
			{f.second, publishOne, 443, uint8(tcp), "c", 103},
			{f.any, publishOth, 90, uint8(tcp), "d", 104},
			{f.any, publishOth, 90, uint8(udp), "d", 105},
		} {
			m := t.members[p.to]
			all = append(all, maps.Publish{
				HostIP: p.host, Port: p.port, Proto: p.proto, Backend: f.of(m), BackendPort: p.backend,
				IfIndex: m.IfIndex, Net: m.Net, ID: p.id,
			})
		}
		b := t.members["b"]
		for id, p := range []maps.Publish{{Port: xlatTCP, Proto: uint8(tcp), BackendPort: 80}, {Port: xlatUDP, Proto: uint8(udp), BackendPort: 53}} {
			p.HostIP, p.Backend, p.IfIndex, p.Net, p.ID = f.any, f.other().of(b), b.IfIndex, b.Net, uint32(106+id)
			all = append(all, p)
		}
	}
	return all
}

// family is one of the two sets of addresses that every case is run with.
type family struct {
	name                                                                 string
	any, uplink, second, router, remote, narrow, chosen, barred, strange netip.Addr
}

func families() []family {
	return []family{
		{"ipv4", netip.IPv4Unspecified(), uplink4, second4, router4, remote4, narrow4, chosen4, barred4, strange4},
		{"ipv6", netip.IPv6Unspecified(), uplink6, second6, router6, remote6, narrow6, chosen6, barred6, strange6},
	}
}

func (f family) is4() bool { return f.any.Is4() }

// other returns the other family.
func (f family) other() family {
	all := families()
	if f.is4() {
		return all[1]
	}
	return all[0]
}

// of returns the member's address.
func (f family) of(m member) netip.Addr {
	if f.is4() {
		return m.IPv4
	}
	return m.IPv6
}

// gw returns the member's gateway address.
func (f family) gw(m member) netip.Addr {
	if f.is4() {
		return m.Gateway4
	}
	return m.Gateway6
}
