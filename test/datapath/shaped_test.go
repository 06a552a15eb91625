// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// shape makes a member's packets pass the queue of its host end.
func (s *scenario) shape(name string) {
	s.Helper()
	s.change(s.TB, name, func(e *flmaps.Endpoint) { e.Flags |= flmaps.Shaped })
}

// shapedCases checks that every packet to a shaped member passes the queue, identical to the
// packet that other members get without one; what the member sends is not changed.
func shapedCases() []testCase {
	return slices.Concat(
		[]testCase{
			{name: "tcp-member_to_shaped-queued", run: func(s *scenario, f family) {
				s.shape("b")
				p := s.between(f, "a", "b")
				s.from("a", p).queued("b", p)
				s.from("b", p.answer("SA")).peer("a", p.answer("SA"))
			}},
			{name: "tcp-host_to_shaped-queued", run: func(s *scenario, f family) {
				s.shape("a")
				p := s.between(f, "gw1", "a")
				s.from("gw1", p).queued("a", p)
			}},
			{name: "udp-broadcast_to_shaped-flood", run: func(s *scenario, f family) {
				s.shape("b")
				p := s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
				s.from("a", p).flooded("gw1", "b", "c") // a copy goes to the host end anyway
			}},
		},
		times(protocols(), "by_gateway_to_shaped-queued", func(s *scenario, f family, l l4) {
			s.shape("c")
			p := s.via(f, "a", l, at(f.of(s.members["c"]), l.dport))
			s.from("a", p).queued("c", s.delivered("c", p))
		}),
		times(protocols(), "masqueraded_answer_to_shaped-queued", func(s *scenario, f family, l l4) {
			p, left := s.confirm(f, "a", l)
			s.shape("a")
			s.arrive(s.outside(left.answer("A"))).queued("a", s.delivered("a", p.answer("A")))
		}),
		times(published(), "published_to_shaped-queued", func(s *scenario, f family, l l4) {
			s.shape("b")
			p := s.client(f, l, at(f.uplink, l.dport))
			s.arrive(p).queued("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
			m := s.via(f, "d", l, at(f.uplink, l.dport))
			s.from("d", m).queued("b", s.byGateway(f, "b", m, l.backend()), "ct_created")
		}),
	)
}
