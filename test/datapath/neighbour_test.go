// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// asks returns an ARP request of a member for an address.
func (s *scenario) asks(name string, target netip.Addr) arp {
	m := s.members[name]
	return arp{smac: m.MAC, dmac: broadcast(), op: layers.ARPRequest,
		sender: m.MAC, senderIP: m.IPv4, target4: target}
}

// tells returns the reply of the member that has the address.
func (a arp) tells(m member) arp {
	return arp{smac: m.MAC, dmac: a.smac, op: layers.ARPReply,
		sender: m.MAC, senderIP: a.target4, target: a.sender, target4: a.senderIP}
}

// linkCase is a case of ARP or neighbour discovery, each of which has one family.
type linkCase struct {
	name string
	run  func(*scenario)
}

func linkCases(only string, of []linkCase) []testCase {
	var cases []testCase
	for _, c := range of {
		cases = append(cases, testCase{name: c.name, only: only, run: func(s *scenario, _ family) { c.run(s) }})
	}
	return cases
}

func arpCases() []testCase {
	return linkCases("ipv4", slices.Concat(arpQuestions(), arpForOthers(), arpRefused()))
}

func arpQuestions() []linkCase {
	nobody := memberIP4(netPlain, 200)
	return []linkCase{
		{"arp-member-answered", func(s *scenario) {
			q := s.asks("a", s.members["b"].IPv4)
			s.from("a", q).answered(q.tells(s.members["b"]))
		}},
		{"arp-member_unicast-answered", func(s *scenario) {
			q := s.asks("a", s.members["b"].IPv4)
			q.dmac = s.members["b"].MAC
			s.from("a", q).answered(q.tells(s.members["b"]))
		}},
		{"arp-gateway-answered", func(s *scenario) {
			q := s.asks("a", s.members["a"].Gateway4)
			s.from("a", q).answered(q.tells(s.members["gw1"]))
		}},
		{"arp-host_asks_for_member-answered", func(s *scenario) {
			q := s.asks("gw1", s.members["a"].IPv4)
			s.from("gw1", q).answered(q.tells(s.members["a"]))
		}},
		{"arp-icc_off_member-answered", func(s *scenario) {
			q := s.asks("e", s.members["f"].IPv4)
			s.from("e", q).answered(q.tells(s.members["f"]))
		}},
		{"arp-member_of_other_network-arp_unknown", func(s *scenario) {
			s.from("a", s.asks("a", s.members["d"].IPv4)).dropped("arp_unknown")
		}},
		{"arp-nobody-arp_unknown", func(s *scenario) {
			s.from("a", s.asks("a", nobody)).dropped("arp_unknown")
		}},
		{"arp-nobody_unchecked-flood", func(s *scenario) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags &^= flmaps.AntiSpoof })
			s.from("a", s.asks("a", nobody)).flooded("gw1", "b", "c")
		}},
	}
}

func arpForOthers() []linkCase {
	nobody := memberIP4(netPlain, 200)
	return []linkCase{
		{"arp-probe-flood", func(s *scenario) {
			for _, target := range []netip.Addr{s.members["a"].IPv4, s.members["b"].IPv4, nobody} {
				q := s.asks("a", target)
				q.senderIP = netip.IPv4Unspecified()
				s.from("a", q).flooded("gw1", "b", "c")
			}
		}},
		{"arp-probe_icc_off-flood", func(s *scenario) {
			q := s.asks("e", s.members["f"].IPv4)
			q.senderIP = netip.IPv4Unspecified()
			s.from("e", q).flooded("gw3")
		}},
		{"arp-announcement-flood", func(s *scenario) {
			q := s.asks("a", s.members["a"].IPv4)
			s.from("a", q).flooded("gw1", "b", "c")
			q.op = layers.ARPReply
			s.from("a", q).flooded("gw1", "b", "c")
		}},
		{"arp-reply_to_member-peer", func(s *scenario) {
			r := s.asks("b", s.members["a"].IPv4).tells(s.members["a"])
			s.from("a", r).peer("b", r)
		}},
		{"arp-reply_to_gateway-host", func(s *scenario) {
			r := s.asks("gw1", s.members["a"].IPv4).tells(s.members["a"])
			s.from("a", r).toHost()
		}},
	}
}

