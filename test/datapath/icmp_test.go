// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

const (
	unreachable4, fragNeeded4, portUnreachable4, timeExceeded4 = 3, 4, 3, 11
	unreachable6, tooBig6, portUnreachable6, timeExceeded6     = 1, 2, 4, 3
)

// quoteMax is how many bytes of a packet the datapath's own ICMP errors quote.
const quoteMax = 96

// complains returns the datapath's own ICMP error about p, to its sender.
func (s *scenario) complains(f family, p packet, kind icmpKind) packet {
	quote := p.ipBytes(s.TB)
	m := s.members[s.owner(p)]
	return packet{
		smac: p.dmac, dmac: p.smac, src: at(f.gw(m), 0), dst: at(p.src.Addr(), 0), ttl: 64, noDF: true,
		icmp: &kind, payload: string(quote[:min(len(quote), quoteMax)]),
	}
}

// uplinkComplains returns the datapath's own ICMP error about p, which arrived from outside.
func (s *scenario) uplinkComplains(f family, p packet, kind icmpKind) packet {
	quote := p.ipBytes(s.TB)
	return packet{
		smac: p.dmac, dmac: p.smac, src: at(f.uplink, 0), dst: at(p.src.Addr(), 0), ttl: 64, noDF: true,
		icmp: &kind, payload: string(quote[:min(len(quote), quoteMax)]),
	}
}

// unpadded is a frame made by the datapath: not padded to 60 bytes.
type unpadded struct{ packet }

func (u unpadded) bytes(tb testing.TB) []byte {
	return append(u.packet.bytes(tb)[:14:14], u.ipBytes(tb)...)
}

func timeExceeded(f family) icmpKind {
	if f.is4() {
		return icmpKind{typ: timeExceeded4}
	}
	return icmpKind{typ: timeExceeded6}
}

func portUnreachable(f family) icmpKind {
	if f.is4() {
		return icmpKind{typ: unreachable4, code: portUnreachable4}
	}
	return icmpKind{typ: unreachable6, code: portUnreachable6}
}

func packetTooBig(f family, mtu uint32) icmpKind {
	if f.is4() {
		return icmpKind{typ: unreachable4, code: fragNeeded4, rest: mtu}
	}
	return icmpKind{typ: tooBig6, rest: mtu}
}

func ownErrorCases() []testCase {
	return slices.Concat(hopLimitErrors(), tooBigErrors(), tooBigFromOutside(), noErrors())
}

// tooBig returns a packet that fits the uplink but not the route.
func (s *scenario) tooBig(f family, l l4) packet {
	p := s.via(f, "a", l, at(f.narrow, l.dport))
	p.payload = strings.Repeat("x", 1400)
	return p
}

func hopLimitErrors() []testCase {
	ttl1 := func(payload int, to func(family) netip.AddrPort) func(*scenario, family, l4) {
		return func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, to(f))
			p.ttl, p.payload = 1, strings.Repeat("x", payload)
			s.from("a", p).refused("ttl", unpadded{s.complains(f, p, timeExceeded(f))})
		}
	}
	remote := func(f family) netip.AddrPort { return at(f.remote, 80) }
	return slices.Concat(
		times(protocols()[:2], "ttl_1_short-time_exceeded", ttl1(0, remote)),
		times(protocols()[:2], "ttl_1_odd-time_exceeded", ttl1(3, remote)),
		times(protocols()[:2], "ttl_1_long-time_exceeded", ttl1(500, remote)),
		times(published()[:1], "ttl_1_to_published-time_exceeded", ttl1(10, func(f family) netip.AddrPort {
			return at(f.uplink, publishTCP)
		})),
		times(protocols(), "ttl_1_to_member_by_gateway-time_exceeded", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.of(s.members["c"]), l.dport))
			p.ttl = 1
			s.from("a", p).refused("ttl", unpadded{s.complains(f, p, timeExceeded(f))})
		}),
		times(protocols(), "ttl_1_of_known_flow-time_exceeded", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			s.opens(f, p, at(f.uplink, l.sport))
			p.ttl = 1
			s.from("a", p).refused("ttl", unpadded{s.complains(f, p, timeExceeded(f))})
		}),
	)
}

