// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bpf"
	flmaps "github.com/fairlead-net/fairlead/maps"
)

// The states of flows, abbreviated for the tables below.
const (
	synSent     = bpf.TCCtStateCT_SYN_SENT
	synRecv     = bpf.TCCtStateCT_SYN_RECV
	established = bpf.TCCtStateCT_ESTABLISHED
	finWait     = bpf.TCCtStateCT_FIN_WAIT
	lastAck     = bpf.TCCtStateCT_LAST_ACK
	timeWait    = bpf.TCCtStateCT_TIME_WAIT
	closed      = bpf.TCCtStateCT_CLOSE
	udpNew      = bpf.TCCtStateCT_UDP_NEW
	udpStream   = bpf.TCCtStateCT_UDP_STREAM
	udpReplied  = bpf.TCCtStateCT_UDP_REPLIED
	icmp        = bpf.TCCtStateCT_ICMP
	other       = bpf.TCCtStateCT_OTHER
)

// timeouts has a different time for each state, so that the time identifies the state.
func timeouts() [bpf.TCCtStateCT_STATE_MAX]uint32 {
	var t [bpf.TCCtStateCT_STATE_MAX]uint32
	for i := range t {
		t[i] = uint32(1000 * (i + 1))
	}
	return t
}

// conversation is a flow whose two sides send packets.
type conversation struct {
	name   string
	protos []l4
	chosen bool // the destination is that of a published port
	// begin sets what each side sends; the first call of client makes the first packet.
	begin func(*scenario, family, l4) (client, server func(flags string) *sent, first packet)
}

func conversations() []conversation {
	any := append(protocols(), l4{name: "sctp", proto: sctp, sport: 4000, dport: 80}, l4{name: "gre", proto: gre})
	return []conversation{
		{"masqueraded", any, false, func(s *scenario, f family, l l4) (client, server func(string) *sent, first packet) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			return s.sender("a", p), s.sender("", s.outside(left.answer(""))), p
		}},
		{"published", published(), true, func(s *scenario, f family, l l4) (client, server func(string) *sent, first packet) {
			p := s.client(f, l, at(f.uplink, l.dport))
			got := s.toBackend(f, "b", p, l.backend())
			return s.sender("", p), s.sender("b", got.answer("")), p
		}},
		{"published_to_member", published(), true, func(s *scenario, f family, l l4) (client, server func(string) *sent, first packet) {
			p := s.via(f, "d", l, at(f.uplink, l.dport))
			got := s.byGateway(f, "b", p, l.backend())
			return s.sender("d", p), s.sender("b", got.answer("")), p
		}},
	}
}

// sender returns a function that sends p, with other flags, from a member or, without a name,
// from outside. Lower-case flags are blind guesses: s of the sequence number, k of the
// acknowledgement.
func (s *scenario) sender(name string, p packet) func(flags string) *sent {
	return func(flags string) *sent {
		const far = 1 << 30
		p := p
		p.flags = flags
		if strings.Contains(flags, "s") {
			p.seq = far
		}
		if strings.Contains(flags, "k") {
			p.ack = far
		}
		if name == "" {
			return s.arrive(p)
		}
		return s.from(name, p)
	}
}

// step is a packet of one side and the resulting state of the flow.
type step struct {
	by        byte   // 'c'lient, 's'erver, 't'ime that passes, or 'h'old while tables are exchanged ("on", "off")
	flags     string // or the time
	state     bpf.TCCtState
	confirmed bool
}

// walk sends the packets and checks both entries after each.
func (c conversation) walk(s *scenario, f family, l l4, steps []step) {
	s.Helper()
	client, server, first := c.begin(s, f, l)
	for i, step := range steps {
		send := client
		switch step.by {
		case 's':
			send = server
		case 't':
			d, err := time.ParseDuration(step.flags)
			must(s.TB, err)
			s.ageFlow(s.TB, first, int(d.Seconds()))
			continue
		case 'h':
			count := flmaps.FlowCount{Flows: s.tables["fl_ct"], Used: s.tables["fl_ct_used"]}
			change := map[string]func() error{"on": count.Hold, "off": count.Recount}[step.flags]
			must(s.TB, change())
			continue
		}
		if r := send(step.flags).do(); r.verdict != redirected {
			s.Fatalf("step %d, %c %s: verdict %s", i, step.by, step.flags, r.verdict)
		}
		s.check(i, step, first)
	}
}

