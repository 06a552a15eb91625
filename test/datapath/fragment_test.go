// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// fragments splits a packet with 64 bytes of layer 4 in two.
func fragments(p packet) (first, later packet) {
	first = p.with(func(p *packet) { p.frag = &fragment{offset: 0, n: 32, more: true} })
	later = p.with(func(p *packet) { p.frag = &fragment{offset: 32, n: 32} })
	return first, later
}

// long makes p's layer 4 64 bytes long.
func (p packet) long(tb testing.TB) packet {
	_, body := p.l4(tb)
	p.payload = string(make([]byte, 64-(len(body)-len(p.payload))))
	p.id = 0x4711
	return p
}

// translated returns a fragment whose first fragment's checksum covers all of it.
func (p packet) as(f *fragment) packet { p.frag = f; return p }

func fragmentCases() []testCase {
	return slices.Concat(fragmentsTranslated(), fragmentsElsewhere(), fragmentsOutOfOrder(), fragmentsNotHeld())
}

func fragmentsTranslated() []testCase {
	all := protocols()
	return slices.Concat(
		times(all, "fragments_to_outside-neigh", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB)
			p.flags = "A" // a SYN is never fragmented
			left := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			first, later := fragments(p)
			s.from("a", first).neigh(f, left.as(first.frag), "ct_created")
			s.from("a", later).neigh(f, left.as(later.frag))
			answer := s.outside(left.answer("A"))
			got := s.delivered("a", answer.with(func(q *packet) { q.dst = p.src }))
			first, later = fragments(answer)
			s.arrive(first).peer("a", got.as(first.frag))
			s.arrive(later).peer("a", got.as(later.frag))
		}),
		times(all, "fragments_of_moved_port-neigh", func(s *scenario, f family, l l4) {
			s.opens(f, s.via(f, "b", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
			p := s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB)
			left := s.opensElsewhere(f, l, p)
			first, later := fragments(p)
			s.from("a", first).neigh(f, left.as(first.frag))
			s.from("a", later).neigh(f, left.as(later.frag))
		}),
		times(published(), "fragments_to_published-peer", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport)).long(s.TB)
			got := s.toBackend(f, "b", p, l.backend())
			first, later := fragments(p)
			s.arrive(first).peer("b", got.as(first.frag), "ct_created")
			s.arrive(later).peer("b", got.as(later.frag))
		}),
		times(published()[1:], "fragments_answer_on_link-peer", func(s *scenario, f family, l l4) {
			p, got := s.begunBefore(f, l)
			answer := got.answer(l.reply).long(s.TB)
			answer.dmac = s.members["a"].MAC
			want := s.delivered("a", answer.with(func(a *packet) { a.src = p.dst }))
			first, later := fragments(answer)
			s.from("b", first).peer("a", want.as(first.frag))
			s.from("b", later).peer("a", want.as(later.frag))
		}),
	)
}

func fragmentsElsewhere() []testCase {
	all := protocols()
	return slices.Concat(
		times(all, "fragments_to_gateway-host", func(s *scenario, f family, l l4) {
			first, later := fragments(s.via(f, "a", l, at(f.gw(s.members["a"]), l.dport)).long(s.TB))
			s.from("a", first).toHost()
			s.from("a", later).toHost()
		}),
		times(all, "fragments_to_stack-stack", func(s *scenario, f family, l l4) {
			first, later := fragments(s.via(f, "a", l, at(f.barred, l.dport)).long(s.TB))
			s.from("a", first).toStack()
			s.from("a", later).toStack()
		}),
		times(all, "fragments_to_member_by_gateway-peer", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.of(s.members["c"]), l.dport)).long(s.TB)
			first, later := fragments(p)
			s.from("a", first).peer("c", s.delivered("c", p).as(first.frag))
			s.from("a", later).peer("c", s.delivered("c", p).as(later.frag))
		}),
		times(all, "later_fragment_unknown_from_stack-frag_unknown", func(s *scenario, f family, l l4) {
			_, later := fragments(s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB))
			s.leave(later, 0).dropped("frag_unknown") // must not leave with the member's own address
		}),
		times(all, "later_fragment_unknown_of_host-pass", func(s *scenario, f family, l l4) {
			_, later := fragments(s.outside(packet{src: at(f.uplink, 1), dst: at(f.remote, 2), proto: l.proto}).long(s.TB))
			s.leave(later, 0).unchanged()
		}),
		times(all, "later_fragment_unknown_to_member-direct", func(s *scenario, f family, l l4) {
			_, later := fragments(s.client(f, l, at(f.of(s.members["a"]), l.dport)).long(s.TB))
			s.arrive(later).dropped("direct")
		}),
		times(all, "later_fragment_of_other_packet-frag_unknown", func(s *scenario, f family, l l4) {
			first, later := fragments(s.via(f, "a", l, at(f.remote, l.dport)).long(s.TB))
			s.from("a", first).do()
			later.id++
			s.from("a", later).held()
		}),
	)
}

func headerCases() []testCase {
	return slices.Concat(checksums(), headers())
}

