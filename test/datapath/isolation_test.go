// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// The kinds of VLAN tag that a Linux receiver removes by itself.
const (
	tag8021q  = 0x8100
	tag8021ad = 0x88a8
)

// tagged is a frame with VLAN tags, the outermost first; each is a protocol and a TCI.
type tagged struct {
	frame
	tags [][2]uint16
}

func (v tagged) bytes(tb testing.TB) []byte {
	b := v.frame.bytes(tb)
	out := slices.Clone(b[:12])
	for _, t := range v.tags {
		out = binary.BigEndian.AppendUint16(out, t[0])
		out = binary.BigEndian.AppendUint16(out, t[1])
	}
	return append(out, b[12:]...)
}

// tagsInFrame lists the tags that a program can find in a frame: after one that the kernel
// has removed, or alone where the kernel does not remove any.
func tagsInFrame() [][][2]uint16 {
	return [][][2]uint16{
		{{tag8021q, 0}}, {{tag8021ad, 0}}, {{tag8021q, 100}}, {{tag8021ad, 100}},
		{{tag8021q, 0}, {tag8021q, 0}}, {{tag8021ad, 0}, {tag8021q, 0}}, {{tag8021q, 5 << 13}, {tag8021ad, 7}},
	}
}

func isolationCases() []testCase {
	return slices.Concat(taggedCases(), strayErrorCases(), icmp4Cases(), icmp6Cases(), malformedOutsideCases(), martianCases())
}

// A tag hides the packet from the program, but not from the receiver.
func taggedCases() []testCase {
	refused := func(name, from string, inner func(*scenario, family) frame) testCase {
		return testCase{name: "vlan-" + name + "-vlan", run: func(s *scenario, f family) {
			for _, tags := range tagsInFrame() {
				s.from(from, tagged{inner(s, f), tags}).dropped("vlan")
			}
		}}
	}
	return []testCase{
		refused("member", "a", func(s *scenario, f family) frame { return s.between(f, "a", "b") }),
		refused("spoofed", "a", func(s *scenario, f family) frame {
			return s.between(f, "a", "b").with(func(p *packet) { p.src = at(f.of(s.members["c"]), 1000) })
		}),
		refused("other_network", "a", func(s *scenario, f family) frame {
			return s.via(f, "a", protocols()[0], at(f.of(s.members["d"]), 80))
		}),
		refused("outside", "a", func(s *scenario, f family) frame {
			return s.via(f, "a", protocols()[0], at(f.remote, 80))
		}),
		refused("outside_of_internal", "g", func(s *scenario, f family) frame {
			return s.via(f, "g", protocols()[0], at(f.remote, 80))
		}),
		refused("broadcast", "a", func(s *scenario, f family) frame {
			return s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
		}),
		refused("host_port", "gw1", func(s *scenario, f family) frame { return s.between(f, "gw1", "a") }),
		{name: "vlan-arp-vlan", only: "ipv4", run: func(s *scenario, _ family) {
			a, b, c := s.members["a"], s.members["b"], s.members["c"]
			poison := arp{smac: a.MAC, dmac: b.MAC, op: 2, sender: a.MAC, target: b.MAC, senderIP: c.IPv4, target4: b.IPv4}
			for _, tags := range tagsInFrame() {
				s.from("a", tagged{poison, tags}).dropped("vlan")
			}
		}},
		{name: "vlan-outside_to_member-vlan", run: func(s *scenario, f family) {
			for _, name := range []string{"a", "g"} {
				p := s.client(f, protocols()[0], at(f.of(s.members[name]), 80))
				for _, tags := range tagsInFrame() {
					s.arrive(tagged{p, tags}).dropped("vlan")
				}
			}
		}},
		{name: "vlan-outside_to_published-vlan", run: func(s *scenario, f family) {
			p := s.client(f, published()[0], at(f.uplink, published()[0].dport))
			for _, tags := range tagsInFrame() {
				s.arrive(tagged{p, tags}).dropped("vlan")
			}
		}},
		{name: "vlan-outside_not_for_us-pass", run: func(s *scenario, f family) {
			p := s.client(f, protocols()[0], at(f.remote, 80))
			p.dmac = memberMAC(9, 9)
			s.arrive(tagged{p, [][2]uint16{{tag8021q, 100}}}).unchanged()
		}},
	}
}

// stray returns an ICMP error of a member about a packet that src sent to dst, addressed to
// to.
func (s *scenario) stray(f family, member string, kind icmpKind, src, dst netip.AddrPort, to netip.Addr) packet {
	about := packet{src: src, dst: dst, proto: tcp, flags: "A", ttl: 60}
	e := s.via(f, member, l4{}, at(to, 0))
	e.icmp, e.payload = &kind, string(about.ipBytes(s.TB))
	return e
}

