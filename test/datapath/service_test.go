// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/maps"
)

const (
	serviceNumber = 900
	servicePort   = 8088 // published; the backends' is 80
)

var (
	vipMAC     = memberMAC(netPlain, 200)
	farHostMAC = memberMAC(netPlain, 250) // of node4 itself
	far6Host   = memberMAC(netPlain, 251) // of node6
)

func (f family) vip() netip.Addr      { return f.memberOf(200) }
func (f family) nodeAddr() netip.Addr { return f.memberOf(249) }

// memberOf returns an address of network 1.
func (f family) memberOf(host uint32) netip.Addr {
	if f.is4() {
		return memberIP4(netPlain, host)
	}
	return memberIP6(netPlain, host)
}

// hostMAC returns the MAC of the node behind the tunnel itself.
func (n tunnel) hostMAC() maps.MAC {
	if n.node == node4 {
		return farHostMAC
	}
	return far6Host
}

// newServices returns an overlay whose network 1 has a service, at a virtual address and at a published
// port.
func newServices(tb testing.TB, noting bool) *world {
	tb.Helper()
	return newServicesWith(tb, noting, kernelHas(6, 3))
}

// newServicesWith sets what newOverlayWith does.
func newServicesWith(tb testing.TB, noting bool, decapL3 uint8) *world {
	tb.Helper()
	w := newOverlayWith(tb, noting, decapL3)
	put := func(_ bool, err error) { tb.Helper(); must(tb, err) }
	for _, m := range w.members {
		if m.Net == netPlain {
			w.change(tb, m.name, func(e *maps.Endpoint) { e.Flags |= maps.RemotePool })
		}
	}
	hp := w.members["gw1"]
	put(w.set.Tunnels.Put(maps.Tunnel{Net: netPlain, VNI: plainVNI, MTU: tunnelMTU, NodeMAC: nodeMAC, GatewayMAC: hp.MAC,
		HostPortIf: hp.IfIndex, Node4: memberIP4(netPlain, 249), Node6: memberIP6(netPlain, 249)}))
	put(w.set.VNIs.Put(maps.VNI{VNI: plainVNI, Net: netPlain, Services: true}))
	put(w.set.FDB.Put(maps.FDBEntry{Net: netPlain, MAC: vipMAC, Flags: maps.Service}))
	for node, mac := range map[uint16]maps.MAC{node4: farHostMAC, node6: far6Host} {
		must(tb, w.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netPlain, MAC: mac, Node: node, Host: true}))
	}
	for _, f := range families() {
		v6 := !f.is4()
		put(w.set.Neighbours.Put(maps.Neighbour{Net: netPlain, Addr: f.vip(), MAC: vipMAC, Flags: maps.Service}))
		put(w.set.Publishes.Put(maps.Publish{HostIP: f.vip(), ID: serviceNumber, Pool: true, IPv6: v6}))
		put(w.set.Publishes.Put(maps.Publish{HostIP: f.any, Port: servicePort, Proto: uint8(tcp), BackendPort: 80, ID: serviceNumber, Pool: true, IPv6: v6}))
	}
	return w
}

// served makes the member behind the tunnel the only backend.
func (s *scenario) served(n tunnel) {
	s.Helper()
	for _, f := range families() {
		_, err := s.set.Pools.PutAll([]maps.Pool{{Service: serviceNumber, IPv6: !f.is4(), Members: []maps.PoolMember{
			{ID: 7 << 32, Addr: n.addr(f), IfIndex: maps.ViaNode(netPlain), Net: netPlain},
		}}})
		must(s.TB, err)
	}
}

// TestServices runs a service whose backend is on another node.
func TestServices(t *testing.T) {
	cases := slices.Concat(virtualCases(), ingressCases(), backendCases())
	t.Run("noting", func(t *testing.T) { runIn(t, newServices(t, true), cases) })
	t.Run("shipped", func(t *testing.T) { runIn(t, newServices(t, false), cases) })
}

// TestAnswersByStack has answers to clients outside whose tunnel is of the other family. Without the flags of Linux 6.3 the
// stack sends them to the next hop, and they are translated where they leave.
func TestAnswersByStack(t *testing.T) {
	runIn(t, newServicesWith(t, true, 0), over("other_family-stack", func(s *scenario, f family, n tunnel) {
		if f.is4() == n.local.Is4() {
			return
		}
		s.served(n)
		hp, p := s.members["gw1"], s.client(f, l4{"tcp", tcp, 5000, servicePort, "SA"}, at(f.uplink, servicePort))
		got := n.forwarded(f, p).with(func(p *packet) { p.smac = nodeMAC })
		s.arrive(p).tunnelled(n, got, 0, "ct_created")
		answer := got.answer("SA").with(func(p *packet) { p.dmac = hp.MAC })
		r := s.arrive(s.wrapped(n, answer)).do()
		if want := answer.bytes(s.TB); r.verdict != redirected || r.counts["path stack"].Packets != 1 || !bytes.Equal(r.out, want) {
			s.Fatalf("verdict %s, counters %v, packet:\n%s\nwant:\n%s", r.verdict, r.counts, dump(r.out), dump(want))
		}
		out := answer.routed().with(func(a *packet) { a.src = p.dst })
		left := s.leave(answer.routed(), 0).do()
		if want := out.bytes(s.TB); !bytes.Equal(left.out, want) {
			s.Errorf("leaves as:\n%s\nwant:\n%s", dump(left.out), dump(want))
		}
	}))
}

