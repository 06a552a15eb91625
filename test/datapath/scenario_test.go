// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// doneMark is cfg_mark's default.
const doneMark = 0xf1a17ead

// featureVars returns the configuration of this kernel's features. The decision of a packet is cached at
// once, so that each case also tests what the next packet makes of it.
func featureVars() map[string]any {
	return with(cachedAtOnce(), map[string]any{"cfg_fib_src": kernelHas(6, 7), "cfg_kern_ctx": kernelHas(6, 2)})
}

func cachedAtOnce() map[string]any { return map[string]any{"cfg_cache": uint8(1)} }

// with adds variables to those of a configuration.
func with(vars map[string]any, more map[string]any) map[string]any {
	all := maps.Clone(vars)
	maps.Copy(all, more)
	return all
}

func kernelHas(major, minor int) uint8 {
	var u unix.Utsname
	var x, y int
	if unix.Uname(&u) != nil {
		return 0
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &x, &y); err != nil {
		return 0
	}
	if x > major || (x == major && y >= minor) {
		return 1
	}
	return 0
}

// testCase is a case of one family or, with family addresses, of both.
type testCase struct {
	name string
	run  func(*scenario, family)
	only string // family, or "" for both
}

// runOnce runs the cases only with the programs as they ship.
func runOnce(t *testing.T, cfg config, cases []testCase) {
	t.Helper()
	runIn(t, newWorld(t, cfg), cases)
}

func runIn(t *testing.T, w *world, cases []testCase) {
	t.Helper()
	for _, c := range cases {
		for _, f := range families() {
			if c.only != "" && c.only != f.name {
				continue
			}
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				must(t, w.ns.stay())
				w.forget(t)
				c.run(&scenario{TB: t, world: w}, f)
			})
		}
	}
}

// scenario is the life of a packet: each step runs one program and checks everything it did.
type scenario struct {
	testing.TB
	*world
}

// sent is a packet on its way through a program.
type sent struct {
	*scenario
	program string
	on      string // device
	member  member // the sender; zero at an uplink
	in      []byte
	skb     skBuff
	flags   uint32
	again   []string // other frames that are received again
	result  *result
}

// from sends a frame from a member.
func (s *scenario) from(name string, f frame) *sent {
	s.Helper()
	m, ok := s.members[name]
	if !ok {
		s.Fatalf("no member %s", name)
	}
	return &sent{scenario: s, program: "from_endpoint", on: name, member: m, in: f.bytes(s.TB),
		skb: skBuff{Ifindex: m.IfIndex, IngressIfindex: m.IfIndex}}
}

// arrive makes a frame arrive from outside.
func (s *scenario) arrive(f frame) *sent {
	s.Helper()
	return &sent{scenario: s, program: "from_uplink", on: "up0", in: f.bytes(s.TB),
		skb: skBuff{Ifindex: s.uplink.index, IngressIfindex: s.uplink.index}}
}

// leave makes a frame leave by the uplink, with the mark it comes with.
func (s *scenario) leave(f frame, mark uint32) *sent {
	s.Helper()
	return &sent{scenario: s, program: "to_uplink", on: "up0", in: f.bytes(s.TB),
		skb: skBuff{Ifindex: s.uplink.index, Mark: mark}}
}

// gso makes the packet consist of segments with this many bytes of payload.
func (p *sent) gso(size uint32) *sent {
	p.skb.GsoSize, p.skb.GsoSegs = size, uint32(len(p.in))/size+1
	return p
}

// do runs the program, once.
func (p *sent) do() *result {
	p.Helper()
	if p.result == nil {
		r, err := p.run(p.TB, p.program, p.in, p.skb, p.flags)
		if err != nil {
			p.Fatalf("%s: %v", p.program, err)
		}
		p.result = &r
	}
	return p.result
}

// quick runs the program without checking the counters.
func (p *sent) quick() result {
	p.Helper()
	r, err := p.exec(p.program, p.in, p.skb, p.flags)
	if err != nil {
		p.Fatalf("%s: %v", p.program, err)
	}
	return r
}