// An error that does not belong to a flow is delivered only to the possible sender of the
// packet it is about.
func strayErrorCases() []testCase {
	each := func(name string, run func(*scenario, family, icmpKind)) testCase {
		return testCase{name: "stray-" + name, run: func(s *scenario, f family) {
			for _, kind := range errorKinds(f) {
				run(s, f, kind)
			}
		}}
	}
	toOther := func(s *scenario, f family, kind icmpKind, from, to string) {
		other, own := f.of(s.members[to]), f.of(s.members[from])
		for _, about := range [][2]netip.Addr{{other, f.remote}, {other, own}, {f.remote, own}} {
			e := s.stray(f, from, kind, at(about[0], 4000), at(about[1], 443), other)
			reason := "bad_icmp"
			if about == [2]netip.Addr{other, own} {
				reason = "isolated"
			}
			s.from(from, e).dropped(reason)
		}
	}
	return []testCase{
		each("other_network", func(s *scenario, f family, kind icmpKind) {
			toOther(s, f, kind, "a", "d")
			toOther(s, f, kind, "d", "a")
		}),
		each("internal_both_ways", func(s *scenario, f family, kind icmpKind) {
			toOther(s, f, kind, "a", "g")
			toOther(s, f, kind, "g", "a")
		}),
		each("icc_off", func(s *scenario, f family, kind icmpKind) {
			e, own := f.of(s.members["e"]), f.of(s.members["f"])
			s.from("f", s.stray(f, "f", kind, at(e, 1), at(own, 2), e)).dropped("icc")
			s.from("f", s.stray(f, "f", kind, at(e, 1), at(f.remote, 2), e)).dropped("bad_icmp")
		}),
		each("flow_of_another", func(s *scenario, f family, kind icmpKind) {
			s.forget(s.TB)
			p := s.via(f, "d", protocols()[0], at(f.remote, 80))
			s.opens(f, p, at(f.uplink, p.src.Port()))
			s.from("a", s.stray(f, "a", kind, p.src, p.dst, p.src.Addr())).dropped("bad_icmp")
		}),
		each("outside", func(s *scenario, f family, kind icmpKind) {
			own := f.of(s.members["a"])
			s.from("a", s.stray(f, "a", kind, at(f.remote, 1), at(own, 2), f.remote)).dropped("bad_icmp")
			s.from("g", s.stray(f, "g", kind, at(f.remote, 1), at(f.of(s.members["g"]), 2), f.remote)).dropped("internal")
		}),
		each("host", func(s *scenario, f family, kind icmpKind) {
			own, gw := f.of(s.members["a"]), f.gw(s.members["a"])
			s.from("a", s.stray(f, "a", kind, at(gw, 1), at(own, 2), gw)).toHost()
			s.from("a", s.stray(f, "a", kind, at(f.uplink, 1), at(own, 2), f.uplink)).toHost()
			s.from("a", s.stray(f, "a", kind, at(gw, 1), at(f.remote, 2), gw)).dropped("bad_icmp")
			s.from("a", s.stray(f, "a", kind, at(f.remote, 1), at(own, 2), gw)).dropped("bad_icmp")
			g := s.members["g"]
			s.from("g", s.stray(f, "g", kind, at(f.uplink, 1), at(f.of(g), 2), f.uplink)).dropped("internal")
		}),
		each("whom_the_host_forwards_for", func(s *scenario, f family, kind icmpKind) {
			own := f.of(s.members["a"])
			s.from("a", s.stray(f, "a", kind, at(f.strange, 1), at(own, 2), f.strange)).toStack()
		}),
		{name: "stray-v4_mapped", only: "ipv6", run: func(s *scenario, f family) {
			// An IPv6 error must not match a flow of IPv4.
			v4 := families()[0]
			p := s.via(v4, "a", protocols()[0], at(v4.remote, 80))
			left := s.opens(v4, p, at(v4.uplink, p.src.Port()))
			about := packet{src: mapped(left.src), dst: mapped(left.dst), proto: tcp, flags: "A", ttl: 60}
			e := s.outside(errorAbout(portUnreachable(f), f.remote, f.uplink, string(about.ipBytes(s.TB))))
			s.arrive(e).unchanged()
		}},
	}
}

// mapped returns an IPv4 address as an IPv6 address, in the form that struct ip uses.
func mapped(a netip.AddrPort) netip.AddrPort { return at(netip.AddrFrom16(a.Addr().As16()), a.Port()) }

