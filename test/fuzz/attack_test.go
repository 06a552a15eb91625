// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/test/lab"
)

// attack is a row of docs/faults.md. Its steps are done in both twins, the kernel's being the control: a bridge with
// netfilter shows the right outcome, and Fairlead's must be the same.
type attack struct {
	row, name string
	flows     []flow
	steps     []step
	reach     []string // nodes that the last step's packet reaches, by name
	phase     phase    // of the first flow in the end; "": not looked at
}

// stuffed are tags that a receiver's kernel takes off, one after the other.
var stuffed = []tag{{etherVLAN, 0}, {etherVLAN, 0}}

// attacks returns the attacks on a family. Each has an honest packet of the same path that reaches its receiver, so that an
// attack does not fail for another reason than the intended one.
func attacks(f lab.Family) []attack {
	at := func(name string) netip.Addr { return nodeOf(name).addr(f) }
	host := netip.MustParseAddr(f.Of(lab.Host4, lab.Host6))
	server := internet[f]
	icmp, echo := byte(unix.IPPROTO_ICMP), uint16(8)
	if f == lab.IPv6 {
		icmp, echo = unix.IPPROTO_ICMPV6, 128
	}
	udp := func(client string, dst netip.Addr, port uint16) flow {
		return flow{Client: client, Dst: dst, Proto: unix.IPPROTO_UDP, Sport: 4000, Dport: port}
	}
	tcp := func(client string, dst netip.Addr, port uint16) flow {
		return flow{Client: client, Dst: dst, Proto: unix.IPPROTO_TCP, Sport: 4000, Dport: port}
	}
	to := func(fl flow, mac string) flow { fl.DMAC = mac; return fl }
	from := func(fl flow, src netip.Addr) flow { fl.Src = src; return fl }
	send := step{Kind: "forward", Len: 8}
	tagged := func(tags ...tag) []step { return []step{{Kind: "forward", Len: 8, Tags: tags}} }
	open3 := []step{{Kind: "forward", Flags: syn}, {Kind: "reverse", Flags: syn | ack}, {Kind: "forward", Flags: ack}}
	then := func(more ...step) []step { return append(slices.Clone(open3), more...) }

	list := []attack{
		{row: "S1", name: "honest, to a member", flows: []flow{to(udp("a1", at("a2"), 80), "a2")}, steps: []step{send}, reach: []string{"a2"}},
		{row: "S1", name: "tags, to another network", flows: []flow{udp("a1", at("b1"), 80)}, steps: tagged(stuffed...)},
		{row: "S1", name: "tags, to an internal network", flows: []flow{udp("a1", at("c1"), 80)}, steps: tagged(stuffed...)},
		{row: "S1", name: "tags, out of an internal network", flows: []flow{udp("c1", server, 80)}, steps: tagged(stuffed...)},
		{row: "S1", name: "tags, with a neighbour's address", flows: []flow{from(to(udp("a1", at("a2"), 80), "a2"), at("b1"))}, steps: tagged(stuffed...)},
		{row: "S1", name: "802.1ad and 802.1Q", flows: []flow{udp("a1", at("b1"), 80)}, steps: tagged(tag{etherQinQ, 0}, tag{etherVLAN, 0})},
		{row: "S1", name: "three tags", flows: []flow{udp("a1", at("b1"), 80)}, steps: tagged(tag{etherVLAN, 0}, tag{etherVLAN, 0}, tag{etherVLAN, 0})},

		{row: "S2", name: "honest, to a published port", flows: []flow{udp("out", host, 8081)}, steps: []step{send}, reach: []string{"b1"}},
		{row: "S2", name: "untagged, to a sandbox", flows: []flow{udp("out", at("b1"), 80)}, steps: []step{send}},
		{row: "S2", name: "tags, to a sandbox", flows: []flow{udp("out", at("b1"), 80)}, steps: tagged(stuffed...)},
		{row: "S2", name: "tags, to an internal network", flows: []flow{udp("out", at("c1"), 80)}, steps: tagged(stuffed...)},

		{row: "S3", name: "honest, to the world", flows: []flow{udp("a1", server, 80)}, steps: []step{send}, reach: []string{"out"}},
		{row: "S3", name: "a VLAN, to the world", flows: []flow{udp("a1", server, 80)}, steps: tagged(tag{etherVLAN, 100})},
		{row: "S3", name: "802.1ad, to the world", flows: []flow{udp("a1", server, 80)}, steps: tagged(tag{etherQinQ, 100})},
		{row: "S3", name: "a VLAN behind a priority tag", flows: []flow{udp("a1", server, 80)}, steps: tagged(tag{etherVLAN, 0}, tag{etherVLAN, 100})},
		{row: "S3", name: "a VLAN, from outside", flows: []flow{udp("out", host, 8081)}, steps: tagged(tag{etherVLAN, 100})},
		{row: "S3", name: "a VLAN, to a published port of another network", flows: []flow{udp("a1", host, 8081)}, steps: tagged(tag{etherVLAN, 100})},

		{row: "S4", name: "honest, about the server's own flow", flows: []flow{udp("out", host, 8081)}, steps: []step{send, {Kind: "error", Type: 3, Code: 3}}, reach: []string{"out"}},
		{row: "S4", name: "about no flow, to another network", flows: []flow{udp("b1", server, 80)}, steps: []step{{Kind: "error", Forged: true, Node: "a1", Type: 3, Code: 3}}},
		{row: "S4", name: "about no flow, to an internal network", flows: []flow{udp("c1", server, 80)}, steps: []step{{Kind: "error", Forged: true, Node: "a1", Type: 3, Code: 4}}},

		{row: "S5", name: "honest echo, to the world", flows: []flow{{Client: "a1", Dst: server, Proto: icmp, Sport: 4000, Dport: echo}}, steps: []step{send}, reach: []string{"out"}},
		{row: "S5", name: "type 200, to another network", flows: []flow{{Client: "a1", Dst: at("b1"), Proto: icmp, Dport: 200}}, steps: []step{send}},
		{row: "S5", name: "type 139, to another network", flows: []flow{{Client: "a1", Dst: at("b1"), Proto: icmp, Dport: 139}}, steps: []step{send}},
		{row: "S5", name: "type 139, out of an internal network", flows: []flow{{Client: "c1", Dst: server, Proto: icmp, Dport: 139}}, steps: []step{send}},

		{row: "S7", name: "a neighbour's address, from outside", flows: []flow{from(udp("out", host, 8081), at("a1"))}, steps: []step{send}},
		{row: "S7", name: "a group, by the gateway's MAC", flows: []flow{udp("a1", netip.MustParseAddr(f.Of("224.0.0.251", "ff0e::fb")), 80)}, steps: []step{send}},

		{row: "N12", name: "honest handshake", flows: []flow{tcp("out", host, 8081)}, steps: open3, reach: []string{"b1"}, phase: open},
		{row: "N13", name: "an exact RST", flows: []flow{tcp("out", host, 8081)}, steps: then(step{Kind: "forward", Flags: rst}), reach: []string{"b1"}, phase: closing},
	}
	for _, blind := range []int32{1 << 20, 1 << 30, -1 << 30} {
		list = append(list,
			attack{row: "N12", name: "a blind ACK", flows: []flow{tcp("out", host, 8081)}, steps: append(slices.Clone(open3[:2]), step{Kind: "forward", Flags: ack, Ack: blind}), reach: anywhere, phase: opening},
			attack{row: "N12", name: "a blind ACK, then the SYN-ACK again", flows: []flow{tcp("out", host, 8081)},
				steps: append(slices.Clone(open3[:2]), step{Kind: "forward", Flags: ack, Ack: blind}, open3[1]), reach: anywhere, phase: opening},
			attack{row: "N13", name: "a blind RST", flows: []flow{tcp("out", host, 8081)}, steps: then(step{Kind: "forward", Flags: rst, Seq: blind}), reach: anywhere, phase: open},
			attack{row: "N13", name: "a blind RST of the server's", flows: []flow{tcp("a1", server, 80)}, steps: then(step{Kind: "reverse", Flags: rst, Seq: blind}), reach: anywhere, phase: open},
			attack{row: "N13", name: "a blind FIN", flows: []flow{tcp("out", host, 8081)}, steps: then(step{Kind: "forward", Flags: fin | ack, Seq: blind}), reach: anywhere, phase: open})
	}
	for _, cut := range []int{21, 24, 28, 33} {
		if f == lab.IPv6 {
			cut += 20
		}
		short := step{Kind: "forward", Len: 8, Flags: syn, Cut: cut}
		list = append(list,
			attack{row: "S6", name: "cut short TCP, to a sandbox", flows: []flow{tcp("out", at("b1"), 80)}, steps: []step{short}},
			attack{row: "S6", name: "cut short UDP, to a sandbox", flows: []flow{udp("out", at("b1"), 80)}, steps: []step{short}},
			attack{row: "S6", name: "cut short ICMP, to a sandbox", flows: []flow{{Client: "out", Dst: at("b1"), Proto: icmp, Dport: echo}}, steps: []step{short}},
			attack{row: "S6", name: "an error cut short, to a sandbox", flows: []flow{udp("b1", server, 80)}, steps: []step{{Kind: "error", Forged: true, Node: "out", Type: 3, Code: 3, Cut: cut + 8}}})
	}
	list = append(list,
		attack{row: "S6", name: "a first fragment, to a sandbox", flows: []flow{tcp("out", at("b1"), 80)}, steps: []step{{Kind: "forward", Flags: syn, Len: 128, Frags: []int{0}, ID: 7}}},
		attack{row: "S6", name: "a stray later fragment, to a sandbox", flows: []flow{tcp("out", at("b1"), 80)}, steps: []step{{Kind: "forward", Flags: syn, Len: 128, Frags: []int{1}, ID: 7}}},
		attack{row: "N15", name: "fragments in order", flows: []flow{udp("out", host, 8081)}, steps: []step{{Kind: "forward", Len: 128, Frags: []int{0, 1, 2}, ID: 9}}, reach: []string{"b1"}})
	for _, order := range [][]int{{2, 1, 0}, {1, 0, 2}, {0, 2, 1}} {
		list = append(list, attack{row: "N15", name: "fragments out of order", flows: []flow{udp("out", host, 8081)},
			steps: []step{{Kind: "forward", Len: 128, Frags: order, ID: 9}}, reach: []string{"b1"}})
	}
	if f == lab.IPv6 {
		list = append(list,
			attack{row: "S7", name: "a link-local address, from outside", flows: []flow{from(udp("out", host, 8081), netip.MustParseAddr("fe80::99"))}, steps: []step{send}},
			attack{row: "S7", name: "an IPv4-mapped address, from outside", flows: []flow{from(udp("out", host, 8081), netip.MustParseAddr("::ffff:192.0.2.254"))}, steps: []step{send}},
			attack{row: "S7", name: "an IPv4-mapped address, to the world", flows: []flow{udp("a1", netip.MustParseAddr("::ffff:192.0.2.254"), 80)}, steps: []step{send}})
	}
	return list
}