func arpRefused() []linkCase {
	nobody := memberIP4(netPlain, 200)
	return []linkCase{
		{"arp-mac_spoofed-spoofed_mac", func(s *scenario) {
			q := s.asks("a", s.members["b"].IPv4)
			q.sender = s.members["c"].MAC
			s.from("a", q).dropped("spoofed_mac")
			q.sender, q.smac = s.members["a"].MAC, s.members["c"].MAC
			s.from("a", q).dropped("spoofed_mac")
		}},
		{"arp-ip_spoofed-spoofed_ip", func(s *scenario) {
			q := s.asks("a", s.members["b"].IPv4)
			q.senderIP = s.members["c"].IPv4
			s.from("a", q).dropped("spoofed_ip")
			r := s.asks("b", s.members["c"].IPv4).tells(s.members["a"])
			s.from("a", r).dropped("spoofed_ip")
			r.dmac = s.members["a"].GatewayMAC
			s.from("a", r).dropped("spoofed_ip")
		}},
		{"arp-no_ipv4-spoofed_ip", func(s *scenario) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.IPv4 = netip.Addr{} })
			s.from("a", s.asks("a", s.members["b"].IPv4)).dropped("spoofed_ip")
		}},
		{"arp-short-malformed", func(s *scenario) {
			s.from("a", literal(s.asks("a", nobody).bytes(s.TB)[:41])).dropped("malformed")
		}},
		{"arp-odd_address_length-malformed", func(s *scenario) {
			b := s.asks("a", nobody).bytes(s.TB)
			b[14+4] = 8
			s.from("a", literal(b)).dropped("malformed")
		}},
	}
}

const (
	routerSolicit    = 133
	routerAdvert     = 134
	neighbourSolicit = 135
	neighbourAdvert  = 136
	ndRedirect       = 137

	optSource, optTarget = 1, 2

	naRouter, naSolicited, naOverride = 1 << 31, 1 << 30, 1 << 29
)

// solicits returns a neighbour solicitation of a member for an address.
func (s *scenario) solicits(name string, target netip.Addr) nd {
	m, b := s.members[name], target.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
	return nd{smac: m.MAC, dmac: flmaps.MAC{0x33, 0x33, 0xff, b[13], b[14], b[15]}, src: m.IPv6, dst: group,
		typ: neighbourSolicit, target: target, option: optSource, lladdr: m.MAC}
}

// advertises returns the advertisement of the member that has the address.
func (n nd) advertises(m member) nd {
	a := nd{smac: m.MAC, dmac: n.smac, src: n.target, dst: n.src, typ: neighbourAdvert,
		flags: naSolicited | naOverride, target: n.target, option: optTarget, lladdr: m.MAC}
	if m.Flags&flmaps.HostPort != 0 {
		a.flags |= naRouter
	}
	return a
}

// advert returns an unsolicited neighbour advertisement of a member to another.
func (s *scenario) advert(from, to string, target netip.Addr) nd {
	a, b := s.members[from], s.members[to]
	return nd{smac: a.MAC, dmac: b.MAC, src: a.IPv6, dst: b.IPv6, typ: neighbourAdvert,
		flags: naOverride, target: target, option: optTarget, lladdr: a.MAC}
}

// allNodes sends n to all nodes.
func (n nd) allNodes() nd {
	n.dmac, n.dst = flmaps.MAC{0x33, 0x33, 0, 0, 0, 1}, ip("ff02::1")
	return n
}

func ndCases() []testCase {
	return linkCases("ipv6", slices.Concat(solicitations(), advertisements(), routerMessages()))
}

func solicitations() []linkCase {
	nobody := memberIP6(netPlain, 200)
	return []linkCase{
		{"ns-member-answered", func(s *scenario) {
			q := s.solicits("a", s.members["b"].IPv6)
			s.from("a", q).answered(q.advertises(s.members["b"]))
		}},
		{"ns-member_link_local-answered", func(s *scenario) {
			q := s.solicits("a", linkLocal(s.members["b"].MAC))
			q.src = linkLocal(s.members["a"].MAC)
			s.from("a", q).answered(q.advertises(s.members["b"]))
		}},
		{"ns-member_without_option_unicast-answered", func(s *scenario) {
			q := s.solicits("a", s.members["b"].IPv6)
			q.option, q.dst, q.dmac = 0, q.target, s.members["b"].MAC
			s.from("a", q).answered(q.advertises(s.members["b"]))
		}},
		{"ns-gateway-answered", func(s *scenario) {
			q := s.solicits("a", s.members["a"].Gateway6)
			s.from("a", q).answered(q.advertises(s.members["gw1"]))
		}},
		{"ns-host_asks_for_member-answered", func(s *scenario) {
			q := s.solicits("gw1", s.members["a"].IPv6)
			s.from("gw1", q).answered(q.advertises(s.members["a"]))
		}},
		{"ns-member_of_other_network-arp_unknown", func(s *scenario) {
			s.from("a", s.solicits("a", s.members["d"].IPv6)).dropped("arp_unknown")
		}},
		{"ns-nobody-arp_unknown", func(s *scenario) {
			s.from("a", s.solicits("a", nobody)).dropped("arp_unknown")
		}},
		{"ns-nobody_unchecked-flood", func(s *scenario) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags &^= flmaps.AntiSpoof })
			s.from("a", s.solicits("a", nobody)).flooded("gw1", "b", "c")
		}},
		{"ns-to_gateway-answered", func(s *scenario) {
			q := s.solicits("a", s.members["a"].Gateway6)
			q.dst, q.dmac = q.target, s.members["a"].GatewayMAC
			s.from("a", q).answered(q.advertises(s.members["gw1"]))
		}},
		{"ns-duplicate_address_detection-flood", func(s *scenario) {
			for _, target := range []netip.Addr{s.members["a"].IPv6, s.members["b"].IPv6, nobody} {
				q := s.solicits("a", target)
				q.src, q.option = netip.IPv6Unspecified(), 0
				s.from("a", q).flooded("gw1", "b", "c")
			}
		}},
		{"ns-hop_limit-malformed", func(s *scenario) {
			q := s.solicits("a", s.members["b"].IPv6)
			q.hops = 254
			s.from("a", q).dropped("malformed")
		}},
		{"ns-ip_spoofed-spoofed_ip", func(s *scenario) {
			q := s.solicits("a", s.members["b"].IPv6)
			q.src = s.members["c"].IPv6
			s.from("a", q).dropped("spoofed_ip")
		}},
	}
}