// ICMPv4 other than echo and errors.
func icmp4Cases() []testCase {
	const redirect = 5
	return []testCase{
		{name: "icmp4-redirect_about_translated_flow-bad_icmp", only: "ipv4", run: func(s *scenario, f family) {
			p := s.via(f, "a", protocols()[0], at(f.remote, 80))
			left := s.opens(f, p, at(f.uplink, p.src.Port()))
			kind := icmpKind{typ: redirect, code: 1, rest: 0xc0000202}
			s.arrive(s.outside(errorAbout(kind, f.router, f.uplink, s.quoting(left)))).dropped("bad_icmp")
			answer := p.answer("SA")
			e := s.via(f, "a", l4{}, at(f.remote, 0))
			e.icmp, e.payload = &kind, s.quoting(answer)
			s.from("a", e).dropped("bad_icmp")
			host := s.outside(packet{src: at(f.uplink, 9), dst: at(f.remote, 9), proto: tcp})
			s.arrive(s.outside(errorAbout(kind, f.router, f.uplink, s.quoting(host)))).unchanged()
		}},
	}
}

// ICMPv6 that is not link-local is routed by its destination.
func icmp6Cases() []testCase {
	const nodeInformation, private, mobile = 139, 200, 144
	routed := func(s *scenario, f family, from string, typ uint8, to netip.Addr) packet {
		p := s.via(f, from, l4{}, at(to, 0))
		p.icmp, p.payload = &icmpKind{typ: typ}, "0123456789abcdef0123456789abcdef"
		return p
	}
	all := []uint8{nodeInformation, private, mobile}
	return []testCase{
		{name: "icmp6-other_network-isolated", only: "ipv6", run: func(s *scenario, f family) {
			for _, typ := range all {
				s.from("a", routed(s, f, "a", typ, f.of(s.members["d"]))).dropped("isolated")
				s.from("a", routed(s, f, "a", typ, f.of(s.members["g"]))).dropped("isolated")
			}
		}},
		{name: "icmp6-icc_off-icc", only: "ipv6", run: func(s *scenario, f family) {
			for _, typ := range all {
				s.from("e", routed(s, f, "e", typ, f.of(s.members["f"]))).dropped("icc")
			}
		}},
		{name: "icmp6-out_of_internal-internal", only: "ipv6", run: func(s *scenario, f family) {
			for _, typ := range all {
				s.from("g", routed(s, f, "g", typ, f.remote)).dropped("internal")
				s.from("g", routed(s, f, "g", typ, f.uplink)).dropped("internal")
			}
		}},
		{name: "icmp6-outside-masqueraded", only: "ipv6", run: func(s *scenario, f family) {
			p := routed(s, f, "a", nodeInformation, f.remote)
			out := p.routed().with(func(p *packet) { p.src = at(f.uplink, 0) })
			s.from("a", p).neigh(f, out, "ct_created")
		}},
		{name: "icmp6-gateway-host", only: "ipv6", run: func(s *scenario, f family) {
			for _, typ := range append(all, 133, 135, 136) {
				p := routed(s, f, "a", typ, f.gw(s.members["a"]))
				p.ttl = 255
				if typ == 135 || typ == 136 {
					continue // handled as neighbour discovery: neighbour_test.go
				}
				s.from("a", p).toHost()
			}
		}},
		{name: "icmp6-of_the_link_elsewhere-bad_icmp", only: "ipv6", run: func(s *scenario, f family) {
			for _, to := range []netip.Addr{f.remote, f.of(s.members["d"]), f.of(s.members["b"]), f.uplink} {
				for _, typ := range []uint8{130, 131, 132, 133, 141, 143, 148, 151} {
					s.from("a", routed(s, f, "a", typ, to)).dropped("bad_icmp")
				}
			}
		}},
	}
}

