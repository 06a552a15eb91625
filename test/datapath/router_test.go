// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// gate makes a and b members that leave netPlain only by way of c, which is there or not.
func (s *scenario) gate(there bool) {
	s.Helper()
	for _, name := range []string{"a", "b"} {
		s.change(s.TB, name, func(e *flmaps.Endpoint) { e.Flags |= flmaps.Gated })
	}
	if there {
		c := s.members["c"]
		n := flmaps.Neighbour{Net: c.Net, Router: true, MAC: c.MAC, IfIndex: c.IfIndex, Flags: c.Flags}
		_, err := s.set.Neighbours.Put(n)
		must(s.TB, err)
		s.Cleanup(func() { _, err := s.set.Neighbours.DeleteAll([]flmaps.Neighbour{n}); must(s.TB, err) })
	}
}

// back returns a packet from outside that c brings to a member.
func (s *scenario) back(f family, to string, src netip.Addr, l l4) packet {
	return s.between(f, "c", to).with(func(p *packet) {
		p.src, p.proto = at(src, l.sport), l.proto
		if p.flags = ""; l.proto == tcp {
			p.flags = "SA"
		}
	})
}

func routerCases() []testCase { return slices.Concat(gatedCases(), routerSourceCases()) }

func gatedCases() []testCase {
	all := slices.Concat(protocols(), portless())
	return slices.Concat(
		times(all, "gated_to_router-peer", func(s *scenario, f family, l l4) {
			s.gate(true)
			for _, dst := range []netip.Addr{f.remote, f.router, f.chosen, f.strange, f.barred} {
				p := s.via(f, "a", l, at(dst, l.dport))
				s.from("a", p).peer("c", s.delivered("c", p))
			}
		}),
		times(all, "gated_without_router-no_gateway", func(s *scenario, f family, l l4) {
			s.gate(false)
			for _, dst := range []netip.Addr{f.remote, f.router, f.chosen, f.strange, f.barred} {
				s.from("a", s.via(f, "a", l, at(dst, l.dport))).dropped("no_gateway")
			}
			p := s.via(f, "a", l, at(f.remote, l.dport)).with(func(p *packet) { p.ttl = 1 })
			s.from("a", p).dropped("no_gateway")
		}),
		// What reaches the stack by another way does not leave, either.
		times(all, "gated_from_stack-no_gateway", func(s *scenario, f family, l l4) {
			for _, there := range []bool{true, false} {
				s.gate(there)
				p := s.via(f, "a", l, at(f.remote, l.dport))
				s.leave(s.outside(p), 0).dropped("no_gateway")
			}
		}),
		times(protocols(), "gated_other_network-isolated", func(s *scenario, f family, l l4) {
			s.gate(true)
			s.unprotected()
			s.from("a", s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))).dropped("isolated")
		}),
		times(published(), "gated_published_answer-neigh", func(s *scenario, f family, l l4) {
			for _, there := range []bool{true, false} {
				s.forget(s.TB)
				s.gate(there)
				p := s.client(f, l, at(f.uplink, l.dport))
				got := s.toBackend(f, "b", p, l.backend())
				s.arrive(p).peer("b", got, "ct_created")
				s.replies(f, "b", got, p, l.reply)
			}
		}),
		times(protocols(), "gated_to_host-redirect", func(s *scenario, f family, l l4) {
			s.gate(false)
			for _, dst := range []netip.Addr{f.gw(s.members["a"]), f.uplink} {
				s.from("a", s.via(f, "a", l, at(dst, 9999))).toHost()
			}
		}),
		[]testCase{
			{name: "tcp-gated_to_member-peer", run: func(s *scenario, f family) {
				s.gate(false)
				p := s.between(f, "a", "b")
				s.from("a", p).peer("b", p)
			}},
			{name: "tcp-gated_host_port_from_stack-pass", run: func(s *scenario, f family) {
				s.gate(false)
				gw := s.members["gw1"]
				p := s.via(f, "a", protocols()[0], at(f.remote, 80)).with(func(p *packet) { p.src = at(f.of(gw), 40001) })
				out := s.outside(p).with(func(p *packet) { p.src = at(f.uplink, 40001) })
				s.leave(s.outside(p), 0).passes(out, "ct_created")
			}},
			{name: "tcp-gated_ttl_1-ttl", run: func(s *scenario, f family) {
				s.gate(true)
				p := s.via(f, "a", protocols()[0], at(f.remote, 80)).with(func(p *packet) { p.ttl = 1 })
				s.from("a", p).refused("ttl", unpadded{s.complains(f, p, timeExceeded(f))})
			}},
			{name: "error-gated_about_what_came_back-peer", run: func(s *scenario, f family) {
				for _, kind := range errorKinds(f) {
					s.gate(true)
					own := f.of(s.members["a"])
					e := s.stray(f, "a", kind, at(f.remote, 443), at(own, 4000), f.remote)
					s.from("a", e).peer("c", s.delivered("c", e))
				}
			}},
			{name: "tcp-router_to_outside-neigh", run: func(s *scenario, f family) {
				s.gate(true)
				p := s.via(f, "c", protocols()[0], at(f.remote, 80))
				s.opens(f, p, at(f.uplink, p.src.Port()))
			}},
		},
	)
}

func routerSourceCases() []testCase {
	all := slices.Concat(protocols(), portless())
	return slices.Concat(
		times(all, "router_brings_back-peer", func(s *scenario, f family, l l4) {
			s.gate(true)
			for _, src := range []netip.Addr{f.remote, f.router, f.strange} {
				p := s.back(f, "a", src, l)
				s.from("c", p).peer("a", p)
				s.from("c", p).peer("a", p) // cached by now
			}
		}),
		times(protocols(), "router_of_nobody-spoofed_ip", func(s *scenario, f family, l l4) {
			s.from("c", s.back(f, "a", f.remote, l)).dropped("spoofed_ip")
			s.gate(true)
			p := s.back(f, "a", f.remote, l)
			p.smac = s.members["b"].MAC
			s.from("b", p).dropped("spoofed_ip") // another member
		}),
		times(protocols(), "router_with_sources_inside-spoofed_ip", func(s *scenario, f family, l l4) {
			s.gate(true)
			for _, src := range append(impossible(f), f.uplink, f.second, f.gw(s.members["a"]), f.of(s.members["b"]), f.of(s.members["d"])) {
				s.from("c", s.back(f, "a", src, l)).dropped("spoofed_ip")
			}
		}),
		times(protocols(), "router_elsewhere-spoofed_ip", func(s *scenario, f family, l l4) {
			s.gate(true)
			a, gw := s.members["a"], s.members["gw1"]
			for _, to := range []struct {
				mac flmaps.MAC
				dst netip.Addr
			}{
				{gw.MAC, f.router}, {gw.MAC, f.of(a)}, {gw.MAC, f.of(gw)}, {gw.MAC, f.of(s.members["d"])},
				{a.MAC, f.router}, {a.MAC, f.of(gw)}, {a.MAC, f.uplink}, {broadcast(), f.of(a)},
			} {
				p := s.back(f, "a", f.remote, l)
				p.dmac, p.dst = to.mac, at(to.dst, l.dport)
				s.from("c", p).dropped("spoofed_ip")
			}
		}),
	)
}