func tooBigErrors() []testCase {
	all := append(protocols(), l4{name: "sctp", proto: sctp, sport: 4000, dport: 80})
	return slices.Concat(
		times(all, "too_big-packet_too_big", func(s *scenario, f family, l l4) {
			p := s.tooBig(f, l)
			s.from("a", p).refused("too_big", unpadded{s.complains(f, p, packetTooBig(f, narrowMTU))})
		}),
		times(protocols(), "too_big_of_known_flow-packet_too_big", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.narrow, l.dport))
			s.opens(f, p, at(f.uplink, l.sport))
			p.payload = strings.Repeat("x", 1400)
			s.from("a", p).refused("too_big", unpadded{s.complains(f, p, packetTooBig(f, narrowMTU))})
		}),
		times(all, "fits-neigh", func(s *scenario, f family, l l4) {
			p := s.tooBig(f, l)
			_, body := p.l4(s.TB)
			header := 20
			if !f.is4() {
				header = 40
			}
			p.payload = p.payload[:len(p.payload)-(header+len(body)-narrowMTU)]
			s.opens(f, p, at(f.uplink, l.sport))
		}),
		times(protocols()[:2], "segments_fit-neigh", func(s *scenario, f family, l l4) {
			p := s.tooBig(f, l)
			p.payload += p.payload
			out := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			s.from("a", p).gso(1200).neigh(f, out, "ct_created")
		}),
		times(protocols()[:2], "segments_too_big-packet_too_big", func(s *scenario, f family, l l4) {
			p := s.tooBig(f, l)
			p.payload += p.payload
			s.from("a", p).gso(1290).refused("too_big", unpadded{s.complains(f, p, packetTooBig(f, narrowMTU))})
		}),
	)
}

// Packets from outside that are larger than the sandbox's own MTU.
func tooBigFromOutside() []testCase {
	const mtu = 1400
	narrow := func(s *scenario) {
		for _, name := range []string{"a", "b"} {
			s.change(s.TB, name, func(e *flmaps.Endpoint) { e.MTU = mtu })
		}
	}
	sized := func(s *scenario, p packet, size int) packet {
		p.payload = ""
		p.payload = strings.Repeat("x", size-len(p.ipBytes(s.TB)))
		return p
	}
	return slices.Concat(
		times(published(), "outside_too_big_for_published-packet_too_big", func(s *scenario, f family, l l4) {
			narrow(s)
			p := sized(s, s.client(f, l, at(f.uplink, l.dport)), mtu+1)
			s.arrive(p).refused("too_big", unpadded{s.uplinkComplains(f, p, packetTooBig(f, mtu))}, "ct_created")
			s.arrive(p).refused("too_big", unpadded{s.uplinkComplains(f, p, packetTooBig(f, mtu))})
			p = sized(s, p, mtu)
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()))
		}),
		times(protocols(), "outside_too_big_for_answer-packet_too_big", func(s *scenario, f family, l l4) {
			narrow(s)
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			answer := sized(s, s.outside(left.answer(l.reply)), mtu+1)
			s.arrive(answer).refused("too_big", unpadded{s.uplinkComplains(f, answer, packetTooBig(f, mtu))})
		}),
		times(published(), "outside_too_big_may_be_fragmented-peer", func(s *scenario, f family, l l4) {
			if !f.is4() {
				return
			}
			narrow(s)
			p := sized(s, s.client(f, l, at(f.uplink, l.dport)), mtu+1)
			p.noDF = true // a sandbox accepts it although it is too big
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		}),
		times(published()[:1], "outside_segments_fit-peer", func(s *scenario, f family, l l4) {
			narrow(s)
			p := sized(s, s.client(f, l, at(f.uplink, l.dport)), 3000)
			s.arrive(p).gso(1200).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		}),
	)
}

