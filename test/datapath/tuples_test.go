// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// gatewayPortMax is GATEWAY_PORT_MAX of bpf/lib/flow_create.h.
const gatewayPortMax = 32767

// No two flows have the same tuple in a sandbox or on the wire, whatever made them, and the
// older one is not moved.
func tupleCases() []testCase {
	return slices.Concat(tuplesAtBackend(), hostMoved(), privilegedPorts())
}

// tries returns an event for each additional port that was tried.
func (r *result) tries() []string {
	return slices.Repeat([]string{"snat_retry"}, int(r.counts["event snat_retry"].Packets))
}

// publishedElsewhere makes a flow of a client on this host to b's port that cannot keep its
// source port; it returns what b gets.
func (s *scenario) publishedElsewhere(f family, client string, l l4, p packet) packet {
	s.Helper()
	sending := s.from(client, p)
	r := sending.do()
	moved := port(f, p, r.out)
	if moved == p.src.Port() || moved > gatewayPortMax || (moved < 1024) != (p.src.Port() < 1024) {
		s.Errorf("the flow from port %d has port %d at the backend", p.src.Port(), moved)
	}
	got := s.byGateway(f, "b", p, l.backend()).with(func(g *packet) { g.src = at(g.src.Addr(), moved) })
	sending.peer("b", got, append(r.tries(), "ct_created")...)
	return got
}

// fromHost returns a packet of the host itself to b's port, from a gateway's address.
func (s *scenario) fromHost(f family, l l4, sport uint16) packet {
	p := s.between(f, "gw1", "b")
	p.src, p.dst, p.proto, p.flags = at(p.src.Addr(), sport), at(p.dst.Addr(), l.backend()), l.proto, ""
	if l.proto == tcp {
		p.flags = "S"
	}
	return p
}

func tuplesAtBackend() []testCase {
	all := published()
	return slices.Concat(
		times(all, "published_of_host_and_direct-apart", func(s *scenario, f family, l l4) {
			direct := s.between(f, "a", "b").with(func(p *packet) {
				p.src, p.dst, p.proto, p.flags = at(p.src.Addr(), l.sport), at(p.dst.Addr(), l.backend()), l.proto, ""
			})
			for range 2 { // whichever is first
				p := s.via(f, "a", l, at(f.uplink, l.dport))
				got := s.byGateway(f, "b", p, l.backend())
				s.from("a", direct).peer("b", direct)
				s.from("a", p).peer("b", got, "ct_created")
				s.from("a", direct).peer("b", direct)
				s.from("b", direct.answer("")).peer("a", direct.answer(""))
				answer := got.answer(l.reply)
				s.from("b", answer).peer("a", s.delivered("a", answer.with(func(a *packet) { a.src, a.dst = p.dst, p.src })))
				s.forget(s.TB)
			}
		}),
		times(all, "published_of_host_same_port_twice-other_port", func(s *scenario, f family, l l4) {
			one, two := s.via(f, "a", l, at(f.uplink, l.dport)), s.via(f, "d", l, at(f.uplink, l.dport))
			s.from("a", one).peer("b", s.byGateway(f, "b", one, l.backend()), "ct_created")
			got := s.publishedElsewhere(f, "d", l, two)
			answer := got.answer(l.reply)
			s.from("b", answer).peer("d", s.delivered("d", answer.with(func(a *packet) { a.src, a.dst = two.dst, two.src })))
		}),
		times(all, "published_of_host_high_port-gateway_port", func(s *scenario, f family, l l4) {
			l.sport = 40001
			s.publishedElsewhere(f, "a", l, s.via(f, "a", l, at(f.uplink, l.dport)))
		}),
		times(all, "published_of_host_port_of_host_socket-other_port", func(s *scenario, f family, l l4) {
			gw, b := f.gw(s.members["b"]), f.of(s.members["b"])
			s.bind(l.proto, at(gw, l.sport), at(b, l.backend()))
			s.publishedElsewhere(f, "a", l, s.via(f, "a", l, at(f.uplink, l.dport)))
			s.forget(s.TB)
			s.publishedElsewhere(f, "b", l, s.via(f, "b", l, at(f.uplink, l.dport)))
		}),
	)
}

