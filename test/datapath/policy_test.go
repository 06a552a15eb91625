// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
)

// What a member may reach through its gateway.
func gatewayCases() []testCase {
	all := append(protocols(), l4{name: "sctp", proto: sctp, sport: 4000, dport: 80}, l4{name: "gre", proto: gre})
	return slices.Concat(
		times(all, "gateway_address-host", func(s *scenario, f family, l l4) {
			s.from("a", s.via(f, "a", l, at(f.gw(s.members["a"]), l.dport))).toHost()
			s.from("g", s.via(f, "g", l, at(f.gw(s.members["g"]), l.dport))).toHost()
		}),
		times(all, "gateway_address_ttl_1-host", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.gw(s.members["a"]), l.dport))
			p.ttl = 1
			s.from("a", p).toHost()
		}),
		times(all, "host_address-host", func(s *scenario, f family, l l4) {
			for _, dst := range []netip.Addr{f.uplink, f.second, f.gw(s.members["d"])} {
				s.from("a", s.via(f, "a", l, at(dst, l.dport))).toHost()
			}
		}),
		times(all, "host_address_of_internal-internal", func(s *scenario, f family, l l4) {
			s.from("g", s.via(f, "g", l, at(f.uplink, l.dport))).dropped("internal")
			s.from("g", s.via(f, "g", l, at(f.gw(s.members["a"]), l.dport))).dropped("internal")
		}),
		times(all, "outside_of_internal-internal", func(s *scenario, f family, l l4) {
			s.from("g", s.via(f, "g", l, at(f.remote, l.dport))).dropped("internal")
		}),
		times(all, "other_network-isolated", func(s *scenario, f family, l l4) {
			for _, name := range []string{"d", "e", "g", "i"} {
				s.from("a", s.via(f, "a", l, at(f.of(s.members[name]), l.dport))).dropped("isolated")
			}
			s.from("g", s.via(f, "g", l, at(f.of(s.members["a"]), l.dport))).dropped("isolated")
		}),
		times(all, "member_by_gateway-peer", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.of(s.members["c"]), l.dport))
			s.from("a", p).peer("c", s.delivered("c", p))
		}),
		times(all, "member_by_gateway_icc_off-icc", func(s *scenario, f family, l l4) {
			s.from("e", s.via(f, "e", l, at(f.of(s.members["f"]), l.dport))).dropped("icc")
		}),
		times(all, "nobody_by_gateway-no_member", func(s *scenario, f family, l l4) {
			nobody := f.of(s.members["c"]).Next().Next()
			s.from("a", s.via(f, "a", l, at(nobody, l.dport))).dropped("no_member")
		}),
		times(all, "loopback-loopback", func(s *scenario, f family, l l4) {
			s.from("a", s.via(f, "a", l, at(loopback(f), l.dport))).dropped("loopback")
		}),
	)
}

func loopback(f family) netip.Addr {
	if f.is4() {
		return ip("127.0.0.1")
	}
	return ip("::1")
}

// complainsOutside makes the host send an error about a reply to a flow of its own, from
// address and port own, that left as from left.
func (s *scenario) complainsOutside(f family, answer packet, left, own netip.AddrPort) {
	s.Helper()
	for _, kind := range errorKinds(f) {
		out := s.outside(errorAbout(kind, left.Addr(), f.remote, s.quoting(answer)))
		e := out.with(func(e *packet) {
			e.src, e.payload = at(own.Addr(), 0), s.quoting(answer.with(func(q *packet) { q.dst = own }))
		})
		s.leave(e, 0).passes(out)
		// Not about a flow.
		out.payload = s.quoting(answer.with(func(q *packet) { q.src = at(f.router, 9) }))
		s.leave(out, 0).unchanged()
	}
}

