// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// In these cases the client uses the family that they are named for, and the backend has the
// other.

// xlated lists the ports of a world that are published for b in the other family.
func xlated() []l4 {
	return []l4{{"tcp", tcp, 5000, xlatTCP, "SA"}, {"udp", udp, 5000, xlatUDP, ""}}
}

// xlatPayload is long enough that frames are not padded in either family.
const xlatPayload = "as long as it needs to be for frames not to be padded"

// requests returns a client's packet to the published port.
func (s *scenario) requests(f family, l l4) packet {
	p := s.client(f, l, at(f.uplink, l.dport))
	p.payload, p.tos, p.ttl = xlatPayload, 0xb9, 60
	if l.proto == tcp {
		p.mss = 1440
	}
	return p
}

// requested returns p as b gets it, with its gateway as the source.
func (s *scenario) requested(f family, l l4, p packet) packet {
	o, b := f.other(), s.members["b"]
	p.src, p.dst = at(o.gw(b), p.src.Port()), at(o.of(b), l.backend())
	p.options, p.ext, p.noSum = nil, nil, false
	return s.delivered("b", atomic(s.TB, p))
}

// answered returns the reply of b as it leaves.
func (s *scenario) answered(answer, asked packet) packet {
	answer = answer.routed()
	answer.src, answer.dst, answer.options, answer.ext = asked.dst, asked.src, nil, nil
	return atomic(s.TB, answer)
}

// atomic returns p without fragmentation in IPv4: small packets may be fragmented on the
// path.
func atomic(tb testing.TB, p packet) packet {
	tb.Helper()
	if p.is4() && p.frag == nil {
		p.noDF = len(p.ipBytes(tb)) <= 1260
		p.id = 0
	}
	return p
}

// identified sets the identification of p to the one that the datapath chose at random.
func (p packet) identified(r *result) packet {
	if p.is4() && p.noDF && p.frag == nil {
		p.id = binary.BigEndian.Uint16(r.out[14+4:])
	}
	return p
}

// becomes expects a redirect directly into b's sandbox, as got.
func (p *sent) becomes(got packet, event ...string) {
	p.Helper()
	p.peer("b", got.identified(p.do()), event...)
}

// leaves expects a redirect to the router outside, as left.
func (p *sent) leaves(f family, left packet, event ...string) {
	p.Helper()
	p.neigh(f, left.identified(p.do()), event...)
}

func xlatCases() []testCase {
	return slices.Concat(xlatFlows(), xlatPorts(), xlatHeaders(), xlatFragments(), xlatTooBig(), xlatRefused(), xlatErrors(), xlatForeignErrors())
}

func xlatFlows() []testCase {
	return slices.Concat(
		times(xlated(), "xlat_from_outside-peer", func(s *scenario, f family, l l4) {
			p := s.requests(f, l)
			got := s.requested(f, l, p)
			s.arrive(p).becomes(got, "ct_created")
			answer := got.answer(l.reply).with(func(a *packet) { a.tos = 0x17 })
			s.from("b", answer).leaves(f, s.answered(answer, p))
			p.flags, p.mss = "A", 0
			got = s.requested(f, l, p)
			if l.proto == tcp {
				s.arrive(p).becomes(got, "ct_confirmed")
			}
			s.arrive(p).becomes(got)
			p.payload = strings.Repeat("x", 1300)
			got = s.requested(f, l, p)
			s.arrive(p).becomes(got)
			answer = got.answer("A")
			s.from("b", answer).leaves(f, s.answered(answer, p))
		}),
		times(xlated(), "xlat_client_of_other_network-peer", func(s *scenario, f family, l l4) {
			for _, host := range []netip.Addr{f.uplink, f.gw(s.members["d"])} {
				s.forget(s.TB)
				p := s.via(f, "d", l, at(host, l.dport))
				p.payload = xlatPayload
				got := s.requested(f, l, p)
				s.from("d", p).becomes(got, "ct_created")
				answer := got.answer(l.reply)
				want := atomic(s.TB, s.delivered("d", answer.with(func(a *packet) { a.src, a.dst = p.dst, p.src })))
				sending := s.from("b", answer)
				sending.peer("d", want.identified(sending.do()))
			}
		}),
		times(xlated(), "xlat_summed-agrees", func(s *scenario, f family, l l4) {
			if kernelHas(6, 16) == 0 {
				return // no BPF_F_TEST_SKB_CHECKSUM_COMPLETE
			}
			p := s.requests(f, l)
			s.arrive(p).agrees()
			s.from("b", s.requested(f, l, p).answer(l.reply)).agrees()
		}),
	)
}

