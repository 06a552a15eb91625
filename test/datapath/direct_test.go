// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"strings"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// The port of d that is open in gateway mode routed, and the publish that opens it.
const (
	directPort    = 90
	directPublish = 400
)

// gatewayMode puts d's network into a gateway mode, in both families unless one is given.
func (s *scenario) gatewayMode(subnet flmaps.SubnetFlags, member flmaps.EndpointFlags, of ...family) {
	s.Helper()
	d := s.members["d"]
	s.change(s.TB, "d", func(e *flmaps.Endpoint) { e.Flags = e.Flags&^flmaps.Published | member })
	if len(of) == 0 {
		of = families()
	}
	for _, f := range of {
		bits := 64
		if f.is4() {
			bits = 24
		}
		put := func(flags flmaps.SubnetFlags) {
			_, err := s.set.Subnets.Put(flmaps.Subnet{Prefix: netip.PrefixFrom(f.gw(d), bits), Net: d.Net, Flags: flags})
			must(s.TB, err)
		}
		put(subnet)
		s.Cleanup(func() { put(0) })
	}
}

// unprotected is gateway mode nat-unprotected.
func (s *scenario) unprotected() { s.Helper(); s.gatewayMode(flmaps.Open, flmaps.Reached) }

// routed is gateway mode routed, with a published port.
func (s *scenario) routed() {
	s.Helper()
	s.gatewayMode(flmaps.OpenPorts|flmaps.OwnAddresses, flmaps.OwnIPv4|flmaps.OwnIPv6|flmaps.Reached)
	d := s.members["d"]
	for _, f := range families() {
		for _, proto := range []uint8{uint8(tcp), uint8(udp)} {
			_, err := s.set.Publishes.Put(flmaps.Publish{HostIP: f.of(d), Port: directPort, Proto: proto, Backend: f.of(d), BackendPort: directPort,
				IfIndex: d.IfIndex, Net: d.Net, ID: directPublish, Direct: true})
			must(s.TB, err)
			s.Cleanup(func() { _, err := s.set.Publishes.Delete(f.of(d), directPort, proto); must(s.TB, err) })
		}
	}
}

// direct lists protocols with ports, to d's open port, from a port that a gateway keeps.
func direct() []l4 {
	return []l4{{"tcp", tcp, 5000, directPort, "SA"}, {"udp", udp, 5000, directPort, ""}, {"echo", echo, 5000, 0, ""}}
}

func portless() []l4 {
	return []l4{{name: "sctp", proto: sctp, sport: 4000, dport: 80}, {name: "gre", proto: gre}}
}

// reaches sends a packet from outside to d, which gets it as it is, and replies.
func (s *scenario) reaches(f family, p packet, reply string, event ...string) {
	s.Helper()
	got := s.delivered("d", p)
	s.arrive(p).peer("d", got, event...)
	answer := got.answer(reply)
	s.from("d", answer).neigh(f, answer.routed())
	s.leave(answer.routed(), doneMark).unchanged()
}

func directCases() []testCase {
	return slices.Concat(directFromOutside(), directRefused(), directFromMembers(), directErrors(), routedToOutside())
}