// toVIP returns a packet of a member to the virtual address.
func (s *scenario) toVIP(f family, from string) packet {
	m := s.members[from]
	return packet{smac: m.MAC, dmac: vipMAC, src: at(f.of(m), 5000), dst: at(f.vip(), 80), proto: tcp, flags: "S", ttl: 64, payload: "hello"}
}

// forwarded returns p as the node of the backend receives it.
func (n tunnel) forwarded(f family, p packet) packet {
	p.dmac, p.dst = n.mac, at(n.addr(f), 80)
	return p.routed()
}

// translated returns got as the client receives it: as an answer to p.
func translated(p, got packet, smac, dmac maps.MAC) packet {
	out := got.answer("SA").routed()
	out.smac, out.dmac = smac, dmac
	out.src, out.dst = p.dst, p.src
	return out
}

// droppedInside expects that the packet is dropped after its outer headers were removed.
func (p *sent) droppedInside(in frame, reason string) {
	p.Helper()
	c := make(counts)
	c.add("drop "+reason, len(in.bytes(p.TB)))
	p.expect(expectation{verdict: shot, counts: c})
}

func virtualCases() []testCase {
	return slices.Concat(
		over("vip_of_remote_backend-tunnelled", func(s *scenario, f family, n tunnel) {
			s.served(n)
			a, p := s.members["a"], s.toVIP(f, "a")
			got := n.forwarded(f, p)
			s.from("a", p).tunnelled(n, got, 0, "ct_created")
			s.arrive(s.wrapped(n, got.answer("SA"))).peer("a", translated(p, got, a.GatewayMAC, a.MAC))
			p.flags, got.flags = "A", "A"
			s.from("a", p).tunnelled(n, got, 0, "ct_confirmed")
			s.from("a", p).tunnelled(n, got, 0)
		}),
		over("vip_and_direct_flow_of_one_port-two_ports", func(s *scenario, f family, n tunnel) {
			s.served(n)
			a, p := s.members["a"], s.toVIP(f, "a")
			s.from("a", p).tunnelled(n, n.forwarded(f, p), 0, "ct_created")
			direct := s.toFar(f, "a", n).with(func(p *packet) { p.src = at(p.src.Addr(), 5000) })
			r := s.from("a", direct).quick()
			inner := r.out[len(r.out)-len(direct.bytes(s.TB)):]
			moved := port(f, direct, inner)
			if moved == 5000 || moved > 32767 {
				s.Fatalf("the direct flow leaves from port %d", moved)
			}
			sent := direct.with(func(p *packet) { p.src = at(p.src.Addr(), moved) })
			answer := direct.answer("SA").routed().with(func(p *packet) { p.smac, p.dmac = a.GatewayMAC, a.MAC })
			s.arrive(s.wrapped(n, sent.answer("SA"))).peer("a", answer)
		}),
		over("direct_flow-as_it_is", func(s *scenario, f family, n tunnel) {
			p := s.toFar(f, "a", n)
			s.from("a", p).tunnelled(n, p, 0)
			s.arrive(s.wrapped(n, p.answer("SA"))).peer("a", p.answer("SA"))
		}),
		over("vip_of_high_port-low_port", func(s *scenario, f family, n tunnel) {
			s.served(n)
			p := s.toVIP(f, "a").with(func(p *packet) { p.src = at(p.src.Addr(), 45000) })
			r := s.from("a", p).quick()
			if moved := port(f, p, r.out[len(r.out)-len(p.bytes(s.TB)):]); moved > 32767 {
				s.Errorf("the flow leaves from port %d", moved)
			}
		}),
		over("vip_for_host-tunnelled", func(s *scenario, f family, n tunnel) {
			s.served(n)
			hp := s.members["gw1"]
			p := s.toVIP(f, "gw1").with(func(p *packet) { p.src = at(f.nodeAddr(), 5000) })
			got := n.forwarded(f, p).with(func(p *packet) { p.smac = nodeMAC })
			s.from("gw1", p).tunnelled(n, got, 0, "ct_created")
			s.arrive(s.wrapped(n, got.answer("SA"))).queued("gw1", translated(p, got, hp.MAC, hp.MAC))
		}),
		over("vip_too_big-packet_too_big", func(s *scenario, f family, n tunnel) {
			s.served(n)
			mtu := 1450
			if !n.local.Is4() {
				mtu = 1430
			}
			p := s.toVIP(f, "a").with(func(p *packet) { p.payload = "" })
			p.payload = strings.Repeat("x", mtu+1-len(p.ipBytes(s.TB)))
			s.from("a", p).refused("too_big", unpadded{s.complains(f, p, packetTooBig(f, uint32(mtu)))}, "ct_created")
		}),
		over("vip_from_tunnel-no_member", func(s *scenario, f family, n tunnel) {
			p := s.fromFar(f, "a", n).with(func(p *packet) { p.dmac = vipMAC })
			s.arrive(s.wrapped(n, p)).droppedInside(p, "no_member")
		}),
		over("backend_gone-no_member", func(s *scenario, f family, n tunnel) {
			s.served(n)
			_, err := s.set.PeerNeighbours.Delete(netPlain, n.addr(f))
			must(s.TB, err)
			defer func() {
				must(s.TB, s.set.PeerNeighbours.Put(maps.PeerNeighbour{Net: netPlain, Addr: n.addr(f), MAC: n.mac, Node: n.node}))
			}()
			s.from("a", s.toVIP(f, "a")).dropped("no_member", "ct_created")
		}),
		over("unreachable_backend-told", func(s *scenario, f family, n tunnel) {
			s.served(n)
			a := s.members["a"]
			p := s.toVIP(f, "a").with(func(p *packet) { p.proto, p.flags = udp, "" })
			got := n.forwarded(f, p)
			s.from("a", p).tunnelled(n, got, 0, "ct_created")
			for _, kind := range errorKinds(f) {
				e := errorAbout(kind, n.addr(f), f.of(a), s.quoting(got))
				e.smac, e.dmac, e.ttl = n.mac, a.MAC, 64
				want := errorAbout(kind, f.vip(), f.of(a), s.quoting(p.routed()))
				want.smac, want.dmac, want.ttl = a.GatewayMAC, a.MAC, 63
				s.arrive(s.wrapped(n, e)).peer("a", want)
			}
		}),
	)
}

