// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"net/netip"
	"sync"

	"github.com/fairlead-net/fairlead/maps"
)

// FlowTable is the table of the datapath's flows.
type FlowTable interface {
	DeleteWhere(match func(maps.Flow) bool) (removed int, err error)
}

// Flows removes flows of objects that were removed, and retries what failed.
type Flows struct {
	table FlowTable

	mu    sync.Mutex // guards what follows
	later Filter     // flows whose removal failed
}

// NewFlows returns Flows of a table.
func NewFlows(table FlowTable) *Flows { return &Flows{table: table} }

// Drop removes the flows that the filter selects, and those of earlier filters that failed. It may be called
// concurrently.
func (f *Flows) Drop(filter *Filter) error {
	f.mu.Lock()
	all := f.later
	f.later = Filter{}
	f.mu.Unlock()
	all.merge(filter)
	if all.empty() {
		return nil
	}
	_, err := f.table.DeleteWhere(all.Match)
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.later.merge(&all)
	}
	return err
}

// Filter selects flows to remove.
type Filter struct {
	devices   map[uint32]bool     // host ends that were removed
	publishes map[uint32]bool     // publishes that were removed or have another backend now
	addrs     map[netip.Addr]bool // addresses the host lost
	members   map[member]bool     // addresses that endpoints lost
}

// member is an address of the endpoint that has the given host end.
type member struct {
	device uint32
	addr   netip.Addr
}

// Device selects the flows of a device that was removed; index 0 selects none.
func (f *Filter) Device(ifindex uint32) {
	if ifindex != 0 {
		set(&f.devices, ifindex)
	}
}

// Publish selects the flows of a publish.
func (f *Filter) Publish(id uint32) { set(&f.publishes, id) }

// Addr selects the flows of an address of the host.
func (f *Filter) Addr(a netip.Addr) { set(&f.addrs, a) }

// Member selects the flows of an address of the endpoint with the given host end.
func (f *Filter) Member(device uint32, a netip.Addr) {
	if device != 0 {
		set(&f.members, member{device, a})
	}
}

func (f *Filter) empty() bool {
	return len(f.devices)+len(f.publishes)+len(f.addrs)+len(f.members) == 0
}

func (f *Filter) merge(o *Filter) {
	for k := range o.devices {
		f.Device(k)
	}
	for k := range o.publishes {
		f.Publish(k)
	}
	for k := range o.addrs {
		f.Addr(k)
	}
	for k := range o.members {
		f.Member(k.device, k.addr)
	}
}

// Match reports whether the flow belongs to something that was removed. A host address matters if
// the flow is source-NATed to it or was addressed to it.
func (f *Filter) Match(fl maps.Flow) bool {
	return f.devices[fl.InIf] || f.devices[fl.OutIf] || f.publishes[fl.Publish] ||
		fl.NATSrc && f.addrs[fl.Reply.Dst.Addr()] || fl.NATDst && f.addrs[fl.Orig.Dst.Addr()] ||
		f.members[member{fl.InIf, fl.Orig.Src.Addr()}] || f.members[member{fl.OutIf, fl.Reply.Src.Addr()}]
}

func set[K comparable](m *map[K]bool, k K) {
	if *m == nil {
		*m = make(map[K]bool)
	}
	(*m)[k] = true
}