func checksums() []testCase {
	all := protocols()
	return slices.Concat(
		times(all[1:2], "no_checksum_masqueraded-neigh", func(s *scenario, f family, l l4) {
			if !f.is4() {
				return // IPv6 requires one
			}
			s.opens(f, s.via(f, "b", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
			p := s.via(f, "a", l, at(f.remote, l.dport))
			p.noSum = true
			left := s.opensElsewhere(f, l, p)
			s.answers("a", p, left, l.reply)
		}),
		times(published()[1:], "no_checksum_published-peer", func(s *scenario, f family, l l4) {
			if !f.is4() {
				return
			}
			p := s.client(f, l, at(f.uplink, l.dport))
			p.noSum = true
			got := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", got, "ct_created")
			s.replies(f, "b", got, p, "")
		}),
		times(all[1:2], "checksum_becomes_zero-neigh", func(s *scenario, f family, l l4) {
			// A checksum of zero is sent as ffff (RFC 768): tries payloads until the
			// translated one has it.
			for n := range 1 << 16 {
				p := s.via(f, "a", l, at(f.remote, l.dport))
				p.payload = string([]byte{byte(n >> 8), byte(n)})
				left := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
				_, b := left.l4(s.TB)
				if b[6] == 0xff && b[7] == 0xff || b[6] == 0 && b[7] == 0 {
					r := s.from("a", p).do()
					off := 14 + 20 + 6
					if !f.is4() {
						off += 20
					}
					if sum := [2]byte(r.out[off:]); sum != [2]byte{0xff, 0xff} {
						s.Errorf("checksum %x, want ffff", sum)
					}
					return
				}
			}
			s.Error("no payload gives a checksum of zero")
		}),
	)
}

func headers() []testCase {
	all := protocols()
	return slices.Concat(
		times(all, "ip_options-neigh", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			if f.is4() {
				p.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
			} else {
				p.ext, p.extProto = extensions(p, s.TB)
			}
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.answers("a", p, left, l.reply)
		}),
		times(published(), "ip_options_published-peer", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			if f.is4() {
				p.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
			} else {
				p.ext, p.extProto = extensions(p, s.TB)
			}
			got := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", got, "ct_created")
			s.replies(f, "b", got, p, l.reply)
		}),
		times(all, "too_many_extensions-malformed", func(s *scenario, f family, l l4) {
			if f.is4() {
				return
			}
			p := s.via(f, "a", l, at(f.remote, l.dport))
			proto, _ := p.l4(s.TB)
			p.extProto = layers.IPProtocolIPv6Destination
			for range 10 {
				p.ext = append(p.ext, byte(layers.IPProtocolIPv6Destination), 0, 1, 4, 0, 0, 0, 0)
			}
			p.ext[len(p.ext)-8] = byte(proto)
			s.from("a", p).dropped("malformed")
		}),
		times(all[:2], "gso-neigh", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			p.payload = string(make([]byte, 3000))
			out := p.routed().with(func(p *packet) { p.src = at(f.uplink, l.sport) })
			s.from("a", p).gso(1400).neigh(f, out, "ct_created")
			answer := s.outside(out.answer(l.reply))
			s.arrive(answer).gso(1400).peer("a", s.delivered("a", answer.with(func(q *packet) { q.dst = p.src })))
		}),
	)
}

// extensions adds a hop-by-hop and a destination options header before p's layer 4.
func extensions(p packet, tb testing.TB) ([]byte, layers.IPProtocol) {
	proto, _ := p.l4(tb)
	return []byte{
		byte(layers.IPProtocolIPv6Destination), 0, 1, 4, 0, 0, 0, 0,
		byte(proto), 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	}, layers.IPProtocolIPv6HopByHop
}

// Truncated packets of every length: nothing may crash, and a packet that is not complete up
// to the ports may not continue as part of a flow.
func truncatedCases() []testCase {
	all := append(protocols(), l4{name: "sctp", proto: sctp, sport: 4000, dport: 80}, l4{name: "gre", proto: gre})
	return slices.Concat(
		times(all, "truncated_to_outside-drop", func(s *scenario, f family, l l4) {
			s.truncate(f, l, func(b literal) *sent { return s.from("a", b) }, s.via(f, "a", l, at(f.remote, l.dport)))
		}),
		times(published(), "truncated_to_published-drop", func(s *scenario, f family, l l4) {
			s.truncate(f, l, func(b literal) *sent { return s.arrive(b) }, s.client(f, l, at(f.uplink, l.dport)))
		}),
		times(all, "truncated_from_stack-drop", func(s *scenario, f family, l l4) {
			s.truncate(f, l, func(b literal) *sent { return s.leave(b, 0) }, s.via(f, "a", l, at(f.remote, l.dport)))
		}),
		times(published(), "truncated_answer_on_link-pass", func(s *scenario, f family, l l4) {
			_, got := s.begunBefore(f, l)
			answer := got.answer(l.reply)
			answer.dmac = s.members["a"].MAC
			s.truncate(f, l, func(b literal) *sent { return s.from("b", b) }, answer)
		}),
		times(protocols()[:1], "truncated_error-drop", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			e := s.outside(errorAbout(portUnreachable(f), f.remote, f.uplink, string(left.ipBytes(s.TB))))
			s.truncate(f, l, func(b literal) *sent { return s.arrive(b) }, e)
		}),
	)
}

func (s *scenario) truncate(f family, l l4, send func(literal) *sent, p packet) {
	s.Helper()
	whole := unpadded{p}.bytes(s.TB)
	header := 14 + 20
	if !f.is4() {
		header = 14 + 40
	}
	for n := range min(len(whole), 80) {
		if n < 14 {
			continue // the kernel does not make such a packet
		}
		p := send(literal(whole[:n]))
		r, err := p.run(s.TB, p.program, p.in, p.skb, 0)
		if errors.Is(err, unix.EINVAL) && n < header {
			continue // 6.18 no longer runs programs on half an IP header
		}
		if err != nil {
			s.Fatalf("%d bytes: %v", n, err)
		}
		translated := r.verdict != shot && (len(r.out) != n || string(r.out) != string(whole[:n]))
		if translated && n < header+8 && l.proto != gre {
			s.Errorf("%d bytes of %s: %s, changed:\n%s", n, l.name, r.verdict, dump(r.out))
		}
		if r.counts["event ct_created"].Packets > 0 && n < header+8 && l.proto != gre {
			s.Errorf("%d bytes of %s made a flow", n, l.name)
		}
	}
}
