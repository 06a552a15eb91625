// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/maps"
)

// FlowTable is the table of the datapath's flows.
type FlowTable interface {
	DeleteWhere(match func(maps.Flow) bool) (removed int, err error)
}

// flows removes flows of objects that were removed, and retries what failed.
type flows struct {
	table FlowTable
	later flowFilter // flows whose removal failed
}

// drop removes the flows that the filter selects, and those of earlier filters that failed.
func (f *flows) drop(filter *flowFilter) error {
	f.later.merge(filter)
	if f.later.empty() {
		return nil
	}
	if _, err := f.table.DeleteWhere(f.later.match); err != nil {
		return err
	}
	f.later = flowFilter{}
	return nil
}

// flowFilter selects flows to remove.
type flowFilter struct {
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

func (f *flowFilter) device(ifindex uint32) {
	if ifindex != 0 {
		set(&f.devices, ifindex)
	}
}
func (f *flowFilter) publish(id uint32) { set(&f.publishes, id) }
func (f *flowFilter) addr(a netip.Addr) { set(&f.addrs, a) }
func (f *flowFilter) member(device uint32, a netip.Addr) {
	if device != 0 {
		set(&f.members, member{device, a})
	}
}

func (f *flowFilter) empty() bool {
	return len(f.devices)+len(f.publishes)+len(f.addrs)+len(f.members) == 0
}

func (f *flowFilter) merge(o *flowFilter) {
	for k := range o.devices {
		f.device(k)
	}
	for k := range o.publishes {
		f.publish(k)
	}
	for k := range o.addrs {
		f.addr(k)
	}
	for k := range o.members {
		f.member(k.device, k.addr)
	}
}

// match reports whether the flow belongs to something that was removed. A host address matters if
// the flow is source-NATed to it or was addressed to it.
func (f *flowFilter) match(fl maps.Flow) bool {
	return f.devices[fl.InIf] || f.devices[fl.OutIf] || f.publishes[fl.Publish] ||
		fl.NATSrc && f.addrs[fl.Reply.Dst.Addr()] || fl.NATDst && f.addrs[fl.Orig.Dst.Addr()] ||
		f.members[member{fl.InIf, fl.Orig.Src.Addr()}] || f.members[member{fl.OutIf, fl.Reply.Src.Addr()}]
}

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

func set[K comparable](m *map[K]bool, k K) {
	put(m, k, true)
}
