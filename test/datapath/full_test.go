// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
)

// Floods of first packets recycle flows nobody answered, and no others.
func TestFlood(t *testing.T) {
	const room, flows, floods = 256, 20, 3000
	flood := func(answered bool) func(*scenario, family) {
		return func(s *scenario, f family) {
			l := protocols()[0]
			kept := make(map[uint16][2]packet)
			for i := range uint16(flows) {
				p, left := s.confirm(f, "a", l.on(50000+i))
				kept[50000+i] = [2]packet{p, left}
			}
			for i := range uint16(floods) {
				p := s.client(f, published()[0].on(1024+i), at(f.uplink, publishTCP))
				if r := s.arrive(p).quick(); r.verdict != redirected {
					s.Fatalf("packet %d of the flood: %s", i, r.verdict)
				}
				if !answered {
					continue
				}
				answer := s.toBackend(f, "b", p, 80).answer("SA")
				if r := s.from("b", answer).quick(); r.verdict != redirected {
					s.Fatalf("answer %d to the flood: %s", i, r.verdict)
				}
			}
			for _, k := range kept {
				s.lives(f, "a", k[0], k[1])
			}
			// And it keeps nobody from beginning.
			p, left := s.confirm(f, "c", l)
			s.lives(f, "c", p, left)
			unconfirmed, confirmed := s.sizes(s.TB)
			if confirmed != 2*(flows+1) || unconfirmed > room {
				s.Errorf("%d entries of confirmed flows and %d of others, want %d and at most %d",
					confirmed, unconfirmed, 2*(flows+1), room)
			}
		}
	}
	runOnce(t, config{vars: featureVars(), entries: map[string]uint32{"fl_ct_new": room}}, []testCase{
		{name: "tcp-syn_flood-confirmed_live", run: flood(false)},
		{name: "tcp-syn_flood_answered-confirmed_live", run: flood(true)},
	})
}

// With fl_ct full a flow goes on unconfirmed, and becomes confirmed when there is room.
func TestTableFull(t *testing.T) {
	for name, room := range map[string]uint32{"even": 4, "odd": 5} {
		t.Run(name, func(t *testing.T) {
			cases := times(protocols(), "full-unconfirmed", func(s *scenario, f family, l l4) {
				first, _ := s.confirm(f, "a", l.on(1001))
				p, left := s.confirm(f, "a", l.on(1002))
				s.lives(f, "a", p, left)
				p = s.via(f, "b", l, at(f.remote, l.dport))
				left = s.opens(f, p, at(f.uplink, l.sport))
				full := "ct_not_confirmed"
				if l.proto == tcp {
					s.answers("b", p, left, l.reply)
					p.flags, left.flags = "A", "A"
					s.from("b", p).neigh(f, left, full)
				}
				s.answers("b", p, left, "A", full)
				orig, reply := s.flowOf(s.TB, p)
				if orig.confirmed || reply.confirmed {
					s.Error("confirmed, though the table is full")
				}
				s.ageFlow(s.TB, first, expired)
				if n := s.collect(); n != 1 {
					s.Errorf("%d flows collected, want 1", n)
				}
				s.answers("b", p, left, "A", "ct_confirmed")
				s.lives(f, "b", p, left)
			})
			runOnce(t, config{vars: featureVars(), entries: map[string]uint32{"fl_ct": room}}, cases)
		})
	}
}