func xlatPorts() []testCase {
	return slices.Concat(
		times(xlated(), "xlat_port_taken-peer", func(s *scenario, f family, l l4) {
			one := s.requests(f, l)
			two := one.with(func(p *packet) { p.src = at(f.narrow, l.sport) })
			gotOne := s.requested(f, l, one)
			s.arrive(one).becomes(gotOne, "ct_created")
			sending := s.arrive(two)
			moved := port(f.other(), two, sending.do().out)
			if moved == l.sport {
				s.Error("two clients are one for the backend")
			}
			gotTwo := s.requested(f, l, two).with(func(p *packet) { p.src = at(p.src.Addr(), moved) })
			event := []string{"ct_created"}
			for range sending.do().counts["event snat_retry"].Packets {
				event = append(event, "snat_retry")
			}
			sending.becomes(gotTwo, event...)
			answer := gotTwo.answer(l.reply)
			s.from("b", answer).leaves(f, s.answered(answer, two))
			answer = gotOne.answer(l.reply)
			s.from("b", answer).leaves(f, s.answered(answer, one))
		}),
		times(xlated(), "xlat_port_published-peer", func(s *scenario, f family, l l4) {
			// The host's own sockets do not use it, but replies to it would match a flow to
			// it.
			p := s.requests(f, l)
			p.src = at(f.remote, publishOth)
			sending := s.arrive(p)
			if moved := port(f.other(), p, sending.do().out); moved == publishOth {
				s.Error("the gateway asks from a published port")
			}
		}),
	)
}

func xlatHeaders() []testCase {
	return slices.Concat(
		times(xlated(), "xlat_options-peer", func(s *scenario, f family, l l4) {
			p := s.requests(f, l)
			if f.is4() {
				p.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
			} else {
				p.ext, p.extProto = extensions(p, s.TB)
			}
			got := s.requested(f, l, p)
			s.arrive(p).becomes(got, "ct_created")
			s.from("b", got.answer(l.reply)).leaves(f, s.answered(got.answer(l.reply), p))
		}),
		times(xlated()[1:], "xlat_without_sum-peer", func(s *scenario, f family, l l4) {
			// IPv6 requires a checksum, so it is computed; in IPv4 there may be none.
			for _, n := range []int{0, 1, 2, 3, 255 - 8, 256 - 8, 257 - 8, 1300} {
				s.forget(s.TB)
				p := s.requests(f, l)
				p.payload = strings.Repeat("abc", 500)[:n]
				p.noSum = true
				got := s.requested(f, l, p).with(func(g *packet) { g.noSum = !f.is4() })
				if n < len(xlatPayload) {
					// The frame is padded; the datagram is not.
					r := s.arrive(p).do()
					want := got.identified(r).ipBytes(s.TB)
					if string(r.out[14:14+len(want)]) != string(want) {
						s.Errorf("with %d bytes it becomes\n%s, want\n%s", n, dump(r.out), dump(got.identified(r).bytes(s.TB)))
					}
					continue
				}
				s.arrive(p).becomes(got, "ct_created")
				if f.is4() && kernelHas(6, 16) == 1 {
					s.arrive(p).agrees()
				}
			}
		}),
	)
}

