// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// secondUplink makes the other device an uplink with the default route. It returns a function
// that turns this on and off.
func (s *scenario) secondUplink(f family) (src netip.Addr, use, leave func()) {
	s.Helper()
	src, router := ip("203.0.113.2"), "203.0.113.1"
	if !f.is4() {
		src, router = ip("2001:db8:0:6::2"), "2001:db8:0:6::1"
	}
	use = func() {
		_, err := s.set.Uplinks.Put(flmaps.Uplink{IfIndex: s.other.index, IPv4: ip("203.0.113.2"), IPv6: ip("2001:db8:0:6::2")})
		must(s.TB, err)
		s.ns.ip(s.TB, "route replace default via "+router+" dev oth0")
		time.Sleep(routeRemembered)
	}
	leave = func() {
		_, err := s.set.Uplinks.Delete(s.other.index)
		must(s.TB, err)
		s.ns.ip(s.TB, "route replace default via "+f.router.String()+" dev up0")
		time.Sleep(routeRemembered)
	}
	return src, use, leave
}

// leaveOther is like leave through the other device.
func (s *scenario) leaveOther(p packet) *sent {
	sending := s.leave(p, 0)
	sending.on, sending.skb.Ifindex = "oth0", s.other.index
	return sending
}

// forgotten returns the events when an answered flow is removed, and more: echo is not in the
// table of assured flows, and so is not counted.
func (l l4) forgotten(more ...string) []string {
	if l.proto == echo {
		return more
	}
	return append([]string{"ct_deleted"}, more...)
}

// Flows whose route moves to another uplink.
func TestRouteMoves(t *testing.T) {
	all := protocols()
	for _, vars := range []map[string]any{featureVars(), nil} {
		name := "fib_src"
		if vars == nil {
			name = "no_fib_src"
		}
		t.Run(name, func(t *testing.T) {
			runOnce(t, config{vars: vars}, slices.Concat(
				times(all, "route_moves-new_address", func(s *scenario, f family, l l4) {
					src, use, leave := s.secondUplink(f)
					p, left := s.confirm(f, "a", l)
					use()
					defer leave()
					moved := left.with(func(p *packet) { p.src = at(src, l.sport) })
					s.from("a", p).expect(expectation{verdict: redirected, out: moved, mark: doneMark,
						counts: s.neighCounts(moved, l.forgotten("ct_created")...)})
					// Replies to the old address are not delivered, those to the new one are.
					s.arrive(s.outside(left.answer("A"))).unchanged()
					orig, _ := s.flowOf(s.TB, p)
					if orig.Xlat.Saddr != ipKey(src) {
						s.Errorf("the flow has %+v", orig.Xlat)
					}
				}),
				times(all, "route_moves_published-same_address", func(s *scenario, f family, l l4) {
					if l.proto == echo {
						return
					}
					_, use, leave := s.secondUplink(f)
					l = published()[map[bool]int{true: 0, false: 1}[l.proto == tcp]]
					p := s.client(f, l, at(f.uplink, l.dport))
					got := s.toBackend(f, "b", p, l.backend())
					s.arrive(p).peer("b", got, "ct_created")
					use()
					defer leave()
					out := got.answer(l.reply).routed().with(func(a *packet) { a.src = p.dst })
					s.from("b", got.answer(l.reply)).expect(expectation{verdict: redirected, out: out, mark: doneMark,
						counts: s.neighCounts(out)})
				}),
				times(all, "route_moves_not_masqueraded-same_flow", func(s *scenario, f family, l l4) {
					_, use, leave := s.secondUplink(f)
					p := s.via(f, "i", l, at(f.remote, l.dport))
					left := s.opens(f, p, p.src)
					use()
					defer leave()
					s.from("i", p).expect(expectation{verdict: redirected, out: left, mark: doneMark, counts: s.neighCounts(left)})
				}),
				times(all, "route_of_stack_moves-new_address", func(s *scenario, f family, l l4) {
					src, use, leave := s.secondUplink(f)
					p := s.via(f, "a", l, at(f.remote, l.dport)).routed()
					s.leave(p, 0).passes(p.with(func(p *packet) { p.src = at(f.uplink, l.sport) }), "ct_created")
					use()
					defer leave()
					s.leaveOther(p).passes(p.with(func(p *packet) { p.src = at(src, l.sport) }), "ct_created")
				}),
			))
		})
	}
}

// neighCounts returns the counters of a packet to the next hop.
func (s *scenario) neighCounts(out packet, event ...string) counts {
	c := events(event)
	c.add("path neigh", len(out.bytes(s.TB)))
	return c
}

// An address that belongs to another member now.
func addressReusedCases() []testCase {
	all := protocols()
	// heir moves the addresses of a, which is removed, to c.
	heir := func(s *scenario) (undo func()) {
		a, c := s.members["a"], s.members["c"]
		e := c.Endpoint
		e.IPv4, e.IPv6, e.MAC = a.IPv4, a.IPv6, a.MAC
		_, err := s.set.Endpoints.Put(e)
		must(s.TB, err)
		_, err = s.set.Endpoints.Delete(a.IfIndex)
		must(s.TB, err)
		return func() {
			for _, m := range []member{a, c} {
				_, err := s.set.Endpoints.Put(m.Endpoint)
				must(s.TB, err)
			}
		}
	}
	return slices.Concat(
		times(all, "address_reused-new_flow", func(s *scenario, f family, l l4) {
			p, left := s.confirm(f, "a", l)
			defer heir(s)()
			p.flags, left.flags = "S", "S"
			sending := s.from("c", p)
			sending.neigh(f, left, l.forgotten("ct_created")...)
			orig, _ := s.flowOf(s.TB, p)
			if orig.InIf != s.members["c"].IfIndex || orig.confirmed {
				s.Errorf("the flow is %+v, want a new one from device %d", orig, s.members["c"].IfIndex)
			}
			answer := s.outside(left.answer(l.reply))
			got := s.delivered("a", answer.with(func(q *packet) { q.dst = p.src })) // a's addresses belong to c
			s.arrive(answer).peer("c", got)
		}),
		times(all, "address_reused_unconfirmed-new_flow", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			defer heir(s)()
			s.from("c", p).neigh(f, left, "ct_created")
			orig, _ := s.flowOf(s.TB, p)
			if orig.InIf != s.members["c"].IfIndex {
				s.Errorf("the flow is from device %d, want %d", orig.InIf, s.members["c"].IfIndex)
			}
		}),
		times(all, "answers_of_removed-endpoint_gone", func(s *scenario, f family, l l4) {
			_, left := s.confirm(f, "a", l)
			defer heir(s)()
			// Not to the heir, which did not send the request.
			left.flags = "A"
			s.arrive(s.outside(left.answer("A"))).dropped("endpoint_gone")
		}),
	)
}
