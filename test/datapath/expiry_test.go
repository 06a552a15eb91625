// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// confirm begins a flow of a member to a port of the remote and has it answered until it is
// assured (echo never is); it returns its packet and that packet as it leaves.
func (s *scenario) confirm(f family, name string, l l4) (p, left packet) {
	s.Helper()
	p = s.via(f, name, l, at(f.remote, l.dport))
	left = s.opens(f, p, at(f.uplink, l.sport))
	s.answers(name, p, left, l.reply)
	p.flags, left.flags = "A", "A"
	switch l.proto {
	case udp:
		s.ageFlow(s.TB, p, 3)
		fallthrough
	case tcp:
		s.from(name, p).neigh(f, left, "ct_confirmed")
	}
	return p, left
}

// lives checks that a confirmed flow still accepts packets in both directions.
func (s *scenario) lives(f family, name string, p, left packet) {
	s.Helper()
	p.flags, left.flags = "A", "A"
	s.answers(name, p, left, "A")
	s.from(name, p).neigh(f, left)
}

// collect runs the daemon's expiry once.
func (s *scenario) collect() int {
	s.Helper()
	keys, err := s.set.Conntrack.Expired(flmaps.Now())
	must(s.TB, err)
	n, err := s.set.Conntrack.Remove(keys, false)
	must(s.TB, err)
	return n
}

// expired is a time in seconds that is longer than any timeout.
const expired = 500000

func expiryCases() []testCase {
	return slices.Concat(collected(), revived(), expiredPort())
}

func collected() []testCase {
	return slices.Concat(
		times(protocols(), "expired-collected", func(s *scenario, f family, l l4) {
			old, _ := s.confirm(f, "a", l)
			p, left := s.confirm(f, "b", l.on(l.sport+1))
			half := s.via(f, "c", l.on(l.sport+2), at(f.remote, l.dport))
			s.opens(f, half, at(f.uplink, l.sport+2))
			s.ageFlow(s.TB, old, expired)
			s.ageFlow(s.TB, half, expired)
			if n := s.collect(); n != 2 {
				s.Errorf("%d flows collected, want 2", n)
			}
			s.gone(old)
			s.gone(half)
			s.lives(f, "b", p, left)
		}),
		times(protocols(), "one_direction_expired-spared", func(s *scenario, f family, l l4) {
			p, left := s.confirm(f, "a", l)
			orig, reply := s.flowOf(s.TB, p)
			for _, e := range []entry{orig, reply} {
				s.age(s.TB, reversed(e.Xlat), expired)
				if n := s.collect(); n != 0 {
					s.Errorf("%d flows collected, want none", n)
				}
				s.age(s.TB, reversed(e.Xlat), -expired)
			}
			s.lives(f, "a", p, left)
		}),
		times(protocols(), "revived_while_collected-spared", func(s *scenario, f family, l l4) {
			p, left := s.confirm(f, "a", l)
			s.ageFlow(s.TB, p, expired)
			keys, err := s.set.Conntrack.Expired(flmaps.Now())
			must(s.TB, err)
			if len(keys) != 1 {
				s.Errorf("%d flows look expired, want 1", len(keys))
			}
			s.from("a", p).neigh(f, left)
			n, err := s.set.Conntrack.Remove(keys, false)
			must(s.TB, err)
			if n != 0 {
				s.Errorf("%d flows collected, want none", n)
			}
			s.lives(f, "a", p, left)
		}),
	)
}

