// SPDX-License-Identifier: Apache-2.0

package datapath

import "encoding/binary"

// asking is a type of ICMP query, and the type of its reply.
type asking struct {
	question, answer uint8
	hasID            bool
}

// askings lists all queries that have replies.
func (f family) askings() []asking {
	if f.is4() {
		return []asking{{8, 0, true}, {13, 14, true}, {15, 16, true}, {17, 18, true}, {42, 43, true}}
	}
	return []asking{{128, 129, true}, {139, 140, false}, {144, 145, true}, {146, 147, true}, {160, 161, true}}
}

// question returns a query of a member to the outside.
func (s *scenario) question(f family, from string, typ uint8, id uint16) packet {
	p := s.via(f, from, l4{}, at(f.remote, 0))
	p.icmp, p.payload = &icmpKind{typ: typ, rest: uint32(id)<<16 | 1}, "0123456789ab"
	return p
}

// typed returns an ICMP message of another type, or with another id.
func (p packet) typed(typ uint8, id uint16) packet {
	p.icmp = &icmpKind{typ: typ, rest: uint32(id)<<16 | p.icmp.rest&0xffff}
	return p
}

// asked sends a query of a member, which leaves with this id, and returns it as it leaves.
func (s *scenario) asked(f family, from string, p packet, id uint16, event ...string) packet {
	s.Helper()
	left := p.typed(p.icmp.typ, id).routed().with(func(p *packet) { p.src = at(f.uplink, 0) })
	s.from(from, p).neigh(f, left, event...)
	return left
}

// gotAnswer makes the reply to the query that left arrive, and expects the member to get it
// with its own id.
func (s *scenario) gotAnswer(member string, p, left packet, typ uint8, id uint16) {
	s.Helper()
	answer := s.outside(left.answer("")).typed(typ, uint16(left.icmp.rest>>16))
	s.arrive(answer).peer(member, s.delivered(member, answer.typed(typ, id).with(func(q *packet) { q.dst = p.src })))
}

// flowsOfICMP repeats a case for each type of query, with an id and with the id 0.
func flowsOfICMP(name string, run func(*scenario, family, asking, uint16)) testCase {
	return testCase{name: "icmp-" + name, run: func(s *scenario, f family) {
		for _, t := range f.askings() {
			for _, id := range []uint16{0x4711, 0} {
				s.forget(s.TB)
				run(s, f, t, id)
			}
		}
	}}
}

func icmpFlowCases() []testCase {
	return []testCase{
		flowsOfICMP("question-answered", func(s *scenario, f family, t asking, id uint16) {
			p := s.question(f, "a", t.question, id)
			left := s.asked(f, "a", p, id, "ct_created")
			s.gotAnswer("a", p, left, t.answer, id)
			s.asked(f, "a", p, id)
			s.gotAnswer("a", p, left, t.answer, id)
		}),
		// Queries to the host, and replies that do not belong to these flows, are for the
		// host.
		flowsOfICMP("question_is_no_answer-pass", func(s *scenario, f family, t asking, id uint16) {
			left := s.asked(f, "a", s.question(f, "a", t.question, id), id, "ct_created")
			back := s.outside(left.answer(""))
			s.arrive(back).unchanged()
			s.arrive(back.typed(200, id)).unchanged()
			for _, other := range f.askings() {
				s.arrive(back.typed(other.question, id)).unchanged()
				if other != t {
					s.arrive(back.typed(other.answer, id)).unchanged()
				}
			}
			if t.hasID {
				s.arrive(back.typed(t.answer, id+1)).unchanged()
			}
		}),
		flowsOfICMP("questions_of_all_types-apart", func(s *scenario, f family, _ asking, id uint16) {
			var left []packet
			for _, t := range f.askings() {
				left = append(left, s.asked(f, "a", s.question(f, "a", t.question, id), id, "ct_created"))
			}
			for i, t := range f.askings() {
				s.gotAnswer("a", s.question(f, "a", t.question, id), left[i], t.answer, id)
			}
		}),
		flowsOfICMP("question_of_another_with_the_id-moved", func(s *scenario, f family, t asking, id uint16) {
			first := s.question(f, "a", t.question, id)
			left := s.asked(f, "a", first, id, "ct_created")
			p := s.question(f, "d", t.question, id)
			if !t.hasID {
				s.from("d", p).dropped("snat_exhausted")
				return
			}
			sending := s.from("d", p)
			r := sending.do()
			moved := s.icmpID(f, r)
			if moved == id {
				s.Fatalf("type %d: the second has the first's id %d", t.question, id)
			}
			out := p.typed(t.question, moved).routed().with(func(p *packet) { p.src = at(f.uplink, 0) })
			sending.neigh(f, out, append(r.tries(), "ct_created")...)
			s.gotAnswer("d", p, out, t.answer, id)
			s.gotAnswer("a", first, left, t.answer, id)
			e := s.outside(errorAbout(portUnreachable(f), f.router, f.uplink, s.quoting(out)))
			s.arrive(e).peer("d", s.delivered("d", e.with(func(e *packet) {
				e.dst, e.payload = p.src, s.quoting(out.typed(t.question, id).with(func(q *packet) { q.src = p.src }))
			})))
		}),
		flowsOfICMP("answer_unasked-one_way", func(s *scenario, f family, t asking, id uint16) {
			p := s.question(f, "a", t.answer, id)
			left := s.asked(f, "a", p, id, "ct_created")
			s.asked(f, "a", p, id)
			s.arrive(s.outside(left.answer("")).typed(t.question, id)).unchanged()
			s.arrive(s.outside(left.answer(""))).unchanged()
		}),
		{name: "icmp-unknown_type-one_way", run: func(s *scenario, f family) {
			left := s.asked(f, "a", s.question(f, "a", 200, 7), 7, "ct_created")
			s.arrive(s.outside(left.answer(""))).unchanged()
			s.from("d", s.question(f, "d", 200, 8)).dropped("snat_exhausted")
		}},
		fragmentsOfICMP(),
	}
}

// icmpID reads the id of the ICMP message in a result.
func (s *scenario) icmpID(f family, r *result) uint16 {
	s.Helper()
	at := 14 + 40 + 4
	if f.is4() {
		at = 14 + 20 + 4
	}
	if len(r.out) < at+2 {
		s.Fatalf("%s, cut short:\n%s", r.verdict, dump(r.out))
	}
	return binary.BigEndian.Uint16(r.out[at:])
}

// Later fragments have no type, and follow the first.
func fragmentsOfICMP() testCase {
	return testCase{name: "icmp-fragments-answered", run: func(s *scenario, f family) {
		for _, t := range f.askings() {
			s.forget(s.TB)
			p := s.question(f, "a", t.question, 0).long(s.TB)
			left := p.routed().with(func(p *packet) { p.src = at(f.uplink, 0) })
			first, later := fragments(p)
			s.from("a", first).neigh(f, left.as(first.frag), "ct_created")
			s.from("a", later).neigh(f, left.as(later.frag))
			answer := s.outside(left.answer("")).typed(t.answer, 0)
			got := s.delivered("a", answer.with(func(q *packet) { q.dst = p.src }))
			first, later = fragments(answer)
			s.arrive(first).peer("a", got.as(first.frag))
			s.arrive(later).peer("a", got.as(later.frag))
		}
	}}
}
