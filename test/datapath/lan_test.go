// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"testing"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// lanMark is UP_MARK_LAN: the packet is translated, and a member on the link may be the receiver.
const lanMark = doneMark + 8

// newLAN returns a world in which the members of netPlain are on the link of the uplink.
func newLAN(t *testing.T, vars map[string]any) *world {
	t.Helper()
	w := newWorld(t, config{vars: vars, noteRedirects: true})
	gw := w.members["gw1"]
	put := func(_ bool, err error) { t.Helper(); must(t, err) }
	must(t, w.tables["fl_endpoint"].Delete(gw.IfIndex))
	put(w.set.FDB.Put(flmaps.FDBEntry{Net: netPlain, MAC: flmaps.MAC(w.uplink.mac), IfIndex: w.uplink.index, Flags: flmaps.HostPort}))
	w.onLink(t, netPlain)
	for _, name := range networks[netPlain].members {
		m := w.members[name]
		m.Flags |= flmaps.OnLink
		m.Flags &^= flmaps.Published
		m.HostPortIf, m.GatewayIf, m.GatewayMAC = 0, w.uplink.index, flmaps.MAC{}
		m.Gateway4, m.Gateway6 = flmaps.Endpoint{}.Gateway4, flmaps.Endpoint{}.Gateway6
		w.members[name] = m
		put(w.set.Endpoints.Put(m.Endpoint))
		put(w.set.FDB.Put(flmaps.FDBEntry{Net: m.Net, MAC: m.MAC, IfIndex: m.IfIndex, Flags: m.Flags}))
	}
	return w
}

// onLink sets which network's members are on the link of the uplink.
func (w *world) onLink(tb testing.TB, net uint32) {
	tb.Helper()
	_, err := w.set.Uplinks.Put(flmaps.Uplink{IfIndex: w.uplink.index, IPv4: uplink4, IPv6: uplink6, LAN: net})
	must(tb, err)
}

// onTheLink returns a packet from a member to another machine of the link.
func (s *scenario) onTheLink(f family, from string) packet {
	return s.between(f, from, "b").with(func(p *packet) { p.dst, p.dmac = at(f.router, 80), mac(routerMAC) })
}

// redirectedTo expects a redirect to a device that is not a member's.
func (p *sent) redirectedTo(to string, mark uint32) {
	p.Helper()
	c := make(counts)
	c.add("path redirect", len(p.in))
	p.expect(expectation{verdict: redirected, out: literal(p.in), mark: mark, to: []string{to}, counts: c})
}

// copied expects copies to these members, and that the frame goes on.
func (p *sent) copied(names ...string) {
	p.Helper()
	c := make(counts)
	c.add("path pass", len(p.in))
	c.add(fmt.Sprint("to ", netPlain), len(p.in))
	var to []string
	for _, n := range names {
		to = append(to, "clone "+p.names[p.members[n].IfIndex])
	}
	p.expect(expectation{verdict: next, out: literal(p.in), mark: p.skb.Mark, to: to, counts: c})
}

func TestLAN(t *testing.T) {
	cases := slices.Concat(lanMembers(), lanArrivals(), lanLeaving())
	runIn(t, newLAN(t, featureVars()), cases)
}