// Packets that cannot be parsed must not reach a sandbox.
func malformedOutsideCases() []testCase {
	// cut is a packet from outside with only n bytes of layer 4.
	cut := func(s *scenario, f family, l l4, to netip.Addr, n int) packet {
		p := s.client(f, l, at(to, l.dport)).long(s.TB)
		p.frag = &fragment{n: n}
		return p
	}
	short := map[string]int{"tcp": 8, "udp": 4, "echo": 4}
	truncated := func(name string, more bool) []testCase {
		return times(protocols(), "outside_"+name+"-direct", func(s *scenario, f family, l l4) {
			for _, member := range []string{"a", "b", "g"} {
				p := cut(s, f, l, f.of(s.members[member]), short[l.name])
				p.frag.more = more
				s.arrive(p).dropped("direct")
			}
			p := cut(s, f, l, f.uplink, short[l.name])
			p.frag.more = more
			s.arrive(p).unchanged()
		})
	}
	return slices.Concat(truncated("short_first_fragment", true), truncated("truncated", false), []testCase{
		{name: "tcp-header_too_short-malformed", run: func(s *scenario, f family) {
			for _, words := range []byte{0, 3, 4, 15} { // of a header that has five words
				p := s.via(f, "a", protocols()[0], at(f.remote, 80))
				p.payload = ""
				b := unpadded{p}.bytes(s.TB)
				b[len(b)-20+12] = words << 4
				s.from("a", literal(b)).dropped("malformed")
			}
			for cut := 1; cut < 8; cut++ {
				p := s.via(f, "a", protocols()[0], at(f.remote, 80))
				p.payload = ""
				b := unpadded{p}.bytes(s.TB)
				s.from("a", literal(b[:len(b)-cut])).dropped("malformed")
			}
		}},
		{name: "outside_broken_error-direct", run: func(s *scenario, f family) {
			for _, quote := range []string{"", "short", strings.Repeat("\xff", 64)} {
				e := s.outside(errorAbout(portUnreachable(f), f.remote, f.of(s.members["a"]), quote))
				s.arrive(e).dropped("direct")
				e = s.outside(errorAbout(portUnreachable(f), f.remote, f.uplink, quote))
				s.arrive(e).unchanged()
			}
		}},
		{name: "outside_extension_headers_without_end-direct", only: "ipv6", run: func(s *scenario, f family) {
			p := s.client(f, protocols()[0], at(f.of(s.members["a"]), 80))
			p.ext, p.extProto = endless(), 0
			s.arrive(p).dropped("direct")
		}},
	})
}

// endless is more hop-by-hop headers than the program follows, each announcing another.
func endless() []byte { return make([]byte, 8*12) }

// Addresses that are not in use, or cannot be reached this way.
func martianCases() []testCase {
	groups := map[string][]string{
		"ipv4": {"224.0.0.1", "224.0.0.251", "239.1.2.3", "255.255.255.255", "0.0.0.0"},
		"ipv6": {"ff02::1", "ff02::fb", "ff0e::1234", "::"},
	}
	return slices.Concat(
		times(protocols()[1:2], "group_behind_gateway-martian", func(s *scenario, f family, l l4) {
			for _, g := range groups[f.name] {
				s.from("a", s.via(f, "a", l, at(ip(g), l.dport))).dropped("martian")
				s.from("g", s.via(f, "g", l, at(ip(g), l.dport))).dropped("martian")
			}
		}),
		times(protocols(), "v4_mapped-martian", func(s *scenario, f family, l l4) {
			if f.is4() {
				return
			}
			v4 := families()[0]
			p := s.via(v4, "a", l, at(v4.remote, l.dport))
			left := s.opens(v4, p, at(v4.uplink, l.sport))
			answer := s.outside(left.answer(l.reply))
			answer.src, answer.dst = mapped(answer.src), mapped(answer.dst)
			s.arrive(answer).dropped("martian")
			out := s.via(f, "a", l, at(f.remote, l.dport))
			out.dst = mapped(at(v4.remote, l.dport))
			s.from("a", out).dropped("martian")
		}),
		times(published(), "v4_mapped_published-martian", func(s *scenario, f family, l l4) {
			if f.is4() {
				return
			}
			v4 := families()[0]
			p := s.client(v4, l, at(v4.uplink, l.dport))
			p.src, p.dst = mapped(p.src), mapped(p.dst)
			s.arrive(p).dropped("martian")
		}),
		times(published(), "link_local_to_published-martian", func(s *scenario, f family, l l4) {
			if f.is4() {
				return
			}
			p := s.client(f, l, at(f.uplink, l.dport))
			p.src = at(ip("fe80::1:2:3"), l.sport)
			s.arrive(p).dropped("martian")
		}),
		times(published(), "class_e_to_published-peer", func(s *scenario, f family, l l4) {
			if !f.is4() {
				return
			}
			p := s.client(f, l, at(f.uplink, l.dport))
			p.src = at(ip("240.1.2.3"), l.sport)
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		}),
		[]testCase{
			{name: "udp-host_address_by_broadcast-martian", run: func(s *scenario, f family) {
				for _, dst := range []netip.Addr{f.uplink, f.second, f.gw(s.members["d"]), loopback(f)} {
					for _, name := range []string{"a", "g", "e"} {
						p := s.via(f, name, protocols()[1], at(dst, 53))
						p.dmac = broadcast()
						s.from(name, p).dropped("martian")
						p.dmac = flmaps.MAC{0x01, 0, 0x5e, 0, 0, 1}
						s.from(name, p).dropped("martian")
					}
				}
			}},
			{name: "udp-gateway_by_broadcast-flood", run: func(s *scenario, f family) {
				p := s.via(f, "g", protocols()[1], at(f.gw(s.members["g"]), 53))
				p.dmac = broadcast()
				s.from("g", p).flooded("gw4", "h")
			}},
		},
	)
}
