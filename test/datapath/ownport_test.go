// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	"github.com/fairlead-net/fairlead/bpf"
	flmaps "github.com/fairlead-net/fairlead/maps"
)

// ownPort is published to the same port of b, which opens flows from it.
const ownPort = 51820

func ownPorts() []l4 {
	return []l4{{"tcp", tcp, ownPort, 3478, "SA"}, {"udp", udp, ownPort, 3478, ""}}
}

// publishOwn publishes ownPort of b; change changes the publish before that.
func (s *scenario) publishOwn(f family, l l4, change ...func(*flmaps.Publish)) {
	s.Helper()
	b := s.members["b"]
	p := flmaps.Publish{HostIP: f.any, Port: ownPort, Proto: uint8(l.proto), Backend: f.of(b), BackendPort: ownPort,
		IfIndex: b.IfIndex, Net: b.Net, ID: 300}
	for _, c := range change {
		c(&p)
	}
	_, err := s.set.Publishes.Put(p)
	must(s.TB, err)
	s.Cleanup(func() { _, err := s.set.Publishes.Delete(p.HostIP, p.Port, p.Proto); must(s.TB, err) })
}

// opensOwn has b open a flow from ownPort, which it keeps. It returns what left, and a packet with which the other side
// opens a flow between the same ports.
func (s *scenario) opensOwn(f family, l l4) (p, left, back packet) {
	s.Helper()
	p = s.via(f, "b", l, at(f.remote, l.dport))
	return p, s.opens(f, p, at(f.uplink, ownPort)), s.client(f, l4{proto: l.proto, sport: l.dport}, at(f.uplink, ownPort))
}

func ownPortCases() []testCase {
	return slices.Concat(ownPortsKept(), ownPortsAtGateway(), ownPortsReopened(), ownPortsMoved())
}

func ownPortsKept() []testCase {
	all := ownPorts()
	return slices.Concat(
		times(all, "own_port-kept", func(s *scenario, f family, l l4) {
			s.publishOwn(f, l)
			p, left, _ := s.opensOwn(f, l)
			s.answers("b", p, left, l.reply)
			// Other clients of the port, and b's flows to other peers.
			in := s.client(f, l4{proto: l.proto, sport: 5000}, at(f.uplink, ownPort))
			got := s.toBackend(f, "b", in, ownPort)
			s.arrive(in).peer("b", got, "ct_created")
			s.replies(f, "b", got, in, l.reply)
			other := s.via(f, "b", l, at(f.remote, 3479))
			s.answers("b", other, s.opens(f, other, at(f.uplink, ownPort)), l.reply)
		}),
		times(all, "own_port_at_one_address-kept", func(s *scenario, f family, l l4) {
			s.publishOwn(f, l, func(p *flmaps.Publish) { p.HostIP = f.uplink })
			p, left, _ := s.opensOwn(f, l)
			s.answers("b", p, left, l.reply)
		}),
		times(all, "own_port_for_some-kept", func(s *scenario, f family, l l4) {
			s.publishOwn(f, l, func(p *flmaps.Publish) { p.Limited = true })
			p, left, _ := s.opensOwn(f, l)
			s.answers("b", p, left, l.reply)
		}),
		times(all, "own_port_by_stack-kept", func(s *scenario, f family, l l4) {
			s.publishOwn(f, l)
			p := s.via(f, "b", l, at(f.remote, l.dport)).routed()
			left := p.with(func(p *packet) { p.src = at(f.uplink, ownPort) })
			s.leave(p, 0).passes(left, "ct_created")
			s.answers("b", p, left, l.reply)
		}),
		// Both sides open at once, in either order: it is one flow.
		times(all, "own_port_both_open-one_flow", func(s *scenario, f family, l l4) {
			s.publishOwn(f, l)
			_, _, in := s.opensOwn(f, l)
			s.arrive(in).peer("b", s.toBackend(f, "b", in, ownPort))
		}),
		times(all, "own_port_other_opens_first-one_flow", func(s *scenario, f family, l l4) {
			s.publishOwn(f, l)
			in := s.client(f, l4{proto: l.proto, sport: l.dport}, at(f.uplink, ownPort))
			s.arrive(in).peer("b", s.toBackend(f, "b", in, ownPort), "ct_created")
			p := s.via(f, "b", l, at(f.remote, l.dport))
			s.from("b", p).neigh(f, p.routed().with(func(p *packet) { p.src = at(f.uplink, ownPort) }))
		}),
	)
}

// gatewayOwn is the port that neighbours see (GATEWAY_PORT_MAX).
const gatewayOwn = 6881