func directFromOutside() []testCase {
	all := direct()
	modes := func(name string, run func(*scenario, family, l4)) []testCase {
		return slices.Concat(
			times(all, "unprotected_"+name, func(s *scenario, f family, l l4) { s.unprotected(); run(s, f, l) }),
			times(all, "routed_"+name, func(s *scenario, f family, l l4) { s.routed(); run(s, f, l) }))
	}
	return slices.Concat(
		modes("from_outside-peer", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			s.reaches(f, p, l.reply, "ct_created")
			p.flags = "A"
			if l.proto == tcp {
				s.arrive(p).peer("d", s.delivered("d", p), "ct_confirmed")
			}
			s.reaches(f, p, "A")
		}),
		// A packet in the middle of a connection, too, whose flow was forgotten.
		modes("from_outside_later-peer", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			p.flags = "A"
			got := s.delivered("d", p)
			s.arrive(p).peer("d", got, "ct_created")
			var event []string
			if l.proto == tcp {
				event = []string{"ct_confirmed"}
			}
			s.from("d", got.answer("A")).neigh(f, got.answer("A").routed(), event...)
			s.reaches(f, p, "A")
		}),
		modes("fragments_from_outside-peer", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport)).long(s.TB)
			p.flags = "A"
			first, later := fragments(p)
			got := s.delivered("d", p)
			s.arrive(first).peer("d", got.as(first.frag), "ct_created")
			s.arrive(later).peer("d", got.as(later.frag))
		}),
		modes("answer_by_stack-pass", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			got := s.delivered("d", p)
			s.arrive(p).peer("d", got, "ct_created")
			answer := got.answer(l.reply).routed()
			s.leave(answer, 0).passes(answer)
		}),
		modes("ttl_1-time_exceeded", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			p.ttl = 1
			s.arrive(p).refused("ttl", unpadded{s.uplinkComplains(f, p, timeExceeded(f))})
		}),
		modes("too_big-packet_too_big", func(s *scenario, f family, l l4) {
			s.change(s.TB, "d", func(e *flmaps.Endpoint) { e.MTU = 1400 })
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			p.payload = strings.Repeat("x", 1400)
			s.arrive(p).refused("too_big", unpadded{s.uplinkComplains(f, p, packetTooBig(f, 1400))}, "ct_created")
		}),
		times(append(portless(), l4{"tcp", tcp, 5000, 7777, "SA"}), "unprotected_any_port-peer", func(s *scenario, f family, l l4) {
			s.unprotected()
			s.reaches(f, s.client(f, l, at(f.of(s.members["d"]), l.dport)), l.reply, "ct_created")
		}),
		times(all[:2], "routed_flow_has_its_publish-peer", func(s *scenario, f family, l l4) {
			s.routed()
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			s.reaches(f, p, l.reply, "ct_created")
			if orig, reply := s.flowOf(s.TB, p); orig.Publish != directPublish || reply.Publish != directPublish || uint32(orig.Net) != s.members["d"].Net {
				s.Errorf("the flow is of publishes %d and %d, and of network %d", orig.Publish, reply.Publish, orig.Net)
			}
		}),
		times(all[:2], "unprotected_cached-peer", func(s *scenario, f family, l l4) {
			s.unprotected()
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			s.reaches(f, p, l.reply, "ct_created")
			p.flags = "A"
			if l.proto == tcp {
				s.arrive(p).peer("d", s.delivered("d", p), "ct_confirmed")
			} else {
				s.ageFlow(s.TB, p, 3)
				s.arrive(p).peer("d", s.delivered("d", p), "ct_confirmed")
			}
			for range 100 { // a processor, or the next tick, has no decision yet
				s.reaches(f, p, "A")
				if s.hits(p.tuple()) > 0 {
					return
				}
			}
			s.Errorf("none of 100 packets took the cached path")
		}),
	)
}

