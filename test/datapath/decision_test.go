// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
	flmaps "github.com/fairlead-net/fairlead/maps"
)

// decisionIndex returns the slot of a tuple's decision: decision_index in bpf/lib/decision.h.
func decisionIndex(t bpf.TCTuple) uint32 {
	const golden, bits = 0x9e3779b97f4a7c15, 10
	half := func(ip bpf.TCIp) uint64 { return binary.NativeEndian.Uint64(ip.B[8:]) }
	h := (half(t.Saddr)^uint64(uint32(t.Sport)|uint32(t.Dport)<<16))*golden + half(t.Daddr)
	return uint32(h * golden >> (64 - bits))
}

// decisionsOf returns what is in the slot of a tuple, by processor.
func (w *world) decisionsOf(s *scenario, t bpf.TCTuple) (all []bpf.TCDecision) {
	s.Helper()
	must(s.TB, w.tables["fl_decision"].Lookup(decisionIndex(t), &all))
	return all
}

// hits returns how many packets of a tuple took its cached path.
func (s *scenario) hits(t bpf.TCTuple) (n uint32) {
	s.Helper()
	for _, d := range s.decisionsOf(s, t) {
		if d.Key == t {
			n += d.Hits
		}
	}
	return n
}

// pairHits returns how many packets between members took a cached path.
func (s *scenario) pairHits() uint32 {
	s.Helper()
	return cachedHits(s, "fl_pair", func(p bpf.TCPair) uint32 { return p.Hits })
}

// decisionHits returns how many packets of all flows did.
func (s *scenario) decisionHits() uint32 {
	s.Helper()
	return cachedHits(s, "fl_decision", func(d bpf.TCDecision) uint32 { return d.Hits })
}

func cachedHits[T any](s *scenario, table string, hits func(T) uint32) (n uint32) {
	s.Helper()
	var key uint32
	var all []T
	entries := s.tables[table].Iterate()
	for entries.Next(&key, &all) {
		for _, e := range all {
			n += hits(e)
		}
	}
	must(s.TB, entries.Err())
	return n
}

// cache confirms a flow and makes sure that both directions take their cached path.
func (s *scenario) cache(f family, l l4) (p, left packet) {
	s.Helper()
	p, left = s.confirm(f, "a", l)
	p.flags, left.flags = "A", "A"
	answer := s.outside(left.answer("A")).tuple()
	there, back := s.hits(p.tuple()), s.hits(answer)
	// Without SKIP_NEIGH the kernel does not tell the MTU of a route whose next hop is not resolved.
	unknown := s.to != nil
	for range 100 { // a processor, or the next tick, has no decision yet
		s.lives(f, "a", p, left)
		if (s.hits(p.tuple()) > there || unknown) && s.hits(answer) > back {
			return p, left
		}
	}
	s.Errorf("of 100 packets %d took the cached path, and %d answers", s.hits(p.tuple())-there, s.hits(answer)-back)
	return p, left
}