func hostMoved() []testCase {
	all := published()
	return slices.Concat(
		times(all, "host_to_backend-same_port", func(s *scenario, f family, l l4) {
			for _, sport := range []uint16{l.sport, 800, 40001} {
				p := s.fromHost(f, l, sport)
				s.from("gw1", p).peer("b", p)
				s.from("b", p.answer(l.reply)).toHost()
			}
		}),
		times(all, "host_to_backend_port_of_hairpin-other_port", func(s *scenario, f family, l l4) {
			for _, client := range []string{"a", "b", "d"} {
				for _, sport := range []uint16{l.sport, 800} {
					s.forget(s.TB)
					l.sport = sport
					s.hostMoves(f, l, client)
				}
			}
		}),
		[]testCase{{name: "tcp-host_established_port_of_hairpin-same_port", run: func(s *scenario, f family) {
			l := published()[0]
			p := s.via(f, "a", l, at(f.uplink, l.dport))
			s.from("a", p).peer("b", s.byGateway(f, "b", p, l.backend()), "ct_created")
			// It began earlier, and is not moved.
			for _, flags := range []string{"A", "SA", "R"} {
				host := s.fromHost(f, l, l.sport).with(func(p *packet) { p.flags = flags })
				s.from("gw1", host).peer("b", host)
			}
		}}},
	)
}

// hostMoves makes a client on this host begin a flow to b's port, and then the host from the
// same port.
func (s *scenario) hostMoves(f family, l l4, client string) {
	s.Helper()
	p := s.via(f, client, l, at(f.uplink, l.dport))
	got := s.byGateway(f, "b", p, l.backend())
	s.from(client, p).peer("b", got, "ct_created")

	host := s.fromHost(f, l, l.sport)
	sending := s.from("gw1", host)
	r := sending.do()
	moved := port(f, host, r.out)
	if moved == l.sport || moved > gatewayPortMax || (moved < 1024) != (l.sport < 1024) {
		s.Errorf("the host's flow from port %d has port %d", l.sport, moved)
	}
	left := host.with(func(p *packet) { p.src = at(p.src.Addr(), moved) })
	sending.peer("b", left, append(r.tries(), "ct_created")...)
	s.from("gw1", host).peer("b", left) // again: the same

	answer := left.answer(l.reply)
	toHost := s.delivered("gw1", answer.with(func(a *packet) { a.dst = host.src }))
	s.from("b", answer).queued("gw1", toHost)
	for _, kind := range errorKinds(f) {
		e := s.between(f, "gw1", "b")
		e.src, e.dst, e.icmp, e.payload = at(e.src.Addr(), 0), at(e.dst.Addr(), 0), &kind, s.quoting(toHost)
		s.from("gw1", e).peer("b", e.with(func(e *packet) { e.payload = s.quoting(toHost.with(func(q *packet) { q.dst = left.src })) }))
	}
	if l.proto == tcp {
		host.flags, left.flags = "A", "A"
		s.from("gw1", host).peer("b", left, "ct_confirmed")
	}
	// The older one is unchanged.
	answer = got.answer(l.reply)
	s.from("b", answer).peer(client, s.delivered(client, answer.with(func(a *packet) { a.src, a.dst = p.dst, p.src })))
}

func privilegedPorts() []testCase {
	all := protocols()[:2]
	return times(all, "privileged_port_taken-privileged", func(s *scenario, f family, l l4) {
		for _, class := range []struct{ port, lo, hi uint16 }{{300, 1, 511}, {511, 1, 511}, {512, 600, 1023}, {1000, 600, 1023}, {1023, 600, 1023}} {
			for range 5 {
				s.forget(s.TB)
				l.sport = class.port
				s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
				p := s.via(f, "b", l, at(f.remote, l.dport))
				sending := s.from("b", p)
				r := sending.do()
				moved := port(f, p, r.out)
				if moved == class.port || moved < class.lo || moved > class.hi {
					s.Errorf("the second flow from port %d leaves from %d, want one of %d to %d", class.port, moved, class.lo, class.hi)
				}
				left := p.routed().with(func(p *packet) { p.src = at(f.uplink, moved) })
				sending.neigh(f, left, append(r.tries(), "ct_created")...)
				s.answers("b", p, left, l.reply)
			}
		}
	})
}