func directRefused() []testCase {
	all := direct()
	outside := func(s *scenario, f family, l l4, dst netip.Addr) *sent {
		return s.arrive(s.client(f, l, at(dst, l.dport)))
	}
	return slices.Concat(
		times(slices.Concat(portless(), []l4{{"tcp", tcp, 5000, 80, ""}, {"udp", udp, 5000, 80, ""}, {"published", tcp, 5000, publishTCP, ""}}), "routed_other_port-direct",
			func(s *scenario, f family, l l4) {
				s.routed()
				outside(s, f, l, f.of(s.members["d"])).dropped("direct")
				s.from("a", s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))).dropped("isolated")
			}),
		times(all[:2], "routed_port_of_a_host_address-direct", func(s *scenario, f family, l l4) {
			s.routed()
			d := s.members["d"]
			_, err := s.set.Publishes.Put(flmaps.Publish{HostIP: f.of(d), Port: 80, Proto: uint8(l.proto), Backend: f.of(d), BackendPort: 80, IfIndex: d.IfIndex, Net: d.Net, ID: 401})
			must(s.TB, err)
			defer func() { _, err := s.set.Publishes.Delete(f.of(d), 80, uint8(l.proto)); must(s.TB, err) }()
			l.dport = 80
			outside(s, f, l, f.of(d)).dropped("direct")
		}),
		times(all, "one_family-direct", func(s *scenario, f family, l l4) {
			s.gatewayMode(flmaps.Open, flmaps.Reached, f.other())
			outside(s, f, l, f.of(s.members["d"])).dropped("direct")
			s.from("a", s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))).dropped("isolated")
		}),
		times(all, "unprotected_nobody-no_member", func(s *scenario, f family, l l4) {
			s.unprotected()
			nobody := f.of(s.members["d"]).Next().Next()
			outside(s, f, l, nobody).dropped("no_member")
			s.from("a", s.via(f, "a", l, at(nobody, l.dport))).dropped("no_member")
		}),
		times(all, "unprotected_gateway-pass", func(s *scenario, f family, l l4) {
			s.unprotected()
			p := s.client(f, l, at(f.gw(s.members["d"]), l.dport))
			s.arrive(p).passes(p, "ct_created")
			s.from("a", s.via(f, "a", l, p.dst)).toHost()
		}),
		times(all, "unprotected_impossible_source-spoofed_ip", func(s *scenario, f family, l l4) {
			s.unprotected()
			for _, src := range append(impossible(f), f.uplink, f.of(s.members["a"]), f.gw(s.members["d"])) {
				p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
				p.src = at(src, l.sport)
				s.arrive(p).dropped("spoofed_ip")
			}
		}),
		times(all, "unprotected_from_internal-isolated", func(s *scenario, f family, l l4) {
			s.unprotected()
			s.from("g", s.via(f, "g", l, at(f.of(s.members["d"]), l.dport))).dropped("isolated")
		}),
		[]testCase{
			{name: "unprotected_link_local_source-martian", only: "ipv6", run: func(s *scenario, f family) {
				s.unprotected()
				p := s.client(f, direct()[0], at(f.of(s.members["d"]), directPort))
				p.src = at(ip("fe80::1"), 5000)
				s.arrive(p).dropped("martian")
				p = s.via(f, "a", direct()[0], at(f.of(s.members["d"]), directPort))
				p.src = at(linkLocal(s.members["a"].MAC), 5000)
				s.from("a", p).dropped("martian")
			}},
			{name: "unprotected_unparsable-direct", run: func(s *scenario, f family) {
				s.unprotected()
				p := s.client(f, direct()[0], at(f.of(s.members["d"]), directPort))
				s.arrive(literal(p.bytes(s.TB)[:14+map[bool]int{true: 20, false: 40}[f.is4()]+6])).dropped("direct")
			}},
		},
	)
}

func directFromMembers() []testCase {
	all := direct()
	return slices.Concat(
		times(all, "of_other_network-peer", func(s *scenario, f family, l l4) {
			for _, mode := range []func(){s.unprotected, s.routed} {
				s.forget(s.TB)
				mode()
				p := s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))
				got := s.byGateway(f, "d", p, l.dport)
				s.from("a", p).peer("d", got, "ct_created")
				answer := got.answer(l.reply)
				s.from("d", answer).peer("a", s.delivered("a", answer.with(func(a *packet) { a.dst = p.src })))
				s.from("a", p).peer("d", got)
			}
		}),
		times(all, "of_network_not_masqueraded-peer", func(s *scenario, f family, l l4) {
			s.routed()
			p := s.via(f, "i", l, at(f.of(s.members["d"]), l.dport))
			got := s.delivered("d", p)
			s.from("i", p).peer("d", got, "ct_created")
			answer := got.answer(l.reply)
			s.from("d", answer).peer("i", s.delivered("i", answer))
		}),
		times(all, "of_network_without_gateway-no_uplink_addr", func(s *scenario, f family, l l4) {
			s.unprotected()
			s.change(s.TB, "d", func(e *flmaps.Endpoint) { e.Gateway4, e.Gateway6 = netip.Addr{}, netip.Addr{} })
			s.from("a", s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))).dropped("no_uplink_addr")
		}),
		times(all, "of_other_network_ttl_1-time_exceeded", func(s *scenario, f family, l l4) {
			s.unprotected()
			p := s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))
			p.ttl = 1
			s.from("a", p).refused("ttl", unpadded{s.complains(f, p, timeExceeded(f))})
		}),
		// What the host sends to d has the same source as a's flow. Then its port is another.
		times(all[:2], "of_host_and_other_network-apart", func(s *scenario, f family, l l4) {
			s.unprotected()
			p := s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))
			s.from("a", p).peer("d", s.byGateway(f, "d", p, l.dport), "ct_created")
			own := s.between(f, "gw2", "d").with(func(q *packet) {
				q.src, q.dst, q.proto, q.flags = at(q.src.Addr(), l.sport), at(q.dst.Addr(), l.dport), l.proto, p.flags
			})
			if moved := port(f, own, s.from("gw2", own).do().out); moved == l.sport {
				s.Errorf("two flows have port %d at d", moved)
			}
		}),
	)
}

