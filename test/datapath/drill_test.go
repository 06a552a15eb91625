// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bpf"
	flmaps "github.com/fairlead-net/fairlead/maps"
)

// segmentOf is a segment with relative sequence numbers, which count from the initiator's
// SYN, 0. The responder's also start at 0, unless a SYN-ACK sets another start.
type segmentOf struct {
	by       byte // 'c'lient, 's'erver
	flags    string
	seq, ack uint32
	length   int
}

// drill is a connection of the kernel's packetdrill scripts for connection tracking
// (docs/checklist.md), with its result. Each segment has to reach the other side, translated:
// the receiver judges it.
type drill struct {
	name     string
	segments []segmentOf
	states   []bpf.TCCtState // after each segment
}

// opening is the handshake.
func opening() []segmentOf {
	return []segmentOf{{'c', "S", 0, 0, 0}, {'s', "SA", 0, 1, 0}, {'c', "A", 1, 1, 0}}
}

func drills() []drill {
	const (
		oldISN = 145824453 // of the server's previous connection
		oldAck = 643160523 // what the server had received from the client on that
		bulk   = 48        // segments, 67 kB: more than a window
		mss    = 1400
	)
	open := []bpf.TCCtState{synSent, synRecv, established}
	// After a hundred bytes each way.
	ending := []segmentOf{{'c', "A", 101, 101, 0}, {'c', "FA", 101, 101, 0}, {'s', "FA", 101, 102, 0}, {'c', "A", 102, 102, 0}}
	ended := []bpf.TCCtState{established, finWait, lastAck, timeWait}
	stall := drill{"ack_loss_stall", opening(), append([]bpf.TCCtState{}, open...)}
	for i := range uint32(bulk) {
		stall.segments = append(stall.segments, segmentOf{'c', "PA", 1 + i*mss, 1, mss}, segmentOf{'s', "A", 1, 1 + (i+1)*mss, 0})
		stall.states = append(stall.states, established, established)
	}
	// The acknowledgement of the first was lost: it is retransmitted and acknowledged, and
	// the connection continues.
	stall.segments = append(stall.segments, segmentOf{'c', "PA", 1, 1, mss}, segmentOf{'s', "A", 1, 1 + bulk*mss, 0},
		segmentOf{'c', "PA", 1 + bulk*mss, 1, mss}, segmentOf{'s', "FA", 1, 1 + (bulk+1)*mss, 0})
	stall.states = append(stall.states, established, established, established, finWait)
	return []drill{
		stall,
		{"inexact_rst", append(opening(),
			segmentOf{'s', "A", 1, 1, 1000}, segmentOf{'s', "A", 1001, 1, 1000}, segmentOf{'s', "A", 2001, 1, 1000},
			segmentOf{'c', "A", 1, 3001, 0}, segmentOf{'c', "PA", 1, 3001, 1000}, segmentOf{'s', "FA", 3001, 1001, 0},
			segmentOf{'c', "A", 1001, 3002, 0}, segmentOf{'c', "RA", 1001, 3002, 0}, segmentOf{'s', "R", 2001, 0, 0}),
			append(open, established, established, established, established, established, finWait, finWait, closed, closed)},
		{"rst_invalid", append(opening(),
			segmentOf{'s', "A", 1, 1, 1000}, segmentOf{'s', "A", 1001, 1, 1000}, segmentOf{'s', "A", 2001, 1, 1000},
			segmentOf{'c', "A", 1, 3001, 0},
			segmentOf{'s', "R", 0, 0, 0}, segmentOf{'s', "R", 1000000, 0, 0}, segmentOf{'s', "R", 42, 0, 0},
			segmentOf{'c', "PA", 1, 3001, 1000}, segmentOf{'s', "A", 3001, 1001, 0},
			segmentOf{'s', "RA", 3000, 1001, 0}, segmentOf{'s', "RA", 3001, 1001, 0}),
			append(open, established, established, established, established, established, established, established,
				established, established, established, closed)},
		{"syn_challenge_ack", []segmentOf{
			{'c', "S", 0, 0, 0}, {'s', "A", oldISN, oldAck, 0}, {'c', "R", oldAck, 0, 0},
			{'c', "S", 0, 0, 0}, {'s', "SA", 0, 1, 0}, {'c', "A", 1, 1, 0}},
			append([]bpf.TCCtState{synSent, synSent, synSent}, open...)},
		{"synack_old", []segmentOf{
			{'c', "S", 0, 0, 0}, {'s', "SA", oldISN, oldAck, 0}, {'c', "S", 0, 0, 0},
			{'s', "SA", 145758918, 1, 0}, {'c', "A", 1, 145758919, 0}, {'c', "PA", 1, 145758919, 1}},
			[]bpf.TCCtState{synSent, synSent, synSent, synRecv, established, established}},
		{"synack_reuse", append(opening(),
			segmentOf{'c', "PA", 1, 1, 100}, segmentOf{'s', "A", 1, 101, 0},
			segmentOf{'c', "S", 2000, 0, 0}, segmentOf{'s', "A", 1, 101, 0}, segmentOf{'c', "RA", 101, 1, 0},
			segmentOf{'c', "S", 2000, 0, 0}, segmentOf{'s', "SA", 7000, 2001, 0}, segmentOf{'c', "A", 2001, 7001, 0}),
			append(open, established, established, established, established, closed, synSent, synRecv, established)},
		// Not of the kernel's: TCP Fast Open retransmits the SYN without its data, and the server
		// acknowledges them, or not (RFC 7413).
		{"fast_open_again", []segmentOf{
			{'c', "S", 0, 0, 100}, {'c', "S", 0, 0, 0}, {'s', "SA", 0, 101, 0}, {'c', "A", 101, 1, 0}, {'s', "A", 1, 101, 1000}},
			append([]bpf.TCCtState{synSent}, append(open, established)...)},
		// Nor are these: the flow is adopted from a keepalive probe, which begins a byte early; or
		// segments passed unseen after the first. The flow follows its connection to the end.
		{"adopted_probe", append([]segmentOf{{'c', "A", 0, 1, 0}, {'s', "A", 1, 1, 0}, {'c', "PA", 1, 1, 100}, {'s', "PA", 1, 101, 100}}, ending...),
			append([]bpf.TCCtState{established, established, established, established}, ended...)},
		{"adopted_gap", append([]segmentOf{{'c', "A", 0x80000000, 1, 0}, {'c', "PA", 1, 1, 100}, {'s', "PA", 1, 101, 100}}, ending...),
			append([]bpf.TCCtState{established, established, established}, ended...)},
		// One side has closed, and the other, which has nothing to send, probes whether it still listens.
		{"half_closed_probes", append(opening(),
			segmentOf{'c', "FA", 1, 1, 0}, segmentOf{'s', "A", 1, 2, 0}, segmentOf{'s', "A", 0, 2, 0}, segmentOf{'c', "A", 2, 1, 0},
			segmentOf{'s', "A", 0, 2, 1}, segmentOf{'c', "A", 2, 1, 0}, segmentOf{'s', "PA", 1, 2, 1000}, segmentOf{'c', "A", 2, 1001, 0},
			segmentOf{'s', "FA", 1001, 2, 0}, segmentOf{'c', "A", 2, 1002, 0}),
			append(open, finWait, finWait, finWait, finWait, finWait, finWait, finWait, finWait, lastAck, timeWait)},
		{"fast_open_refused", []segmentOf{
			{'c', "S", 0, 0, 100}, {'s', "SA", 0, 1, 0}, {'c', "PA", 1, 1, 100}, {'s', "A", 1, 101, 1000}},
			append(open, established)},
	}
}

