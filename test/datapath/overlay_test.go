// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-net/fairlead/maps"
)

// The overlay of a world: network 1 spans three nodes, of which one is reached over IPv6, and one by
// a device that encrypts; network 2 is encrypted.
const (
	tunnelPort = 4789
	plainVNI   = 4097
	secretVNI  = 4098
	otherVNI   = 4099 // of another program's
	tunnelMTU  = 1450

	node4       = 5
	node6       = 6
	nodeAway    = 7 // there is no route to it
	nodeSecret  = 5 + maps.EncryptedNode
	tunnelMark  = 0xf1a30000 // TUNNEL_MARK
	copyMark    = 0xf1a40000 // COPY_MARK
	vxlanHeader = 8
)

var (
	nodeMAC  = maps.MAC{2, 0x42, 10, 1, 0, 250} // of this host, in network 1
	farMAC   = memberMAC(netPlain, 101)         // a member on node4
	far6MAC  = memberMAC(netPlain, 102)         // on node6
	awayMAC  = memberMAC(netPlain, 103)
	nodeTo4  = ip("198.51.100.20")
	nodeTo6  = ip("2001:db8:0:2::20")
	nodeToWG = ip("fd00:aaaa::20")
	localWG  = ip("fd00:aaaa::10")
)

// tunnel is an underlay that each case is run with.
type tunnel struct {
	name          string
	node          uint16
	mac           maps.MAC // of the member behind it
	host          uint32   // of its addresses
	local, remote netip.Addr
}

func tunnels() []tunnel {
	return []tunnel{
		{"over_ipv4", node4, farMAC, 101, uplink4, nodeTo4},
		{"over_ipv6", node6, far6MAC, 102, uplink6, nodeTo6},
	}
}

// addr returns the address of the member behind the tunnel.
func (n tunnel) addr(f family) netip.Addr {
	if f.is4() {
		return memberIP4(netPlain, n.host)
	}
	return memberIP6(netPlain, n.host)
}

func newOverlay(tb testing.TB, noting bool) *world {
	tb.Helper()
	return newOverlayWith(tb, noting, kernelHas(6, 3))
}

// newOverlayWith sets whether the programs use the flags for decapsulation that came with Linux 6.3.
func newOverlayWith(tb testing.TB, noting bool, decapL3 uint8) *world {
	tb.Helper()
	w := newWorld(tb, config{noteRedirects: noting, vars: with(featureVars(), map[string]any{
		"cfg_vxlan_port": uint16(tunnelPort), "cfg_decap_l3": decapL3,
	})})
	put := func(_ bool, err error) { tb.Helper(); must(tb, err) }
	up, hp := w.uplink.index, w.members["gw1"]
	for _, n := range []maps.Node{
		{ID: node4, Local: uplink4, Remote: nodeTo4, IfIndex: up, MTU: 1450},
		{ID: node6, Local: uplink6, Remote: nodeTo6, IfIndex: up, MTU: 1430},
		{ID: nodeAway, Local: uplink4, Remote: ip("198.51.100.21")},
		{ID: nodeSecret, Local: localWG, Remote: nodeToWG, IfIndex: w.other.index, Encrypted: true},
	} {
		put(w.set.Nodes.Put(n))
		put(w.set.NodeAddrs.Put(maps.NodeAddr{Addr: n.Remote, Node: n.ID}))
	}
	put(w.set.Tunnels.Put(maps.Tunnel{Net: netPlain, VNI: plainVNI, MTU: tunnelMTU, NodeMAC: nodeMAC,
		GatewayMAC: hp.MAC, HostPortIf: hp.IfIndex}))
	put(w.set.Tunnels.Put(maps.Tunnel{Net: netOther, VNI: secretVNI, Encrypted: true}))
	put(w.set.VNIs.Put(maps.VNI{VNI: plainVNI, Net: netPlain}))
	put(w.set.VNIs.Put(maps.VNI{VNI: secretVNI, Net: netOther, Encrypted: true}))
	put(w.set.TunnelNodes.Set(netPlain, []uint16{node4, node6, nodeAway}))
	for mac, node := range map[maps.MAC]uint16{farMAC: node4, far6MAC: node6, awayMAC: nodeAway} {
		must(tb, w.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netPlain, MAC: mac, Node: node}))
		for _, a := range []netip.Addr{memberIP4(netPlain, uint32(mac[5])), memberIP6(netPlain, uint32(mac[5])), linkLocal(mac)} {
			must(tb, w.set.PeerNeighbours.Put(maps.PeerNeighbour{Net: netPlain, Addr: a, MAC: mac, Node: node}))
		}
	}
	must(tb, w.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netOther, MAC: farMAC, Node: nodeSecret}))
	return w
}

