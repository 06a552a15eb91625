// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
)

// Tuple is one direction of a flow, as its packets arrive. An ICMP request has its id as source
// port, the reply as destination port.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8
}

// String is for logs.
func (t Tuple) String() string { return fmt.Sprintf("proto %d %s to %s", t.Proto, t.Src, t.Dst) }

func tupleFrom(t bpf.TCTuple) Tuple {
	return Tuple{Src: addrPort(t.Saddr, t.Sport), Dst: addrPort(t.Daddr, t.Dport), Proto: t.Proto}
}

func reverse(t bpf.TCTuple) bpf.TCTuple {
	t.Saddr, t.Daddr, t.Sport, t.Dport = t.Daddr, t.Saddr, t.Dport, t.Sport
	t.Ask, t.Answer = t.Answer, t.Ask
	return t
}

// FlowKey identifies one entry of the flow tables. It is opaque.
type FlowKey struct{ t bpf.TCTuple }

// String is for logs.
func (k FlowKey) String() string { return tupleFrom(k.t).String() }

// Flow is the state of one connection, or of what looks like one.
type Flow struct {
	Orig      Tuple // packets of the side that opened the flow, before translation
	Reply     Tuple // packets of the side that answers, before translation
	State     string
	Age       time.Duration // since the first packet
	Expires   time.Duration // until it expires; negative: overdue
	Confirmed bool          // both sides use it, so it is never evicted
	Publish   uint32        // ID of the publish that created it; 0 if none
	Net       uint32        // network index it is accounted to
	InIf      uint32        // host end the original packets come from; 0: an uplink or the host; or another node
	OutIf     uint32        // host end they are delivered to; 0: routed; or ViaNode
	NATSrc    bool          // the source is translated
	NATDst    bool          // the destination is translated
	Host      bool          // a flow of the host's own stack

	key FlowKey
}

// Proto is the IP protocol.
func (f Flow) Proto() uint8 { return f.Orig.Proto }

// Key names the flow for [Conntrack.Remove].
func (f Flow) Key() FlowKey { return f.key }

// FlowCounts holds the fill level of the flow tables. A flow has two entries.
type FlowCounts struct {
	Confirmed, ConfirmedMax     int            // entries of fl_ct
	Unconfirmed, UnconfirmedMax int            // entries of fl_ct_new
	States                      map[string]int // flows by state
}

// Conntrack reads fl_ct and fl_ct_new, which only the datapath writes, and removes flows through
// the datapath. Safe for concurrent use.
type Conntrack struct {
	confirmed, unconfirmed *ebpf.Map
	used                   *ebpf.Map // number of entries in confirmed, as counted by the programs
	states                 []string  // by enum ct_state

	gcMu sync.Mutex // fl_gc holds one batch
	gc   *ebpf.Map
	run  func() error // runs gc_flows over the batch in fl_gc
}

// Each calls visit for every flow until it returns false: confirmed flows, then unconfirmed ones.
// Flows may be added and removed meanwhile.
func (c *Conntrack) Each(visit func(Flow) bool) error {
	return c.entries(func(k bpf.TCTuple, e bpf.TCCtEntry, f func() Flow) bool {
		if e.Flags&uint16(bpf.TCCtFlagCT_F_REPLY) != 0 {
			return true
		}
		return visit(f())
	})
}

// Counts walks both tables and counts their flows.
func (c *Conntrack) Counts() (FlowCounts, error) {
	n := FlowCounts{
		ConfirmedMax:   int(c.confirmed.MaxEntries()),
		UnconfirmedMax: int(c.unconfirmed.MaxEntries()),
		States:         make(map[string]int),
	}
	for _, s := range c.states {
		n.States[s] = 0
	}
	tally := func(total *int) func(bpf.TCTuple, bpf.TCCtEntry) bool {
		return func(_ bpf.TCTuple, e bpf.TCCtEntry) bool {
			*total++
			if e.Flags&uint16(bpf.TCCtFlagCT_F_REPLY) == 0 {
				n.States[c.state(e.State)]++
			}
			return true
		}
	}
	if err := table.ReadAll(c.confirmed, tally(&n.Confirmed)); err != nil {
		return FlowCounts{}, fmt.Errorf("count confirmed flows: %w", err)
	}
	if err := table.ReadAll(c.unconfirmed, tally(&n.Unconfirmed)); err != nil {
		return FlowCounts{}, fmt.Errorf("count unconfirmed flows: %w", err)
	}
	return n, nil
}

// Expired returns the keys of flows that expired before now, one per flow. The datapath checks
// each again before it removes it.
func (c *Conntrack) Expired(now uint32) ([]FlowKey, error) {
	keys := newKeySet()
	err := c.entries(func(k bpf.TCTuple, e bpf.TCCtEntry, _ func() Flow) bool {
		if int32(now-e.Expires) > 0 {
			keys.add(k, e)
		}
		return true
	})
	return keys.keys, err
}

// Recount is [FlowCount.Recount] of these tables.
func (c *Conntrack) Recount() error { return c.flowCount().Recount() }

// Hold is [FlowCount.Hold] of these tables.
func (c *Conntrack) Hold() error { return c.flowCount().Hold() }

func (c *Conntrack) flowCount() FlowCount { return FlowCount{Flows: c.confirmed, Used: c.used} }

