// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps"
)

// groupHost is the MAC of node4 itself.
var groupHost = memberMAC(netPlain, 201)

// groupAddr returns the nth group of a family.
func groupAddr(f family, n byte) netip.Addr {
	if f.is4() {
		return netip.AddrFrom4([4]byte{239, 1, 2, n})
	}
	return netip.AddrFrom16([16]byte{0xff, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, n})
}

// record is a record of a report of IGMPv3 or MLDv2.
type record struct {
	kind    byte
	group   netip.Addr
	sources int
	aux     byte // in 4 bytes
}

// report returns a message of IGMPv3 or MLDv2 with some records.
func report(f family, records ...record) (b []byte) {
	b = make([]byte, 8)
	b[0] = map[bool]byte{true: 0x22, false: 143}[f.is4()]
	binary.BigEndian.PutUint16(b[6:], uint16(len(records)))
	for _, r := range records {
		b = append(b, r.kind, r.aux, byte(r.sources>>8), byte(r.sources))
		b = append(b, r.group.AsSlice()...)
		b = append(b, make([]byte, r.sources*len(r.group.AsSlice())+int(r.aux)*4)...)
	}
	return b
}

// older returns a report (or the end of one) of IGMPv2 or MLDv1.
func older(f family, g netip.Addr, leave bool) []byte {
	if f.is4() {
		return append([]byte{map[bool]byte{true: 0x17, false: 0x16}[leave], 0, 0, 0}, g.AsSlice()...)
	}
	return append([]byte{map[bool]byte{true: 132, false: 131}[leave], 0, 0, 0, 0, 0, 0, 0}, g.AsSlice()...)
}

// query returns a general query, or one for a group.
func query(f family, g ...netip.Addr) []byte {
	if f.is4() {
		b := []byte{0x11, 10, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0}
		if len(g) > 0 {
			copy(b[4:], g[0].AsSlice())
		}
		return b
	}
	b := make([]byte, 28)
	b[0], b[4] = 130, 1
	if len(g) > 0 {
		copy(b[8:], g[0].AsSlice())
	}
	return b
}

// grouped returns a message of IGMP or MLD from smac, with options in its header unless it is plain.
func grouped(f family, smac maps.MAC, message []byte, plain bool) literal {
	var b []byte
	if f.is4() {
		b = []byte{1, 0, 0x5e, 0, 0, 22}
		b = append(append(b, smac[:]...), 8, 0)
		length, header := 24+len(message), byte(0x46)
		if plain {
			length, header = 20+len(message), 0x45
		}
		b = append(b, header, 0xc0, byte(length>>8), byte(length), 0, 0, 0, 0, 1, 2, 0, 0)
		b = append(b, 0, 0, 0, 0, 224, 0, 0, 22)
		if !plain {
			b = append(b, 0x94, 4, 0, 0)
		}
		return append(b, message...)
	}
	b = []byte{0x33, 0x33, 0, 0, 0, 22}
	b = append(append(b, smac[:]...), 0x86, 0xdd)
	length, next := 8+len(message), byte(0)
	if plain {
		length, next = len(message), 58
	}
	b = append(b, 0x60, 0, 0, 0, byte(length>>8), byte(length), next, 1)
	b = append(append(b, linkLocal(smac).AsSlice()...), netip.MustParseAddr("ff02::16").AsSlice()...)
	if !plain {
		b = append(b, 58, 0, 5, 2, 0, 0, 1, 0)
	}
	return append(b, message...)
}

// knowGroups makes all nodes known, with queries some seconds ago and no groups.
func (s *scenario) knowGroups() {
	s.Helper()
	now := maps.Now()
	asked := [3]uint32{now - 10, now - 20, now - 30}
	for _, node := range []uint16{0, node4, node6, nodeAway} {
		s.setGroups(node, bpf.TCGroups{Asked: [2][3]uint32{asked, asked}})
	}
}

func (s *scenario) setGroups(node uint16, g bpf.TCGroups) {
	s.Helper()
	must(s.TB, s.tables["fl_group"].Put(bpf.TCGroupsKey{Net: netPlain, Node: uint32(node)}, g))
}

