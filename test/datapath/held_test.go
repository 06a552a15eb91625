// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// From bpf/lib/held.h and frag.h: how many fragments wait for their first fragment, how many
// with the same hash, and their maximum size.
const (
	heldSlots  = 256
	heldWindow = 64
	heldFrame  = 2048
)

// held expects the fragment to be held until the first fragment arrives.
func (p *sent) held() {
	p.Helper()
	c := make(counts)
	c.add("path held", len(p.in))
	p.expect(expectation{verdict: shot, counts: c})
}

// releases expects n fragments that waited for this one to be received again.
func (p *sent) releases(n int) *sent {
	p.again = slices.Repeat([]string{"clone " + p.names[p.skb.Ifindex] + " flags 0x1"}, n)
	return p
}

// three cuts p into three fragments.
func three(p packet) [3]packet {
	return [3]packet{p.as(&fragment{n: 24, more: true}), p.as(&fragment{offset: 24, n: 24, more: true}), p.as(&fragment{offset: 48, n: 16})}
}

// The first fragment arrives last.
func fragmentsOutOfOrder() []testCase {
	return slices.Concat(
		times(protocols(), "first_fragment_last_to_outside-neigh", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB)
			p.flags = "A"
			left := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			sent, want := three(p), three(left)
			s.from("a", sent[2]).held()
			s.from("a", sent[1]).held()
			s.from("a", sent[0]).releases(2).neigh(f, want[0], "ct_created")
			s.from("a", sent[2]).neigh(f, want[2])
			s.from("a", sent[1]).neigh(f, want[1])
		}),
		times(protocols(), "first_fragment_last_of_answer-peer", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			answer := s.outside(left.answer(l.reply)).long(s.TB)
			got := s.delivered("a", answer.with(func(q *packet) { q.dst = p.src }))
			sent, want := three(answer), three(got)
			s.arrive(sent[1]).held()
			s.arrive(sent[2]).held()
			s.arrive(sent[0]).releases(2).peer("a", want[0])
			s.arrive(sent[1]).peer("a", want[1])
			s.arrive(sent[2]).peer("a", want[2])
		}),
		times(published(), "first_fragment_last_to_published-peer", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport)).long(s.TB)
			sent, want := three(p), three(s.toBackend(f, "b", p, l.backend()))
			s.arrive(sent[2]).held()
			s.arrive(sent[0]).releases(1).peer("b", want[0], "ct_created")
			s.arrive(sent[2]).peer("b", want[2])
			s.arrive(sent[1]).peer("b", want[1])
		}),
		times(protocols(), "first_fragment_last_to_host-pass", func(s *scenario, f family, l l4) {
			sent := three(s.client(f, l, at(f.uplink, 9)).long(s.TB))
			s.arrive(sent[1]).held()
			s.arrive(sent[0]).releases(1).unchanged()
			s.arrive(sent[1]).unchanged()
		}),
		times(protocols(), "first_fragment_last_to_gateway-host", func(s *scenario, f family, l l4) {
			sent := three(s.via(f, "a", l, at(f.gw(s.members["a"]), l.dport)).long(s.TB))
			s.from("a", sent[1]).held()
			s.from("a", sent[0]).releases(1).toHost()
			s.from("a", sent[1]).toHost()
		}),
		times(protocols(), "first_fragment_last_of_two_packets-each", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB)
			p.flags = "A"
			left := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			other := p.with(func(p *packet) { p.id++ })
			s.from("a", three(other)[1]).held()
			s.from("a", three(p)[1]).held()
			s.from("a", three(p)[0]).releases(1).neigh(f, three(left)[0], "ct_created")
		}),
		[]testCase{{name: "udp-destination_options_behind_fragment_header-neigh", only: "ipv6", run: func(s *scenario, f family) {
			// The next header of the fragment header is the same in all, and is not layer 4.
			l := protocols()[1]
			p := s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB)
			left := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			in, out := optionsInFragments(s.TB, p), optionsInFragments(s.TB, left)
			s.from("a", in[1]).held()
			s.from("a", in[0]).releases(1).neigh(f, out[0], "ct_created")
			s.from("a", in[1]).neigh(f, out[1])
		}}},
	)
}

