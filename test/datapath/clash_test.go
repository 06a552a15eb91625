// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	syncatomic "sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// atOnce runs the programs in parallel, as the kernel does for packets on two processors.
func (s *scenario) atOnce(all ...*sent) []result {
	s.Helper()
	results, errs := make([]result, len(all)), make([]error, len(all))
	var waiting syncatomic.Int32
	var wg sync.WaitGroup
	waiting.Store(int32(len(all)))
	for i, p := range all {
		wg.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			opts := runOptions(p.in, p.skb, p.flags)
			errs[i] = s.ns.enter()
			for waiting.Add(-1); waiting.Load() > 0; { // busy-waits: a thread that sleeps would be late
				unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			}
			if errs[i] == nil {
				results[i], errs[i] = s.execHere(p.program, &opts)
			}
		})
	}
	wg.Wait()
	must(s.TB, errors.Join(errs...))
	return results
}

// enter moves the thread into the namespace.
func (ns *netns) enter() error {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", ns.tid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

// sends is a packet of one end of a path: the client's, or a reply of the server.
func (s *scenario) sends(member string, p packet) *sent {
	s.Helper()
	if member == "" {
		return s.arrive(p)
	}
	return s.from(member, p)
}

// clash is a flow whose first packets arrive simultaneously, like those of a resolver that
// queries both kinds of addresses from one socket (the kernel's udpclash.c).
type clash struct {
	name string
	l    l4
	// before prepares what conflicts with the flow.
	before func(s *scenario, f family, l l4)
	way    func(s *scenario, f family, l l4) way
}

func clashes() []clash {
	free := func(*scenario, family, l4) {}
	out := func(s *scenario, f family, l l4) way {
		p := s.via(f, "a", l, at(f.remote, l.dport))
		return way{client: "a", asks: p, asked: p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })}
	}
	member := func(s *scenario, f family, l l4) way {
		p := s.via(f, "d", l, at(f.uplink, l.dport))
		return way{client: "d", server: "b", asks: p, asked: s.byGateway(f, "b", p, l.backend())}
	}
	outside := func(s *scenario, f family, l l4) way {
		p := s.client(f, l, at(f.uplink, l.dport))
		return way{server: "b", asks: p, asked: s.toBackend(f, "b", p, l.backend())}
	}
	taken := func(s *scenario, f family, l l4) { s.from("b", s.via(f, "b", l, at(f.remote, l.dport))).goes() }
	return []clash{
		{"masqueraded", protocols()[1], free, out},
		{"masqueraded", protocols()[2], free, out},
		{"masqueraded_port_taken", protocols()[1], taken, out},
		{"masqueraded_port_taken", protocols()[2], taken, out},
		{"published", published()[1], free, outside},
		{"published_port_taken", published()[1], func(s *scenario, f family, l l4) {
			s.arrive(s.client(f, l, at(f.second, l.dport))).goes()
		}, outside},
		{"published_to_member", published()[1], free, member},
		{"published_to_member_port_taken", published()[1], func(s *scenario, f family, l l4) {
			s.from("a", s.via(f, "a", l, at(f.uplink, l.dport))).goes()
		}, member},
	}
}

// clashCases lists races, each repeated often enough to fail without the fix.
func clashCases() []testCase {
	const rounds = 100
	var cases []testCase
	for _, c := range clashes() {
		cases = append(cases, testCase{name: c.l.name + "-at_once_" + c.name + "-answered", run: func(s *scenario, f family) {
			for i := range uint16(rounds) {
				l := c.l
				l.sport = 30000 + i
				s.clash(f, c, l)
			}
		}})
	}
	cases = append(cases, testCase{name: "udp-at_once_both_ways-answered", run: func(s *scenario, f family) {
		for i := range uint16(rounds) {
			s.clashBothWays(f, published()[1], 30000+i)
		}
	}})
	cases = append(cases, times(ownPorts(), "own_port_at_once_both_ways-one_flow", func(s *scenario, f family, l l4) {
		s.publishOwn(f, l)
		for i := range uint16(rounds) {
			l.dport = 30000 + i
			s.clashOwnPort(f, l)
		}
	})...)
	for _, c := range conversations() {
		for _, l := range c.protos {
			if l.proto == tcp || l.proto == udp {
				cases = append(cases, testCase{name: l.name + "-at_once_assured_" + c.name + "-answered", run: func(s *scenario, f family) {
					for i := range uint16(rounds) {
						l := l
						l.sport = 30000 + i
						s.clashAssured(f, c, l)
					}
					var used int64
					must(s.TB, s.tables["fl_ct_used"].Lookup(uint32(0), &used))
					if _, confirmed := s.sizes(s.TB); int64(confirmed) != used {
						s.Errorf("fl_ct has %d entries and %d are counted", confirmed, used)
					}
				}})
			}
		}
	}
	return append(cases, crowdedCases()...)
}

func (s *scenario) clash(f family, c clash, l l4) {
	s.Helper()
	c.before(s, f, l)
	w := c.way(s, f, l)
	before := s.counts(s.TB)
	results := s.atOnce(s.sends(w.client, w.asks), s.sends(w.client, w.asks))
	var ports []uint16
	for i, r := range results {
		if r.verdict != redirected {
			s.Fatalf("packet %d of two at once from port %d: verdict %s, %v", i, l.sport, r.verdict, s.counts(s.TB).since(before))
		}
		ports = append(ports, port(f, w.asks, r.out))
	}
	for i, r := range results {
		asked := w.asked.with(func(p *packet) { p.src = at(p.src.Addr(), ports[i]) })
		if want := asked.bytes(s.TB); !slices.Equal(want, r.out) {
			s.Fatalf("packet %d of two at once came out as\n%s\nwant\n%s", i, dump(r.out), dump(want))
		}
		answer := asked.answer("")
		if w.server == "" {
			answer = s.outside(answer)
		}
		if r := s.sends(w.server, answer).quick(); r.verdict != redirected {
			s.Fatalf("two packets at once left from ports %d; the answer to the one from port %d: verdict %s", ports, ports[i], r.verdict)
		}
	}
}

