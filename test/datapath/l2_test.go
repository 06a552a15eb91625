// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

const (
	experimental = 0x88b5 // IEEE 802, for local experiments
)

func broadcast() flmaps.MAC { return flmaps.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// between returns a packet from one member to another of its network, on the link.
func (s *scenario) between(f family, from, to string) packet {
	a, b := s.members[from], s.members[to]
	return packet{smac: a.MAC, dmac: b.MAC, src: at(f.of(a), 1000), dst: at(f.of(b), 80),
		proto: tcp, flags: "S", ttl: 64, payload: "hello"}
}

func bridgeCases() []testCase {
	return slices.Concat(bridged(), spoofed(), betweenMembers())
}

func bridged() []testCase {
	return []testCase{
		{name: "tcp-member_to_member-peer", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b")
			s.from("a", p).peer("b", p)
			s.from("b", p.answer("SA")).peer("a", p.answer("SA"))
		}},
		{name: "tcp-ttl_1_member_to_member-peer", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.ttl = 1 })
			s.from("a", p).peer("b", p)
		}},
		{name: "udp-later_fragment_member_to_member-peer", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) {
				p.proto, p.payload, p.frag, p.id = udp, string(make([]byte, 64)), &fragment{offset: 32, n: 32}, 7
			})
			s.from("a", p).peer("b", p)
			p.smac, p.dmac, p.src, p.dst = p.dmac, p.smac, p.dst, p.src
			// b is published, so its packets are checked more closely: this may be a reply.
			s.from("b", p).held()
			first := p.as(&fragment{n: 32, more: true})
			s.from("b", first).releases(1).peer("a", first)
			s.from("b", p).peer("a", p)
		}},
		{name: "tcp-host_to_member-peer", run: func(s *scenario, f family) {
			p := s.between(f, "gw1", "a")
			s.from("gw1", p).peer("a", p)
		}},
		{name: "tcp-host_forwards_for_others-peer", run: func(s *scenario, f family) {
			p := s.between(f, "gw1", "a").with(func(p *packet) { p.src = at(f.remote, 1000) })
			s.from("gw1", p).peer("a", p)
		}},
		{name: "tcp-mac_unknown-no_member", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.dmac = memberMAC(netPlain, 99) })
			s.from("a", p).dropped("no_member")
		}},
		{name: "tcp-mac_own-no_member", run: func(s *scenario, f family) {
			p := s.between(f, "a", "a")
			s.from("a", p).dropped("no_member")
		}},
		{name: "tcp-mac_of_other_network-no_member", run: func(s *scenario, f family) {
			s.from("a", s.between(f, "a", "d")).dropped("no_member")
		}},
	}
}

func spoofed() []testCase {
	return []testCase{
		{name: "tcp-mac_spoofed-spoofed_mac", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.smac = s.members["c"].MAC })
			s.from("a", p).dropped("spoofed_mac")
		}},
		{name: "tcp-ip_spoofed-spoofed_ip", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.src = at(f.of(s.members["c"]), 1000) })
			s.from("a", p).dropped("spoofed_ip")
			p.dmac = s.members["a"].GatewayMAC
			s.from("a", p).dropped("spoofed_ip")
			p.src = at(f.remote, 1000)
			s.from("a", p).dropped("spoofed_ip")
		}},
		{name: "tcp-ip_spoofed_unchecked-peer", run: func(s *scenario, f family) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags &^= flmaps.AntiSpoof })
			p := s.between(f, "a", "b").with(func(p *packet) { p.src, p.smac = at(f.remote, 1000), memberMAC(9, 9) })
			s.from("a", p).peer("b", p)
		}},
		{name: "tcp-ip_unspecified_unicast-spoofed_ip", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.src = at(f.any, 1000) })
			s.from("a", p).dropped("spoofed_ip")
		}},
		{name: "udp-ip_unspecified_broadcast-flood", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.src, p.proto, p.dmac = at(f.any, 68), udp, broadcast() })
			s.from("a", p).flooded("gw1", "b", "c")
		}},
		{name: "tcp-family_not_configured-spoofed_ip", run: func(s *scenario, f family) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) {
				e.IPv4, e.IPv6 = e.IPv6, e.IPv4 // neither has the family of its field any more
			})
			s.from("a", s.between(f, "a", "b")).dropped("spoofed_ip")
		}, only: "ipv4"},
		{name: "tcp-link_local_source-peer", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) {
				p.src, p.dst = at(linkLocal(s.members["a"].MAC), 1), at(linkLocal(s.members["b"].MAC), 2)
			})
			s.from("a", p).peer("b", p)
			p.src = at(linkLocal(s.members["c"].MAC), 1)
			s.from("a", p).dropped("spoofed_ip")
		}, only: "ipv6"},
	}
}

