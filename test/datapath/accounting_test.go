// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/maps"
)

// accounted is how many random packets the accounting rule is checked with.
const accounted = 1_000_000

// Every packet that a program processes is counted once as received, and once as forwarded,
// passed or dropped: received = forwarded + passed + dropped. So it is on a host alone, and on one with overlay
// networks, clear and encrypted ones, and services with a backend on another host.
func TestAccounting(t *testing.T) {
	t.Run("alone", func(t *testing.T) {
		s := &scenario{TB: t, world: newWorld(t, config{vars: featureVars()})}
		s.account(accounted*3/5, s.accountingPool(), "path peer", "path neigh", "path stack", "path redirect", "path flood", "path reply", "path pass",
			"drop malformed", "drop isolated", "drop direct", "drop vlan", "drop martian", "drop bad_icmp", "drop frag_unknown", "drop ttl")
	})
	t.Run("overlay", func(t *testing.T) {
		s := &scenario{TB: t, world: newServices(t, false)}
		n := tunnels()[0]
		s.served(n)
		s.account(accounted*2/5, append(s.accountingPool(), s.overlayPool()...), "path tunnel", "path peer", "path neigh", "path stack", "path redirect",
			"path flood", "path pass", "drop no_node", "drop tunnel_source", "drop tunnel_mac", "drop clear_text", "drop not_tunnel", "drop no_member", "drop ttl")
	})
}

// account runs the programs with random packets like those of the pool. They have to move these counters, at least.
func (s *scenario) account(packets int, pool []*sent, names ...string) {
	t, w := s.TB, s.world
	must(t, w.ns.stay())
	r := rand.New(rand.NewPCG(firstSeed, 0))
	before, cached, pairs := w.counts(t), s.decisionHits(), s.pairHits()
	runs := 0
	for range packets {
		p := pool[r.IntN(len(pool))]
		frame := mutated(r, p.in)
		if len(frame) < minimal(frame) {
			continue // the kernel does not run programs on it
		}
		if _, err := w.exec(p.program, frame, p.skb, 0); err != nil {
			t.Fatalf("%s: %v\n%s", p.program, err, dump(frame))
		}
		runs++
	}
	if runs < packets*9/10 {
		t.Errorf("only %d of %d packets were sent", runs, packets)
	}
	var received, done int
	moved := w.counts(t).since(before)
	for name, c := range moved {
		switch kind, what, _ := strings.Cut(name, " "); {
		case kind == "from", kind == "to" && what == "0":
			received += int(c.Packets)
		case kind == "path", kind == "drop":
			done += int(c.Packets)
		}
	}
	if received != runs || done != runs {
		t.Errorf("%d packets were accounted as received and %d as forwarded, passed or dropped, want %d: %v", received, done, runs, moved)
	}
	if cached, pairs = s.decisionHits()-cached, s.pairHits()-pairs; cached == 0 || pairs == 0 {
		t.Errorf("%d packets of flows and %d between members took a cached path", cached, pairs)
	}
	for _, name := range names {
		if moved[name].Packets == 0 {
			t.Errorf("no packet moved %q: the random packets do not reach what they are to try", name)
		}
	}
}

// minimal returns the shortest frame of its EtherType that BPF_PROG_TEST_RUN accepts
// (bpf_prog_test_run_skb).
func minimal(frame []byte) int {
	switch {
	case len(frame) < 14:
		return 14
	case frame[12] == 0x08 && frame[13] == 0x00:
		return 14 + 20
	case frame[12] == 0x86 && frame[13] == 0xdd:
		return 14 + 40
	}
	return 14
}

// accountingPool returns packets of all kinds, for each program.
func (s *scenario) accountingPool() []*sent {
	var pool []*sent
	for _, f := range families() {
		for _, l := range append(slices.Concat(protocols(), published()), l4{name: "gre", proto: gre}) {
			for _, to := range []netip.Addr{f.uplink, f.remote, f.of(s.members["d"]), f.of(s.members["c"]), f.narrow} {
				dst := at(to, l.dport)
				for _, from := range []string{"a", "b", "e", "g"} {
					pool = append(pool, s.from(from, s.via(f, from, l, dst)))
				}
				p := s.client(f, l, dst)
				pool = append(pool, s.arrive(p), s.arrive(p.answer("SA").with(func(q *packet) { q.smac, q.dmac = p.smac, p.dmac })))
				out := p
				out.src = at(f.uplink, l.sport)
				pool = append(pool, s.leave(out, 0))
				out.src = at(f.of(s.members["a"]), l.sport)
				pool = append(pool, s.leave(out, 0))
				first, later := fragments(s.via(f, "a", l, dst).long(s.TB))
				pool = append(pool, s.from("a", first), s.from("a", later), s.arrive(p.long(s.TB).as(&fragment{offset: 32, n: 32})))
			}
			p := s.between(f, "a", "b")
			pool = append(pool, s.from("a", p), s.from("gw1", s.between(f, "gw1", "a")),
				s.from("a", p.with(func(p *packet) { p.dmac = broadcast() })))
		}
		e := s.stray(f, "a", portUnreachable(f), at(f.gw(s.members["a"]), 1), at(f.of(s.members["a"]), 2), f.gw(s.members["a"]))
		pool = append(pool, s.from("a", e), s.arrive(s.outside(errorAbout(portUnreachable(f), f.remote, f.uplink, e.payload))))
	}
	a := s.members["a"]
	ask := arp{smac: a.MAC, dmac: broadcast(), op: 1, sender: a.MAC, senderIP: a.IPv4, target4: s.members["b"].IPv4}
	return append(pool, s.from("a", ask))
}

