// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-net/fairlead/bpf"
)

// entry is one direction of a flow as the datapath stores it.
type entry struct {
	bpf.TCCtEntry
	confirmed bool
}

func (e entry) state() bpf.TCCtState { return bpf.TCCtState(e.State) }

func (e entry) has(f bpf.TCCtFlag) bool { return bpf.TCCtFlag(e.Flags)&f != 0 }

func ipKey(a netip.Addr) bpf.TCIp { return bpf.TCIp{B: a.As16()} }

// netPort is a port in the form of a C field in network byte order.
func netPort(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

// tuple returns the key of the flow entry that a packet finds.
func (p packet) tuple() bpf.TCTuple {
	proto := p.proto
	if proto == echo {
		proto = layers.IPProtocolICMPv6
		if p.is4() {
			proto = layers.IPProtocolICMPv4
		}
	}
	t := bpf.TCTuple{Saddr: ipKey(p.src.Addr()), Daddr: ipKey(p.dst.Addr()),
		Sport: netPort(p.src.Port()), Dport: netPort(p.dst.Port()), Proto: uint8(proto)}
	if p.proto == echo && p.src.Port() != 0 {
		t.Ask = p.echoRequest()
	} else if p.proto == echo {
		t.Answer = p.echoRequest()
	}
	return t
}

func reversed(t bpf.TCTuple) bpf.TCTuple {
	t.Saddr, t.Daddr, t.Sport, t.Dport = t.Daddr, t.Saddr, t.Dport, t.Sport
	t.Ask, t.Answer = t.Answer, t.Ask
	return t
}

// entry returns a flow's entry from either table; it is never in both.
func (w *world) entry(tb testing.TB, key bpf.TCTuple) (e entry, found bool) {
	tb.Helper()
	for _, name := range []string{"fl_ct_new", "fl_ct"} {
		var v bpf.TCCtEntry
		err := w.tables[name].Lookup(key, &v)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		must(tb, err)
		if found {
			tb.Errorf("%+v is in both tables", key)
		}
		e, found = entry{v, name == "fl_ct"}, true
	}
	if e.Cpu != 0 {
		w.takeNumbers(tb, key, &e.TCCtEntry)
	}
	return e, found
}

// takeNumbers gets the sequence numbers of an entry from the decision that has them (decision.h).
func (w *world) takeNumbers(tb testing.TB, key bpf.TCTuple, e *bpf.TCCtEntry) {
	tb.Helper()
	var all []bpf.TCDecision
	must(tb, w.tables["fl_decision"].Lookup(decisionIndex(key), &all))
	d := all[e.Cpu-1]
	if d.Key != key || d.Numbers == 0 {
		tb.Fatalf("the numbers of %+v are lost: its decision is %+v", key, d)
	}
	e.End, e.Ack, e.Win, e.Cpu = d.End, d.Ack, d.Win, 0
}

// endDecisions makes the next packet of each flow take the whole path, as the daemon does when it has
// written to a table.
func (w *world) endDecisions(tb testing.TB) {
	tb.Helper()
	var g uint64
	must(tb, w.tables["fl_generation"].Lookup(uint32(0), &g))
	must(tb, w.tables["fl_generation"].Put(uint32(0), g+1<<32))
}

// mustEntry is like entry where an entry has to exist.
func (w *world) mustEntry(tb testing.TB, key bpf.TCTuple) entry {
	tb.Helper()
	e, found := w.entry(tb, key)
	if !found {
		tb.Fatalf("no flow has %+v", key)
	}
	return e
}

// flowOf returns both entries of the flow that packets p and replies to it belong to.
func (w *world) flowOf(tb testing.TB, p packet) (orig, reply entry) {
	tb.Helper()
	orig = w.mustEntry(tb, p.tuple())
	reply = w.mustEntry(tb, reversed(orig.Xlat))
	if reversed(reply.Xlat) != p.tuple() {
		tb.Errorf("the answers of %+v are translated to %+v", p.tuple(), reply.Xlat)
	}
	return orig, reply
}

func (w *world) putEntry(tb testing.TB, key bpf.TCTuple, e entry) {
	tb.Helper()
	must(tb, w.table(e).Put(key, e.TCCtEntry))
	w.endDecisions(tb)
}

func (w *world) dropEntry(tb testing.TB, key bpf.TCTuple) {
	tb.Helper()
	must(tb, w.table(w.mustEntry(tb, key)).Delete(key))
	w.endDecisions(tb)
}

func (w *world) table(e entry) *ebpf.Map {
	if e.confirmed {
		return w.tables["fl_ct"]
	}
	return w.tables["fl_ct_new"]
}

// age makes seconds pass for one entry.
func (w *world) age(tb testing.TB, key bpf.TCTuple, seconds int) {
	tb.Helper()
	e := w.mustEntry(tb, key)
	e.Created -= uint32(seconds)
	e.Expires -= uint32(seconds)
	w.putEntry(tb, key, e)
}

// ageFlow makes seconds pass for the flow that p belongs to.
func (w *world) ageFlow(tb testing.TB, p packet, seconds int) {
	tb.Helper()
	orig := w.mustEntry(tb, p.tuple())
	w.age(tb, p.tuple(), seconds)
	w.age(tb, reversed(orig.Xlat), seconds)
}

// sizes returns the number of entries in fl_ct_new and fl_ct.
func (w *world) sizes(tb testing.TB) (unconfirmed, confirmed int) {
	tb.Helper()
	n, err := w.set.Conntrack.Counts()
	must(tb, err)
	return n.Unconfirmed, n.Confirmed
}