// expectation is the expected result of a program.
type expectation struct {
	verdict string
	out     frame // nil: not checked
	mark    uint32
	to      []string
	counts  counts
}

func (p *sent) expect(e expectation) *result {
	p.Helper()
	r := p.do()
	switch {
	case p.member.name != "":
		e.counts.add(fmt.Sprint("from ", p.member.Net), len(p.in))
	case p.program != "to_uplink": // or a device that is not an endpoint
		e.counts.add("from 0", len(p.in))
	case p.skb.Mark != doneMark:
		e.counts.add("to 0", len(p.in))
	}
	if r.verdict != e.verdict {
		p.Errorf("%s on %s: verdict %s, want %s", p.program, p.on, r.verdict, e.verdict)
	}
	if e.verdict != shot && r.mark != e.mark {
		p.Errorf("%s on %s: mark %#x, want %#x", p.program, p.on, r.mark, e.mark)
	}
	if p.to != nil {
		e.to = append(e.to, p.again...)
		slices.Sort(e.to)
		if diff := cmp.Diff(e.to, r.to); diff != "" {
			p.Errorf("%s on %s: redirected (-want +got):\n%s", p.program, p.on, diff)
		}
	}
	if e.out != nil {
		want := e.out.bytes(p.TB)
		if diff := cmp.Diff(strings.Split(dump(want), "\n"), strings.Split(dump(r.out), "\n")); diff != "" {
			p.Errorf("%s on %s: packet (-want +got):\n%s", p.program, p.on, diff)
		}
	}
	if diff := cmp.Diff(e.counts, r.counts); diff != "" {
		p.Errorf("%s on %s: counters that moved (-want +got):\n%s", p.program, p.on, diff)
	}
	if p.Failed() {
		p.Logf("packet in:\n%s", dump(p.in))
		p.FailNow()
	}
	return r
}

func (c counts) add(name string, bytes int) {
	n := c[name]
	c[name] = flmaps.Counter{Packets: n.Packets + 1, Bytes: n.Bytes + uint64(bytes)}
}

// events counts names without bytes; one may be "to <network>" or another counter.
func events(names []string) counts {
	c := make(counts)
	for _, n := range names {
		c.add("event "+n, 0)
	}
	return c
}

// dropped expects that the packet is dropped for this reason, and that nothing else happens.
func (p *sent) dropped(reason string, event ...string) {
	p.Helper()
	c := events(event)
	c.add("drop "+reason, len(p.in))
	p.expect(expectation{verdict: shot, counts: c})
}

// peer expects a redirect directly into a member's sandbox.
func (p *sent) peer(name string, out frame, event ...string) *result {
	p.Helper()
	c, m := events(event), p.members[name]
	n := len(out.bytes(p.TB))
	c.add("path peer", n)
	c.add(fmt.Sprint("to ", m.Net), n)
	return p.expect(expectation{verdict: redirected, out: out, to: []string{"peer " + p.names[m.IfIndex]}, counts: c})
}

// queued expects a redirect into a member's sandbox through the queue of its host end.
func (p *sent) queued(name string, out frame, event ...string) {
	p.Helper()
	c, m := events(event), p.members[name]
	n := len(out.bytes(p.TB))
	c.add("path redirect", n)
	c.add(fmt.Sprint("to ", m.Net), n)
	p.expect(expectation{verdict: redirected, out: out, to: []string{"redirect " + p.names[m.IfIndex]}, counts: c})
}

// neigh expects a redirect to the router outside.
func (p *sent) neigh(f family, out frame, event ...string) *result {
	p.Helper()
	c := events(event)
	c.add("path neigh", len(out.bytes(p.TB)))
	return p.expect(expectation{verdict: redirected, out: out, mark: doneMark,
		to: []string{fmt.Sprintf("neigh up0 via %s", f.router)}, counts: c})
}

// toHost expects a redirect out of the host port of the member's network, unchanged.
func (p *sent) toHost() { p.Helper(); p.hostPort("redirect") }

// toStack expects the same, because the kernel has to route it.
func (p *sent) toStack() { p.Helper(); p.hostPort("stack") }