func noErrors() []testCase {
	return []testCase{
		{name: "udp-too_big_may_be_fragmented-stack", only: "ipv4", run: func(s *scenario, f family) {
			p := s.tooBig(f, protocols()[1])
			p.noDF = true
			s.from("a", p).toStack()
		}},
		{name: "icmp-error_ttl_1-ttl", run: func(s *scenario, f family) { // never an error about an error
			p := s.via(f, "a", protocols()[1], at(f.remote, 53))
			left := s.opens(f, p, at(f.uplink, p.src.Port()))
			_ = left
			kind := portUnreachable(f)
			e := s.via(f, "a", l4{}, at(f.remote, 0))
			e.icmp, e.ttl, e.payload = &kind, 1, string(p.answer("").ipBytes(s.TB))
			s.from("a", e).dropped("ttl")
		}},
		{name: "udp-later_fragment_ttl_1-ttl", run: func(s *scenario, f family) {
			p := s.via(f, "a", protocols()[1], at(f.remote, 53))
			p.payload, p.id = string(make([]byte, 56)), 9
			first, later := fragments(p)
			s.opens(f, first, at(f.uplink, p.src.Port()))
			later.ttl = 1
			s.from("a", later).dropped("ttl")
		}},
	}
}

// quoting returns a packet as ICMP errors embed it: the IP header and more than eight bytes.
func (s *scenario) quoting(p packet) string {
	b := p.ipBytes(s.TB)
	return string(b[:min(len(b), 64)])
}

// errorAbout returns an ICMP error from an address.
func errorAbout(kind icmpKind, src, dst netip.Addr, quote string) packet {
	return packet{src: at(src, 0), dst: at(dst, 0), icmp: &kind, payload: quote}
}

// errorKinds lists errors that routers and hosts send.
func errorKinds(f family) []icmpKind {
	return []icmpKind{portUnreachable(f), timeExceeded(f), packetTooBig(f, 1280)}
}

func foreignErrorCases() []testCase {
	return slices.Concat(errorsAboutMasqueraded(), errorsAboutPublished(), errorsAboutNothing())
}