// numbered returns p with a segment's sequence numbers; those of packets count from the first
// byte of data.
func (g segmentOf) numbered(p packet) packet {
	p.flags, p.payload = g.flags, strings.Repeat("x", g.length)
	p.seq, p.ack = g.seq-1, 0
	if strings.Contains(g.flags, "S") {
		p.seq = g.seq
	}
	if strings.Contains(g.flags, "A") {
		p.ack = g.ack - 1
	}
	return p
}

// way is a path between a client and a server, in both directions: what is sent, and what the
// other side gets.
type way struct {
	name           string
	client, server string // members; "" for outside
	asks, asked    packet
}

// ways lists the paths on which a connection is translated.
func (s *scenario) ways(f family) []way {
	out, in := protocols()[0], published()[0]
	asks := s.via(f, "a", out, at(f.remote, out.dport))
	left := asks.routed().with(func(p *packet) { p.src = at(f.uplink, out.sport) })
	calls := s.client(f, in, at(f.uplink, in.dport))
	meets := s.via(f, "d", in, at(f.uplink, in.dport))
	return []way{
		{"masqueraded", "a", "", asks, left},
		{"published", "", "b", calls, s.toBackend(f, "b", calls, in.backend())},
		{"published_to_member", "d", "b", meets, s.byGateway(f, "b", meets, in.backend())},
	}
}

