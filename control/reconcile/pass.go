// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"maps"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
)

// pass is one run over some of the objects: those that changed, or those that need a repair.
type pass struct {
	r   *Reconciler
	ctx context.Context
	s   *desired.Snapshot

	*objects.Work
	report.Report
	host *device.Host

	first bool // the first one after a start: it adopts, and counts nothing as repaired

	// Devices of networks and endpoints that are not configured yet, by ID.
	netDevices map[string]device.Found
	epDevices  map[string]device.Found

	detached []device.Place // of devices that were removed or are about to be

	turn []string // objects whose turn the pass has
	// hostOnly: the pass keeps the lock, so it opens no sandbox. later are the sandboxes that another pass
	// has to repair; if false, only in their namespaces.
	hostOnly bool
	later    map[string]bool
}

// newPass returns a pass towards a snapshot. state is what was read of the host, or the zero State.
func (r *Reconciler) newPass(ctx context.Context, s *desired.Snapshot, state device.State) (*pass, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.changes++
	return &pass{
		r: r, ctx: ctx, s: s, Work: r.objects.NewWork(s), Report: report.New(r.log, r.stats), host: device.NewHost(r.nl, state),
		netDevices: make(map[string]device.Found),
		epDevices:  make(map[string]device.Found),
		later:      make(map[string]bool),
	}, nil
}

// run does the work in an order in which no packet can pass before its checks are in place:
// create devices (still down), write entries, attach programs, then bring the devices up and
// configure the sandboxes' namespaces. Removal is in reverse order.
//
// It works on the devices and namespaces of the objects whose turn it has. While it waits for the kernel, others
// run.
func (p *pass) run() {
	p.makeNamespaces()
	for _, id := range slices.Sorted(maps.Keys(p.Networks)) {
		n := p.Networks[id]
		err := p.makeHostPort(n)
		n.Dirty = err != nil
		p.SetErr(&n.LastErr, "network", id, err)
	}
	for _, e := range p.SortedEndpoints() {
		p.makeEndpoint(e)
	}
	p.writeEntries()
	p.attach()
	p.finishNetworks()
	p.finishSandboxes()
	p.announce()
	p.remove()
	p.dropFlows()
}

// mayWork reports whether a pass that keeps the lock may work on an object.
func (p *pass) mayWork(id string) bool { return p.first || p.r.turns.Free(id) }

// leave leaves a sandbox to another pass: its namespace, and with devices its devices too.
func (p *pass) leave(id string, devices bool) { p.later[id] = p.later[id] || devices }

// end ends the turns of the pass.
func (p *pass) end() {
	p.r.turns.End(p.turn)
	p.turn = nil
}

// outside runs fn, which waits for the kernel, without the lock. fn may only use what belongs to the pass,
// and copies.
func (p *pass) outside(fn func()) {
	if p.first || p.hostOnly {
		fn()
		return
	}
	p.r.mu.Unlock()
	defer func() {
		p.r.mu.Lock()
		p.r.changes++
	}()
	fn()
}