// Another NAT of the host (netfilter) uses a port towards the same server: the guest's flow
// is the older one. Unassigned ports stay free.
func TestOtherNAT(t *testing.T) {
	w := newWorld(t, config{vars: with(featureVars(), map[string]any{"cfg_conntrack": uint8(1)})})
	runIn(t, w, slices.Concat(
		times(protocols()[:2], "masqueraded_port_of_guest-other_port", func(s *scenario, f family, l l4) {
			s.guestFlow(f, l, at(f.remote, l.dport))
			p := s.via(f, "a", l, at(f.remote, l.dport))
			s.answers("a", p, s.opensElsewhere(f, l, p), l.reply)
		}),
		times(protocols()[:2], "routed_by_stack_port_of_guest-other_port", func(s *scenario, f family, l l4) {
			s.guestFlow(f, l, at(f.remote, l.dport))
			p := s.via(f, "a", l, at(f.remote, l.dport))
			if got := port(f, p, s.leave(p, 0).do().out); got == l.sport {
				s.Errorf("left with port %d, which a guest has", got)
			}
		}),
		times(protocols()[:2], "masqueraded_port_of_guest_to_another-same_port", func(s *scenario, f family, l l4) {
			s.guestFlow(f, l, at(f.router, l.dport))
			s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
		}),
		times(protocols()[:2], "guest_after_masqueraded-other_port", func(s *scenario, f family, l l4) {
			left := s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
			s.guestFlow(f, l, at(f.remote, l.dport))
			guest := s.outside(left)
			if got := port(f, guest, s.leave(guest, 0).do().out); got == l.sport {
				s.Errorf("the guest left with port %d, which a sandbox has", got)
			}
		}),
	))
}

// guestFlow makes netfilter track a flow of a guest to a server, masqueraded with the
// uplink's address, from l.sport, until the test ends.
func (s *scenario) guestFlow(f family, l l4, server netip.AddrPort) {
	s.Helper()
	guest, kind := ip("172.22.0.2"), netlink.InetFamily(netlink.FAMILY_V4)
	if !f.is4() {
		guest, kind = ip("fd22::2"), netlink.InetFamily(netlink.FAMILY_V6)
	}
	tuple := func(src, dst netip.AddrPort) netlink.IPTuple {
		return netlink.IPTuple{SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(), SrcPort: src.Port(), DstPort: dst.Port(), Protocol: uint8(l.proto)}
	}
	flow := &netlink.ConntrackFlow{FamilyType: uint8(kind), TimeOut: 100,
		Forward: tuple(at(guest, l.sport), server), Reverse: tuple(server, at(f.uplink, l.sport))}
	if l.proto == tcp {
		flow.ProtoInfo = &netlink.ProtoInfoTCP{State: 3}
	}
	var err error
	s.ns.do(func() { err = netlink.ConntrackCreate(netlink.ConntrackTable, kind, flow) })
	must(s.TB, err)
	s.Cleanup(func() {
		s.ns.do(func() { err = netlink.ConntrackTableFlush(netlink.ConntrackTable) })
		must(s.TB, err)
	})
}

// The addresses that currently belong to the host.
func hostAddressCases() []testCase {
	all := published()
	return slices.Concat(
		times(all, "published_address_gone-transit", func(s *scenario, f family, l l4) {
			b := s.members["b"]
			away := f.barred // published there, but not an address of the host
			_, err := s.set.Publishes.Put(flmaps.Publish{HostIP: away, Port: l.dport, Proto: uint8(l.proto),
				Backend: f.of(b), BackendPort: l.backend(), IfIndex: b.IfIndex, Net: b.Net, ID: 210})
			must(s.TB, err)
			defer func() { _, err := s.set.Publishes.Delete(away, l.dport, uint8(l.proto)); must(s.TB, err) }()
			p := s.client(f, l, at(away, l.dport))
			s.arrive(p).unchanged()
			_, err = s.set.HostAddrs.Put(away)
			must(s.TB, err)
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
			_, err = s.set.HostAddrs.Delete(away)
			must(s.TB, err)
			p.src = at(p.src.Addr(), 5001)
			s.arrive(p).unchanged()
		}),
		times(all, "published_at_local_prefix-peer", func(s *scenario, f family, l l4) {
			bits := 24
			if !f.is4() {
				bits = 64
			}
			prefix, err := f.strange.Next().Prefix(bits)
			must(s.TB, err)
			_, err = s.set.HostNets.Put(flmaps.Subnet{Prefix: prefix, Net: 1})
			must(s.TB, err)
			defer func() { _, err := s.set.HostNets.Delete(prefix); must(s.TB, err) }()
			p := s.client(f, l, at(f.strange, l.dport))
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
			m := s.via(f, "a", l, at(f.strange, l.dport))
			s.from("a", m).peer("b", s.byGateway(f, "b", m, l.backend()), "ct_created")
			s.from("a", s.via(f, "a", l, at(f.strange, 7070))).toHost()
			p.src = at(f.strange, 5000)
			s.arrive(p).dropped("spoofed_ip")
		}),
	)
}