// overlayPool returns packets to and from other nodes, in clear text and by the device that encrypts, and those of
// services.
func (s *scenario) overlayPool() []*sent {
	var pool []*sent
	for _, f := range families() {
		for _, n := range tunnels() {
			out, in := s.toFar(f, "a", n), s.fromFar(f, "a", n)
			pool = append(pool, s.from("a", out), s.from("gw1", out), s.from("a", out.with(func(p *packet) { p.dmac = broadcast() })),
				s.from("a", s.via(f, "a", l4{proto: udp, sport: 7, dport: 9}, at(n.addr(f), 9))), s.from("a", s.toFar(f, "a", n).long(s.TB)))
			for _, inner := range []packet{in, in.with(func(p *packet) { p.ttl = 1 }), in.with(func(p *packet) { p.dmac = awayMAC }),
				in.with(func(p *packet) { p.smac = awayMAC }), in.with(func(p *packet) { p.dmac = broadcast() })} {
				w := s.wrapped(n, inner)
				pool = append(pool, s.arrive(w), s.arrive(w.with(func(w *wrap) { w.vni = secretVNI })), s.arrive(w.with(func(w *wrap) { w.vni = otherVNI })),
					s.arrive(w.with(func(w *wrap) { w.src, w.dst = f.remote, f.uplink })))
			}
			vip := s.toVIP(f, "a")
			published := s.client(f, l4{proto: tcp, sport: 40000, dport: servicePort}, at(f.uplink, servicePort))
			pool = append(pool, s.from("a", vip), s.from("gw1", vip), s.arrive(s.wrapped(n, n.forwarded(f, vip).answer("SA"))), s.arrive(published))
			got := published
			got.smac = s.members["a"].GatewayMAC
			pool = append(pool, s.arrive(s.wrapped(n, n.forwarded(f, got).answer("SA"))))
			away := out.with(func(p *packet) { p.dmac = awayMAC })
			pool = append(pool, s.from("a", away))
		}
		for _, to := range []string{"d", "nobody"} {
			pool = append(pool, s.decrypted(f, to))
		}
	}
	return pool
}

// decrypted returns a packet that arrives by the device that encrypts, for a member of network 2. It has no Ethernet header: the
// kernel takes its first bytes for one, and the EtherType of IPv6 from the source address.
func (s *scenario) decrypted(f family, to string) *sent {
	node := tunnel{node: 9 + maps.EncryptedNode, mac: farMAC, local: localWG, remote: ip("fd00:aaaa:86dd::20")}
	put := func(_ bool, err error) { s.Helper(); must(s.TB, err) }
	put(s.set.Nodes.Put(maps.Node{ID: node.node, Local: node.local, Remote: node.remote, IfIndex: s.other.index, Encrypted: true}))
	put(s.set.NodeAddrs.Put(maps.NodeAddr{Addr: node.remote, Node: node.node}))
	put(s.set.HostAddrs.Put(node.local))
	must(s.TB, s.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netOther, MAC: farMAC, Node: node.node}))
	p := s.fromFar(f, "d", tunnels()[0]).with(func(p *packet) {
		if p.dmac = s.members["d"].MAC; to != "d" {
			p.dmac = awayMAC
		}
	})
	w := s.wrapped(node, p).with(func(w *wrap) { w.vni = secretVNI })
	by := s.arrive(literal(w.bytes(s.TB)[14:]))
	by.program, by.skb.Ifindex, by.skb.IngressIfindex = "from_tunnel", s.other.index, s.other.index
	return by
}

// mutated returns a frame with random changes: often none, or so few that it still has a
// meaning.
func mutated(r *rand.Rand, frame []byte) []byte {
	b := slices.Clone(frame)
	switch r.IntN(8) {
	case 0: // other headers
		for range 1 + r.IntN(4) {
			b[12+r.IntN(min(len(b)-12, 60))] = byte(r.Uint32())
		}
	case 1: // an address or a port, so that flows match or do not
		b[len(b)-1-r.IntN(len(b)-14)] ^= 1 << r.IntN(8)
	case 2: // cut
		b = b[:r.IntN(len(b))]
	case 3: // tagged
		tags := tagsInFrame()
		t := tags[r.IntN(len(tags))]
		var head []byte
		for _, tag := range t {
			head = append(head, byte(tag[0]>>8), byte(tag[0]), byte(tag[1]>>8), byte(tag[1]))
		}
		b = slices.Concat(b[:12], head, b[12:])
	case 4: // hop limit
		if b[12] == 0x08 {
			b[22] = byte(r.IntN(3))
		} else {
			b[21] = byte(r.IntN(3))
		}
	}
	return b
}