// decisionCases lists what must end a cached decision, or must not take it.
func decisionCases() []testCase {
	var ported []l4
	for _, l := range protocols() {
		if l.proto != echo {
			ported = append(ported, l)
		}
	}
	return slices.Concat(
		times(ported, "cached_endpoint_changes-followed", func(s *scenario, f family, l l4) {
			p, left := s.cache(f, l)
			answer := s.outside(left.answer("A"))
			got := answer.with(func(q *packet) { q.dst = p.src })
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.MAC[5] ^= 0x40 })
			s.arrive(answer).peer("a", s.delivered("a", got).with(func(q *packet) { q.dmac[5] ^= 0x40 }))
			s.from("a", p).dropped("spoofed_mac")
		}),
		times(ported, "cached_endpoint_removed-dropped", func(s *scenario, f family, l l4) {
			p, left := s.cache(f, l)
			a := s.members["a"]
			_, err := s.set.Endpoints.Delete(a.IfIndex)
			must(s.TB, err)
			defer func() {
				_, err := s.set.Endpoints.Put(a.Endpoint)
				must(s.TB, err)
			}()
			s.arrive(s.outside(left.answer("A"))).dropped("endpoint_gone")
			if r := s.from("a", p).quick(); r.verdict != shot {
				s.Errorf("a packet from a removed endpoint: verdict %s", r.verdict)
			}
		}),
		times(ported, "cached_flow_removed-forgotten", func(s *scenario, f family, l l4) {
			_, left := s.cache(f, l)
			_, err := s.set.Conntrack.DeleteWhere(func(flmaps.Flow) bool { return true })
			must(s.TB, err)
			s.arrive(s.outside(left.answer("A"))).unchanged()
		}),
		times(ported, "cached_uplink_removed-stack", func(s *scenario, f family, l l4) {
			p, _ := s.cache(f, l)
			up := slices.IndexFunc(s.set.Uplinks.List(), func(u flmaps.Uplink) bool { return u.IfIndex == s.uplink.index })
			u := s.set.Uplinks.List()[up]
			_, err := s.set.Uplinks.Delete(u.IfIndex)
			must(s.TB, err)
			defer func() {
				_, err := s.set.Uplinks.Put(u)
				must(s.TB, err)
			}()
			time.Sleep(routeRemembered) // the route is cached by itself, too
			s.from("a", p).toStack()
		}),
		times(ported, "cached_odd_packets-whole_path", func(s *scenario, f family, l l4) {
			p, left := s.cache(f, l)
			s.from("a", p.with(func(q *packet) { q.smac[5] ^= 0x40 })).dropped("spoofed_mac")
			s.from("b", p).dropped("spoofed_mac")
			low := p.with(func(q *packet) { q.ttl = 1 })
			if r := s.from("a", low).quick(); r.verdict != redirected || r.counts["path neigh"].Packets != 0 {
				s.Errorf("hop limit 1: %s %v", r.verdict, r.counts)
			}
			s.arrive(s.outside(left.answer("A")).with(func(q *packet) { q.dst = at(f.uplink, q.dst.Port()+1) })).unchanged()
			s.lives(f, "a", p, left)
		}),
		times(ported[:1], "cached_slot_shared-numbers_kept", sharedSlot),
		times(ported[:1], "cached_connection_ends-followed", connectionEnds),
		times(published()[:1], "cached_ports_used_again-new_flow", portsUsedAgain),
		[]testCase{
			{name: "tcp-cached_pair-peer", run: cachedPair},
			{name: "tcp-cached_pair_of_published-looked_up", run: func(s *scenario, f family) {
				p := s.between(f, "b", "a")
				before := s.pairHits()
				for range 3 {
					s.from("b", p).peer("a", p)
				}
				if n := s.pairHits() - before; n != 0 {
					s.Errorf("%d packets of a backend took a cached path", n)
				}
			}},
		},
	)
}

// connectionEnds ends connections whose translation is cached: its packets use that, and the state follows them.
func connectionEnds(s *scenario, f family, l l4) {
	const far = 1 << 30
	want := uint32(3)
	if s.to != nil { // as in cache: only the second FIN arrives at the uplink
		want = 1
	}
	for try := range uint16(20) { // a processor, or the next tick, has no decision yet
		p, left := s.cache(f, l.on(l.sport+try))
		answer := s.outside(left.answer("A")).tuple()
		before := s.hits(p.tuple()) + s.hits(answer)
		state := func(after string, want bpf.TCCtState) {
			s.Helper()
			if orig, reply := s.flowOf(s.TB, p); orig.state() != want || reply.state() != want {
				s.Errorf("after %s the flow is in states %d and %d, want %d", after, orig.state(), reply.state(), want)
			}
		}
		send := func(flags string, seq uint32) {
			s.Helper()
			q, out := p, left
			q.flags, out.flags, q.seq, out.seq = flags, flags, q.seq+seq, out.seq+seq
			s.from("a", q).neigh(f, out)
		}
		send("R", far)
		state("a blind RST", established)
		send("FA", far)
		state("a blind FIN", established)
		send("FA", 0)
		state("a FIN", bpf.TCCtStateCT_FIN_WAIT)
		s.answers("a", p, left, "FA")
		state("the second FIN", bpf.TCCtStateCT_LAST_ACK)
		send("A", 0)
		state("the last ACK", bpf.TCCtStateCT_TIME_WAIT)
		if s.hits(p.tuple())+s.hits(answer)-before >= want {
			return
		}
	}
	s.Error("of 20 connections none ended by its cached path")
}

// processors returns a function that makes the programs run on the nth of the processors from now on, until the test ends.
func (s *scenario) processors() (on func(n int)) {
	s.Helper()
	var all unix.CPUSet
	pin := func(set *unix.CPUSet) {
		s.Helper()
		var err error
		s.ns.do(func() { err = unix.SchedSetaffinity(0, set) })
		must(s.TB, err)
	}
	var err error
	s.ns.do(func() { err = unix.SchedGetaffinity(0, &all) })
	must(s.TB, err)
	s.Cleanup(func() { pin(&all) })
	var numbers []int
	for cpu := 0; len(numbers) < all.Count(); cpu++ {
		if all.IsSet(cpu) {
			numbers = append(numbers, cpu)
		}
	}
	return func(n int) {
		s.Helper()
		var one unix.CPUSet
		one.Set(numbers[n%len(numbers)])
		pin(&one)
	}
}