func advertisements() []linkCase {
	return []linkCase{
		{"na-own-peer", func(s *scenario) {
			n := s.advert("a", "b", s.members["a"].IPv6)
			s.from("a", n).peer("b", n)
			n.target = linkLocal(s.members["a"].MAC)
			s.from("a", n).peer("b", n)
			s.from("a", n.allNodes()).flooded("gw1", "b", "c")
		}},
		{"na-own_to_gateway-host", func(s *scenario) {
			s.from("a", s.advert("a", "gw1", s.members["a"].IPv6)).toHost()
		}},
		{"na-spoofed-spoofed_ip", func(s *scenario) {
			n := s.advert("a", "b", s.members["c"].IPv6)
			s.from("a", n).dropped("spoofed_ip")
			s.from("a", n.allNodes()).dropped("spoofed_ip")
		}},
		{"na-spoofed_to_gateway-spoofed_ip", func(s *scenario) {
			s.from("a", s.advert("a", "gw1", s.members["c"].IPv6)).dropped("spoofed_ip")
		}},
		{"na-spoofed_behind_extension_header-spoofed_ip", func(s *scenario) {
			n := s.advert("a", "b", s.members["c"].IPv6)
			s.from("a", withHopByHop(n.bytes(s.TB))).dropped("spoofed_ip")
		}},
	}
}

func routerMessages() []linkCase {
	return []linkCase{
		{"ra-member-rogue_ra", func(s *scenario) {
			n := s.advert("a", "b", netip.Addr{})
			n.typ, n.src = routerAdvert, linkLocal(s.members["a"].MAC)
			s.from("a", n).dropped("rogue_ra")
			s.from("a", n.allNodes()).dropped("rogue_ra")
		}},
		{"ra-member_to_gateway-rogue_ra", func(s *scenario) {
			n := s.advert("a", "gw1", netip.Addr{})
			n.typ, n.src = routerAdvert, linkLocal(s.members["a"].MAC)
			s.from("a", n).dropped("rogue_ra")
		}},
		{"ra-behind_extension_header-rogue_ra", func(s *scenario) { // RFC 7113
			n := s.advert("a", "b", netip.Addr{})
			n.typ, n.src = routerAdvert, linkLocal(s.members["a"].MAC)
			s.from("a", withHopByHop(n.bytes(s.TB))).dropped("rogue_ra")
			s.from("a", withHopByHop(n.allNodes().bytes(s.TB))).dropped("rogue_ra")
		}},
		{"redirect-member-rogue_ra", func(s *scenario) {
			n := s.advert("a", "b", s.members["c"].IPv6)
			n.typ = ndRedirect
			s.from("a", n).dropped("rogue_ra")
		}},
		{"ra-host-flood", func(s *scenario) {
			n := s.advert("gw1", "b", netip.Addr{})
			n.typ, n.src = routerAdvert, linkLocal(s.members["gw1"].MAC)
			s.from("gw1", n.allNodes()).flooded("a", "b", "c")
		}},
		{"rs-member-flood", func(s *scenario) {
			n := s.advert("a", "b", netip.Addr{})
			n.typ, n.dmac, n.dst = routerSolicit, flmaps.MAC{0x33, 0x33, 0, 0, 0, 2}, ip("ff02::2")
			s.from("a", n).flooded("gw1", "b", "c")
		}},
	}
}

// withHopByHop inserts an empty hop-by-hop header before layer 4.
func withHopByHop(frame []byte) literal {
	const l4 = 14 + 40
	b := append(literal(nil), frame[:l4]...)
	b = append(b, b[14+6], 0, 1, 4, 0, 0, 0, 0) // PadN
	b[14+6] = byte(layers.IPProtocolIPv6HopByHop)
	b[14+5] += 8 // payload length: short packets only
	return append(b, frame[l4:]...)
}