// clashBothWays makes a client outside send to b's port while b sends to that client's port
// from the same port (the kernel's conntrack_reverse_clash.c): b sees either one flow, or two
// with different ports.
func (s *scenario) clashBothWays(f family, l l4, remote uint16) {
	s.Helper()
	l.sport = remote
	in := s.client(f, l, at(f.uplink, l.dport))
	got := s.toBackend(f, "b", in, l.backend())
	out := s.via(f, "b", l, in.src).with(func(p *packet) { p.src = got.dst })
	results := s.atOnce(s.arrive(in), s.from("b", out))
	for i, r := range results {
		if r.verdict != redirected {
			s.Fatalf("packet %d of two at once with remote port %d: verdict %s", i, remote, r.verdict)
		}
	}
	got.src = at(f.remote, port(f, in, results[0].out))
	left := out.routed().with(func(p *packet) { p.src = at(f.uplink, port(f, out, results[1].out)) })
	if one := got.src.Port() == remote; one != (left.src.Port() == in.dst.Port()) {
		s.Fatalf("b sees the client with port %d of %d, and its own packet left from port %d", got.src.Port(), remote, left.src.Port())
	}
	toIn := got.answer("").routed().with(func(p *packet) { p.src, p.dst = in.dst, in.src })
	s.from("b", got.answer("")).neigh(f, toIn)
	s.answers("b", out, left, "")
}

// clashOwnPort makes b send from its published port to a port of a client outside, which sends to b's port simultaneously.
// It is one flow, which ends as if one of them had begun it.
func (s *scenario) clashOwnPort(f family, l l4) {
	s.Helper()
	in := s.client(f, l4{proto: l.proto, sport: l.dport}, at(f.uplink, ownPort))
	got := s.toBackend(f, "b", in, ownPort)
	out := s.via(f, "b", l, in.src)
	left := out.routed().with(func(p *packet) { p.src = in.dst })
	for i, r := range s.atOnce(s.arrive(in), s.from("b", out)) {
		want := [][]byte{got.bytes(s.TB), left.bytes(s.TB)}[i]
		if r.verdict != redirected || !slices.Equal(want, r.out) {
			s.Fatalf("packet %d of two at once with remote port %d: verdict %s\n%s\nwant\n%s", i, l.dport, r.verdict, dump(r.out), dump(want))
		}
	}
	client, server := s.sender("", in), s.sender("b", out)
	if l.proto == udp {
		s.ageFlow(s.TB, in, 3)
		client("").goes()
		server("").goes()
	} else {
		client("SA").goes()
		server("SA").goes()
		client("A").goes()
		server("A").goes()
		client("PA").goes()
		server("PA").goes()
	}
	if orig, reply := s.flowOf(s.TB, in); !orig.confirmed || !reply.confirmed {
		s.Fatalf("the entries of the flow with remote port %d are in fl_ct: %t and %t, with flags %#x and %#x in state %d", l.dport, orig.confirmed, reply.confirmed, orig.Flags, reply.Flags, orig.state())
	}
}

// clashAssured makes both sides of a flow send the packets that assure it simultaneously. The
// flow is then moved to the other table once, and continues.
func (s *scenario) clashAssured(f family, c conversation, l l4) {
	s.Helper()
	client, server, first := c.begin(s, f, l)
	flags := func(tcpFlags string) string {
		if l.proto == tcp {
			return tcpFlags
		}
		return ""
	}
	client(flags("S")).goes()
	server(flags("SA")).goes()
	if l.proto == udp {
		s.ageFlow(s.TB, first, 3)
	}
	for i, r := range s.atOnce(client(flags("A")), server(flags("PA"))) {
		if r.verdict != redirected {
			s.Fatalf("packet %d of two at once from port %d: verdict %s", i, l.sport, r.verdict)
		}
	}
	for range 2 {
		client(flags("PA")).goes()
		server(flags("PA")).goes()
	}
	orig, reply := s.flowOf(s.TB, first)
	if !orig.confirmed || !reply.confirmed {
		s.Fatalf("the entries of the flow from port %d are in fl_ct: %t and %t", l.sport, orig.confirmed, reply.confirmed)
	}
}

// Ports in use are often adjacent, like those of a client that counts up. A flow that cannot
// keep its port still finds a free one.
func crowdedCases() []testCase {
	const (
		crowd = 6000
		flows = 200
	)
	l := protocols()[1]
	return []testCase{{name: "udp-ports_crowded-answered", run: func(s *scenario, f family) {
		for i := range uint16(crowd) {
			l.sport = 40000 + i
			s.from("b", s.via(f, "b", l, at(f.remote, l.dport))).goes()
		}
		for i := range uint16(flows) {
			l.sport = 40000 + i
			p := s.via(f, "a", l, at(f.remote, l.dport))
			s.answers("a", p, s.opensElsewhere(f, l, p), l.reply)
		}
	}}}
}

// TestClash sends packets of one flow on two processors simultaneously.
func TestClash(t *testing.T) {
	runIn(t, newWorld(t, config{vars: featureVars()}), clashCases())
}