func (s *scenario) check(i int, step step, first packet) {
	s.Helper()
	orig, reply := s.flowOf(s.TB, first)
	mover := orig
	if step.by == 's' {
		mover = reply
	}
	want := timeouts()[step.state]
	if step.state == established && !step.confirmed {
		want = 300 // CT_UNANSWERED
	}
	if left := mover.Expires - flmaps.Now(); left != want && left != want-1 {
		s.Errorf("step %d, %c %s: the flow expires in %d seconds, want %d", i, step.by, step.flags, left, want)
	}
	for dir, e := range map[string]entry{"original": orig, "reply": reply} {
		if e.state() != step.state || e.confirmed != step.confirmed {
			s.Errorf("step %d, %c %s: %s entry in state %d, confirmed %t; want %d, %t",
				i, step.by, step.flags, dir, e.state(), e.confirmed, step.state, step.confirmed)
		}
		if e.has(bpf.TCCtFlagCT_F_REPLY) != (dir == "reply") {
			s.Errorf("step %d: %s entry has flags %#x", i, dir, e.Flags)
		}
	}
	if s.Failed() {
		s.FailNow()
	}
}

// walks lists lives of TCP connections. If the destination is chosen, a connection that uses the ports of a closed one is
// a flow of its own.
func walks(chosen bool) map[string][]step {
	open := []step{{'c', "S", synSent, false}, {'s', "SA", synRecv, false}, {'c', "A", established, true}}
	after := func(more ...step) []step { return slices.Concat(open, more) }
	finished := after(step{'c', "FA", finWait, true}, step{'s', "FA", lastAck, true}, step{'c', "A", timeWait, true})
	still := []step{{'s', "SA", synRecv, true}, {'c', "A", established, true}, {'s', "PA", established, true}}
	again := slices.Concat([]step{{'c', "S", synSent, !chosen}, {'s', "SA", synRecv, !chosen}}, still[1:])
	return map[string][]step{
		"opened": after(step{'s', "PA", established, true}, step{'c', "A", established, true}),
		"opened_with_repetitions": {
			{'c', "S", synSent, false}, {'c', "S", synSent, false}, {'s', "SA", synRecv, false},
			{'c', "S", synRecv, false}, {'s', "SA", synRecv, false}, {'c', "PA", established, true},
		},
		// Only the client confirms the SYN-ACK (nf_conntrack's sSR).
		"answered_early": {
			{'c', "S", synSent, false}, {'s', "SA", synRecv, false}, {'s', "A", synRecv, false}, {'s', "PA", synRecv, false},
			{'s', "PA", synRecv, false}, {'c', "A", established, true}, {'s', "PA", established, true},
		},
		"opened_ack_lost": after(step{'s', "SA", established, true}),
		"opened_from_both_sides": {
			{'c', "S", synSent, false}, {'s', "S", synSent, false}, {'c', "SA", synRecv, false},
			{'s', "SA", synRecv, false}, {'s', "A", synRecv, false}, {'c', "A", established, true},
		},
		"closed_by_client": after(
			step{'c', "FA", finWait, true}, step{'s', "A", finWait, true}, step{'s', "PA", finWait, true},
			step{'c', "A", finWait, true}, step{'s', "FA", lastAck, true}, step{'s', "FA", lastAck, true},
			step{'c', "A", timeWait, true}, step{'s', "FA", timeWait, true}, step{'c', "A", timeWait, true}),
		"closed_by_server": after(
			step{'s', "FA", finWait, true}, step{'s', "FA", finWait, true}, step{'c', "A", finWait, true},
			step{'c', "FA", lastAck, true}, step{'s', "A", timeWait, true}),
		"closed_by_both":     after(step{'c', "FA", finWait, true}, step{'s', "FA", lastAck, true}, step{'s', "A", timeWait, true}, step{'c', "A", timeWait, true}),
		"reset":              after(step{'s', "R", closed, true}, step{'s', "RA", closed, true}, step{'c', "RA", closed, true}),
		"reset_not_believed": after(step{'s', "R", closed, true}, step{'c', "PA", established, true}, step{'s', "R", closed, true}, step{'s', "A", established, true}),
		"refused":            {{'c', "S", synSent, false}, {'s', "RA", closed, false}},
		"refused_then_not":   {{'c', "S", synSent, false}, {'s', "RA", closed, false}, {'c', "S", synSent, false}, {'s', "SA", synRecv, false}, {'c', "A", established, true}},
		"reused_when_done":   slices.Concat(finished, again),
		"reused_when_reset":  slices.Concat(after(step{'c', "RA", closed, true}), again),
		"reused_in_last_ack": slices.Concat(finished[:5], []step{{'c', "S", lastAck, true}}, still),
		"reused_in_fin_wait": slices.Concat(finished[:4], []step{{'c', "S", finWait, true}}, still),
		// An attacker who does not see the packets can only guess (RFC 5961).
		"guessed_handshake": {
			{'c', "S", synSent, false}, {'c', "A", synSent, false}, {'s', "SAk", synSent, false}, {'s', "SA", synRecv, false},
			{'c', "Ak", synRecv, false}, {'c', "As", synRecv, false}, {'c', "PAk", synRecv, false}, {'c', "FAk", synRecv, false},
			{'c', "Rs", synRecv, false}, {'c', "RAs", synRecv, false}, {'s', "Rsk", synRecv, false}, {'c', "A", established, true},
		},
		"guessed_end": after(guesses(established)...),
		"guessed_end_then_true": after(slices.Concat(guesses(established),
			[]step{{'c', "FA", finWait, true}}, guesses(finWait), []step{{'s', "FA", lastAck, true}, {'c', "A", timeWait, true}})...),
		// Programs that are being exchanged each see one side only: its end cannot be compared with the other's numbers.
		"ended_while_held": after(step{by: 'h', flags: "on"}, step{'c', "Ask", established, true}, step{'s', "RAsk", established, true},
			step{'c', "FAk", finWait, true}, step{'s', "FAk", lastAck, true}, step{by: 'h', flags: "off"}, step{'c', "A", timeWait, true}),
		"answered_after_refusal": {{'c', "S", synSent, false}, {'s', "RA", closed, false}, {'s', "SA", closed, false}, {'c', "A", closed, false}},
		"answered_after_reset":   after(step{'s', "R", closed, true}, step{'s', "SA", closed, true}),
		// One side restarted, and starts again from the same port.
		"begun_again_in_the_middle": after(
			step{'c', "Ss", established, true}, step{'s', "SA", established, true}, step{'s', "SAk", synRecv, true},
			step{'c', "A", synRecv, true}, step{'c', "As", established, true}, step{'s', "Ak", established, true}),
		"reused_and_finished": slices.Concat(finished, again, finished[3:]),
	}
}

