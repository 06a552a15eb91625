// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// A packet from a NIC that computes the checksum of the whole packet (CHECKSUM_COMPLETE) must
// still match that checksum after the datapath; otherwise the receiver assumes that the NIC
// is faulty.
func checksumCompleteCases() []testCase {
	if kernelHas(6, 16) == 0 {
		return nil // no BPF_F_TEST_SKB_CHECKSUM_COMPLETE
	}
	return slices.Concat(
		times(protocols(), "summed_reply-agrees", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.arrive(s.outside(left.answer(l.reply))).agrees()
		}),
		times(protocols(), "summed_to_outside-agrees", func(s *scenario, f family, l l4) {
			s.from("a", s.via(f, "a", l, at(f.remote, l.dport))).agrees()
		}),
		times(protocols(), "summed_port_taken-agrees", func(s *scenario, f family, l l4) {
			s.opens(f, s.via(f, "b", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
			s.from("a", s.via(f, "a", l, at(f.remote, l.dport))).agrees()
		}),
		times(protocols(), "summed_by_stack-agrees", func(s *scenario, f family, l l4) {
			s.leave(s.via(f, "a", l, at(f.remote, l.dport)), 0).agrees()
		}),
		times(published(), "summed_published-agrees", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			s.arrive(p).agrees()
			s.from("b", s.toBackend(f, "b", p, l.backend()).answer(l.reply)).agrees()
		}),
		times(protocols(), "summed_member_by_gateway-agrees", func(s *scenario, f family, l l4) {
			s.from("a", s.via(f, "a", l, at(f.of(s.members["c"]), l.dport))).agrees()
		}),
		times(protocols(), "summed_error-agrees", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.arrive(s.outside(errorAbout(portUnreachable(f), f.router, f.uplink, s.quoting(left)))).agrees()
		}),
		times(protocols(), "summed_ttl_1-agrees", func(s *scenario, f family, l l4) {
			// Long enough not to be padded, and quoted in full: the kernel discards the
			// checksum of a packet that is shortened (CHECKSUM_NONE), but the test run still
			// compares it.
			p := s.via(f, "a", l, at(f.remote, l.dport))
			p.ttl, p.payload = 1, "between the padding and the quote"
			s.from("a", p).agrees()
		}),
		times(protocols()[1:2], "summed_fragments-agrees", func(s *scenario, f family, l l4) {
			p := s.client(f, published()[1], at(f.uplink, publishUDP)).long(s.TB)
			first, later := fragments(p)
			s.arrive(first).agrees()
			s.arrive(later).agrees()
		}),
		[]testCase{
			{name: "ns-summed-agrees", only: "ipv6", run: func(s *scenario, f family) {
				s.from("a", s.solicits("a", s.members["b"].IPv6)).agrees()
			}},
		},
	)
}

// agrees runs the program on a packet with a checksum.
func (p *sent) agrees() {
	p.Helper()
	_, err := p.run(p.TB, p.program, p.in, p.skb, checksumComplete)
	if errors.Is(err, unix.EBADMSG) {
		p.Errorf("%s on %s leaves the packet's sum wrong:\n%s", p.program, p.on, dump(p.in))
		return
	}
	must(p.TB, err)
}