// TestOverlay runs all cases with programs that record where they redirect to, and those whose result
// depends on more than that with the programs as they ship.
func TestOverlay(t *testing.T) {
	cases := slices.Concat(tunnelOutCases(), tunnelInCases(), tunnelCacheCases())
	t.Run("noting", func(t *testing.T) { runIn(t, newOverlay(t, true), cases) })
	t.Run("shipped", func(t *testing.T) { runIn(t, newOverlay(t, false), slices.Concat(cases, tunnelSumCases())) })
}

// TestShortFrames delivers frames that are shorter than the outer header. Without the flags of Linux 6.3 the kernel
// requires as much as an IPv6 header from what arrives over IPv6: such a frame is padded.
func TestShortFrames(t *testing.T) {
	for _, flags := range []uint8{0, kernelHas(6, 3)} {
		cases := over("short_frame", func(s *scenario, f family, n tunnel) {
			p := s.fromFar(f, "a", n).with(func(p *packet) { p.proto, p.payload = udp, "x" })
			want := p.bytes(s.TB)[:14+len(p.ipBytes(s.TB))] // without Ethernet's own padding
			r := s.arrive(s.wrapped(n, p).with(func(w *wrap) { w.in = want })).do()
			if least := 14 + 40; flags == 0 && !n.local.Is4() && len(want) < least {
				want = append(want, make([]byte, least-len(want))...)
			}
			if r.verdict != redirected || !bytes.Equal(r.out, want) {
				s.Errorf("verdict %s, counters %v, packet:\n%s\nwant:\n%s", r.verdict, r.counts, dump(r.out), dump(want))
			}
		})
		t.Run(fmt.Sprint("flags ", flags), func(t *testing.T) { runIn(t, newOverlayWith(t, true, flags), cases) })
	}
}

// over repeats a case for both underlays.
func over(name string, run func(*scenario, family, tunnel)) []testCase {
	var cases []testCase
	for _, n := range tunnels() {
		cases = append(cases, testCase{name: name + "-" + n.name, run: func(s *scenario, f family) { run(s, f, n) }})
	}
	return cases
}

// toFar returns a packet from a member to the member behind the tunnel.
func (s *scenario) toFar(f family, from string, n tunnel) packet {
	a := s.members[from]
	return packet{smac: a.MAC, dmac: n.mac, src: at(f.of(a), 1000), dst: at(n.addr(f), 80),
		proto: tcp, flags: "S", ttl: 64, payload: "hello"}
}

// fromFar returns a packet from the member behind the tunnel.
func (s *scenario) fromFar(f family, to string, n tunnel) packet {
	return s.toFar(f, to, n).answer("SA")
}

// wrap is a frame in the outer headers of a tunnel.
type wrap struct {
	tunnel     tunnel
	in         []byte
	vni        uint32
	arrives    bool // from the node; else it leaves for it
	sport      uint16
	dport      uint16
	ecn        uint8
	smac, dmac maps.MAC // of the outer frame
	src, dst   netip.Addr
	flags      uint8 // of VXLAN
	options    []layers.IPv4Option
	morefrags  bool
}