func lanMembers() []testCase {
	return []testCase{
		{name: "tcp-member_to_member-peer", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b")
			s.from("a", p).peer("b", p)
		}},
		{name: "tcp-member_to_itself-no_member", run: func(s *scenario, f family) {
			s.from("a", s.between(f, "a", "a")).dropped("no_member")
		}},
		{name: "tcp-member_to_member_without_icc-icc", run: func(s *scenario, f family) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags &^= flmaps.ICC })
			s.from("a", s.between(f, "a", "b")).dropped("icc")
		}},
		{name: "tcp-member_to_link-redirect", run: func(s *scenario, f family) {
			s.from("a", s.onTheLink(f, "a")).redirectedTo("redirect up0", doneMark)
		}},
		{name: "tcp-member_to_host-redirect", run: func(s *scenario, f family) {
			p := s.onTheLink(f, "a").with(func(p *packet) { p.dmac, p.dst = s.uplink.mac, at(f.uplink, 80) })
			s.from("a", p).redirectedTo("redirect up0 flags 0x1", 0)
		}},
		{name: "udp-member_broadcasts-flood", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
			sending := s.from("a", p)
			sending.again = []string{"clone up0", "clone up0 flags 0x1"}
			sending.flooded("b", "c")
		}},
		{name: "udp-member_broadcasts_without_icc-flood", run: func(s *scenario, f family) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags &^= flmaps.ICC })
			sending := s.from("a", s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() }))
			sending.again = []string{"clone up0", "clone up0 flags 0x1"}
			sending.flooded()
		}},
		{name: "tcp-member_spoofs-spoofed", run: func(s *scenario, f family) {
			p := s.onTheLink(f, "a")
			s.from("a", p.with(func(p *packet) { p.src = at(f.of(s.members["b"]), 1) })).dropped("spoofed_ip")
			s.from("a", p.with(func(p *packet) { p.smac = s.members["b"].MAC })).dropped("spoofed_mac")
		}},
		{name: "tcp-member_tags-vlan", run: func(s *scenario, f family) {
			for _, tags := range tagsInFrame() {
				s.from("a", tagged{s.onTheLink(f, "a"), tags}).dropped("vlan")
			}
		}},
		{name: "tcp-link_of_another_network-no_member", run: func(s *scenario, f family) {
			for _, net := range []uint32{0, netOther} {
				s.onLink(s.TB, net)
				s.from("a", s.onTheLink(f, "a")).dropped("no_member")
			}
			s.onLink(s.TB, netPlain)
		}},
	}
}

func lanArrivals() []testCase {
	return []testCase{
		{name: "tcp-link_to_member-peer", run: func(s *scenario, f family) {
			p := s.onTheLink(f, "a").answer("SA")
			s.arrive(p).peer("a", p)
		}},
		{name: "tcp-link_to_limited_member-queue", run: func(s *scenario, f family) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags |= flmaps.Shaped })
			p := s.onTheLink(f, "a").answer("SA")
			s.arrive(p).queued("a", p)
		}},
		{name: "tcp-link_to_member_without_icc-peer", run: func(s *scenario, f family) {
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags &^= flmaps.ICC })
			p := s.onTheLink(f, "a").answer("SA")
			s.arrive(p).peer("a", p)
		}},
		{name: "tcp-link_to_another-pass", run: func(s *scenario, f family) {
			p := s.onTheLink(f, "a").answer("SA")
			s.arrive(p.with(func(p *packet) { p.dmac = memberMAC(netPlain, 99) })).unchanged()
			s.arrive(p.with(func(p *packet) { p.dmac = s.members["d"].MAC })).unchanged()
		}},
		{name: "tcp-tagged_to_member-pass", run: func(s *scenario, f family) {
			p := s.onTheLink(f, "a").answer("SA")
			s.arrive(tagged{p, [][2]uint16{{tag8021q, 7}}}).unchanged()
		}},
		{name: "udp-link_broadcasts-copies", run: func(s *scenario, f family) {
			s.arrive(s.onTheLink(f, "a").answer("").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })).copied("a", "b", "c")
		}},
		{name: "udp-members_own_from_link-pass", run: func(s *scenario, f family) {
			p := s.between(f, "a", "b").with(func(p *packet) { p.proto = udp })
			s.arrive(p).dropped("spoofed_mac")
			s.arrive(p.with(func(p *packet) { p.dmac = broadcast() })).unchanged() // of from_endpoint, for the host's stack
		}},
		{name: "udp-link_without_network-pass", run: func(s *scenario, f family) {
			s.onLink(s.TB, 0)
			p := s.onTheLink(f, "a").answer("").with(func(p *packet) { p.proto = udp })
			s.arrive(p).unchanged()
			s.arrive(p.with(func(p *packet) { p.dmac = broadcast() })).unchanged()
			s.onLink(s.TB, netPlain)
		}},
	}
}