func xlatFragments() []testCase {
	return slices.Concat(
		times(xlated()[1:], "xlat_fragments-peer", func(s *scenario, f family, l l4) {
			p := s.requests(f, l).long(s.TB)
			got := s.requested(f, l, p).with(func(g *packet) { g.id = p.id })
			first, later := fragments(p)
			s.arrive(first).becomes(got.as(first.frag), "ct_created")
			s.arrive(later).becomes(got.as(later.frag))
			answer := got.answer("")
			left := s.answered(answer, p).with(func(a *packet) { a.id = p.id })
			first, later = fragments(answer)
			s.from("b", first).leaves(f, left.as(first.frag))
			s.from("b", later).leaves(f, left.as(later.frag))
		}),
		[]testCase{{name: "udp-xlat_fragment_without_sum-unsupported", only: "ipv4", run: func(s *scenario, f family) {
			p := s.requests(f, xlated()[1]).long(s.TB)
			p.noSum = true
			first, _ := fragments(p)
			s.arrive(first).dropped("unsupported", "ct_created")
		}}},
	)
}

// xlatGrowth is how many bytes a packet of b grows on the way to a client of family f.
func xlatGrowth(f family) int {
	if f.is4() {
		return -20
	}
	return 20
}

func xlatTooBig() []testCase {
	// open makes a flow from behind a narrow route, and returns b's reply with the given
	// length.
	open := func(s *scenario, f family, l l4, length int) (asked, answer packet) {
		s.forget(s.TB)
		p := s.requests(f, l)
		p.src = at(f.narrow, l.sport)
		got := s.requested(f, l, p)
		s.arrive(p).becomes(got, "ct_created")
		answer = got.answer(l.reply).with(func(a *packet) { a.mss = 0 })
		answer.noDF = false
		header := len(answer.ipBytes(s.TB)) - len(answer.payload)
		answer.payload = strings.Repeat("x", length-header)
		return p, answer
	}
	return slices.Concat(
		times(xlated(), "xlat_too_big-packet_too_big", func(s *scenario, f family, l l4) {
			room := narrowMTU - xlatGrowth(f)
			p, answer := open(s, f, l, room)
			s.from("b", answer).leaves(f, s.answered(answer, p))
			_, answer = open(s, f, l, room+1)
			kind := packetTooBig(f.other(), uint32(room))
			s.from("b", answer).refused("too_big", unpadded{s.complains(f.other(), answer, kind)})
		}),
		times(xlated(), "xlat_segments-packet_too_big", func(s *scenario, f family, l l4) {
			header := map[bool]uint32{true: 20, false: 8}[l.proto == tcp] + map[bool]uint32{true: 20, false: 40}[f.is4()]
			p, answer := open(s, f, l, 3000)
			s.from("b", answer).gso(narrowMTU-header).leaves(f, s.answered(answer, p).with(func(a *packet) { a.noDF = false }))
			kind := packetTooBig(f.other(), uint32(narrowMTU-xlatGrowth(f)))
			s.from("b", answer).gso(narrowMTU-header+1).refused("too_big", unpadded{s.complains(f.other(), answer, kind)})
		}),
		[]testCase{{name: "udp-xlat_fragment_too_big-packet_too_big", only: "ipv6", run: func(s *scenario, f family) {
			// The stack would fragment it, but cannot translate. The fragment header also
			// needs room.
			l := xlated()[1]
			_, answer := open(s, f, l, 1400)
			answer.id, answer.noDF = 9, true
			answer.frag = &fragment{offset: 0, n: 1256, more: true}
			kind := packetTooBig(f.other(), narrowMTU-28)
			s.from("b", answer).refused("too_big", unpadded{s.complains(f.other(), answer, kind)})
		}}},
	)
}