func (w wrap) bytes(tb testing.TB) []byte {
	tb.Helper()
	if !w.src.IsValid() {
		w.src, w.dst = w.tunnel.local, w.tunnel.remote
		if w.arrives {
			w.src, w.dst = w.dst, w.src
		}
	}
	vxlan := make([]byte, vxlanHeader)
	vxlan[0] = w.flags
	binary.BigEndian.PutUint32(vxlan[4:], w.vni<<8)
	udp := &layers.UDP{SrcPort: layers.UDPPort(w.sport), DstPort: layers.UDPPort(w.dport)}
	eth := &layers.Ethernet{SrcMAC: w.smac[:], DstMAC: w.dmac[:], EthernetType: layers.EthernetTypeIPv4}
	var network gopacket.SerializableLayer
	if w.src.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, TOS: w.ecn, Protocol: layers.IPProtocolUDP, Flags: layers.IPv4DontFragment,
			SrcIP: w.src.AsSlice(), DstIP: w.dst.AsSlice(), Options: w.options}
		if w.morefrags {
			ip.Flags = layers.IPv4MoreFragments
		}
		network = ip
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		network = &layers.IPv6{Version: 6, HopLimit: 64, TrafficClass: w.ecn, NextHeader: layers.IPProtocolUDP,
			SrcIP: w.src.AsSlice(), DstIP: w.dst.AsSlice()}
	}
	buf := gopacket.NewSerializeBuffer()
	must(tb, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, eth, network, udp,
		gopacket.Payload(append(vxlan, w.in...))))
	b := slices.Clone(buf.Bytes())
	if w.src.Is4() {
		header := b[14 : 14+int(b[14]&15)*4]
		header[10], header[11] = 0, 0
		binary.BigEndian.PutUint16(header[10:], ^sum(header))
	}
	return b
}

// sum is the one's complement sum of bytes (RFC 1071).
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// wrapped returns the frame as it arrives through the tunnel.
func (s *scenario) wrapped(n tunnel, in frame) wrap {
	return wrap{tunnel: n, in: in.bytes(s.TB), vni: plainVNI, arrives: true, sport: 50000, dport: tunnelPort,
		smac: mac(routerMAC), dmac: s.uplink.mac, flags: 8}
}

func (w wrap) with(change func(*wrap)) wrap {
	change(&w)
	return w
}

// sourcePort returns that of an outer UDP header.
func sourcePort(n tunnel, b []byte) uint16 {
	if n.local.Is4() {
		return binary.BigEndian.Uint16(b[34:])
	}
	return binary.BigEndian.Uint16(b[54:])
}

// tunnelled expects that the frame leaves through the tunnel with in inside. The outer Ethernet header
// is not filled in yet.
func (p *sent) tunnelled(n tunnel, in frame, ecn uint8, event ...string) {
	p.Helper()
	p.leavesNode(n, in, ecn, doneMark, "neigh up0", event...)
}

func (p *sent) leavesNode(n tunnel, in frame, ecn uint8, mark uint32, to string, event ...string) {
	p.Helper()
	out := p.do().out
	if len(out) < 60 {
		p.Fatalf("%s on %s: verdict %s, counters %v, packet:\n%s", p.program, p.on, p.result.verdict, p.result.counts, dump(out))
	}
	sport := sourcePort(n, out)
	if sport < 49152 {
		p.Errorf("source port %d, want 49152 or more", sport)
	}
	w := wrap{tunnel: n, in: in.bytes(p.TB), vni: plainVNI, sport: sport, dport: tunnelPort, ecn: ecn, flags: 8}
	w.dmac, w.smac = maps.MAC(out[:6]), maps.MAC(out[6:12])
	c := events(event)
	c.add("path tunnel", len(p.in))
	p.expect(expectation{verdict: redirected, out: w, mark: mark, to: []string{to}, counts: c})
}

func tunnelOutCases() []testCase {
	return slices.Concat(tunnelledOut(), notIPOut(), tooBigOut(), refusedOut(), resolvedOut(), floodedOut())
}