// byPolicy makes a second uplink, which packets from a source leave by, and returns its address and router.
func (s *scenario) byPolicy(f family, from func(second netip.Addr) string) (second netip.Addr, router string, undo func()) {
	s.Helper()
	second, router, family := ip("203.0.113.2"), "203.0.113.1", "-4"
	if !f.is4() {
		second, router, family = ip("2001:db8:0:6::2"), "2001:db8:0:6::1", "-6"
	}
	_, err := s.set.Uplinks.Put(flmaps.Uplink{IfIndex: s.other.index, IPv4: ip("203.0.113.2"), IPv6: ip("2001:db8:0:6::2")})
	must(s.TB, err)
	rule := func(what string) {
		s.Helper()
		var out []byte
		var err error
		s.ns.do(func() {
			out, err = exec.Command("ip", family, "rule", what, "from", from(second), "lookup", "200").CombinedOutput()
		})
		if err != nil {
			s.Fatalf("ip rule %s: %v\n%s", what, err, out)
		}
	}
	s.ns.ip(s.TB, "route add default via "+router+" dev oth0 table 200")
	rule("add")
	time.Sleep(routeRemembered)
	return second, router, func() {
		rule("del")
		s.ns.ip(s.TB, "route del default via "+router+" dev oth0 table 200")
		_, err := s.set.Uplinks.Delete(s.other.index)
		must(s.TB, err)
		time.Sleep(routeRemembered)
	}
}

// A reply is routed by the address that the request was sent to, like the host's own replies, and what a sandbox begins
// by its own.
func TestRouteOfAnswer(t *testing.T) {
	w := newWorld(t, config{noteRedirects: true})
	runIn(t, w, times(published(), "published_rule_from_address-its_uplink", func(s *scenario, f family, l l4) {
		second, router, undo := s.byPolicy(f, netip.Addr.String)
		defer undo()
		for asked, want := range map[netip.Addr]string{second: "neigh oth0 via " + router, f.uplink: "neigh up0 via " + f.router.String()} {
			s.forget(s.TB)
			p := s.client(f, l, at(asked, l.dport))
			got := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", got, "ct_created")
			answer := got.answer(l.reply)
			out := answer.routed().with(func(a *packet) { a.src = p.dst })
			s.from("b", answer).expect(expectation{verdict: redirected, out: out, mark: doneMark, to: []string{want},
				counts: s.neighCounts(out)})
			kind := portUnreachable(f)
			e := s.via(f, "b", l4{}, at(f.remote, 0))
			e.icmp, e.payload = &kind, s.quoting(got)
			if r := s.from("b", e).do(); len(r.to) != 1 || r.to[0] != want {
				s.Errorf("an error about what was sent to %s goes to %v, want %s", asked, r.to, want)
			}
		}
	}))
	runIn(t, w, times(protocols(), "rule_from_subnet-its_uplink", func(s *scenario, f family, l l4) {
		second, router, undo := s.byPolicy(f, func(netip.Addr) string { return f.of(s.members["a"]).String() })
		defer undo()
		p := s.via(f, "a", l, at(f.remote, l.dport))
		for i := range 2 {
			r := s.from("a", p).do()
			want := p.routed().with(func(q *packet) { q.src = at(second, l.sport) })
			if !slices.Equal(r.to, []string{"neigh oth0 via " + router}) || !slices.Equal(r.out, want.bytes(s.TB)) {
				s.Errorf("packet %d goes to %v:\n%swant\n%s", i, r.to, dump(r.out), dump(want.bytes(s.TB)))
			}
		}
		s.opens(f, s.via(f, "b", l.on(l.sport+1), at(f.remote, l.dport)), at(f.uplink, l.sport+1))
	}))
}