// What may come from outside.
func outsideCases() []testCase {
	all := append(protocols(), l4{name: "sctp", proto: sctp, sport: 4000, dport: 80}, l4{name: "gre", proto: gre})
	return slices.Concat(
		times(all, "host-pass", func(s *scenario, f family, l l4) {
			for _, dst := range []netip.Addr{f.uplink, f.second} {
				s.arrive(s.client(f, l, at(dst, l.dport))).unchanged()
			}
		}),
		// The reply leaves with the source that the request was sent to, although the network
		// is masqueraded.
		times(all, "host_at_gateway_address-pass", func(s *scenario, f family, l l4) {
			for _, name := range []string{"a", "g", "i"} {
				p := s.client(f, l, at(f.gw(s.members[name]), l.dport))
				s.arrive(p).passes(p, "ct_created")
				for range 2 {
					s.leave(p.answer(l.reply), 0).unchanged()
					s.arrive(p).unchanged()
				}
			}
		}),
		times(all, "host_at_gateway_address_from_inside-pass", func(s *scenario, f family, l l4) {
			for _, src := range []netip.Addr{f.of(s.members["a"]), f.uplink, loopback(f)} {
				p := s.client(f, l, at(f.gw(s.members["a"]), l.dport))
				p.src = at(src, l.sport)
				s.arrive(p).unchanged()
			}
		}),
		times(all, "forwarded_by_host-pass", func(s *scenario, f family, l l4) {
			s.arrive(s.client(f, l, at(f.strange, l.dport))).unchanged()
		}),
		times(all, "member-direct", func(s *scenario, f family, l l4) {
			for _, name := range []string{"a", "b", "d", "e", "g", "i"} {
				s.arrive(s.client(f, l, at(f.of(s.members[name]), l.dport))).dropped("direct")
			}
		}),
		times(all, "nobody_of_network-direct", func(s *scenario, f family, l l4) {
			s.arrive(s.client(f, l, at(f.of(s.members["c"]).Next().Next(), l.dport))).dropped("direct")
		}),
		times(all, "loopback-loopback", func(s *scenario, f family, l l4) {
			s.arrive(s.client(f, l, at(loopback(f), l.dport))).dropped("loopback")
		}),
		times(all, "not_for_us-pass", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.of(s.members["a"]), l.dport))
			p.dmac = memberMAC(9, 9)
			s.arrive(p).unchanged()
		}),
		times(all, "host_leaving-pass", func(s *scenario, f family, l l4) {
			p := s.outside(packet{src: at(f.uplink, l.sport), dst: at(f.remote, l.dport), proto: l.proto, flags: "S"})
			s.leave(p, 0).unchanged()
			p.src = at(f.second, l.sport)
			s.leave(p, 0).unchanged()
		}),
		times(protocols(), "host_leaving_port_taken-pass", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			host := s.outside(packet{src: at(f.uplink, l.sport), dst: at(f.remote, l.dport), proto: l.proto, flags: "S", payload: "host"})
			sending := s.leave(host, 0)
			r := sending.do()
			moved := port(f, host, r.out)
			event := []string{"ct_created"}
			for range r.counts["event snat_retry"].Packets {
				event = append(event, "snat_retry")
			}
			hostLeft := host.with(func(p *packet) { p.src = at(f.uplink, moved) })
			sending.passes(hostLeft, event...)
			if moved == l.sport {
				s.Errorf("the host's flow kept port %d, which is taken", moved)
			}
			answer := s.outside(hostLeft.answer(l.reply))
			s.arrive(answer).passes(answer.with(func(p *packet) { p.dst = host.src }))
			s.answers("a", p, left, l.reply)
			s.complainsOutside(f, answer, hostLeft.src, host.src)
		}),
		times(protocols(), "host_leaving_port_taken_fragments-same_port", func(s *scenario, f family, l l4) {
			s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
			host := s.outside(packet{src: at(f.uplink, l.sport), dst: at(f.remote, l.dport), proto: l.proto, flags: "A"}).long(s.TB)
			first, later := fragments(host)
			moved := port(f, host, s.leave(first, 0).do().out)
			left := host.with(func(p *packet) { p.src = at(f.uplink, moved) })
			s.leave(later, 0).passes(left.as(later.frag))
		}),
	)
}
