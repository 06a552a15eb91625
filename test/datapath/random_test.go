// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// firstSeed, more seeds while there is time, and the operations per seed.
const (
	firstSeed  = 1
	randomTime = 2 * time.Second // per family
	randomOps  = 1500
)

// Random packets of a few sandboxes, remotes and ports, so that everything collides, compared
// with the reference.
func TestRandom(t *testing.T) {
	const lo, hi = 50000, 50005
	w := newWorld(t, config{vars: with(featureVars(), map[string]any{"cfg_snat_min": uint16(lo), "cfg_snat_max": uint16(hi)})})
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			begin, seed := time.Now(), uint64(firstSeed)
			for ; time.Since(begin) < randomTime; seed++ {
				r := newRandomRun(&scenario{TB: t, world: w}, f, seed, lo, hi)
				r.all()
				if t.Failed() {
					return
				}
			}
			t.Logf("seeds %d to %d, %d operations each", firstSeed, seed-1, randomOps)
		})
	}
}

// randomRun holds the operations of one seed.
type randomRun struct {
	*scenario
	*rand.Rand
	f       family
	seed    uint64
	ref     *reference
	public  map[endpointPort]bool
	sockets map[endpointPort]int
	history []string
}

func newRandomRun(s *scenario, f family, seed uint64, lo, hi uint16) *randomRun {
	s.forget(s.TB)
	r := &randomRun{
		scenario: s, Rand: rand.New(rand.NewPCG(seed, 0)), f: f, seed: seed,
		public: make(map[endpointPort]bool), sockets: make(map[endpointPort]int),
	}
	r.ref = &reference{
		entries: make(map[key]translation), bound: make(map[endpointPort]bool), public: make(map[endpointPort]bool), lo: lo, hi: hi,
		confirmed: func(k key) bool {
			return s.mustEntry(s.TB, packet{}.translated(k).of(k.proto).tuple()).confirmed
		},
	}
	return r
}