func tunnelledOut() []testCase {
	ecn := func(inner, outer uint8) []testCase {
		return over(fmt.Sprintf("ecn_%d-leaves", inner), func(s *scenario, f family, n tunnel) {
			p := s.toFar(f, "a", n).with(func(p *packet) { p.tos = inner | 0xb8 })
			s.from("a", p).tunnelled(n, p, outer)
		})
	}
	return slices.Concat(
		ecn(0, 0), ecn(1, 1), ecn(2, 2), ecn(3, 2),
		over("udp-leaves", func(s *scenario, f family, n tunnel) {
			p := s.toFar(f, "a", n).with(func(p *packet) { p.proto, p.ttl = udp, 1 })
			s.from("a", p).tunnelled(n, p, 0)
		}),
		over("by_gateway-routed", func(s *scenario, f family, n tunnel) {
			p := s.toFar(f, "a", n).with(func(p *packet) { p.dmac = s.members["a"].GatewayMAC })
			s.from("a", p).tunnelled(n, p.with(func(p *packet) { p.dmac = n.mac; p.ttl-- }), 0)
		}),
		over("fragments-leave", func(s *scenario, f family, n tunnel) {
			first, later := fragments(s.toFar(f, "a", n).with(func(p *packet) { p.proto = udp }).long(s.TB))
			s.from("a", later).tunnelled(n, later, 0)
			s.from("a", first).tunnelled(n, first, 0)
		}),
		over("from_host-with_the_nodes_mac", func(s *scenario, f family, n tunnel) {
			p := s.toFar(f, "gw1", n)
			s.from("gw1", p).tunnelled(n, p.with(func(p *packet) { p.smac = nodeMAC }), 0)
		}),
		over("aggregate_of_the_sandbox-tunnel_failed", func(s *scenario, f family, n tunnel) {
			// In a test run an aggregate has no type, so the kernel refuses to encapsulate it, as it
			// does with one that the sandbox encapsulated. TestTransfers sends real ones.
			p := s.toFar(f, "a", n).with(func(p *packet) { p.flags, p.payload = "A", strings.Repeat("x", 2800) })
			s.from("a", p).gso(1300).dropped("tunnel_failed")
		}),
		over("one_flow_one_port", func(s *scenario, f family, n tunnel) {
			ports := make(map[uint16]bool)
			for range 3 {
				ports[sourcePort(n, s.from("a", s.toFar(f, "a", n)).quick().out)] = true
			}
			if len(ports) != 1 {
				s.Errorf("one flow left from ports %v", ports)
			}
			for port := range uint16(20) {
				p := s.toFar(f, "a", n).with(func(p *packet) { p.src = at(p.src.Addr(), 2000+port) })
				ports[sourcePort(n, s.from("a", p).quick().out)] = true
			}
			if len(ports) < 15 {
				s.Errorf("21 flows left from %d ports", len(ports))
			}
		}),
	)
}

// Frames that are not IP are received by their own device once more, because the kernel cannot send
// them to a next hop.
func notIPOut() []testCase {
	return over("not_ip-leaves_in_two_steps", func(s *scenario, f family, n tunnel) {
		p := raw{smac: s.members["a"].MAC, dmac: n.mac, ethertype: experimental, payload: strings.Repeat("anything", 8)}
		dev := s.names[s.members["a"].IfIndex]
		first := s.from("a", p)
		first.leavesNode(n, p, 0, tunnelMark|uint32(n.node), "redirect "+dev+" flags 0x1")
		again := s.from("a", literal(first.result.out))
		again.skb.Mark = tunnelMark | uint32(n.node)
		r := again.do()
		if r.verdict != redirected || r.mark != doneMark || len(r.counts) != 0 {
			s.Errorf("again: verdict %s, mark %#x, counters that moved: %v", r.verdict, r.mark, r.counts)
		}
		if s.to != nil && !slices.Equal(r.to, []string{"neigh up0"}) {
			s.Errorf("again: redirected %v", r.to)
		}
	})
}

func tooBigOut() []testCase {
	mtu := func(n tunnel) int {
		if n.local.Is4() {
			return 1450
		}
		return 1430
	}
	sized := func(s *scenario, f family, from string, n tunnel, size int) packet {
		p := s.toFar(f, from, n).with(func(p *packet) { p.flags, p.payload = "A", "" })
		p.payload = strings.Repeat("x", size-len(p.ipBytes(s.TB)))
		return p
	}
	return slices.Concat(
		over("fits-leaves", func(s *scenario, f family, n tunnel) {
			p := sized(s, f, "a", n, mtu(n))
			s.from("a", p).tunnelled(n, p, 0)
		}),
		over("too_big-packet_too_big", func(s *scenario, f family, n tunnel) {
			p := sized(s, f, "a", n, mtu(n)+1)
			s.from("a", p).refused("too_big", unpadded{s.complains(f, p, packetTooBig(f, uint32(mtu(n))))})
		}),
		over("too_big_of_host-packet_too_big", func(s *scenario, f family, n tunnel) {
			p := sized(s, f, "gw1", n, mtu(n)+1)
			e := s.complains(f, p, packetTooBig(f, uint32(mtu(n))))
			e.src = at(n.addr(f), 0)
			s.from("gw1", p).refused("too_big", unpadded{e})
		}),
		over("segments_too_big-packet_too_big", func(s *scenario, f family, n tunnel) {
			p := sized(s, f, "a", n, 2900)
			s.from("a", p).gso(uint32(mtu(n))).refused("too_big", unpadded{s.complains(f, p, packetTooBig(f, uint32(mtu(n))))})
		}),
		over("not_ip_too_big-too_big", func(s *scenario, f family, n tunnel) {
			s.from("a", raw{smac: s.members["a"].MAC, dmac: n.mac, ethertype: experimental,
				payload: strings.Repeat("x", mtu(n)+1)}).dropped("too_big")
		}),
	)
}

