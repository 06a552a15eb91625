// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// flood is a sequence of packets of flows that are never used.
type flood struct {
	name string
	// one sends the packets of the i-th flow.
	one func(s *scenario, f family, i int)
}

// source returns one of many clients outside, or servers.
func (f family) source(i int) netip.AddrPort {
	a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 12), byte(i >> 4)})
	if !f.is4() {
		a = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 14: byte(i >> 12), 15: byte(i >> 4)})
	}
	return at(a, uint16(2000+i%16))
}

// goes sends a packet that has to pass.
func (p *sent) goes() {
	p.Helper()
	if r := p.quick(); r.verdict != redirected {
		p.Fatalf("%s on %s: verdict %s of\n%s", p.program, p.on, r.verdict, dump(p.in))
	}
}

// floods come from outside to a published port, and from a member to the outside; blind
// floods do not see the replies.
func floods() []flood {
	type side struct {
		name  string
		begin func(s *scenario, f family, l l4, i int) (client, server func(flags string) *sent, first packet)
	}
	sides := []side{
		{"from_outside", func(s *scenario, f family, l l4, i int) (client, server func(string) *sent, first packet) {
			p := s.client(f, l, at(f.uplink, l.dport)).with(func(p *packet) { p.src = f.source(i) })
			got := s.toBackend(f, "b", p, l.backend())
			return s.sender("", p), s.sender("b", got.answer("")), p
		}},
		{"from_sandbox", func(s *scenario, f family, l l4, i int) (client, server func(string) *sent, first packet) {
			p := s.via(f, "c", l, f.source(i))
			left := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			return s.sender("c", p), s.sender("", s.outside(left.answer(""))), p
		}},
	}
	kinds := []struct {
		name string
		l    l4
		send func(s *scenario, client, server func(string) *sent, first packet)
	}{
		{"syn", published()[0], func(s *scenario, client, server func(string) *sent, _ packet) { client("S").goes() }},
		{"syn_and_guess", published()[0], func(s *scenario, client, server func(string) *sent, _ packet) {
			client("S").goes()
			client("Ak").goes()
		}},
		{"answered_syn_and_guess", published()[0], func(s *scenario, client, server func(string) *sent, _ packet) {
			for _, by := range []*sent{client("S"), server("SA"), client("Ak"), server("Rs"), server("SA")} {
				by.goes()
			}
		}},
		{"udp", published()[1], func(s *scenario, client, server func(string) *sent, _ packet) { client("").goes() }},
		{"answered_udp", published()[1], func(s *scenario, client, server func(string) *sent, _ packet) {
			client("").goes()
			server("").goes()
		}},
		{"lasting_udp", published()[1], func(s *scenario, client, server func(string) *sent, first packet) {
			client("").goes()
			server("").goes()
			s.ageFlow(s.TB, first, 3)
			client("").goes()
		}},
	}
	var all []flood
	for _, side := range sides {
		for _, k := range kinds {
			all = append(all, flood{k.name + "_" + side.name, func(s *scenario, f family, i int) {
				client, server, first := side.begin(s, f, k.l, i)
				k.send(s, client, server, first)
			}})
		}
	}
	return all
}

// A flood does not break connections, neither existing nor new ones: flows that are not used
// by both sides are evicted first.
func TestFlood(t *testing.T) {
	const (
		connections = 50
		room        = 1024 // entries of fl_ct
		recycled    = 2048 // entries of fl_ct_new, which frees 128 at a time
		burst       = 40   // flows of the flood between a packet of a new connection and the next
	)
	var cases []testCase
	for _, fl := range floods() {
		cases = append(cases, testCase{name: "tcp-" + fl.name + "-connections_live", run: func(s *scenario, f family) {
			n := 0
			more := func() {
				for range burst {
					fl.one(s, f, n)
					n++
				}
			}
			var all []*connection
			for i := range connections {
				all = append(all, s.connect(f, i, func() {}))
			}
			for range 2 * recycled / burst {
				more()
			}
			for i := range connections {
				all = append(all, s.connect(f, connections+i, more))
			}
			for _, c := range all {
				s.ageFlow(s.TB, c.first, 20) // idle
			}
			s.collect()
			more()
			for i, c := range all {
				c.goesOn(s, fmt.Sprintf("connection %d", i))
			}
			if _, confirmed := s.sizes(s.TB); confirmed > room-room/16 {
				s.Errorf("%d entries of confirmed flows, in a table of %d", confirmed, room)
			}
		}})
	}
	runOnce(t, config{vars: with(featureVars(), map[string]any{"cfg_ct_max": uint32(room)}),
		entries: map[string]uint32{"fl_ct": room, "fl_ct_new": recycled}}, cases)
}