func (p *sent) hostPort(path string) {
	p.Helper()
	c := make(counts)
	c.add("path "+path, len(p.in))
	c.add(fmt.Sprint("to ", p.member.Net), len(p.in))
	p.expect(expectation{verdict: redirected, out: literal(p.in),
		to: []string{"redirect " + p.names[p.member.HostPortIf]}, counts: c})
}

// flooded expects a copy to each of these.
func (p *sent) flooded(names ...string) {
	p.Helper()
	c := make(counts)
	c.add("path flood", len(p.in))
	c.add(fmt.Sprint("to ", p.member.Net), len(p.in))
	var to []string
	for _, n := range names {
		to = append(to, "clone "+p.names[p.members[n].IfIndex])
	}
	p.expect(expectation{verdict: shot, to: to, counts: c})
}

// answered expects out to be sent back to the sender.
func (p *sent) answered(out frame) {
	p.Helper()
	c := make(counts)
	c.add("path reply", len(out.bytes(p.TB)))
	p.expect(expectation{verdict: redirected, out: out, to: []string{"redirect " + p.names[p.member.IfIndex]}, counts: c})
}

// refused expects an ICMP error to be sent back to the sender, and the packet to be counted
// as dropped.
func (p *sent) refused(reason string, out frame, event ...string) {
	p.Helper()
	c := events(event)
	c.add("drop "+reason, len(p.in))
	e := expectation{verdict: redirected, out: out, to: []string{"redirect " + p.names[p.skb.Ifindex]}, counts: c}
	if p.program == "from_uplink" { // to_uplink does not change it
		e.mark = doneMark
	}
	p.expect(e)
}

// passes expects the packet to continue to the stack, or out of the device, as out.
func (p *sent) passes(out frame, event ...string) *result {
	p.Helper()
	c := events(event)
	if p.skb.Mark != doneMark {
		c.add("path pass", len(out.bytes(p.TB)))
	}
	return p.expect(expectation{verdict: next, out: out, counts: c})
}

// unchanged expects the packet to continue as it is, without events.
func (p *sent) unchanged() {
	p.Helper()
	p.passes(literal(p.in))
}

// via returns a packet of a member to a destination through its gateway.
func (s *scenario) via(f family, name string, l l4, dst netip.AddrPort) packet {
	m := s.members[name]
	p := packet{smac: m.MAC, dmac: m.GatewayMAC, src: at(f.of(m), l.sport), dst: dst,
		proto: l.proto, ttl: 64, payload: "hello"}
	if l.proto == tcp {
		p.flags = "S"
	}
	return p
}

// l4 is a protocol and the port or id that a flow starts from.
type l4 struct {
	name  string
	proto layers.IPProtocol
	sport uint16
	dport uint16
	reply string // flags of the reply
}

// protocols lists the protocols whose port or id can be translated.
func protocols() []l4 {
	return []l4{{"tcp", tcp, 40001, 80, "SA"}, {"udp", udp, 40001, 53, ""}, {"echo", echo, 40001, 0, ""}}
}

// times repeats a case for several protocols.
func times(all []l4, name string, run func(*scenario, family, l4)) []testCase {
	var cases []testCase
	for _, l := range all {
		cases = append(cases, testCase{name: l.name + "-" + name, run: func(s *scenario, f family) { run(s, f, l) }})
	}
	return cases
}

// delivered returns p as a member gets it from its gateway.
func (s *scenario) delivered(name string, p packet) packet {
	m := s.members[name]
	p.smac, p.dmac = m.GatewayMAC, m.MAC
	return p.routed()
}

// outside returns p as the uplink gets it.
func (s *scenario) outside(p packet) packet {
	p.smac, p.dmac, p.ttl = mac(routerMAC), s.uplink.mac, 64
	return p
}

// port returns the source port, or the ICMP id, of the packet in a result.
func port(f family, proto packet, b []byte) uint16 {
	l4 := 14 + 20
	if !f.is4() {
		l4 = 14 + 40
	}
	if proto.proto == echo {
		l4 += 4
	}
	return binary.BigEndian.Uint16(b[l4:])
}