func refusedOut() []testCase {
	return []testCase{
		{name: "no_route_to_node-no_node", run: func(s *scenario, f family) {
			p := s.toFar(f, "a", tunnels()[0]).with(func(p *packet) { p.dmac = awayMAC })
			s.from("a", p).dropped("no_node")
		}},
		{name: "encrypted_by_clear_node-clear_text", run: func(s *scenario, f family) {
			must(s.TB, s.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netOther, MAC: far6MAC, Node: node6}))
			p := s.between(f, "d", "d").with(func(p *packet) { p.dmac = far6MAC })
			s.from("d", p).dropped("clear_text")
		}},
		{name: "icc_off-icc", run: func(s *scenario, f family) {
			must(s.TB, s.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netNoICC, MAC: farMAC, Node: node4}))
			p := s.between(f, "e", "f").with(func(p *packet) { p.dmac = farMAC })
			s.from("e", p).dropped("icc")
		}},
		{name: "mac_unknown-no_member", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.dmac = memberMAC(netPlain, 99) })
			s.from("a", p).dropped("no_member")
		}},
		{name: "unknown_by_gateway-no_member", run: func(s *scenario, f family) {
			p := s.toFar(f, "a", tunnels()[0]).with(func(p *packet) { p.dmac = s.members["a"].GatewayMAC })
			p.dst = at(f.memberOf(99), 80)
			s.from("a", p).dropped("no_member")
		}},
		{name: "member_here_and_there-peer", run: func(s *scenario, f family) {
			must(s.TB, s.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netPlain, MAC: s.members["b"].MAC, Node: node4}))
			defer s.set.PeerFDB.Delete(netPlain, s.members["b"].MAC)
			p := s.between(f, "a", "b")
			s.from("a", p).peer("b", p)
		}},
	}
}

// Addresses of members on other nodes are answered here.
func resolvedOut() []testCase {
	n := tunnels()[0]
	far := member{Endpoint: maps.Endpoint{MAC: n.mac, IPv4: memberIP4(netPlain, n.host), IPv6: memberIP6(netPlain, n.host)}}
	return []testCase{
		{name: "arp_remote-answered", only: "ipv4", run: func(s *scenario, _ family) {
			q := s.asks("a", far.IPv4)
			s.from("a", q).answered(q.tells(far))
		}},
		{name: "ns_remote-answered", only: "ipv6", run: func(s *scenario, _ family) {
			q := s.solicits("a", far.IPv6)
			s.from("a", q).answered(q.advertises(far))
		}},
	}
}

// A broadcast is copied to each node once: the device receives the copy and encapsulates it.
func floodedOut() []testCase {
	return slices.Concat(
		[]testCase{{name: "broadcast-flood", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
			sending := s.from("a", p)
			if s.to == nil {
				sending.flooded("gw1", "b", "c")
				return
			}
			dev := s.names[s.members["a"].IfIndex]
			for range 3 {
				sending.again = append(sending.again, "clone "+dev+" flags 0x1")
			}
			sending.flooded("gw1", "b", "c")
		}},
			{name: "broadcast_of_host-stays", run: func(s *scenario, f family) {
				p := s.between(f, "gw1", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
				s.from("gw1", p).flooded("a", "b", "c")
			}},
			{name: "copy_for_unreachable_node-cut", run: func(s *scenario, f family) {
				p := s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
				for _, n := range []uint32{3, 4} { // without a route, and removed
					copied := s.from("a", p)
					copied.skb.Mark = copyMark | n
					if r := copied.do(); r.verdict != shot || len(r.counts) != 1 || r.counts["event tunnel_cut"].Packets != 1 {
						s.Errorf("copy %d: verdict %s, counters that moved: %v", n, r.verdict, r.counts)
					}
				}
			}},
		},
		over("copy_for_node-leaves", func(s *scenario, f family, n tunnel) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
			copied := s.from("a", p)
			copied.skb.Mark = copyMark | uint32(n.node-node4+1)
			r := copied.do()
			if r.out[0]&1 != 0 {
				s.Error("the kernel does not send a frame to a group's MAC to a next hop")
			}
			want := wrap{tunnel: n, in: p.bytes(s.TB), vni: plainVNI, sport: sourcePort(n, r.out), dport: tunnelPort, flags: 8,
				dmac: maps.MAC(r.out[:6]), smac: maps.MAC(r.out[6:12])}
			if r.verdict != redirected || r.mark != doneMark || len(r.counts) != 0 || !slices.Equal(r.out, want.bytes(s.TB)) {
				s.Errorf("verdict %s, mark %#x, counters that moved: %v, packet:\n%s", r.verdict, r.mark, r.counts, dump(r.out))
			}
		}),
	)
}