// guesses are packets of both sides that try to end a flow, and do not change it.
func guesses(state bpf.TCCtState) []step {
	var all []step
	for _, by := range []byte("cs") {
		for _, flags := range []string{"Rs", "RAs", "RAsk", "FAs", "FAk", "FAsk", "Ask", "SAsk"} {
			all = append(all, step{by, flags, state, true})
		}
	}
	return all
}

func TestStatesTCP(t *testing.T) {
	var cases []testCase
	for _, c := range conversations() {
		for name, steps := range walks(c.chosen) {
			cases = append(cases, testCase{name: "tcp-" + name + "-" + c.name, run: func(s *scenario, f family) {
				c.walk(s, f, c.protos[0], steps)
			}})
		}
	}
	// A flow that is older than its entry.
	cases = append(cases, testCase{name: "tcp-picked_up-masqueraded", run: func(s *scenario, f family) {
		for _, flags := range []string{"A", "PA", "SA"} {
			s.forget(s.TB)
			conversations()[0].walk(s, f, protocols()[0], []step{
				{'c', flags, established, false}, {'c', "PA", established, false}, {'s', "A", established, true}})
		}
	}}, testCase{name: "tcp-picked_up_at_its_end-masqueraded", run: func(s *scenario, f family) {
		conversations()[0].walk(s, f, protocols()[0], []step{{'c', "RA", closed, false}, {'c', "R", closed, false}})
	}})
	slices.SortFunc(cases, func(a, b testCase) int { return strings.Compare(a.name, b.name) })
	runOnce(t, config{vars: with(featureVars(), map[string]any{"cfg_timeout": timeouts()})}, cases)
}

func TestStates(t *testing.T) {
	var cases []testCase
	for _, c := range conversations() {
		for _, l := range c.protos {
			if l.proto == tcp {
				continue
			}
			cases = append(cases, testCase{name: l.name + "-answered-" + c.name, run: func(s *scenario, f family) {
				c.walkAnswered(s, f, l)
			}})
		}
	}
	runOnce(t, config{vars: with(featureVars(), map[string]any{"cfg_timeout": timeouts()})}, cases)
}

// walkAnswered is the life of a flow without flags: a request, a reply, and more.
func (c conversation) walkAnswered(s *scenario, f family, l l4) {
	s.Helper()
	fresh, answered, lasting := other, other, other
	switch l.proto {
	case udp:
		fresh, answered, lasting = udpNew, udpReplied, udpStream
	case echo:
		fresh, answered, lasting = icmp, icmp, icmp
	}
	assured := l.proto != echo
	c.walk(s, f, l, []step{
		{'c', "", fresh, false}, {'c', "", fresh, false}, {by: 't', flags: "20s"}, {'c', "", fresh, false},
		{'s', "", lasting, assured}, {by: 't', flags: "3s"}, {'c', "", lasting, assured}, {by: 't', flags: "25s"}, {'s', "", lasting, assured},
	})
	s.forget(s.TB)
	// The client alone may continue, too.
	c.walk(s, f, l, []step{
		{'c', "", fresh, false}, {'s', "", answered, false}, {by: 't', flags: "3s"}, {'c', "", lasting, assured},
	})
	s.forget(s.TB)
	c.walk(s, f, l, []step{
		{'c', "", fresh, false}, {'s', "", answered, false}, {'c', "", answered, false}, {'s', "", answered, false},
		{by: 't', flags: "3s"}, {'s', "", lasting, assured}, {'c', "", lasting, assured},
	})
}
