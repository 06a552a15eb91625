// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"strings"

	"github.com/fairlead-net/fairlead/bpf"
)

// segment holds the contents of a TCP packet.
type segment struct {
	syn, ack, fin, rst bool
	seq, next, acked   uint32 // next: after its last byte; acked: what it acknowledges
	window             uint32
	scale              uint8 // of a SYN; 0 also if there is none
	scaled             bool  // has a window scale
}

func (p packet) segment() segment {
	s := segment{
		syn: strings.Contains(p.flags, "S"), ack: strings.Contains(p.flags, "A"),
		fin: strings.Contains(p.flags, "F"), rst: strings.Contains(p.flags, "R"),
		seq: firstSeq + p.seq, acked: firstSeq + p.ack, window: 64240,
	}
	if s.syn {
		s.seq--
		s.scale, s.scaled = p.wscale, p.wscale != 0
	}
	s.next = s.seq + uint32(len(p.payload))
	for _, counts := range []bool{s.syn, s.fin} {
		if counts {
			s.next++
		}
	}
	return s
}

// refSide is one direction of a connection, as its entry should be.
type refSide struct {
	Known           bool // whether its sequence numbers are known
	End, Ack        uint32
	Window, Pending uint32
	Scale           uint8
	Fin, Seen       bool
}

// refTCP is a simple model of the state of a connection.
type refTCP struct {
	state     bpf.TCCtState
	confirmed bool
	sides     [2]refSide // initiator, responder
}

const (
	minWindow    = 65536
	unknownScale = 8
	half         = 1 << 31
)

// between reports whether a, ..., b follow one another in the circular space of sequence
// numbers.
func between(from, x, to uint32) bool { return uint64(x-from) <= uint64(to-from) }

func newRefTCP(s segment) *refTCP {
	m := &refTCP{state: established}
	m.sides[0].Seen = true
	switch {
	case s.rst:
		m.state = closed
	case s.syn && !s.ack:
		m.state = synSent
		m.sides[0].begin(s)
	default:
		m.sides[0].adopt(s)
	}
	return m
}

func (a *refSide) begin(s segment) {
	a.Known, a.End, a.Ack, a.Window, a.Scale, a.Pending = true, s.next, s.acked, minWindow, s.scale, s.seq+1
}

func (a *refSide) adopt(s segment) {
	if !a.Known {
		a.Known, a.Window, a.Scale, a.Pending = true, minWindow, unknownScale, s.next+half
	}
	a.End, a.Ack = s.next, s.acked
	a.offer(s)
}

func (a *refSide) offer(s segment) { a.Window = max(a.Window, s.window<<a.Scale) }

func (a *refSide) note(s segment) {
	if int32(s.next-a.End) > 0 {
		a.End = s.next
	}
	if int32(s.acked-a.Ack) > 0 {
		a.Ack = s.acked
	}
	a.offer(s)
}

// early handles a segment of the responder before the client has confirmed the SYN-ACK.
func (a *refSide) early(s segment) {
	if a.Known {
		a.note(s)
		return
	}
	a.adopt(s)
	a.Pending = s.seq
}

func (a *refSide) infer(s segment) {
	a.Known, a.End, a.Pending, a.Ack, a.Window, a.Scale = true, s.acked, s.acked, s.seq+1, minWindow, unknownScale
}

// follows reports whether the segment continues where a's direction stopped.
func (a *refSide) follows(s segment) bool {
	return s.ack && between(a.End-minWindow, s.seq, a.End) && between(a.Ack, s.acked, a.Ack+a.Window)
}

// answers reports whether the segment acknowledges what b sent in its handshake.
func (b *refSide) answers(s segment, more uint32) bool {
	return s.ack && b.Known && between(b.Pending, s.acked, b.End+more)
}

// packet handles a segment of side i. It returns whether that extends the life of the flow.
func (m *refTCP) packet(i int, s segment) (refreshed bool) {
	a, b := &m.sides[i], &m.sides[1-i]
	plain := !s.syn && !s.fin && !s.rst
	if m.confirmed && m.state == established && a.Seen && a.Known && plain && a.follows(s) {
		a.note(s)
		return true
	}
	next, changes := m.next(i, s)
	if !changes {
		return m.state == established
	}
	a.Seen = true
	m.state = next
	if next == established && b.Seen {
		m.confirmed = true
	}
	return true
}

func (m *refTCP) next(i int, s segment) (next bpf.TCCtState, changes bool) {
	a, b := &m.sides[i], &m.sides[1-i]
	handshake := m.state == synSent || m.state == synRecv
	switch {
	case s.rst && handshake:
		return closed, i == 1 && b.answers(s, 0) || a.Known && between(a.Pending, s.seq, a.End)
	case s.rst:
		return closed, b.Known && s.seq == b.Ack || a.Known && s.seq == a.End
	case s.syn && s.ack:
		return m.synAck(i, s)
	case s.syn:
		return m.syn(i, s)
	case handshake:
		if m.state == synSent || !m.completes(i, s) {
			return m.state, false
		}
		if i == 1 && !s.fin {
			a.early(s)
			return m.state, true
		}
		a.adopt(s)
		a.Pending, b.Pending = a.End+half, b.End+half
		return m.afterData(i, s, established), true
	case m.state == closed && !m.confirmed:
		return closed, false
	}
	if !m.fits(i, s) {
		return m.state, false
	}
	return m.afterData(i, s, m.state), true
}