func tunnelInCases() []testCase {
	return slices.Concat(tunnelledIn(), congestionIn(), refusedIn(), passedIn(), floodedIn(), narrowIn())
}

func tunnelledIn() []testCase {
	return slices.Concat(
		over("arrives-peer", func(s *scenario, f family, n tunnel) {
			p := s.fromFar(f, "a", n)
			s.arrive(s.wrapped(n, p)).peer("a", p)
		}),
		over("arrives_for_shaped-queued", func(s *scenario, f family, n tunnel) {
			s.shape("b")
			p := s.fromFar(f, "b", n)
			s.arrive(s.wrapped(n, p)).queued("b", p)
		}),
		over("not_ip_arrives-queued", func(s *scenario, f family, n tunnel) {
			p := raw{smac: n.mac, dmac: s.members["a"].MAC, ethertype: experimental, payload: strings.Repeat("anything", 8)}
			s.arrive(s.wrapped(n, p)).queued("a", p)
		}),
		over("arrives_for_host-redirect", func(s *scenario, f family, n tunnel) {
			p := s.fromFar(f, "gw1", n).with(func(p *packet) { p.dmac = nodeMAC })
			c, in := make(counts), p.with(func(p *packet) { p.dmac = s.members["gw1"].MAC })
			c.add("path redirect", len(in.bytes(s.TB)))
			c.add("to 1", len(in.bytes(s.TB)))
			s.arrive(s.wrapped(n, p)).expect(expectation{verdict: redirected, out: in,
				to: []string{"redirect " + s.names[s.members["gw1"].IfIndex]}, counts: c})
		}),
		over("arrives_with_options-peer", func(s *scenario, f family, n tunnel) {
			if !n.local.Is4() {
				return
			}
			p := s.fromFar(f, "a", n)
			s.arrive(s.wrapped(n, p).with(func(w *wrap) {
				w.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
			})).peer("a", p)
		}),
		over("arrives_at_other_address-peer", func(s *scenario, f family, n tunnel) {
			p := s.fromFar(f, "a", n)
			s.arrive(s.wrapped(n, p).with(func(w *wrap) {
				w.src, w.dst = n.remote, second4
				if !n.local.Is4() {
					w.dst = second6
				}
			})).peer("a", p)
		}),
	)
}

// congestionIn checks all combinations of ECN (RFC 6040 section 4.2, as the kernel does it).
func congestionIn() []testCase {
	var cases []testCase
	for inner, row := range [4][4]int{{0, 0, 0, -1}, {1, 1, 1, 3}, {2, 1, 2, 3}, {3, 3, 3, 3}} {
		for outer, want := range row {
			cases = append(cases, over(fmt.Sprintf("ecn_%d_in_%d", inner, outer), func(s *scenario, f family, n tunnel) {
				p := s.fromFar(f, "a", n).with(func(p *packet) { p.tos = uint8(inner) | 0xb8 })
				sent := s.arrive(s.wrapped(n, p).with(func(w *wrap) { w.ecn = uint8(outer) }))
				if want < 0 {
					sent.dropped("tunnel_ecn")
					return
				}
				p.tos = uint8(want) | 0xb8
				sent.peer("a", p)
			})...)
		}
	}
	return cases
}

