// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-net/fairlead/bpf"
)

// key identifies a packet's flow.
type key struct {
	src, dst netip.AddrPort
	proto    layers.IPProtocol
}

func (k key) String() string { return fmt.Sprintf("%s %s to %s", k.proto, k.src, k.dst) }

func (k key) reversed() key { return key{k.dst, k.src, k.proto} }

func (k key) from(port uint16) key {
	k.src = at(k.src.Addr(), port)
	return k
}

func (p packet) key() key { return key{p.src, p.dst, p.proto} }

func (p packet) translated(k key) packet {
	p.src, p.dst = k.src, k.dst
	return p
}

// reference is a simple model of the datapath's flows.
type reference struct {
	entries map[key]translation
	flows   []*refFlow
	bound   map[endpointPort]bool // by a socket of the host
	public  map[endpointPort]bool // published for port 80 of b
	lo, hi  uint16                // range of ports for moved flows
	// confirmed queries the datapath: an expired flow loses its port only if it was never
	// answered.
	confirmed func(key) bool
}

type endpointPort struct {
	proto layers.IPProtocol
	port  uint16
}

// translation is one direction of a flow.
type translation struct {
	to   key
	flow *refFlow
}

// refFlow is a flow of a member to the outside, of a client outside to a published port, or
// of the host itself.
type refFlow struct {
	owner   string // member, or "" for the host
	publish bool
	first   key // of the initiator
	left    key // the same as it leaves
	expired bool
	tcp     *refTCP // for TCP
}

func (f *refFlow) String() string { return fmt.Sprintf("%s: %v as %v", f.owner, f.first, f.left) }

// available reports whether a new flow may leave with this tuple: not from a published port, unless it is the sender's own.
func (m *reference) available(left key, f *refFlow) bool {
	at := endpointPort{left.proto, left.src.Port()}
	own := f.owner == "b" && f.first.src.Port() == 80
	if !f.publish && (m.bound[at] || m.public[at] && !own) {
		return false
	}
	e, used := m.entries[left.reversed()]
	return !used || e.flow.expired && !m.confirmed(left.reversed())
}

// choices returns the ports that a new flow may get; only one if it can keep its own.
func (m *reference) choices(left key, f *refFlow) []uint16 {
	if m.available(left, f) {
		return []uint16{left.src.Port()}
	}
	var ports []uint16
	lo, hi := m.portRange(left)
	for p := lo; p <= hi; p++ {
		if m.available(left.from(p), f) {
			ports = append(ports, p)
		}
	}
	return ports
}

// portRange returns the ports that a flow may be moved to: a privileged port stays
// privileged.
func (m *reference) portRange(left key) (lo, hi uint16) {
	switch port := left.src.Port(); {
	case left.proto == echo || port >= 1024:
		return m.lo, m.hi
	case port >= 512:
		return 600, 1023
	}
	return 1, 511
}

// begin records the flow, in place of an expired one.
func (m *reference) begin(f *refFlow) {
	if e, used := m.entries[f.left.reversed()]; used {
		m.remove(e.flow)
	}
	m.entries[f.first] = translation{f.left, f}
	m.entries[f.left.reversed()] = translation{f.first.reversed(), f}
	m.flows = append(m.flows, f)
}

func (m *reference) remove(f *refFlow) {
	delete(m.entries, f.first)
	delete(m.entries, f.left.reversed())
	m.flows = slices.DeleteFunc(m.flows, func(o *refFlow) bool { return o == f })
}

func (m *reference) removeWhere(match func(*refFlow) bool) int {
	n := 0
	for _, f := range slices.Clone(m.flows) {
		if match(f) {
			m.remove(f)
			n++
		}
	}
	return n
}

// same returns how the datapath's tables differ.
func (m *reference) same(s *scenario) error {
	have := make(map[bpf.TCTuple]bpf.TCTuple)
	for _, name := range []string{"fl_ct", "fl_ct_new"} {
		var k bpf.TCTuple
		var v bpf.TCCtEntry
		it := s.tables[name].Iterate()
		for it.Next(&k, &v) {
			have[k] = v.Xlat
		}
		must(s.TB, it.Err())
	}
	for k, want := range m.entries {
		got, found := have[packet{}.translated(k).of(k.proto).tuple()]
		if want := (packet{}).translated(want.to).of(k.proto).tuple(); !found || got != want {
			return fmt.Errorf("%v is to be translated to %v; entry found %t, with %+v", k, want, found, got)
		}
	}
	if len(have) != len(m.entries) {
		return fmt.Errorf("the tables have %d entries, want %d", len(have), len(m.entries))
	}
	return nil
}

func (p packet) of(proto layers.IPProtocol) packet {
	p.proto = proto
	return p
}