// over reports whether the connection is closed.
func (m *refTCP) over() bool { return m.state == timeWait || m.state == closed }

func (m *refTCP) syn(i int, s segment) (next bpf.TCCtState, changes bool) {
	a, b := &m.sides[i], &m.sides[1-i]
	switch {
	case i == 0 && m.over():
		a.Fin, b.Fin, b.Seen, b.Known = false, false, false, false
		a.begin(s)
		return synSent, true
	case m.state == synSent:
		end, again := a.End, a.Known && a.Pending == s.seq+1
		a.begin(s)
		if again && int32(end-a.End) > 0 {
			a.End = end // of the data in the first SYN
		}
		return synSent, true
	case m.state != synRecv:
		a.Pending = s.seq + 1
	}
	return m.state, false
}

func (m *refTCP) synAck(i int, s segment) (next bpf.TCCtState, changes bool) {
	a, b := &m.sides[i], &m.sides[1-i]
	switch m.state {
	case established, finWait, lastAck:
		if i == 0 || s.acked != b.Pending {
			return m.state, false
		}
		a.Fin, b.Fin = false, false
		b.infer(s)
		a.begin(s)
		return synRecv, true
	case synSent, synRecv:
		if !b.Known && i == 1 {
			b.infer(s)
		} else if !b.answers(s, 0) {
			return m.state, false
		}
		if !a.Known || a.Pending != s.seq+1 {
			a.begin(s)
		}
		a.Ack, b.Ack = s.acked, a.Pending
		if !s.scaled {
			b.Scale = 0
		}
		return synRecv, true
	}
	return m.state, false
}

func (m *refTCP) completes(i int, s segment) bool {
	a, b := &m.sides[i], &m.sides[1-i]
	switch {
	case !a.Known && !b.Known:
		return true
	case a.Known:
		return b.answers(s, 0) && between(a.Pending, s.seq, a.Pending+minWindow)
	}
	return b.answers(s, minWindow)
}

// fits reports whether the segment changes anything, and records it.
func (m *refTCP) fits(i int, s segment) bool {
	const near = 1 << 24
	a, b := &m.sides[i], &m.sides[1-i]
	edge := b.Ack + b.Window
	switch {
	case !s.ack:
		return false
	case !b.Known:
		if a.Known && a.follows(s) {
			a.note(s)
		} else {
			a.adopt(s)
		}
		return false
	case !a.Known:
		if !between(b.End-near, s.acked, b.End) || !between(edge-b.Window-near, s.seq, edge) {
			return false
		}
		a.adopt(s)
		return true
	case between(edge-2*b.Window, s.seq, edge) && int32(s.next-(a.End-b.Window)) >= 0 && between(b.End-a.Window, s.acked, b.End):
		a.note(s)
		return true
	case s.acked == b.Pending && (between(edge-b.Window-a.Window, s.seq, edge) || s.seq == a.Pending):
		b.End = b.Pending
		a.adopt(s)
		return true
	}
	a.Pending = s.next
	return false
}

func (m *refTCP) afterData(i int, s segment, state bpf.TCCtState) bpf.TCCtState {
	a, b := &m.sides[i], &m.sides[1-i]
	a.Fin = a.Fin || s.fin
	switch {
	case a.Fin && b.Fin && (state == timeWait || state == lastAck && !s.fin):
		return timeWait
	case a.Fin && b.Fin:
		return lastAck
	case a.Fin || b.Fin:
		return finWait
	}
	return established
}

func sideOf(e entry) refSide {
	return refSide{
		Known: e.has(bpf.TCCtFlagCT_F_SEQ), End: e.End, Ack: e.Ack, Window: e.Win, Pending: e.Pend, Scale: e.Scale,
		Fin: e.has(bpf.TCCtFlagCT_F_FIN), Seen: e.has(bpf.TCCtFlagCT_F_SEEN),
	}
}

// same returns how the two entries differ from the reference.
func (m *refTCP) same(orig, reply entry) error {
	for i, e := range []entry{orig, reply} {
		want := m.sides[i]
		if got := sideOf(e); got != want && (got.Known || want.Known) {
			return fmt.Errorf("side %d is %+v, want %+v", i, got, want)
		}
		if e.state() != m.state || e.confirmed != m.confirmed {
			return fmt.Errorf("side %d is in state %d, confirmed %t; want %d, %t", i, e.state(), e.confirmed, m.state, m.confirmed)
		}
	}
	return nil
}