// d is a client of b's port, and opens the flow from its own published one.
func ownPortsAtGateway() []testCase {
	begin := func(s *scenario, f family, l l4) (to l4, p packet) {
		s.Helper()
		s.publishOwn(f, l, func(p *flmaps.Publish) {
			d := s.members["d"]
			p.Port, p.BackendPort, p.Backend, p.IfIndex, p.Net = gatewayOwn, gatewayOwn, f.of(d), d.IfIndex, d.Net
		})
		to = published()[slices.IndexFunc(published(), func(p l4) bool { return p.proto == l.proto })]
		to.sport = gatewayOwn
		return to, s.via(f, "d", to, at(f.uplink, to.dport))
	}
	return slices.Concat(
		times(ownPorts(), "own_port_at_gateway-kept", func(s *scenario, f family, l l4) {
			to, p := begin(s, f, l)
			got := s.byGateway(f, "b", p, to.backend())
			s.from("d", p).peer("b", got, "ct_created")
			answer := got.answer(l.reply)
			s.from("b", answer).peer("d", s.delivered("d", answer.with(func(a *packet) { a.src, a.dst = p.dst, p.src })))
		}),
		times(ownPorts()[:1], "own_port_at_gateway_of_closed-new_flow", func(s *scenario, f family, l l4) {
			to, p := begin(s, f, l)
			got := s.byGateway(f, "b", p, to.backend())
			s.from("d", p).peer("b", got, "ct_created")
			answer := got.answer("RA")
			s.from("b", answer).peer("d", s.delivered("d", answer.with(func(a *packet) { a.src, a.dst = p.dst, p.src })))
			// b opens a connection to the port that it saw.
			back := s.via(f, "b", l4{proto: l.proto, sport: to.backend()}, got.src)
			back.flags = "S"
			s.from("b", back).peer("d", s.byGateway(f, "d", back, gatewayOwn), "ct_created")
			if orig, _ := s.flowOf(s.TB, back); orig.has(bpf.TCCtFlagCT_F_REPLY) {
				s.Errorf("flags of the client's direction: %#x", orig.Flags)
			}
		}),
	)
}

// A client of the published port whose address and port are those of a closed connection of b.
func ownPortsReopened() []testCase {
	closed := func(s *scenario, f family, l l4) packet {
		s.Helper()
		s.publishOwn(f, l)
		p, left, in := s.opensOwn(f, l)
		s.answers("b", p, left, "RA")
		return in
	}
	return slices.Concat(
		times(ownPorts()[:1], "own_port_of_closed-new_flow", func(s *scenario, f family, l l4) {
			in := closed(s, f, l)
			got := s.toBackend(f, "b", in, ownPort)
			s.arrive(in).peer("b", got, "ct_created")
			s.replies(f, "b", got, in, l.reply)
			if orig, reply := s.flowOf(s.TB, in); orig.has(bpf.TCCtFlagCT_F_REPLY) || !reply.has(bpf.TCCtFlagCT_F_REPLY) {
				s.Errorf("flags of the client's direction: %#x, of b's: %#x", orig.Flags, reply.Flags)
			}
		}),
		times(ownPorts()[:1], "own_port_of_closed_published_to_other-new_flow", func(s *scenario, f family, l l4) {
			in, c := closed(s, f, l), s.members["c"]
			s.publishOwn(f, l, func(p *flmaps.Publish) { p.Backend, p.IfIndex, p.Net = f.of(c), c.IfIndex, c.Net })
			s.arrive(in).peer("c", s.toBackend(f, "c", in, ownPort), "ct_created")
		}),
		times(ownPorts()[:1], "own_port_of_closed_for_others-publish_from", func(s *scenario, f family, l l4) {
			in := closed(s, f, l)
			s.publishOwn(f, l, func(p *flmaps.Publish) { p.Limited = true })
			s.arrive(in).dropped("publish_from")
		}),
		times(ownPorts()[:1], "own_port_of_open-one_flow", func(s *scenario, f family, l l4) {
			s.publishOwn(f, l)
			p, left, in := s.opensOwn(f, l)
			s.answers("b", p, left, "SA")
			p.flags, left.flags = "A", "A"
			s.from("b", p).neigh(f, left, "ct_confirmed")
			s.arrive(in).peer("b", s.toBackend(f, "b", in, ownPort)) // b judges it
		}),
	)
}

// Ports that are not the sender's, or not always.
func ownPortsMoved() []testCase {
	var cases []testCase
	for name, change := range map[string]func(s *scenario, f family, p *flmaps.Publish){
		"other_member": func(s *scenario, f family, p *flmaps.Publish) {
			c := s.members["c"]
			p.Backend, p.IfIndex, p.Net = f.of(c), c.IfIndex, c.Net
		},
		"other_device":  func(s *scenario, _ family, p *flmaps.Publish) { p.IfIndex = s.members["c"].IfIndex },
		"other_address": func(_ *scenario, f family, p *flmaps.Publish) { p.HostIP = f.second },
		"other_port":    func(_ *scenario, _ family, p *flmaps.Publish) { p.BackendPort = 80 },
		"other_family":  func(s *scenario, f family, p *flmaps.Publish) { p.Backend = f.other().of(s.members["b"]) },
		"pool":          func(_ *scenario, f family, p *flmaps.Publish) { p.Pool, p.IPv6 = true, !f.is4() },
	} {
		cases = append(cases, times(ownPorts(), "own_port_of_"+name+"-apart", func(s *scenario, f family, l l4) {
			s.publishOwn(f, l, func(p *flmaps.Publish) { change(s, f, p) })
			p := s.via(f, "b", l, at(f.remote, l.dport))
			s.answers("b", p, s.opensElsewhere(f, l, p), l.reply)
		})...)
	}
	// At a gateway, the host's processes have such ports.
	return append(cases, times(ownPorts(), "own_port_at_gateway-apart", func(s *scenario, f family, l l4) {
		s.publishOwn(f, l, func(p *flmaps.Publish) {
			d := s.members["d"]
			p.Backend, p.IfIndex, p.Net = f.of(d), d.IfIndex, d.Net
		})
		to := published()[slices.IndexFunc(published(), func(p l4) bool { return p.proto == l.proto })]
		p := s.via(f, "d", l, at(f.uplink, to.dport))
		p.src = at(f.of(s.members["d"]), ownPort)
		s.publishedElsewhere(f, "d", to, p)
	})...)
}
