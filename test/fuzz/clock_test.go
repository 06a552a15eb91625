// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps"
	"github.com/fairlead-net/fairlead/test/lab"
)

// sleeps are how many seconds may pass at once. No sum of two is near a timeout of 10, 30, 60 or 120 seconds: the kernel tells
// what is left of a flow's in whole seconds.
var sleeps = []uint32{3, 3, 18, 18, 45, 95, 500000}

// age has a twin's flows be older by some seconds, and removes those that are expired then. It changes what the flows say, not
// the clock.
func (w *twin) age(seconds uint32) error {
	if err := w.host.Do(func() error { return ageConntrack(seconds) }); err != nil {
		return err
	}
	if w.judge {
		return nil
	}
	return w.ageFairlead(seconds)
}

// ageFairlead ages what Fairlead's programs remember, and has gc_flows remove what is expired.
func (w *twin) ageFairlead(seconds uint32) error {
	var old []bpf.GCTuple
	for _, m := range w.tables[:2] {
		err := change(m, func(k bpf.GCTuple, e *bpf.GCCtEntry) {
			e.Expires -= seconds
			e.Created -= seconds
			old = append(old, k)
		})
		if err != nil {
			return err
		}
	}
	err := change(w.tables[2], func(_ bpf.TCFragKey, e *bpf.TCFragEntry) { e.Expires -= seconds })
	if err != nil {
		return err
	}
	if err := ageHeld(w.tables[3], seconds); err != nil {
		return err
	}
	if err := w.collector.remove(old); err != nil {
		return err
	}
	return w.endDecisions()
}

// ageHeld ages fragments that wait for their first, if any do: the last slot says until when.
func ageHeld(m *ebpf.Map, seconds uint32) error {
	var summary bpf.TCHeld
	if err := m.Lookup(m.MaxEntries()-1, &summary); err != nil {
		return fmt.Errorf("read %v: %w", m, err)
	}
	if summary.Expires == 0 {
		return nil
	}
	return change(m, func(_ uint32, h *bpf.TCHeld) {
		if h.Expires != 0 {
			h.Expires -= seconds
		}
	})
}

// change rewrites all entries of a table.
func change[K, V any](m *ebpf.Map, with func(K, *V)) error {
	type entry struct {
		key   K
		value V
	}
	var all []entry
	var e entry
	entries := m.Iterate()
	for entries.Next(&e.key, &e.value) {
		all = append(all, e)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read %v: %w", m, err)
	}
	for _, e := range all {
		with(e.key, &e.value)
		if err := m.Update(&e.key, &e.value, ebpf.UpdateExist); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("write to %v: %w", m, err)
		}
	}
	return nil
}

// collector runs gc_flows. The daemon does so too, but when it thinks fit.
type collector struct {
	run   *ebpf.Program
	batch *ebpf.Map
}

func newCollector(l *lab.Lab, shared map[string]*ebpf.Map) *collector {
	l.Helper()
	spec, err := bpf.LoadGC()
	check(l, err)
	use := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if pinned := shared[name]; pinned != nil {
			m.MaxEntries = pinned.MaxEntries()
			use[name] = pinned
		}
	}
	all, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: use})
	check(l, err)
	l.Cleanup(all.Close)
	return &collector{all.Programs["gc_flows"], all.Maps[bpf.GCMapFlGc]}
}

func (c *collector) remove(keys []bpf.GCTuple) error {
	for some := range slices.Chunk(keys, len(bpf.GCGcBatch{}.Keys)) {
		b := bpf.GCGcBatch{Now: maps.Now(), Count: uint32(len(some))}
		copy(b.Keys[:], some)
		if err := c.batch.Put(uint32(0), &b); err != nil {
			return fmt.Errorf("write to %v: %w", c.batch, err)
		}
		if _, err := c.run.Run(&ebpf.RunOptions{}); err != nil {
			return fmt.Errorf("run gc_flows: %w", err)
		}
	}
	return nil
}

// ageConntrack does so with the flows that the kernel tracks in the current namespace.
func ageConntrack(seconds uint32) error {
	list := conntrackRequest(nl.IPCTNL_MSG_CT_GET, unix.AF_UNSPEC, unix.NLM_F_DUMP)
	flows, err := list.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return fmt.Errorf("list the kernel's flows: %w", err)
	}
	for _, b := range flows {
		if err := ageFlow(b, seconds); err != nil && !errors.Is(err, unix.ENOENT) { // it may have expired by now
			return fmt.Errorf("age one of the kernel's flows: %w", err)
		}
	}
	return nil
}

func conntrackRequest(kind int, family byte, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|kind, flags)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: family})
	return r
}

func ageFlow(message []byte, seconds uint32) error {
	attributes, err := nl.ParseRouteAttr(message[nl.SizeofNfgenmsg:])
	if err != nil {
		return err
	}
	var tuple *nl.RtAttr
	var left uint32
	for _, a := range attributes {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case nl.CTA_TUPLE_ORIG:
			tuple = nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, a.Value)
		case nl.CTA_TIMEOUT:
			left = binary.BigEndian.Uint32(a.Value)
		}
	}
	if tuple == nil {
		return errors.New("a flow without a tuple")
	}
	kind := nl.IPCTNL_MSG_CT_NEW // the newest word on it
	if left <= seconds {
		kind = nl.IPCTNL_MSG_CT_DELETE
	}
	r := conntrackRequest(kind, message[0], unix.NLM_F_ACK)
	r.AddData(tuple)
	if kind == nl.IPCTNL_MSG_CT_NEW {
		r.AddData(nl.NewRtAttr(nl.CTA_TIMEOUT, binary.BigEndian.AppendUint32(nil, left-seconds)))
	}
	_, err = r.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}