// anywhere is for an attack whose packet may reach its receiver, which judges it: what it does to the flow is looked at.
var anywhere = []string{"anywhere"}

// differs are attacks whose right outcome is not netfilter's, with the node that gets the packet there.
var differs = map[string][]string{
	"a neighbour's address, from outside":  {"b1"}, // rp_filter would look, and is off
	"an IPv4-mapped address, from outside": {"b1"},
	"an IPv4-mapped address, to the world": {"out"},
}

// TestAttacks tries each attack on a bridge with netfilter and on Fairlead.
func TestAttacks(t *testing.T) {
	f := newFuzzer(t)
	for _, family := range lab.Families() {
		for _, a := range attacks(family) {
			f.try(a, family)
		}
	}
}

func (f *fuzzer) try(a attack, family lab.Family) {
	f.Helper()
	s := sequence{a.flows, a.steps}
	states := f.begin(&s)
	var out [2][]*seen
	for i, st := range s.Steps {
		for n, w := range f.twins() {
			does := w.does(&s, &s.Steps[i], states[st.Flow])
			if does == nil {
				f.Errorf("%s, IPv%v, %s: %s cannot do step %d, for what came before did not arrive", a.row, family, a.name, w.name, i)
				return
			}
			check(f.Lab, does())
			check(f.Lab, f.barrier.wait())
			all, _, err := w.collect()
			check(f.Lab, err)
			var noted notes
			out[n], noted = w.observe(&s, st, all)
			w.note(st.Flow, noted)
		}
		advance(&states[st.Flow], st, s.Flows[st.Flow])
	}
	sender := s.Flows[0].Client
	if last := s.Steps[len(s.Steps)-1]; last.Kind != "forward" {
		sender = last.Node
	}
	for n, w := range f.twins() {
		want := a.reach
		if control, ok := differs[a.name]; ok && w.judge {
			want = control
		}
		if got := reached(out[n], sender); !slices.Equal(want, anywhere) && !slices.Equal(got, want) {
			f.Errorf("%s, IPv%v, %s: with %s the packet reaches %v, want %v", a.row, family, a.name, w.name, got, want)
		}
	}
	f.tryPhase(a, family)
}

// tryPhase wants the first flow to be as far as the attack says.
func (f *fuzzer) tryPhase(a attack, family lab.Family) {
	f.Helper()
	if a.phase == "" {
		return
	}
	ours, err := fairleadPhase(f.fairlead.tables[0], f.fairlead.tables[1], a.flows[0].place())
	check(f.Lab, err)
	kind := netlink.InetFamily(unix.AF_INET)
	if family == lab.IPv6 {
		kind = unix.AF_INET6
	}
	theirs, err := f.kernel.kernelPhases(kind)
	check(f.Lab, err)
	control := theirs[a.flows[0].place()]
	if a.phase == closing && control == "" {
		control = closing // forgotten at once
	}
	for name, got := range map[string]phase{"fairlead": ours, "the kernel": control} {
		if got != a.phase {
			f.Errorf("%s, IPv%v, %s: the flow is %s with %s, want %s", a.row, family, a.name, got, name, a.phase)
		}
	}
}

// reached are the nodes that something came to, but for its sender, which may get an ICMP error.
func reached(all []*seen, sender string) (names []string) {
	for _, s := range all {
		if s.node != sender {
			names = append(names, s.node)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
