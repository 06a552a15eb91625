// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// opens sends the first packet of a flow of a member to the outside, which leaves as from; it
// returns the packet that left.
func (s *scenario) opens(f family, p packet, from netip.AddrPort) packet {
	s.Helper()
	out := p.routed().with(func(p *packet) { p.src = from })
	s.from(s.owner(p), p).neigh(f, out, "ct_created")
	// The kernel makes the Ethernet header before the packet passes the uplink.
	s.leave(out, doneMark).unchanged()
	return out
}

// owner returns the member with the packet's source MAC.
func (s *scenario) owner(p packet) string {
	s.Helper()
	for name, m := range s.members {
		if m.MAC == p.smac {
			return name
		}
	}
	s.Fatalf("nobody has MAC %s", macText(p.smac))
	return ""
}

// answers makes the outside reply to the packet that left by the uplink; the reply must reach
// the member as one to the packet that it sent.
func (s *scenario) answers(name string, sent, left packet, flags string, event ...string) {
	s.Helper()
	answer := s.outside(left.answer(flags))
	got := answer.with(func(p *packet) { p.dst = sent.src })
	s.arrive(answer).peer(name, s.delivered(name, got), event...)
}

func masqueradeCases() []testCase {
	return slices.Concat(masqueraded(), routedByStack(), notMasqueraded())
}

func masqueraded() []testCase {
	all := protocols()
	return slices.Concat(
		times(all, "to_outside-neigh", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.answers("a", p, left, l.reply)
			// The next packet takes the same path and does not make an entry.
			p.flags, left.flags = "A", "A"
			if l.proto == tcp {
				s.from("a", p).neigh(f, left, "ct_confirmed")
			}
			s.from("a", p).neigh(f, left)
			s.answers("a", p, left, "A")
		}),
		times(all, "route_prefers_source-neigh", func(s *scenario, f family, l l4) {
			src := f.second
			if s.to != nil {
				src = f.uplink // this kernel does not report the preferred source of a route
			}
			p := s.via(f, "a", l, at(f.chosen, l.dport))
			left := s.opens(f, p, at(src, l.sport))
			s.answers("a", p, left, l.reply)
		}),
		times(all, "not_masqueraded-neigh", func(s *scenario, f family, l l4) {
			p := s.via(f, "i", l, at(f.remote, l.dport))
			left := s.opens(f, p, p.src)
			s.answers("i", p, left, l.reply)
		}),
		times(all, "port_taken-neigh", func(s *scenario, f family, l l4) {
			a, b := s.via(f, "a", l, at(f.remote, l.dport)), s.via(f, "b", l, at(f.remote, l.dport))
			leftA := s.opens(f, a, at(f.uplink, l.sport))
			leftB := s.opensElsewhere(f, l, b)
			s.answers("a", a, leftA, l.reply)
			s.answers("b", b, leftB, l.reply)
		}),
		times(all, "port_of_other_remote-neigh", func(s *scenario, f family, l l4) {
			a, b := s.via(f, "a", l, at(f.remote, l.dport)), s.via(f, "b", l, at(f.chosen, l.dport))
			s.opens(f, a, at(f.uplink, l.sport))
			if s.to != nil {
				s.opens(f, b, at(f.uplink, l.sport))
			}
		}),
		times(all[:2], "port_published-neigh", func(s *scenario, f family, l l4) {
			l.sport = publishOth
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opensElsewhere(f, l, p)
			s.answers("a", p, left, l.reply)
		}),
	)
}

func routedByStack() []testCase {
	all := protocols()
	return slices.Concat(
		times(all, "routed_by_stack-pass", func(s *scenario, f family, l l4) {
			// from the host port through the stack, which has already decremented the TTL
			p := s.via(f, "a", l, at(f.remote, l.dport)).routed()
			left := p.with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			s.leave(p, 0).passes(left, "ct_created")
			s.answers("a", p, left, l.reply)
			s.leave(p, 0).passes(left)
		}),
		times(all, "routed_by_stack_not_masqueraded-pass", func(s *scenario, f family, l l4) {
			p := s.via(f, "i", l, at(f.remote, l.dport)).routed()
			s.leave(p, 0).passes(p, "ct_created")
			s.answers("i", p, p, l.reply)
		}),
		times(all, "gone_member_routed_by_stack-endpoint_gone", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			p.src = at(f.of(s.members["a"]).Next().Next().Next().Next(), l.sport)
			s.leave(p, 0).dropped("endpoint_gone")
		}),
		times(all, "routed_by_stack_then_not-neigh", func(s *scenario, f family, l l4) {
			// as a packet that the stack has to fragment, and a smaller one after it
			p := s.via(f, "a", l, at(f.chosen, l.dport))
			r := s.leave(p.routed(), 0).do()
			left := literal(r.out)
			s.from("a", p).neigh(f, left)
		}),
		times(all, "internal_routed_by_stack-internal", func(s *scenario, f family, l l4) {
			s.leave(s.via(f, "g", l, at(f.remote, l.dport)), 0).dropped("internal")
		}),
		times(all, "host_from_gateway_address-pass", func(s *scenario, f family, l l4) {
			p := s.via(f, "gw1", l, at(f.remote, l.dport))
			left := p.with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			s.leave(p, 0).passes(left, "ct_created")
			answer := s.outside(left.answer(l.reply))
			s.arrive(answer).passes(answer.with(func(q *packet) { q.dst = p.src }))
			s.complainsOutside(f, answer, left.src, p.src)
		}),
	)
}