// DeleteWhere removes the flows for which match returns true, expired or not. It returns how many
// flows the datapath removed.
func (c *Conntrack) DeleteWhere(match func(Flow) bool) (removed int, err error) {
	keys := newKeySet()
	err = c.entries(func(k bpf.TCTuple, e bpf.TCCtEntry, f func() Flow) bool {
		if match(f()) {
			keys.add(k, e)
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	return c.Remove(keys.keys, true)
}

// Remove removes the flows of the keys through the datapath, both directions of each: those that
// are expired, or all of them with force. It returns how many the datapath removed; an absent flow
// is success.
func (c *Conntrack) Remove(keys []FlowKey, force bool) (removed int, err error) {
	c.gcMu.Lock()
	defer c.gcMu.Unlock()
	for chunk := range slices.Chunk(keys, len(bpf.GCGcBatch{}.Keys)) {
		n, err := c.removeBatch(chunk, force)
		removed += n
		if err != nil {
			return removed, fmt.Errorf("remove %d flows: %w", len(keys), err)
		}
	}
	return removed, nil
}

func (c *Conntrack) removeBatch(keys []FlowKey, force bool) (removed int, err error) {
	b := &bpf.GCGcBatch{Now: Now(), Count: uint32(len(keys))}
	if force {
		b.Force = 1
	}
	for i, k := range keys {
		b.Keys[i] = gcTuple(k.t)
	}
	if err := c.gc.Put(uint32(0), b); err != nil {
		return 0, fmt.Errorf("write to table %s: %w", bpf.GCMapFlGc, err)
	}
	if err := c.run(); err != nil {
		return 0, err
	}
	if err := c.gc.Lookup(uint32(0), b); err != nil {
		return 0, fmt.Errorf("read table %s: %w", bpf.GCMapFlGc, err)
	}
	return int(b.Removed), nil
}

// entries visits every entry of both tables. It passes a function that builds the entry's Flow.
// Both directions of a flow have the same Flow, so that a flow with an evicted partner is not
// missed.
func (c *Conntrack) entries(visit func(bpf.TCTuple, bpf.TCCtEntry, func() Flow) bool) error {
	now, more := Now(), true
	for _, t := range []struct {
		m         *ebpf.Map
		confirmed bool
	}{{c.confirmed, true}, {c.unconfirmed, false}} {
		err := table.ReadAll(t.m, func(k bpf.TCTuple, e bpf.TCCtEntry) bool {
			more = visit(k, e, func() Flow { return c.flow(k, e, t.confirmed, now) })
			return more
		})
		if err != nil {
			return fmt.Errorf("read flows: %w", err)
		}
		if !more {
			break
		}
	}
	return nil
}

func (c *Conntrack) flow(k bpf.TCTuple, e bpf.TCCtEntry, confirmed bool, now uint32) Flow {
	flags := bpf.TCCtFlag(e.Flags)
	f := Flow{
		Orig: tupleFrom(k), Reply: tupleFrom(reverse(e.Xlat)),
		InIf: e.InIf, OutIf: e.OutIf,
		NATSrc: flags&bpf.TCCtFlagCT_F_NAT_SRC != 0, NATDst: flags&bpf.TCCtFlagCT_F_NAT_DST != 0,
		Host:  flags&bpf.TCCtFlagCT_F_HOST != 0,
		State: c.state(e.State), Confirmed: confirmed, Publish: e.Publish, Net: uint32(e.Net),
		Age:     time.Duration(int32(now-e.Created)) * time.Second,
		Expires: time.Duration(int32(e.Expires-now)) * time.Second,
		key:     FlowKey{k},
	}
	if flags&bpf.TCCtFlagCT_F_REPLY != 0 {
		// The source of one direction is the destination of the other.
		f.Orig, f.Reply = f.Reply, f.Orig
		f.InIf, f.OutIf = f.OutIf, f.InIf
		f.NATSrc, f.NATDst = f.NATDst, f.NATSrc
	}
	return f
}

func (c *Conntrack) state(s uint8) string {
	if int(s) < len(c.states) {
		return c.states[s]
	}
	return fmt.Sprintf("state%d", s)
}

// CompareFlows orders flows for display: by protocol, then by the original direction.
func CompareFlows(a, b Flow) int {
	return cmp.Or(
		cmp.Compare(a.Orig.Proto, b.Orig.Proto),
		a.Orig.Src.Compare(b.Orig.Src),
		a.Orig.Dst.Compare(b.Orig.Dst),
		strings.Compare(a.State, b.State),
	)
}

// keySet collects one key per flow, although it sees both directions.
type keySet struct {
	keys []FlowKey
	seen map[bpf.TCTuple]struct{}
}

func newKeySet() *keySet { return &keySet{seen: make(map[bpf.TCTuple]struct{})} }

func (s *keySet) add(k bpf.TCTuple, e bpf.TCCtEntry) {
	if _, ok := s.seen[reverse(e.Xlat)]; ok {
		return
	}
	s.seen[k] = struct{}{}
	s.keys = append(s.keys, FlowKey{k})
}

func gcTuple(t bpf.TCTuple) bpf.GCTuple {
	same := bpf.GCTuple{Sport: t.Sport, Dport: t.Dport, Proto: t.Proto, Ask: t.Ask, Answer: t.Answer}
	same.Saddr.B, same.Daddr.B = t.Saddr.B, t.Daddr.B
	return same
}