func xlatRefused() []testCase {
	return slices.Concat(
		times(xlated(), "xlat_ttl_1-ttl", func(s *scenario, f family, l l4) {
			p := s.requests(f, l)
			p.ttl = 1
			s.arrive(p).refused("ttl", unpadded{s.uplinkComplains(f, p, timeExceeded(f))})
		}),
		times(xlated(), "xlat_answer_ttl_1-time_exceeded", func(s *scenario, f family, l l4) {
			p := s.requests(f, l)
			got := s.requested(f, l, p)
			s.arrive(p).becomes(got, "ct_created")
			answer := got.answer(l.reply).with(func(a *packet) { a.ttl = 1 })
			s.from("b", answer).refused("ttl", unpadded{s.complains(f.other(), answer, timeExceeded(f.other()))})
		}),
		times(xlated(), "xlat_backend_gone-endpoint_gone", func(s *scenario, f family, l l4) {
			_, err := s.set.Endpoints.Delete(s.members["b"].IfIndex)
			must(s.TB, err)
			defer func() { _, err := s.set.Endpoints.Put(s.members["b"].Endpoint); must(s.TB, err) }()
			s.arrive(s.requests(f, l)).dropped("endpoint_gone")
		}),
		times(xlated(), "xlat_without_gateway-no_uplink_addr", func(s *scenario, f family, l l4) {
			s.change(s.TB, "b", func(e *flmaps.Endpoint) { e.Gateway4, e.Gateway6 = netip.Addr{}, netip.Addr{} })
			s.arrive(s.requests(f, l)).dropped("no_uplink_addr")
		}),
		times(xlated(), "xlat_answer_without_route-no_route", func(s *scenario, f family, l l4) {
			p := s.requests(f, l)
			got := s.requested(f, l, p)
			s.arrive(p).becomes(got, "ct_created")
			defer s.withoutRoute(f)()
			s.from("b", got.answer(l.reply)).dropped("no_route")
		}),
	)
}

// quotes returns how a translated error embeds a packet: whole up to 56 bytes of layer 4,
// with the old checksum.
func (s *scenario) quotes(was, is packet) string {
	b, old := is.ipBytes(s.TB), was.ipBytes(s.TB)
	header, oldHeader := 20, 40
	if !is.is4() {
		header, oldHeader = 40, 20
	}
	sum := map[bool]int{true: 16, false: 6}[is.proto == tcp]
	copy(b[header+sum:header+sum+2], old[oldHeader+sum:])
	return string(b[:min(len(b), header+56)])
}

// quoted returns a packet as the sender of an error about it has it, and as it is embedded in
// the other family: there it is never one that may be fragmented.
func quoted(p packet) packet { p.noDF, p.id = false, 0; return p }

// saying is the content of an error in one family and in the other.
type saying struct{ v4, v6 icmpKind }

func sayings() []saying {
	return []saying{
		{icmpKind{typ: 3, code: 3}, icmpKind{typ: 1, code: 4}},
		{icmpKind{typ: 3, code: 1}, icmpKind{typ: 1, code: 0}},
		{icmpKind{typ: 3, code: 10}, icmpKind{typ: 1, code: 1}},
		{icmpKind{typ: 3, code: 4, rest: 1400}, icmpKind{typ: 2, rest: 1420}},
		{icmpKind{typ: 11, code: 0}, icmpKind{typ: 3, code: 0}},
		{icmpKind{typ: 11, code: 1}, icmpKind{typ: 3, code: 1}},
		{icmpKind{typ: 3, code: 2}, icmpKind{typ: 4, code: 1, rest: 6}},
		{icmpKind{typ: 12, code: 0, rest: 8 << 24}, icmpKind{typ: 4, code: 0, rest: 7}},
		{icmpKind{typ: 12, code: 0, rest: 12 << 24}, icmpKind{typ: 4, code: 0, rest: 8}},
	}
}

// in returns the content in a family.
func (s saying) in(f family) icmpKind {
	if f.is4() {
		return s.v4
	}
	return s.v6
}