func betweenMembers() []testCase {
	return []testCase{
		{name: "tcp-device_unknown-unknown_endpoint", run: func(s *scenario, f family) {
			p := s.from("a", s.between(f, "a", "b"))
			p.member, p.skb.Ifindex = member{}, s.other.index
			p.dropped("unknown_endpoint")
		}},
		{name: "tcp-icc_off-icc", run: func(s *scenario, f family) {
			s.from("e", s.between(f, "e", "f")).dropped("icc")
		}},
		{name: "tcp-icc_off_host_to_member-peer", run: func(s *scenario, f family) {
			p := s.between(f, "gw3", "e")
			s.from("gw3", p).peer("e", p)
		}},
		{name: "tcp-internal_member_to_member-peer", run: func(s *scenario, f family) {
			p := s.between(f, "g", "h")
			s.from("g", p).peer("h", p)
		}},
		{name: "udp-broadcast-flood", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
			s.from("a", p).flooded("gw1", "b", "c")
			p = s.between(f, "gw1", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
			s.from("gw1", p).flooded("a", "b", "c")
		}},
		{name: "udp-broadcast_icc_off-flood", run: func(s *scenario, f family) {
			p := s.between(f, "e", "f").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
			s.from("e", p).flooded("gw3")
		}},
		{name: "udp-broadcast_nobody-flood", run: func(s *scenario, f family) {
			s.change(s.TB, "gw2", func(e *flmaps.Endpoint) { e.Net = 99 })
			p := s.between(f, "d", "d").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
			s.from("d", p).flooded()
		}},
	}
}

// Frames that are not IP.
func ethertypeCases() []testCase {
	both := func(ethertype uint16, f func(*scenario, raw)) func(*scenario, family) {
		return func(s *scenario, _ family) {
			f(s, raw{smac: s.members["a"].MAC, dmac: s.members["b"].MAC, ethertype: ethertype, payload: "anything"})
		}
	}
	return []testCase{
		{name: "experimental-member_to_member-peer", only: "ipv4", run: both(experimental, func(s *scenario, r raw) {
			s.from("a", r).peer("b", r)
		})},
		{name: "llc-member_to_member-peer", only: "ipv4", run: both(20, func(s *scenario, r raw) {
			s.from("a", r).peer("b", r)
		})},
		{name: "experimental-to_gateway-host", only: "ipv4", run: both(experimental, func(s *scenario, r raw) {
			r.dmac = s.members["a"].GatewayMAC
			s.from("a", r).toHost()
		})},
		{name: "experimental-broadcast-flood", only: "ipv4", run: both(experimental, func(s *scenario, r raw) {
			r.dmac = broadcast()
			s.from("a", r).flooded("gw1", "b", "c")
		})},
		{name: "experimental-mac_spoofed-spoofed_mac", only: "ipv4", run: both(experimental, func(s *scenario, r raw) {
			r.smac = memberMAC(netPlain, 77)
			s.from("a", r).dropped("spoofed_mac")
		})},
		{name: "experimental-mac_unknown-no_member", only: "ipv4", run: both(experimental, func(s *scenario, r raw) {
			r.dmac = memberMAC(netPlain, 77)
			s.from("a", r).dropped("no_member")
		})},
	}
}