func (r *randomRun) all() {
	r.Helper()
	defer r.undo()
	ops := []struct {
		weight int
		run    func()
	}{
		{40, r.memberSends}, {25, r.flowAnswers}, {6, r.outsideSends}, {8, r.hostSends},
		{6, r.expire}, {2, r.collect}, {3, r.publish}, {3, r.socket}, {2, r.removeOwner},
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	for i := range randomOps {
		n := r.IntN(total)
		for _, op := range ops {
			if n -= op.weight; n < 0 {
				op.run()
				break
			}
		}
		if i%100 == 99 {
			if err := r.ref.same(r.scenario); err != nil {
				r.wrong("after %d operations: %v", i+1, err)
			}
		}
		if r.Failed() {
			return
		}
	}
}

// undo removes what outlives the flows.
func (r *randomRun) undo() {
	for p := range r.public {
		_, err := r.set.Publishes.Delete(r.f.any, p.port, uint8(p.proto))
		must(r.TB, err)
	}
	for _, fd := range r.sockets {
		unix.Close(fd)
	}
}

func (r *randomRun) note(format string, args ...any) {
	r.history = append(r.history, fmt.Sprintf(format, args...))
}

func (r *randomRun) wrong(format string, args ...any) {
	r.Helper()
	r.Errorf("seed %d: %s\nthe last operations:\n%s", r.seed, fmt.Sprintf(format, args...),
		strings.Join(r.history[max(0, len(r.history)-25):], "\n"))
}

func pick[T any](r *randomRun, of ...T) T { return of[r.IntN(len(of))] }

func (r *randomRun) proto() layers.IPProtocol { return pick(r, tcp, udp, udp, echo) }

func (r *randomRun) flags(proto layers.IPProtocol, any ...string) string {
	if proto != tcp {
		return ""
	}
	return pick(r, any...)
}

// remote returns one of few servers, whose ports are also those of clients.
func (r *randomRun) remote(proto layers.IPProtocol) netip.AddrPort {
	if proto == echo {
		return at(pick(r, r.f.remote, r.f.remote.Next()), 0)
	}
	return at(r.f.remote, pick(r, uint16(53), 5000))
}

// ports lists all ports; some are the backend's, some are in the range for moved flows.
func (r *randomRun) port() uint16 { return pick(r, uint16(80), 800, 40001, 50001, 50003) }

func (r *randomRun) memberSends() {
	name, proto := pick(r, "a", "b", "c", "d"), r.proto()
	l := l4{proto: proto, sport: r.port()}
	p := r.via(r.f, name, l, r.remote(proto))
	p.flags = r.flags(proto, "S", "S", "A", "A", "A", "FA", "R", "RA")
	r.fromMember(name, p)
}

func (r *randomRun) fromMember(name string, p packet) {
	r.Helper()
	p = r.numbered(p)
	r.note("%s sends %v %s", name, p.key(), p.says())
	result := r.from(name, p).quick()
	e, known := r.ref.entries[p.key()]
	if known {
		r.continues(e.flow, p)
		r.compare(result, redirected, p.routed().translated(e.to))
		return
	}
	left := key{at(r.f.uplink, p.src.Port()), p.dst, p.proto}
	flow := &refFlow{owner: name, first: p.key()}
	if r.begins(flow, left, result, p) {
		r.compare(result, redirected, p.routed().translated(flow.left))
	}
}

// numbered sets sequence numbers of a TCP packet: mostly those that its flow expects,
// otherwise those of the beginning, or any.
func (r *randomRun) numbered(p packet) packet {
	if p.proto != tcp {
		return p
	}
	if strings.Contains(p.flags, "S") {
		p.wscale = pick(r, uint8(0), 2, 7)
	}
	e, known := r.ref.entries[p.key()]
	how := r.IntN(10)
	if how < 6 && known {
		i := e.flow.side(p)
		p.seq, p.ack = e.flow.tcp.sides[i].End-firstSeq, e.flow.tcp.sides[1-i].End-firstSeq
		if how == 0 {
			p.ack = e.flow.tcp.sides[1-i].Pending - firstSeq
		}
	} else if how >= 8 {
		p.seq, p.ack = r.number(), r.number()
	}
	return p
}

func (r *randomRun) number() uint32 {
	return pick(r, 0, 5, 6, ^uint32(0), 1000, 65536, 65537, ^uint32(65536), 1<<20, 1<<24, 1<<31, r.Uint32())
}

// side returns 0 for a packet of the initiator of the flow, 1 for one of the responder.
func (f *refFlow) side(p packet) int {
	if p.key() == f.first {
		return 0
	}
	return 1
}

// says formats a packet's flags and sequence numbers.
func (p packet) says() string {
	if p.proto != tcp {
		return ""
	}
	return fmt.Sprintf("%s seq %d ack %d scale %d", p.flags, int32(p.seq), int32(p.ack), p.wscale)
}

// continues checks a packet of a known flow.
func (r *randomRun) continues(flow *refFlow, p packet) {
	r.Helper()
	if flow.tcp == nil {
		flow.expired = false
		return
	}
	if flow.tcp.packet(flow.side(p), p.segment()) {
		flow.expired = false
	}
	if err := flow.tcp.same(r.flowOf(r.TB, packet{}.translated(flow.first).of(tcp))); err != nil {
		r.wrong("%v: %v", flow, err)
	}
}

// begins checks which port a new flow got, and records it; it returns false if the flow
// rightly got none.
func (r *randomRun) begins(flow *refFlow, left key, result result, p packet) bool {
	r.Helper()
	ports := r.ref.choices(left, flow)
	if len(ports) == 0 {
		if result.verdict != shot {
			r.wrong("a flow began with verdict %s though no port is free", result.verdict)
		}
		return false
	}
	got := port(r.f, p, result.out)
	if !slices.Contains(ports, got) || result.verdict == shot {
		r.wrong("the new flow has verdict %s and port %d, want one of %v", result.verdict, got, ports)
		return false
	}
	flow.left = left.from(got)
	if p.proto == tcp {
		flow.tcp = newRefTCP(p.segment())
	}
	r.note("  begins %s", flow)
	r.ref.begin(flow)
	return true
}

func (r *randomRun) compare(result result, verdict string, out packet) {
	r.Helper()
	if result.verdict != verdict {
		r.wrong("verdict %s, want %s", result.verdict, verdict)
	} else if want := out.bytes(r.TB); !bytes.Equal(want, result.out) {
		r.wrong("the packet is\n%swant\n%s", dump(result.out), dump(want))
	}
}

// flowAnswers makes the far side of some flow send.
func (r *randomRun) flowAnswers() {
	if len(r.ref.flows) == 0 {
		return
	}
	flow := pick(r, r.ref.flows...)
	k := flow.left.reversed()
	flags := r.flags(k.proto, "SA", "SA", "A", "A", "A", "FA", "R", "RA")
	if !flow.publish {
		r.fromOutside(k, flags)
		return
	}
	p := r.via(r.f, "b", l4{proto: k.proto, sport: k.src.Port()}, k.dst)
	p.flags = flags
	r.fromMember("b", p)
}

func (r *randomRun) outsideSends() {
	proto := r.proto()
	dst := at(r.f.uplink, r.port())
	k := key{r.remote(proto), dst, proto}
	r.fromOutside(k, r.flags(proto, "S", "S", "A", "SA"))
}

func (r *randomRun) fromOutside(k key, flags string) {
	r.Helper()
	p := r.numbered(r.outside(packet{proto: k.proto, flags: flags, payload: "hello"}.translated(k)))
	r.note("outside sends %v %s", k, p.says())
	result := r.arrive(p).quick()
	e, known := r.ref.entries[k]
	if known && r.beginsAgain(e.flow, p) {
		r.ref.remove(e.flow)
	} else if known {
		r.continues(e.flow, p)
		p = p.translated(e.to)
		if e.flow.owner == "" {
			r.compare(result, next, p)
			return
		}
		r.compare(result, redirected, r.delivered(e.flow.owner, p))
		return
	}
	begins := k.proto == udp || k.proto == tcp && flags == "S"
	if !begins || !r.public[endpointPort{k.proto, k.dst.Port()}] {
		r.compare(result, next, p)
		return
	}
	left := key{k.src, at(r.f.of(r.members["b"]), 80), k.proto}
	flow := &refFlow{owner: "b", publish: true, first: k}
	if r.begins(flow, left, result, p) {
		r.compare(result, redirected, r.delivered("b", p.translated(flow.left)))
	}
}

// beginsAgain reports whether a packet from outside reuses the ports of a closed connection for a new one, whose destination is chosen again: at a
// published port, from whichever side the closed one was opened. A port that is not published any more has no destination.
func (r *randomRun) beginsAgain(flow *refFlow, p packet) bool {
	if p.proto != tcp || p.flags != "S" || !flow.tcp.over() {
		return false
	}
	if flow.side(p) == 1 {
		return r.public[endpointPort{tcp, p.dst.Port()}]
	}
	return flow.publish
}

func (r *randomRun) hostSends() {
	proto := r.proto()
	k := key{at(r.f.uplink, r.port()), r.remote(proto), proto}
	p := r.numbered(r.outside(packet{proto: proto, flags: r.flags(proto, "S", "A"), payload: "hello"}.translated(k)))
	r.note("the host sends %v %s", k, p.says())
	result := r.leave(p, 0).quick()
	e, known := r.ref.entries[k]
	_, collides := r.ref.entries[k.reversed()]
	switch {
	case known:
		r.continues(e.flow, p)
		r.compare(result, next, p.translated(e.to))
	case collides:
		flow := &refFlow{first: k}
		if r.begins(flow, k, result, p) {
			r.compare(result, next, p.translated(flow.left))
		}
	default:
		r.compare(result, next, p)
	}
}

// expire makes some flow expire.
func (r *randomRun) expire() {
	if len(r.ref.flows) == 0 {
		return
	}
	if flow := pick(r, r.ref.flows...); !flow.expired {
		r.note("%s expires", flow)
		r.ageFlow(r.TB, packet{}.translated(flow.first).of(flow.first.proto), expired)
		flow.expired = true
	}
}

func (r *randomRun) collect() {
	r.note("collect")
	got, want := r.scenario.collect(), r.ref.removeWhere(func(f *refFlow) bool { return f.expired })
	if got != want {
		r.wrong("%d flows collected, want %d", got, want)
	}
}

func (r *randomRun) publish() {
	p := endpointPort{pick(r, tcp, udp), r.port()}
	b := r.members["b"]
	r.note("publish %v %t", p, !r.public[p])
	var err error
	if r.public[p] {
		delete(r.public, p)
		_, err = r.set.Publishes.Delete(r.f.any, p.port, uint8(p.proto))
	} else {
		r.public[p] = true
		_, err = r.set.Publishes.Put(flmaps.Publish{HostIP: r.f.any, Port: p.port, Proto: uint8(p.proto),
			Backend: r.f.of(b), BackendPort: 80, IfIndex: b.IfIndex, Net: b.Net, ID: uint32(p.port)})
	}
	must(r.TB, err)
	r.retake(p)
}

func (r *randomRun) socket() {
	p := endpointPort{pick(r, tcp, udp), pick(r, uint16(40001), 50001, 50002)}
	fd, open := r.sockets[p]
	r.note("socket %v %t", p, !open)
	if open {
		delete(r.sockets, p)
		unix.Close(fd)
	} else {
		var err error
		r.ns.do(func() { fd, err = openSocket(p.proto, at(r.f.any, p.port), nil) })
		must(r.TB, err)
		r.sockets[p] = fd
	}
	r.retake(p)
}

func (r *randomRun) retake(p endpointPort) {
	_, open := r.sockets[p]
	r.ref.bound[p], r.ref.public[p] = open, r.public[p]
}

// removeOwner does what the daemon does when a member is removed.
func (r *randomRun) removeOwner() {
	name := pick(r, "a", "b", "c", "d")
	r.note("remove the flows of %s", name)
	index := r.members[name].IfIndex
	got, err := r.set.Conntrack.DeleteWhere(func(f flmaps.Flow) bool { return f.InIf == index || f.OutIf == index })
	must(r.TB, err)
	if want := r.ref.removeWhere(func(f *refFlow) bool { return f.owner == name }); got != want {
		r.wrong("%d flows removed, want %d", got, want)
	}
}