func (s *scenario) groups(node uint16) (g bpf.TCGroups) {
	s.Helper()
	must(s.TB, s.tables["fl_group"].Lookup(bpf.TCGroupsKey{Net: netPlain, Node: uint32(node)}, &g))
	return g
}

// arrivesGroup is a message of node4 that is noted and reaches nobody.
func (s *scenario) arrivesGroup(from maps.MAC, f family, message []byte, plain bool) {
	s.Helper()
	in := grouped(f, from, message, plain)
	c := make(counts)
	c.add("path group", len(in))
	s.arrive(s.wrapped(tunnels()[0], in)).expect(expectation{verdict: shot, counts: c})
}

// copies returns how many nodes get a copy of a member's datagram to a group.
func (s *scenario) copies(f family, g netip.Addr) (n int) {
	s.Helper()
	return s.copiesOf("a", s.between(f, "a", "b").with(func(p *packet) {
		p.proto, p.dst, p.dmac = udp, at(g, 5000), groupMAC(g)
	}))
}

func (s *scenario) copiesOf(from string, p frame) (n int) {
	s.Helper()
	r := s.from(from, p).do()
	again := "clone " + s.names[s.members[from].IfIndex] + " flags 0x1"
	for _, to := range r.to {
		if to == again {
			n++
		}
	}
	if spared := r.counts["event group_spared"].Packets; n > 0 && n < 3 && spared != uint64(3-n) {
		s.Errorf("%d copies, and %d counted as spared", n, spared)
	}
	return n
}