// optionsInFragments returns two fragments of p with a header of destination options after
// the fragment header.
func optionsInFragments(tb testing.TB, p packet) [2]literal {
	proto, body := p.l4(tb)
	body = append([]byte{byte(proto), 0, 1, 4, 0, 0, 0, 0}, body...)
	var frames [2]literal
	for i, part := range [][]byte{body[:32], body[32:]} {
		h := []byte{byte(layers.IPProtocolIPv6Destination), 0, 0, 1, 0, 0, 0x47, 0x11}
		if i == 1 {
			binary.BigEndian.PutUint16(h[2:], 32)
		}
		q := p.with(func(q *packet) { q.proto, q.payload = layers.IPProtocolIPv6Fragment, string(h)+string(part) })
		frames[i] = q.bytes(tb)
	}
	return frames
}

// Fragments that never find a first fragment.
func fragmentsNotHeld() []testCase {
	udp := protocols()[1:2]
	return slices.Concat(
		times(udp, "held_too_large-frag_unknown", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			p.payload, p.id = string(make([]byte, 4096)), 7
			s.from("a", p.as(&fragment{offset: 8, n: heldFrame})).dropped("frag_unknown")
			q := s.client(f, l, at(f.uplink, l.dport))
			q.payload, q.id = p.payload, 7
			s.arrive(q.as(&fragment{offset: 8, n: heldFrame})).unchanged()
		}),
		times(udp, "held_too_many-frag_unknown", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			p.payload, p.id = string(make([]byte, 8*heldWindow+8)), 7
			for i := range heldWindow {
				s.from("a", p.as(&fragment{offset: 8 + 8*i, n: 8, more: true})).held()
			}
			s.from("a", p.as(&fragment{offset: 16, n: 8, more: true})).dropped("frag_unknown")
			s.from("a", p.as(&fragment{n: 8, more: true})).releases(heldWindow).do()
			s.forgetFragments()
			s.from("a", p.as(&fragment{offset: 16, n: 8, more: true})).held() // there is room again
		}),
		times(udp, "held_of_one_sender-others_are_held", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB)
			for id := range uint16(heldWindow) {
				s.from("a", three(p.with(func(p *packet) { p.id = 100 + id }))[1]).held()
			}
			s.from("a", three(p)[1]).dropped("frag_unknown")
			q := s.via(f, "b", l, at(f.remote, l.dport)).long(s.TB)
			s.from("b", three(q)[1]).held()
		}),
		times(udp, "held_too_long-gone", func(s *scenario, f family, l l4) {
			sent := three(s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB))
			s.from("a", sent[1]).held()
			s.ageHeld()
			s.from("a", sent[0]).releases(0).do()
			if r := s.from("a", sent[0]).do(); s.to != nil && len(r.to) != 1 {
				s.Errorf("redirected %v, want the fragment alone", r.to)
			}
		}),
		times(udp, "later_fragment_of_an_old_packet-held", func(s *scenario, f family, l l4) {
			// The ID may belong to another packet by now (RFC 6864).
			p := s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB)
			s.from("a", three(p)[0]).do()
			s.ageFragments()
			s.from("a", three(p)[1]).held()
			got := s.client(f, published()[1], at(f.uplink, published()[1].dport)).long(s.TB)
			s.arrive(three(got)[0]).do()
			s.ageFragments()
			s.arrive(three(got)[1]).held()
		}),
	)
}

// forgetFragments empties fl_frag.
func (s *scenario) forgetFragments() {
	s.Helper()
	m := s.tables["fl_frag"]
	var k, v []byte
	var keys [][]byte
	for it := m.Iterate(); it.Next(&k, &v); {
		keys = append(keys, slices.Clone(k))
	}
	for _, k := range keys {
		must(s.TB, m.Delete(k))
	}
}

// ageFragments makes the entries of fl_frag expire.
func (s *scenario) ageFragments() {
	s.Helper()
	m := s.tables["fl_frag"]
	var k, v []byte
	all := make(map[string][]byte)
	for it := m.Iterate(); it.Next(&k, &v); {
		all[string(k)] = slices.Clone(v)
	}
	for k, v := range all {
		binary.NativeEndian.PutUint32(v[8:], 1) // struct frag_entry: expires
		must(s.TB, m.Put([]byte(k), v))
	}
}

// ageHeld makes the fragments that wait expire.
func (s *scenario) ageHeld() {
	s.Helper()
	m := s.tables["fl_held"]
	for i := range uint32(heldSlots) {
		var v []byte
		must(s.TB, m.Lookup(i, &v))
		if binary.NativeEndian.Uint32(v[40:]) == 0 { // struct held: state
			continue
		}
		binary.NativeEndian.PutUint32(v[44:], 1) // expires
		must(s.TB, m.Put(i, v))
	}
}