// portsUsedAgain ends a connection whose translation is cached, and begins another with the same ports and sequence
// numbers, which is translated in another way: none of its packets takes the path of the closed connection, neither on the processor
// that begins the new one nor on the processor that cached the decision.
func portsUsedAgain(s *scenario, f family, l l4) {
	s.arrive(s.client(f, l, at(f.second, l.dport))).goes() // has the client's port at the backend
	p := s.client(f, l, at(f.uplink, l.dport))
	var got, back packet
	sends := func(flags string) {
		s.Helper()
		p.flags, got.flags = flags, flags
		want := s.toBackend(f, "b", got, l.backend())
		if r := s.arrive(p).quick(); r.verdict != redirected || !slices.Equal(want.bytes(s.TB), r.out) {
			s.Fatalf("%s: verdict %s,\n%swant\n%s", flags, r.verdict, dump(r.out), dump(want.bytes(s.TB)))
		}
	}
	state := func(want bpf.TCCtState) {
		s.Helper()
		if orig, reply := s.flowOf(s.TB, p); orig.state() != want || reply.state() != want {
			s.Errorf("the flow is in states %d and %d, want %d", orig.state(), reply.state(), want)
		}
	}
	var ports []uint16
	on := s.processors()
	for i := range 6 {
		on(1)
		p.flags = "S"
		r := s.arrive(p).quick()
		if r.verdict != redirected {
			s.Fatalf("SYN: verdict %s", r.verdict)
		}
		got = p.with(func(q *packet) { q.src = at(q.src.Addr(), port(f, p, r.out)) })
		ports = append(ports, got.src.Port())
		sends("A") // of the former connection: nobody has answered this one
		state(bpf.TCCtStateCT_SYN_SENT)
		back = s.toBackend(f, "b", got, l.backend()).answer("SA")
		s.from("b", back).goes()
		state(bpf.TCCtStateCT_SYN_RECV)
		back.flags = "A"
		sends("A")
		on(0)
		before := s.hits(p.tuple())
		for range 100 { // a processor, or the next tick, has no decision yet
			sends("A")
			s.from("b", back).goes()
			if s.hits(p.tuple()) > before {
				break
			}
		}
		if s.hits(p.tuple()) == before {
			s.Error("no packet took the cached path")
		}
		state(bpf.TCCtStateCT_ESTABLISHED)
		if back.flags = "RA"; i%2 == 0 {
			sends("RA")
		} else {
			s.from("b", back).goes()
		}
		state(bpf.TCCtStateCT_CLOSE)
	}
	if slices.Sort(ports); len(slices.Compact(ports)) < 2 {
		s.Errorf("all connections were translated alike, to port %d", ports[0])
	}
}

// sharedSlot has two flows use one slot: the numbers of the first are not lost.
func sharedSlot(s *scenario, f family, l l4) {
	p, left := s.cache(f, l)
	if p.proto != tcp {
		s.Fatal("only TCP has numbers")
	}
	other := l
	for other.sport++; decisionIndex(s.via(f, "a", other, p.dst).tuple()) != decisionIndex(p.tuple()); other.sport++ {
	}
	q, qleft := s.confirm(f, "a", other)
	next := func(p, left *packet) {
		p.seq += uint32(len(p.payload))
		left.seq = p.seq
		s.from("a", *p).neigh(f, *left)
	}
	for range 100 { // as many as it takes until one begins a tick
		next(&p, &left)
		next(&q, &qleft)
		time.Sleep(2 * time.Millisecond)
	}
	for _, x := range []packet{p, q} {
		orig, _ := s.flowOf(s.TB, x)
		if want := firstSeq + x.seq + uint32(len(x.payload)); orig.End != want {
			s.Errorf("the numbers of %v end at %d, want %d", x.src, orig.End, want)
		}
	}
}

func cachedPair(s *scenario, f family) {
	p := s.between(f, "a", "c")
	before := s.pairHits()
	cpus := runtime.NumCPU()
	for range 3 + cpus {
		s.from("a", p).peer("c", p)
	}
	if n := s.pairHits() - before; n < 3 {
		s.Errorf("%d of %d packets took a cached path on %d processors", n, 3+cpus, cpus)
	}
	spoofed := p.with(func(q *packet) { q.src = at(f.of(s.members["b"]), q.src.Port()) })
	s.from("a", spoofed).dropped("spoofed_ip")
	s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags &^= flmaps.ICC })
	s.from("a", p).dropped("icc")
}