// A client outside comes to this host, and the backend is on another.
func ingressCases() []testCase {
	l := l4{"tcp", tcp, 5000, servicePort, "SA"}
	return slices.Concat(
		over("published_on_remote_backend-tunnelled", func(s *scenario, f family, n tunnel) {
			s.served(n)
			hp, p := s.members["gw1"], s.client(f, l, at(f.uplink, servicePort))
			got := n.forwarded(f, p).with(func(p *packet) { p.smac = nodeMAC })
			s.arrive(p).tunnelled(n, got, 0, "ct_created")
			answer := got.answer("SA").with(func(p *packet) { p.dmac = hp.MAC })
			out := answer.routed().with(func(a *packet) { a.src = p.dst })
			s.arrive(s.wrapped(n, answer)).neigh(f, out)
			s.leave(out, doneMark).unchanged()
		}),
		over("stranger_to_gateway-no_member", func(s *scenario, f family, n tunnel) {
			p := s.fromFar(f, "a", n).with(func(p *packet) { p.dmac, p.dst = s.members["gw1"].MAC, at(f.remote, 5000) })
			s.arrive(s.wrapped(n, p)).droppedInside(p, "no_member")
		}),
		over("answer_from_outside-direct", func(s *scenario, f family, n tunnel) {
			s.served(n)
			p := s.toVIP(f, "a")
			s.from("a", p).tunnelled(n, n.forwarded(f, p), 0, "ct_created")
			s.arrive(s.outside(n.forwarded(f, p).answer("SA"))).dropped("direct")
		}),
		over("published_for_other_network-by_node", func(s *scenario, f family, n tunnel) {
			s.served(n)
			d := s.members["d"]
			p := s.via(f, "d", l, at(f.uplink, servicePort))
			got := n.forwarded(f, p).with(func(p *packet) { p.smac, p.src = nodeMAC, at(f.nodeAddr(), 5000) })
			s.from("d", p).tunnelled(n, got, 0, "ct_created")
			s.arrive(s.wrapped(n, got.answer("SA"))).peer("d", translated(p, got, d.GatewayMAC, d.MAC))
		}),
	)
}

// The backend is here, and a client outside comes to another node.
func backendCases() []testCase {
	return slices.Concat(
		over("client_by_other_node-answered_by_it", func(s *scenario, f family, n tunnel) {
			a := s.members["a"]
			p := packet{smac: n.hostMAC(), dmac: a.MAC, src: at(f.remote, 5000), dst: at(f.of(a), 80), proto: tcp, flags: "S", ttl: 63, payload: "hello"}
			s.arrive(s.wrapped(n, p)).peer("a", p, "ct_created")
			answer := p.answer("SA").with(func(p *packet) { p.dmac = a.GatewayMAC })
			s.from("a", answer).tunnelled(n, answer.routed(), 0)
			p.flags = "A"
			s.arrive(s.wrapped(n, p)).peer("a", p, "ct_confirmed")
			s.from("a", answer.with(func(p *packet) { p.flags = "A" })).tunnelled(n, answer.routed().with(func(p *packet) { p.flags = "A" }), 0)
		}),
		over("host_of_other_node-no_flow", func(s *scenario, f family, n tunnel) {
			a := s.members["a"]
			p := packet{smac: n.hostMAC(), dmac: a.MAC, src: at(f.memberOf(250), 5000), dst: at(f.of(a), 80), proto: tcp, flags: "S", ttl: 64, payload: "hello"}
			s.arrive(s.wrapped(n, p)).peer("a", p)
		}),
	)
}