func directErrors() []testCase {
	all := direct()
	return slices.Concat(
		times(all, "routed_error_of_member-neigh", func(s *scenario, f family, l l4) {
			s.routed()
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			got := s.delivered("d", p)
			s.arrive(p).peer("d", got, "ct_created")
			kind := portUnreachable(f)
			e := s.via(f, "d", l4{}, at(f.remote, 0))
			e.icmp, e.payload = &kind, s.quoting(got)
			s.from("d", e).neigh(f, e.routed())
		}),
		times(all, "routed_error_from_outside-peer", func(s *scenario, f family, l l4) {
			s.routed()
			p := s.client(f, l, at(f.of(s.members["d"]), l.dport))
			got := s.delivered("d", p)
			s.arrive(p).peer("d", got, "ct_created")
			e := s.outside(errorAbout(packetTooBig(f, 1280), f.router, f.of(s.members["d"]), s.quoting(got.answer(l.reply))))
			s.arrive(e).peer("d", s.delivered("d", e))
			e.payload = s.quoting(got.answer(l.reply).with(func(q *packet) { q.dst = at(f.router, 9) }))
			s.arrive(e).dropped("direct") // about nothing
		}),
		times(all, "error_of_member_to_other_network-peer", func(s *scenario, f family, l l4) {
			s.unprotected()
			p := s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))
			got := s.byGateway(f, "d", p, l.dport)
			s.from("a", p).peer("d", got, "ct_created")
			kind := portUnreachable(f)
			e := s.via(f, "d", l4{}, at(got.src.Addr(), 0))
			e.icmp, e.payload = &kind, s.quoting(got)
			want := e.with(func(e *packet) {
				e.dst, e.payload = at(p.src.Addr(), 0), s.quoting(got.with(func(q *packet) { q.src = p.src }))
			})
			s.from("d", e).peer("a", s.delivered("a", want))
		}),
	)
}

// What members of a routed network begin.
func routedToOutside() []testCase {
	return slices.Concat(
		times(protocols(), "routed_to_outside-neigh", func(s *scenario, f family, l l4) {
			s.routed()
			p := s.via(f, "d", l, at(f.remote, l.dport))
			left := s.opens(f, p, p.src)
			s.answers("d", p, left, l.reply)
		}),
		times(protocols(), "routed_by_stack_to_outside-pass", func(s *scenario, f family, l l4) {
			s.routed()
			p := s.via(f, "d", l, at(f.remote, l.dport)).routed()
			s.leave(p, 0).passes(p, "ct_created")
			s.answers("d", p, p, l.reply)
		}),
		times(protocols(), "routed_answer_in_fragments-peer", func(s *scenario, f family, l l4) {
			s.routed()
			p := s.via(f, "d", l, at(f.remote, l.dport))
			answer := s.outside(s.opens(f, p, p.src).answer("A").long(s.TB))
			got := s.delivered("d", answer)
			first, later := fragments(answer)
			s.arrive(first).peer("d", got.as(first.frag))
			s.arrive(later).peer("d", got.as(later.frag))
		}),
		times(protocols(), "routed_other_family_to_outside-neigh", func(s *scenario, f family, l l4) {
			flags := flmaps.OwnIPv4
			if f.is4() {
				flags = flmaps.OwnIPv6
			}
			s.gatewayMode(flmaps.OpenPorts|flmaps.OwnAddresses, flags, f.other())
			p := s.via(f, "d", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.answers("d", p, left, l.reply)
		}),
	)
}