// connection is an established TCP connection.
type connection struct {
	client, server func(flags string) *sent
	first          packet
}

// connect opens the i-th connection, every other one from outside to a published port;
// between runs between its packets.
func (s *scenario) connect(f family, i int, meanwhile func()) *connection {
	s.Helper()
	c := conversations()[i%2]
	l := c.protos[0].on(uint16(10000 + i))
	client, server, first := c.begin(s, f, l)
	for _, p := range []*sent{client("S"), server("SA"), client("A"), server("PA")} {
		p.goes()
		meanwhile()
	}
	return &connection{client, server, first}
}

// goesOn checks that both sides can still send, and that the flow is kept.
func (c *connection) goesOn(s *scenario, name string) {
	s.Helper()
	for _, p := range []*sent{c.client("PA"), c.server("A"), c.server("PA"), c.client("A")} {
		if r := p.quick(); r.verdict != redirected {
			s.Fatalf("%s: verdict %s", name, r.verdict)
		}
	}
	orig, reply := s.flowOf(s.TB, c.first)
	if orig.state() != established || !orig.confirmed || !reply.confirmed {
		s.Fatalf("%s is in state %d, kept: %t, %t", name, orig.State, orig.confirmed, reply.confirmed)
	}
}

// When the table is full of connections, a new one is refused at its first packet, and all
// accepted ones continue. Other flows get half of the table, and work without it.
func TestTableFull(t *testing.T) {
	const room = 64
	limit := (room - room/16) / 2
	tcpCase := testCase{name: "tcp-full-refused_at_first", run: func(s *scenario, f family) {
		var all []*connection
		for i := range limit {
			all = append(all, s.connect(f, i, func() {}))
		}
		for i, c := range slices.Repeat(conversations(), 2) {
			client, _, first := c.begin(s, f, c.protos[0].on(uint16(20000+i)))
			if r := client("S").do(); r.verdict != shot || r.counts["drop ct_full"].Packets != 1 {
				s.Errorf("%s: verdict %s, counted %v", c.name, r.verdict, r.counts)
			}
			if _, found := s.entry(s.TB, first.tuple()); found {
				s.Errorf("%s: a refused connection has an entry", c.name)
			}
		}
		for i, c := range all {
			c.goesOn(s, fmt.Sprintf("connection %d", i))
		}
		// A datagram does not need room.
		for _, l := range protocols()[1:] {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			s.answers("a", p, s.opens(f, p, at(f.uplink, l.sport)), "")
		}
		s.ageFlow(s.TB, all[0].first, expired)
		if n := s.collect(); n != 1 {
			s.Errorf("%d flows collected, want 1", n)
		}
		s.connect(f, 500, func() {}).goesOn(s, "the one after")
	}}
	others := []testCase{{name: "udp-full-half_is_kept", run: func(s *scenario, f family) {
		l := protocols()[1]
		for i := range uint16(room) {
			p := s.via(f, "a", l.on(1000+i), at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, 1000+i))
			s.answers("a", p, left, "")
			s.ageFlow(s.TB, p, 3)
			event := "ct_confirmed"
			if i >= room/4 {
				event = "ct_not_confirmed"
			}
			s.from("a", p).neigh(f, left, event)
			// It asks for room again if a second has passed.
			if r := s.arrive(s.outside(left.answer(""))).quick(); r.verdict != redirected {
				s.Fatalf("the answer to flow %d: verdict %s", i, r.verdict)
			}
		}
		s.connect(f, 0, func() {}).goesOn(s, "a connection beside them")
	}}}
	runOnce(t, config{vars: with(featureVars(), map[string]any{"cfg_ct_max": uint32(room)}),
		entries: map[string]uint32{"fl_ct": room}}, append(others, tcpCase))
}