func errorsAboutMasqueraded() []testCase {
	return slices.Concat(
		times(protocols(), "error_about_masqueraded-peer", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			for _, kind := range errorKinds(f) {
				for _, from := range []netip.Addr{f.router, f.remote} {
					quote := s.quoting(left)
					e := s.outside(errorAbout(kind, from, f.uplink, quote))
					got := e.with(func(e *packet) {
						e.dst, e.payload = at(f.of(s.members["a"]), 0), s.quoting(left.with(func(q *packet) { q.src = p.src }))
					})
					s.arrive(e).peer("a", s.delivered("a", got))
				}
			}
		}),
		times(protocols(), "error_about_moved_port-peer", func(s *scenario, f family, l l4) {
			s.opens(f, s.via(f, "b", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opensElsewhere(f, l, p)
			e := s.outside(errorAbout(portUnreachable(f), f.remote, f.uplink, s.quoting(left)))
			got := e.with(func(e *packet) {
				e.dst, e.payload = at(f.of(s.members["a"]), 0), s.quoting(left.with(func(q *packet) { q.src = p.src }))
			})
			s.arrive(e).peer("a", s.delivered("a", got))
		}),
		times(protocols()[:2], "error_of_client_of_masqueraded-neigh", func(s *scenario, f family, l l4) {
			// the member sends an error about a reply
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			answer := p.answer(l.reply)
			s.answers("a", p, left, l.reply)
			for _, kind := range errorKinds(f) {
				e := s.via(f, "a", l4{}, at(f.remote, 0))
				e.icmp, e.payload = &kind, s.quoting(answer)
				out := e.routed().with(func(e *packet) {
					e.src = at(f.uplink, 0)
					e.payload = s.quoting(answer.with(func(q *packet) { q.dst = left.src }))
				})
				s.from("a", e).neigh(f, out)
			}
		}),
	)
}

func errorsAboutPublished() []testCase {
	return slices.Concat(
		times(published(), "error_of_backend-neigh", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.second, l.dport))
			got := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", got, "ct_created")
			kind := portUnreachable(f)
			e := s.via(f, "b", l4{}, at(f.remote, 0))
			e.icmp, e.payload = &kind, s.quoting(got)
			out := e.routed().with(func(e *packet) {
				e.src = at(f.second, 0)
				e.payload = s.quoting(got.with(func(q *packet) { q.dst = p.dst }))
			})
			s.from("b", e).neigh(f, out)
		}),
		times(published(), "error_of_client_outside-peer", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.second, l.dport))
			got := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", got, "ct_created")
			answer := got.answer(l.reply)
			left := answer.with(func(a *packet) { a.src = p.dst })
			e := s.outside(errorAbout(packetTooBig(f, 1280), f.router, f.second, s.quoting(left)))
			want := e.with(func(e *packet) { e.dst, e.payload = at(f.of(s.members["b"]), 0), s.quoting(answer) })
			s.arrive(e).peer("b", s.delivered("b", want))
		}),
		times(published(), "error_of_backend_to_other_network-peer", func(s *scenario, f family, l l4) {
			p := s.via(f, "d", l, at(f.uplink, l.dport))
			got := s.byGateway(f, "b", p, l.backend())
			s.from("d", p).peer("b", got, "ct_created")
			kind := portUnreachable(f)
			e := s.via(f, "b", l4{}, at(got.src.Addr(), 0))
			e.icmp, e.payload = &kind, s.quoting(got)
			want := e.with(func(e *packet) {
				e.src, e.dst = at(f.uplink, 0), at(p.src.Addr(), 0)
				e.payload = s.quoting(got.with(func(q *packet) { q.src, q.dst = p.src, p.dst }))
			})
			s.from("b", e).peer("d", s.delivered("d", want))
		}),
		times(published(), "error_of_backend_without_route-no_route", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.second, l.dport))
			got := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", got, "ct_created")
			defer s.withoutRoute(f)()
			kind := portUnreachable(f)
			e := s.via(f, "b", l4{}, at(f.remote, 0))
			e.icmp, e.payload = &kind, s.quoting(got)
			s.from("b", e).dropped("no_route")
		}),
		times(published()[:1], "answer_without_route-stack", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			got := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", got, "ct_created")
			defer s.withoutRoute(f)()
			s.from("b", got.answer(l.reply)).toStack()
		}),
	)
}

// routeRemembered is longer than the datapath may use a cached route that no longer exists.
// The kernel may have 100 jiffies a second (clock_tick in bpf/lib/clock.h).
const routeRemembered = 165 * time.Millisecond

// withoutRoute removes the default route, and returns a function that restores it.
func (s *scenario) withoutRoute(f family) (restore func()) {
	s.Helper()
	route := " default via " + f.router.String() + " dev up0"
	s.ns.ip(s.TB, "route del"+route)
	time.Sleep(routeRemembered)
	return func() {
		s.Helper()
		s.ns.ip(s.TB, "route add"+route)
		time.Sleep(routeRemembered)
	}
}

func errorsAboutNothing() []testCase {
	return []testCase{
		{name: "icmp-error_about_nothing-pass", run: func(s *scenario, f family) {
			p := s.outside(packet{src: at(f.uplink, 1), dst: at(f.remote, 2), proto: udp})
			s.arrive(s.outside(errorAbout(portUnreachable(f), f.remote, f.uplink, string(p.ipBytes(s.TB))))).unchanged()
		}},
		{name: "icmp-error_to_member-direct", run: func(s *scenario, f family) {
			a := f.of(s.members["a"])
			p := s.outside(packet{src: at(a, 1), dst: at(f.remote, 2), proto: udp})
			s.arrive(s.outside(errorAbout(portUnreachable(f), f.remote, a, string(p.ipBytes(s.TB))))).dropped("direct")
		}},
		{name: "icmp-error_embeds_nothing-bad_icmp", run: func(s *scenario, f family) {
			kind := portUnreachable(f)
			e := s.via(f, "a", l4{}, at(f.remote, 0))
			e.icmp, e.payload = &kind, "short"
			e = e.with(func(e *packet) {})
			s.from("a", unpadded{e}).dropped("bad_icmp")
		}},
	}
}