func refusedIn() []testCase {
	refused := func(name, reason string, change func(*scenario, *packet, *wrap)) []testCase {
		return over(name+"-"+reason, func(s *scenario, f family, n tunnel) {
			p := s.fromFar(f, "a", n)
			w := s.wrapped(n, p)
			change(s, &p, &w)
			w.in = p.bytes(s.TB)
			s.arrive(w).dropped(reason)
		})
	}
	return slices.Concat(
		refused("unknown_node", "tunnel_source", func(_ *scenario, _ *packet, w *wrap) {
			w.src, w.dst = ip("203.0.113.99"), w.tunnel.local
			if !w.tunnel.local.Is4() {
				w.src = ip("2001:db8::99")
			}
		}),
		refused("mac_unknown", "tunnel_mac", func(_ *scenario, p *packet, _ *wrap) { p.smac = memberMAC(netPlain, 99) }),
		refused("mac_of_member_here", "tunnel_mac", func(s *scenario, p *packet, _ *wrap) { p.smac = s.members["b"].MAC }),
		refused("mac_of_gateway", "tunnel_mac", func(s *scenario, p *packet, _ *wrap) { p.smac = s.members["gw1"].MAC }),
		refused("mac_of_other_node", "tunnel_mac", func(_ *scenario, p *packet, _ *wrap) { p.smac = awayMAC }),
		refused("to_gateway", "no_member", func(s *scenario, p *packet, _ *wrap) { p.dmac = s.members["gw1"].MAC }),
		refused("to_remote_member", "no_member", func(_ *scenario, p *packet, _ *wrap) { p.dmac = awayMAC }),
		refused("to_other_network", "no_member", func(s *scenario, p *packet, _ *wrap) { p.dmac = s.members["d"].MAC }),
		refused("clear_text", "clear_text", func(s *scenario, p *packet, w *wrap) { w.vni, p.dmac = secretVNI, s.members["d"].MAC }),
		over("vlan-vlan", func(s *scenario, f family, n tunnel) {
			s.arrive(s.wrapped(n, raw{smac: n.mac, dmac: s.members["a"].MAC, ethertype: 0x8100, payload: strings.Repeat("x", 50)})).dropped("vlan")
		}),
		[]testCase{
			{name: "fragment-tunnel_fragment", run: func(s *scenario, f family) {
				n := tunnels()[0]
				s.arrive(s.wrapped(n, s.fromFar(f, "a", n)).with(func(w *wrap) { w.morefrags = true })).dropped("tunnel_fragment")
			}},
			{name: "encrypted_by_other_device-clear_text", run: func(s *scenario, f family) {
				n := tunnel{mac: farMAC, local: localWG, remote: nodeToWG}
				_, err := s.set.HostAddrs.Put(localWG)
				must(s.TB, err)
				p := s.fromFar(f, "d", tunnels()[0]).with(func(p *packet) { p.dmac = s.members["d"].MAC })
				w := s.wrapped(n, p).with(func(w *wrap) { w.vni = secretVNI })
				s.arrive(w).dropped("clear_text")
				w.dmac = s.other.mac
				arrives := s.arrive(w)
				arrives.skb.Ifindex, arrives.skb.IngressIfindex = s.other.index, s.other.index
				arrives.peer("d", p)
			}},
			// Frames for a test have Ethernet headers, which those of the device do not have: what it
			// delivers is tested with two hosts (cluster.TestEncryptedNetwork).
			{name: "not_ip_by_encrypting_device-not_tunnel", run: func(s *scenario, f family) {
				w := s.arrive(raw{smac: s.other.mac, dmac: s.uplink.mac, ethertype: 0x88b5, payload: strings.Repeat("x", 50)})
				w.program = "from_tunnel"
				w.dropped("not_tunnel")
			}},
		},
	)
}

// Datagrams that are not for an overlay of this host.
func passedIn() []testCase {
	passed := func(name string, change func(*wrap)) []testCase {
		return over(name+"-passes", func(s *scenario, f family, n tunnel) {
			s.arrive(s.wrapped(n, s.fromFar(f, "a", n)).with(change)).unchanged()
		})
	}
	elsewhere := func(w *wrap) netip.Addr {
		if w.tunnel.local.Is4() {
			return ip("203.0.113.77")
		}
		return ip("2001:db8:9::1")
	}
	return slices.Concat(
		passed("unknown_vni", func(w *wrap) { w.vni = otherVNI }),
		passed("other_port", func(w *wrap) { w.dport++ }),
		passed("other_flags", func(w *wrap) { w.flags = 0x0c }),
		passed("in_transit", func(w *wrap) { w.src, w.dst = w.tunnel.remote, elsewhere(w) }),
		passed("in_transit_of_strangers", func(w *wrap) { w.src, w.dst = elsewhere(w), elsewhere(w) }),
		passed("short", func(w *wrap) { w.in = w.in[:13] }),
	)
}