// pass sends a segment from one side to the other; it returns the expected and the actual
// result.
func (s *scenario) pass(w way, g segmentOf) (want packet, r *result) {
	s.Helper()
	if g.by == 'c' {
		return g.numbered(w.asked), s.sends(w.client, g.numbered(w.asks)).do()
	}
	p := w.asked.answer("")
	if w.server == "" {
		p = s.outside(p)
	}
	want = p.with(func(q *packet) { q.src, q.dst = w.asks.dst, w.asks.src })
	if w.client == "" {
		want = want.routed()
	} else {
		want = s.delivered(w.client, want)
	}
	return g.numbered(want), s.sends(w.server, g.numbered(p)).do()
}

// The kernel's scripts, each of which reproduces a former bug of connection tracking.
func drillCases() []testCase {
	var cases []testCase
	for _, d := range drills() {
		cases = append(cases, testCase{name: "tcp-" + d.name + "-forwarded", run: func(s *scenario, f family) {
			for _, w := range s.ways(f) {
				if w.server != "" && d.segments[0].flags != "S" {
					continue // only a SYN begins a flow to a published port
				}
				s.forget(s.TB)
				s.drill(w, d)
			}
		}})
	}
	return append(cases, lateCases()...)
}

func (s *scenario) drill(w way, d drill) {
	s.Helper()
	for i, g := range d.segments {
		step := fmt.Sprintf("%s: segment %d, %+v", w.name, i, g)
		want, r := s.pass(w, g)
		if r.verdict != redirected {
			s.Fatalf("%s: verdict %s", step, r.verdict)
		}
		if diff := cmp.Diff(strings.Split(dump(want.bytes(s.TB)), "\n"), strings.Split(dump(r.out), "\n")); diff != "" {
			s.Fatalf("%s (-want +got):\n%s", step, diff)
		}
		orig, reply := s.flowOf(s.TB, w.asks)
		if orig.state() != d.states[i] || reply.state() != d.states[i] {
			s.Fatalf("%s: the flow is in state %d and %d, want %d", step, orig.state(), reply.state(), d.states[i])
		}
	}
}

// Unanswered traffic does not block what is published afterwards (the kernel's
// conntrack_tcp_unreplied.sh), and a client that keeps sending is served.
func lateCases() []testCase {
	return times(published(), "published_after_unanswered-peer", func(s *scenario, f family, l l4) {
		const late = 7070
		b := s.members["b"]
		p, q := s.client(f, l, at(f.uplink, late)), s.via(f, "d", l, at(f.uplink, late))
		for range 3 {
			s.arrive(p).unchanged()
			s.from("d", q).toHost()
		}
		_, err := s.set.Publishes.Put(flmaps.Publish{HostIP: f.any, Port: late, Proto: uint8(l.proto),
			Backend: f.of(b), BackendPort: l.backend(), IfIndex: b.IfIndex, Net: b.Net, ID: 202})
		must(s.TB, err)
		defer func() {
			_, err := s.set.Publishes.Delete(f.any, late, uint8(l.proto))
			must(s.TB, err)
		}()
		s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		s.from("d", q).peer("b", s.byGateway(f, "b", q, l.backend()), "ct_created")
	})
}