func lanLeaving() []testCase {
	fromHost := func(s *scenario, f family) packet {
		return s.onTheLink(f, "a").answer("SA").with(func(p *packet) { p.smac, p.src = s.uplink.mac, at(f.remote, 80) })
	}
	return []testCase{
		{name: "tcp-host_to_member-queue", run: func(s *scenario, f family) {
			s.leave(fromHost(s, f), 0).queued("a", fromHost(s, f))
		}},
		{name: "tcp-translated_to_member-queue", run: func(s *scenario, f family) {
			r := s.leave(fromHost(s, f), lanMark).do()
			if r.verdict != redirected || !slices.Equal(r.to, []string{"redirect h-a"}) {
				s.Errorf("verdict %s, redirected to %v", r.verdict, r.to)
			}
		}},
		{name: "tcp-translated_to_link-next", run: func(s *scenario, f family) {
			r := s.leave(fromHost(s, f).with(func(p *packet) { p.dmac = mac(routerMAC) }), lanMark).do()
			if r.verdict != next || r.mark != 0 || len(r.counts) != 0 {
				s.Errorf("verdict %s, mark %#x, counters %v", r.verdict, r.mark, r.counts)
			}
		}},
		{name: "tcp-routed_between_members-icc", run: func(s *scenario, f family) {
			p := s.leave(fromHost(s, f), 0)
			p.skb.IngressIfindex = s.uplink.index
			p.queued("a", fromHost(s, f))
			s.change(s.TB, "a", func(e *flmaps.Endpoint) { e.Flags &^= flmaps.ICC })
			for _, mark := range []uint32{0, lanMark} {
				p := s.leave(fromHost(s, f), mark)
				p.skb.IngressIfindex = s.uplink.index
				if r := p.do(); r.verdict != shot || r.counts["drop icc"].Packets != 1 {
					s.Errorf("mark %#x: verdict %s, counters %v", mark, r.verdict, r.counts)
				}
			}
			s.leave(fromHost(s, f), 0).queued("a", fromHost(s, f)) // of the host itself, or from elsewhere
		}},
		{name: "udp-host_broadcasts-copies", run: func(s *scenario, f family) {
			s.leave(fromHost(s, f).with(func(p *packet) { p.proto, p.dmac = udp, broadcast() }), 7).copied("a", "b", "c")
		}},
	}
}

// A broadcast of the link or of the host to more members than one run can copy to arrives again for the others, and is
// dropped then, since it went on its way the first time.
func TestLANFloodSlices(t *testing.T) {
	for slice := 1; slice <= 3; slice++ {
		w := newLAN(t, map[string]any{"cfg_flood_slice": uint16(slice)})
		runIn(t, w, []testCase{{name: fmt.Sprint("udp-broadcast_by_", slice, "-copies"), run: func(s *scenario, f family) {
			p := s.onTheLink(f, "a").answer("").with(func(p *packet) { p.proto, p.dmac = udp, broadcast() })
			own := p.with(func(p *packet) { p.smac = s.uplink.mac })
			for _, first := range []*sent{s.arrive(p), s.leave(own, 7)} {
				var heard []string
				for done := 0; done < 3; done += slice {
					sending, verdict, counted := first, next, 3
					if done > 0 {
						sending, verdict, counted = s.arrive(literal(first.in)), shot, 0
						sending.skb.Mark = floodMark | uint32(done)
					}
					r := sending.do()
					if r.verdict != verdict || len(r.counts) != counted || r.mark != sending.skb.Mark {
						s.Errorf("after %d copies: verdict %s, mark %#x, counters %v", done, r.verdict, r.mark, r.counts)
					}
					again := slices.Contains(r.to, "clone up0 flags 0x1")
					if want := done+slice < 3; again != want {
						s.Errorf("after %d copies: %v; want it sent again: %t", done, r.to, want)
					}
					heard = append(heard, slices.DeleteFunc(r.to, func(to string) bool { return to == "clone up0 flags 0x1" })...)
				}
				slices.Sort(heard)
				if want := []string{"clone h-a", "clone h-b", "clone h-c"}; !slices.Equal(heard, want) {
					s.Errorf("copies: %v, want %v", heard, want)
				}
			}
		}}})
	}
}