// A broadcast from another node reaches the members on this host, and neither the host nor a node.
func floodedIn() []testCase {
	return over("broadcast_arrives-flood", func(s *scenario, f family, n tunnel) {
		p := s.fromFar(f, "a", n).with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
		c := make(counts)
		c.add("path flood", len(p.bytes(s.TB)))
		c.add("to 1", len(p.bytes(s.TB)))
		var to []string
		for _, name := range []string{"a", "b", "c"} {
			to = append(to, "clone "+s.names[s.members[name].IfIndex])
		}
		s.arrive(s.wrapped(n, p)).expect(expectation{verdict: shot, to: to, counts: c})
	})
}

// tunnelSumCases checks packets with a checksum of the whole packet.
func tunnelSumCases() []testCase {
	if kernelHas(6, 16) == 0 {
		return nil
	}
	return slices.Concat(
		over("summed_out-agrees", func(s *scenario, f family, n tunnel) {
			s.from("a", s.toFar(f, "a", n)).agrees()
			s.from("gw1", s.toFar(f, "gw1", n)).agrees()
		}),
		over("summed_in-agrees", func(s *scenario, f family, n tunnel) {
			for outer := range uint8(4) {
				p := s.fromFar(f, "a", n).with(func(p *packet) { p.tos = 2 })
				s.arrive(s.wrapped(n, p).with(func(w *wrap) { w.ecn = outer })).agrees()
			}
		}),
	)
}

// ICMP errors about packets of a tunnel, and forged ones.
func narrowIn() []testCase {
	about := func(want bool, change func(n tunnel, w *wrap, mtu *uint32)) func(s *scenario, f family, n tunnel) {
		return func(s *scenario, f family, n tunnel) {
			if f.is4() != n.local.Is4() {
				return
			}
			m := s.tables["fl_node_mtu"]
			must(s.TB, m.Put(uint32(n.node), make([]byte, 8)))
			mtu := uint32(1400)
			w := wrap{tunnel: n, in: make([]byte, 1400), vni: plainVNI, sport: 50000, dport: tunnelPort, flags: 8}
			change(n, &w, &mtu)
			quote := string(w.bytes(s.TB)[14:][:200])
			router, local := f.router, n.local
			p := errorAbout(packetTooBig(f, mtu), router, local, quote)
			s.arrive(s.outside(p)).unchanged()
			var got [2]uint32
			must(s.TB, m.Lookup(uint32(n.node), &got))
			if learned := got[0] != 0; learned != want || want && got[0] != mtu-uint32(map[bool]int{true: 50, false: 70}[f.is4()]) {
				s.Errorf("learned %d, want it learned: %t", got[0], want)
			}
		}
	}
	learns := func(name string, want bool, change func(n tunnel, w *wrap, mtu *uint32)) []testCase {
		return over(name, about(want, change))
	}
	return slices.Concat(
		[]testCase{{name: "narrow_path_of_encrypting_device-ignored", run: func(s *scenario, f family) {
			about(false, func(tunnel, *wrap, *uint32) {})(s, f, tunnel{node: nodeSecret, local: localWG, remote: nodeToWG})
		}}},
		learns("narrow_path-learned", true, func(tunnel, *wrap, *uint32) {}),
		learns("narrow_path_of_other_port-ignored", false, func(_ tunnel, w *wrap, _ *uint32) { w.dport++ }),
		learns("narrow_path_from_other_port-ignored", false, func(_ tunnel, w *wrap, _ *uint32) { w.sport = 4789 }),
		learns("narrow_path_of_small_packet-ignored", false, func(_ tunnel, w *wrap, _ *uint32) { w.in = w.in[:1300] }),
		learns("narrow_path_too_narrow-ignored", false, func(_ tunnel, _ *wrap, mtu *uint32) { *mtu = 575 }),
		learns("narrow_path_to_stranger-ignored", false, func(n tunnel, w *wrap, _ *uint32) {
			w.src, w.dst = n.local, ip("203.0.113.9")
			if !n.local.Is4() {
				w.dst = ip("2001:db8::9")
			}
		}),
	)
}