func groupMAC(g netip.Addr) maps.MAC {
	b := g.AsSlice()
	if g.Is4() {
		return maps.MAC{1, 0, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	return maps.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// listens expects that node4 alone, or no node, gets the datagrams to a group.
func (s *scenario) listens(f family, g netip.Addr, want bool) {
	s.Helper()
	if n := s.copies(f, g); n != map[bool]int{true: 1}[want] {
		s.Errorf("%d nodes get a copy for %s; node %d listens: %t", n, g, node4, want)
	}
}

// TestGroups checks what is noted of the messages of IGMP and MLD, and which nodes get copies then.
func TestGroups(t *testing.T) {
	w := newOverlay(t, true)
	must(t, w.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netPlain, MAC: groupHost, Node: node4, Host: true}))
	runIn(t, w, slices.Concat(groupReports(), groupQueries(), groupsHere()))
}

func groupReports() (cases []testCase) {
	g := func(f family) netip.Addr { return groupAddr(f, 7) }
	other := func(f family) netip.Addr { return groupAddr(f, 8) }
	for _, c := range []struct {
		name    string
		message func(f family) []byte
		listens bool
	}{
		{"older", func(f family) []byte { return older(f, g(f), false) }, true},
		{"older_cut", func(f family) []byte { m := older(f, g(f), false); return m[:len(m)-1] }, false},
		{"is_exclude", func(f family) []byte { return report(f, record{2, g(f), 0, 0}) }, true},
		{"to_exclude", func(f family) []byte { return report(f, record{4, g(f), 2, 0}) }, true},
		{"is_include", func(f family) []byte { return report(f, record{1, g(f), 2, 0}) }, true},
		{"to_include", func(f family) []byte { return report(f, record{3, g(f), 1, 0}) }, true},
		{"allow", func(f family) []byte { return report(f, record{5, g(f), 1, 0}) }, true},
		{"is_include_nothing", func(f family) []byte { return report(f, record{1, g(f), 0, 0}) }, false},
		{"to_include_nothing", func(f family) []byte { return report(f, record{3, g(f), 0, 0}) }, false},
		{"block", func(f family) []byte { return report(f, record{6, g(f), 1, 0}) }, false},
		{"unknown_record", func(f family) []byte { return report(f, record{9, g(f), 1, 0}) }, false},
		{"second_record", func(f family) []byte { return report(f, record{4, other(f), 3, 2}, record{4, g(f), 0, 0}) }, true},
		{"seventieth_record", func(f family) []byte {
			return report(f, append(slices.Repeat([]record{{4, other(f), 0, 0}}, 69), record{4, g(f), 0, 0})...)
		}, true},
		{"of_other_group", func(f family) []byte { return report(f, record{4, other(f), 0, 0}) }, false},
		{"of_unicast", func(f family) []byte { return report(f, record{4, f.remote, 0, 0}) }, false},
		{"more_records_than_there_are", func(f family) []byte {
			m := report(f, record{4, g(f), 0, 0})
			m[6] = 0xff
			return m
		}, true},
		{"sources_cut", func(f family) []byte { m := report(f, record{4, g(f), 3, 0}); return m[:len(m)-1] }, false},
		{"record_cut", func(f family) []byte { m := report(f, record{4, g(f), 0, 0}); return m[:len(m)-2] }, false},
		{"header_alone", func(f family) []byte { return report(f, record{4, g(f), 0, 0})[:8] }, false},
		{"header_cut", func(f family) []byte { return report(f, record{4, g(f), 0, 0})[:6] }, false},
	} {
		for _, plain := range []bool{false, true} {
			cases = append(cases, testCase{name: fmt.Sprintf("report_%s_plain_%t-noted", c.name, plain), run: func(s *scenario, f family) {
				m := c.message(f)
				if len(m) < 8 && !f.is4() {
					return // not a whole ICMPv6 header, which is malformed
				}
				s.knowGroups()
				s.listens(f, g(f), false)
				s.arrivesGroup(farMAC, f, m, plain)
				s.listens(f, g(f), c.listens)
			}})
		}
	}
	return append(cases, testCase{name: "malformed-flood", run: func(s *scenario, f family) {
		// What cannot be parsed is not a report: members get it, as any other frame.
		in := grouped(f, farMAC, report(f, record{4, g(f), 0, 0}), true)
		in[14] = 0x70 // the version
		s.knowGroups()
		r := s.arrive(s.wrapped(tunnels()[0], in)).do()
		if r.counts["path flood"].Packets != 1 {
			s.Errorf("counters that moved: %v", r.counts)
		}
	}})
}

// Groups age by queries that are not answered.
func groupQueries() []testCase {
	g := func(f family) netip.Addr { return groupAddr(f, 9) }
	node := func(f family, seen, left uint32, asked ...uint32) bpf.TCGroups {
		var groups bpf.TCGroups
		row := map[bool]int{true: 0, false: 1}[f.is4()]
		copy(groups.Asked[row][:], asked)
		for i := range groups.List { // wherever its place is
			groups.List[i].Group.B = g(f).As16()
			groups.List[i].Seen, groups.List[i].Left = seen, left
		}
		return groups
	}
	ages := func(name string, want bool, groups func(f family, now uint32) bpf.TCGroups) testCase {
		return testCase{name: name, run: func(s *scenario, f family) {
			s.knowGroups()
			s.setGroups(node4, groups(f, maps.Now()))
			s.listens(f, g(f), want)
		}}
	}
	return []testCase{
		ages("answered_the_last-listens", true, func(f family, now uint32) bpf.TCGroups { return node(f, now-10, 0, now-10, now-135, now-260) }),
		ages("one_unanswered-listens", true, func(f family, now uint32) bpf.TCGroups { return node(f, now-134, 0, now-10, now-135, now-260) }),
		ages("two_unanswered-listens", true, func(f family, now uint32) bpf.TCGroups { return node(f, now-259, 0, now-10, now-135, now-260) }),
		ages("three_unanswered-spared", false, func(f family, now uint32) bpf.TCGroups { return node(f, now-261, 0, now-10, now-135, now-260) }),
		ages("no_query_for_a_day-listens", true, func(f family, now uint32) bpf.TCGroups {
			return node(f, now-min(now-4, 86400), 0, now-min(now-4, 86400), 2, 1)
		}),
		ages("left_without_query-listens", true, func(f family, now uint32) bpf.TCGroups { return node(f, now-20, now-5, now-10, now-20, now-30) }),
		ages("left_and_asked_now-listens", true, func(f family, now uint32) bpf.TCGroups { return node(f, now-20, now-5, now, now-20, now-30) }),
		ages("left_and_nobody_answers-spared", false, func(f family, now uint32) bpf.TCGroups { return node(f, now-20, now-5, now-4, now-20, now-30) }),
		ages("two_queries_only-gets_all", true, func(f family, now uint32) bpf.TCGroups { return node(f, 0, 0, now-10, now-20) }),
		{name: "no_entry-gets_all", run: func(s *scenario, f family) {
			s.knowGroups()
			must(s.TB, s.tables["fl_group"].Delete(bpf.TCGroupsKey{Net: netPlain, Node: node4}))
			s.listens(f, g(f), true)
		}},
		{name: "queries_of_node-known_after_three", run: func(s *scenario, f family) {
			s.knowGroups()
			s.setGroups(node4, bpf.TCGroups{})
			for i := range 3 {
				if i > 0 {
					time.Sleep(time.Second) // two in one second count once
				}
				s.listens(f, g(f), true)
				s.arrivesGroup(groupHost, f, query(f), false)
			}
			s.listens(f, g(f), false)
			s.arrivesGroup(groupHost, f, query(f, g(f)), false)
			if row := s.groups(node4).Asked[map[bool]int{true: 0, false: 1}[f.is4()]]; row[1] >= row[0] || row[2] >= row[1] {
				s.Errorf("queries were noted at %v", row)
			}
		}},
		{name: "query_of_member-flood", run: func(s *scenario, f family) {
			s.knowGroups()
			before := s.groups(node4)
			r := s.arrive(s.wrapped(tunnels()[0], grouped(f, farMAC, query(f), false))).do()
			if after := s.groups(node4); after.Asked != before.Asked || r.counts["path flood"].Packets != 1 {
				s.Errorf("counters that moved: %v; queries %v, before %v", r.counts, after.Asked, before.Asked)
			}
		}},
		{name: "more_groups_than_places-gets_all", run: func(s *scenario, f family) {
			s.knowGroups()
			for n := range byte(250) {
				s.arrive(s.wrapped(tunnels()[0], grouped(f, farMAC, report(f, record{4, groupAddr(f, n), 0, 0}), false))).quick()
			}
			s.listens(f, groupAddr(f, 255), true)
			// The other family has its own.
			s.listens(map[bool]family{true: families()[1], false: families()[0]}[f.is4()], groupAddr(map[bool]family{true: families()[1], false: families()[0]}[f.is4()], 255), false)
		}},
		{name: "unanswered_places-used_again", run: func(s *scenario, f family) {
			s.knowGroups()
			now := maps.Now()
			s.setGroups(node4, node(f, now-100, 0, now-10, now-20, now-30))
			s.arrivesGroup(farMAC, f, report(f, record{4, groupAddr(f, 77), 0, 0}), false)
			s.listens(f, groupAddr(f, 77), true)
		}},
	}
}

// Messages of members on this host, and frames to groups.
func groupsHere() []testCase {
	to := func(s *scenario, names ...string) (list []string) {
		for _, name := range names {
			list = append(list, "clone "+s.names[s.members[name].IfIndex])
		}
		return list
	}
	again := func(s *scenario, from string) []string {
		return slices.Repeat([]string{"clone " + s.names[s.members[from].IfIndex] + " flags 0x1"}, 3)
	}
	check := func(s *scenario, from string, in frame, want ...string) {
		s.Helper()
		r := s.from(from, in).do()
		slices.Sort(want)
		if !slices.Equal(r.to, want) || r.verdict != shot {
			s.Errorf("%s sends: verdict %s, copies %v, want %v; counters that moved: %v", from, r.verdict, r.to, want, r.counts)
		}
	}
	return []testCase{
		{name: "report_here-twice_to_nodes", run: func(s *scenario, f family) {
			s.knowGroups()
			mac := s.members["a"].MAC
			for i, m := range [][]byte{report(f, record{4, groupAddr(f, 1), 0, 0}), older(f, groupAddr(f, 1), false), report(f, record{2, groupAddr(f, 1), 0, 0})} {
				want := to(s, "gw1")
				if i < 2 {
					want = append(want, again(s, "a")...)
				}
				check(s, "a", grouped(f, mac, m, false), want...)
			}
			// Another group, and an end, are for the nodes.
			check(s, "a", grouped(f, mac, report(f, record{2, groupAddr(f, 1), 0, 0}, record{2, groupAddr(f, 2), 0, 0}), false), append(to(s, "gw1"), again(s, "a")...)...)
			check(s, "a", grouped(f, mac, older(f, groupAddr(f, 1), true), false), append(to(s, "gw1"), again(s, "a")...)...)
			if row := s.groups(0).Left[map[bool]int{true: 0, false: 1}[f.is4()]]; row+2 < maps.Now() {
				s.Errorf("a member left at %d", row)
			}
			check(s, "b", grouped(f, s.members["b"].MAC, report(f, record{2, groupAddr(f, 1), 0, 0}), false), append(to(s, "gw1"), again(s, "b")...)...)
		}},
		{name: "report_of_host-stays", run: func(s *scenario, f family) {
			s.knowGroups()
			check(s, "gw1", grouped(f, s.members["gw1"].MAC, report(f, record{4, groupAddr(f, 3), 0, 0}), false))
		}},
		{name: "query_of_host-to_members_and_nodes", run: func(s *scenario, f family) {
			s.knowGroups()
			check(s, "gw1", grouped(f, s.members["gw1"].MAC, query(f), false), append(to(s, "a", "b", "c"), again(s, "gw1")...)...)
			if row := s.groups(0).Asked[map[bool]int{true: 0, false: 1}[f.is4()]]; row[0]+2 < maps.Now() {
				s.Errorf("queries at %v", row)
			}
		}},
		{name: "network_of_one_host-flood", run: func(s *scenario, f family) {
			check(s, "g", grouped(f, s.members["g"].MAC, report(f, record{4, groupAddr(f, 3), 0, 0}), false), to(s, "gw4", "h")...)
		}},
		{name: "group_without_listeners-local_members_alone", run: func(s *scenario, f family) {
			s.knowGroups()
			g := groupAddr(f, 4)
			p := s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dst, p.dmac = udp, at(g, 5000), groupMAC(g) })
			check(s, "a", p, to(s, "gw1", "b", "c")...)
		}},
		{name: "link_local_groups-flood", run: func(s *scenario, f family) {
			s.knowGroups()
			for _, g := range strings.Fields(map[bool]string{true: "224.0.0.1 224.0.0.251 224.0.0.18 255.255.255.255",
				false: "ff02::1 ff02::2 ff02::1:ff00:1 ff02::fb ff01::1 ff12::7"}[f.is4()]) {
				if n := s.copies(f, netip.MustParseAddr(g)); n != 3 {
					s.Errorf("%d nodes get a copy for %s", n, g)
				}
			}
			for _, g := range strings.Fields(map[bool]string{true: "224.0.1.1 239.255.255.250 232.1.1.1", false: "ff05::2 ff0e::101 ff3e::7"}[f.is4()]) {
				if n := s.copies(f, netip.MustParseAddr(g)); n != 0 {
					s.Errorf("%d nodes get a copy for %s", n, g)
				}
			}
		}},
		{name: "fragments_to_group-as_the_first", run: func(s *scenario, f family) {
			s.knowGroups()
			s.arrivesGroup(farMAC, f, report(f, record{4, groupAddr(f, 5), 0, 0}), false)
			for n, want := range map[byte]int{5: 1, 6: 0} {
				g := groupAddr(f, n)
				first, later := fragments(s.between(f, "a", "b").with(func(p *packet) { p.proto, p.dst, p.dmac = udp, at(g, 5000), groupMAC(g) }).long(s.TB))
				for i, p := range []frame{later, first} {
					if got := s.copiesOf("a", p); got != want {
						s.Errorf("fragment %d to %s: %d nodes get a copy, want %d", i, g, got, want)
					}
				}
			}
		}},
	}
}