// xlatErrors lists cases of errors about packets of flows, in both directions.
func xlatErrors() []testCase {
	return slices.Concat(
		times(xlated(), "xlat_error_of_client-peer", func(s *scenario, f family, l l4) {
			p := s.requests(f, l)
			got := s.requested(f, l, p)
			s.arrive(p).becomes(got, "ct_created")
			answer := got.answer(l.reply)
			left := quoted(s.answered(answer, p))
			o, b := f.other(), s.members["b"]
			for _, say := range sayings() {
				for _, from := range []netip.Addr{f.router, f.remote} {
					e := s.outside(errorAbout(say.in(f), from, f.uplink, string(left.ipBytes(s.TB))))
					answer.ttl, answer.tos = left.ttl, 0
					want := errorAbout(say.in(o), o.gw(b), o.of(b), s.quotes(left, quoted(answer)))
					want.ttl = e.ttl
					s.arrive(e).peer("b", unpaddedFor("b", s, want))
				}
			}
		}),
		times(xlated(), "xlat_error_of_backend-neigh", func(s *scenario, f family, l l4) {
			p := s.requests(f, l)
			got := s.requested(f, l, p)
			s.arrive(p).becomes(got, "ct_created")
			o := f.other()
			got = quoted(got)
			for _, say := range sayings() {
				e := s.via(o, "b", l4{}, at(o.gw(s.members["b"]), 0))
				e.icmp, e.payload = new(icmpKind), string(got.ipBytes(s.TB))
				*e.icmp = say.in(o)
				p.ttl, p.tos = got.ttl, 0
				want := errorAbout(say.in(f), f.uplink, f.remote, s.quotes(got, quoted(p)))
				want.ttl, want.smac, want.dmac = e.ttl, e.smac, e.dmac
				s.from("b", e).neigh(f, unpadded{xlatError(want).routed()})
			}
		}),
	)
}

// xlatError is an error that the datapath rebuilt, with only the necessary fields in its
// header.
func xlatError(e packet) packet { e.noDF = true; return e }

// unpaddedFor returns an error that was rebuilt for a member.
func unpaddedFor(name string, s *scenario, e packet) frame {
	return unpadded{s.delivered(name, xlatError(e))}
}

func xlatForeignErrors() []testCase {
	return []testCase{
		{name: "udp-xlat_error_without_meaning-unsupported", run: func(s *scenario, f family) {
			l := xlated()[1]
			p := s.requests(f, l)
			got := s.requested(f, l, p)
			s.arrive(p).becomes(got, "ct_created")
			o := f.other()
			for _, kind := range map[bool][]icmpKind{
				true:  {{typ: 3, code: 14}, {typ: 12, code: 1}, {typ: 12, rest: 5 << 24}, {typ: 4}},
				false: {{typ: 1, code: 5}, {typ: 4, code: 2}, {typ: 4, rest: 2}, {typ: 77}},
			}[o.is4()] {
				e := s.via(o, "b", l4{}, at(o.gw(s.members["b"]), 0))
				e.icmp, e.payload = &kind, string(got.ipBytes(s.TB))
				s.from("b", e).dropped("unsupported")
			}
		}},
		{name: "udp-xlat_error_smallest_mtu-peer", run: func(s *scenario, f family) {
			// IPv6 links have an MTU of at least 1280.
			l := xlated()[1]
			p := s.requests(f, l)
			got := s.requested(f, l, p)
			s.arrive(p).becomes(got, "ct_created")
			o, b := f.other(), s.members["b"]
			answer := got.answer(l.reply)
			left := quoted(s.answered(answer, p))
			said, want := icmpKind{typ: 3, code: 4}, icmpKind{typ: 2, rest: 1280}
			if !f.is4() {
				said, want = icmpKind{typ: 2, rest: 600}, icmpKind{typ: 3, code: 4, rest: 1260}
			}
			e := s.outside(errorAbout(said, f.router, f.uplink, string(left.ipBytes(s.TB))))
			answer.ttl, answer.tos = left.ttl, 0
			rebuilt := errorAbout(want, o.gw(b), o.of(b), s.quotes(left, quoted(answer)))
			rebuilt.ttl = e.ttl
			s.arrive(e).peer("b", unpaddedFor("b", s, rebuilt))
		}},
	}
}