func notMasqueraded() []testCase {
	all := protocols()
	return slices.Concat(
		times(all, "unreachable-stack", func(s *scenario, f family, l l4) {
			s.from("a", s.via(f, "a", l, at(f.barred, l.dport))).toStack()
		}),
		times(all, "device_is_no_uplink-stack", func(s *scenario, f family, l l4) {
			s.from("a", s.via(f, "a", l, at(f.strange, l.dport))).toStack()
		}),
		// The stack has rules of its own for this traffic and for the replies.
		times(all, "to_a_bridge_of_containers-stack", func(s *scenario, f family, l l4) {
			bridge := func(is bool) {
				_, err := s.set.Uplinks.Put(flmaps.Uplink{IfIndex: s.uplink.index, IPv4: uplink4, IPv6: uplink6, Stack: is})
				must(s.TB, err)
				time.Sleep(routeRemembered)
			}
			bridge(true)
			defer bridge(false)
			p := s.via(f, "a", l, at(f.remote, l.dport))
			s.from("a", p).toStack()
			s.leave(p.routed(), 0).passes(p.routed(), "ct_created")
			answer := s.outside(p.answer(l.reply))
			s.arrive(answer).passes(answer)
			s.from("a", p).toStack()
			s.leave(p.routed(), 0).passes(p.routed())
		}),
		times(all, "reply_to_removed_member-endpoint_gone", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			_, err := s.set.Endpoints.Delete(s.members["a"].IfIndex)
			must(s.TB, err)
			defer func() { _, err := s.set.Endpoints.Put(s.members["a"].Endpoint); must(s.TB, err) }()
			s.arrive(s.outside(left.answer(l.reply))).dropped("endpoint_gone")
		}),
		times(all, "ttl_1_reply-ttl", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			answer := s.outside(left.answer(l.reply))
			answer.ttl = 1
			s.arrive(answer).refused("ttl", unpadded{s.uplinkComplains(f, answer, timeExceeded(f))})
		}),
		times(all, "reply_from_other_remote-pass", func(s *scenario, f family, l l4) {
			left := s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
			answer := s.outside(left.answer(l.reply))
			answer.src = at(f.barred, l.dport)
			s.arrive(answer).unchanged()
		}),
	)
}

// opensElsewhere is like opens where the flow cannot keep its port.
func (s *scenario) opensElsewhere(f family, l l4, p packet) packet {
	s.Helper()
	sending := s.from(s.owner(p), p)
	r := sending.do()
	moved := port(f, p, r.out)
	if moved < 32768 || moved > 60999 || moved == p.src.Port() {
		s.Errorf("the flow moved to port %d, want another of 32768 to 60999", moved)
	}
	tries := r.counts["event snat_retry"].Packets
	if tries == 0 {
		s.Error("no port was tried beyond the first")
	}
	event := []string{"ct_created"}
	for range tries {
		event = append(event, "snat_retry")
	}
	left := p.routed().with(func(p *packet) { p.src = at(f.uplink, moved) })
	sending.neigh(f, left, event...)
	return left
}

// Protocols whose port cannot be changed.
func fixedPortCases() []testCase {
	all := []l4{{name: "sctp", proto: sctp, sport: 4000, dport: 80}, {name: "gre", proto: gre}}
	return slices.Concat(
		times(all, "to_outside-neigh", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.answers("a", p, left, "")
		}),
		times(all, "port_taken-snat_exhausted", func(s *scenario, f family, l l4) {
			s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
			s.from("b", s.via(f, "b", l, at(f.remote, l.dport))).dropped("snat_exhausted")
		}),
		// Packets never make such a flow; nothing but this would prevent a wrong CRC from
		// leaving.
		times(all[:1], "flow_has_other_port-unsupported", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			s.opens(f, p, at(f.uplink, l.sport))
			e := s.mustEntry(s.TB, p.tuple())
			s.dropEntry(s.TB, reversed(e.Xlat))
			e.Xlat.Sport = netPort(l.sport + 1)
			s.putEntry(s.TB, p.tuple(), e)
			s.from("a", p).dropped("unsupported")
		}),
	)
}

func TestMasqueradeNoAddress(t *testing.T) {
	w := newWorld(t, config{noteRedirects: true})
	_, err := w.set.Uplinks.Put(flmaps.Uplink{IfIndex: w.uplink.index})
	must(t, err)
	for _, f := range families() {
		t.Run("tcp-uplink_without_address-no_uplink_addr/"+f.name, func(t *testing.T) {
			s := &scenario{TB: t, world: w}
			p := s.via(f, "a", protocols()[0], at(f.remote, 80))
			s.from("a", p).dropped("no_uplink_addr")
			s.leave(p, 0).dropped("no_uplink_addr")
		})
	}
}

// A range of two ports, and more flows than that.
func TestMasqueradeExhausted(t *testing.T) {
	w := newWorld(t, config{
		noteRedirects: true, vars: map[string]any{"cfg_snat_min": uint16(50000), "cfg_snat_max": uint16(50001)},
	})
	for _, f := range families() {
		for _, l := range protocols() {
			t.Run(l.name+"-range_used_up-snat_exhausted/"+f.name, func(t *testing.T) {
				w.forget(t)
				s := &scenario{TB: t, world: w}
				used := make(map[uint16]bool)
				for _, name := range []string{"a", "b", "c"} {
					r := s.from(name, s.via(f, name, l, at(f.remote, l.dport))).do()
					used[port(f, packet{proto: l.proto}, r.out)] = true
				}
				if !used[l.sport] || !used[50000] || !used[50001] {
					t.Errorf("ports used: %v, want %d, 50000, 50001", used, l.sport)
				}
				tries := slices.Repeat([]string{"snat_retry"}, 32)
				s.from("d", s.via(f, "d", l, at(f.remote, l.dport))).dropped("snat_exhausted", tries...)
			})
		}
	}
}