func revived() []testCase {
	return slices.Concat(
		times(protocols(), "forced-removed", func(s *scenario, f family, l l4) {
			p, _ := s.confirm(f, "a", l)
			n, err := s.set.Conntrack.DeleteWhere(func(flmaps.Flow) bool { return true })
			must(s.TB, err)
			if n != 1 {
				s.Errorf("%d flows removed, want 1", n)
			}
			s.gone(p)
		}),
		times(protocols(), "packet-moves_expiry", func(s *scenario, f family, l l4) {
			p, left := s.confirm(f, "a", l)
			s.ageFlow(s.TB, p, 3) // UDP has a longer timeout from now on
			s.lives(f, "a", p, left)
			before, _ := s.flowOf(s.TB, p)
			s.ageFlow(s.TB, p, 7)
			s.lives(f, "a", p, left)
			orig, reply := s.flowOf(s.TB, p)
			for _, e := range []entry{orig, reply} {
				if moved := e.Expires - before.Expires; moved > 2 {
					s.Errorf("the flow expires %d seconds after it did before, want the same", int32(moved))
				}
			}
		}),
	)
}

// on returns l with another port.
func (l l4) on(port uint16) l4 {
	l.sport = port
	return l
}

// gone checks that nothing remains of p's flow.
func (s *scenario) gone(p packet) {
	s.Helper()
	if e, found := s.entry(s.TB, p.tuple()); found {
		s.Errorf("the flow is still there: %+v", e)
	}
	err := s.set.Conntrack.Each(func(f flmaps.Flow) bool {
		if f.Orig.Src == p.src && f.Orig.Dst == p.dst && f.Orig.Proto == p.tuple().Proto {
			s.Errorf("an entry of the flow is still there: %+v", f)
		}
		return true
	})
	must(s.TB, err)
}

// expiredPort lists cases of a port whose flow has expired but was not collected yet, and of
// one whose flow lost the entry of its replies to the LRU.
func expiredPort() []testCase {
	taken := func(lose func(*scenario, packet), refused bool) func(*scenario, family, l4) {
		return func(s *scenario, f family, l l4) {
			a, b := s.via(f, "a", l, at(f.remote, l.dport)), s.via(f, "b", l, at(f.remote, l.dport))
			s.opens(f, a, at(f.uplink, l.sport))
			lose(s, a)
			left := s.opens(f, b, at(f.uplink, l.sport))
			// The first continues, but not with the port that belongs to the second now.
			if refused {
				s.age(s.TB, a.tuple(), 1) // checked once per second
				s.from("a", a).dropped("flow_lost")
			}
			s.opensElsewhere(f, l, a)
			s.answers("b", b, left, l.reply)
		}
	}
	return slices.Concat(
		times(protocols(), "expired_port-taken_once", taken(func(s *scenario, p packet) { s.ageFlow(s.TB, p, expired) }, false)),
		times(protocols(), "recycled_port-taken_once", taken(func(s *scenario, p packet) {
			orig, _ := s.flowOf(s.TB, p)
			s.dropEntry(s.TB, reversed(orig.Xlat))
		}, true)),
	)
}

// A flow that has lost one of its entries to the LRU.
func recycledCases() []testCase {
	return slices.Concat(
		times(protocols(), "answers_recycled-made_again", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			orig, reply := s.flowOf(s.TB, p)
			s.dropEntry(s.TB, reversed(orig.Xlat))
			s.age(s.TB, p.tuple(), 1) // checked once per second
			s.from("a", p).neigh(f, left)
			_, again := s.flowOf(s.TB, p)
			if again.Xlat != reply.Xlat || again.InIf != reply.InIf || again.OutIf != reply.OutIf {
				s.Errorf("made again: %+v, was %+v", again, reply)
			}
			s.answers("a", p, left, l.reply)
		}),
		times(protocols(), "questions_recycled-made_again", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.dropEntry(s.TB, p.tuple())
			s.answers("a", p, left, l.reply)
			s.flowOf(s.TB, p)
			p.flags, left.flags = "A", "A"
			s.from("a", p).do() // the end of the handshake
			s.lives(f, "a", p, left)
		}),
		times(protocols(), "questions_recycled_asked_again-keeps_port", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.dropEntry(s.TB, p.tuple())
			s.opens(f, p, at(f.uplink, l.sport))
			s.answers("a", p, left, l.reply)
		}),
	)
}
