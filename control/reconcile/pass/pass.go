// SPDX-License-Identifier: Apache-2.0

// Package pass brings the kernel from one snapshot to the next, or back to the same one: a pass is one run over
// some of the objects, those that changed or those that need a repair.
package pass

import (
	"errors"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/pass/devices"
	"github.com/fairlead-net/fairlead/control/reconcile/pass/namespaces"
	"github.com/fairlead-net/fairlead/control/reconcile/pass/scope"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
)

// Pass is one run over some of the objects.
type Pass struct {
	*scope.Scope
	Devices struct {
		Networks  *devices.Networks
		Endpoints *devices.Endpoints
		Former    *devices.Former
	}
	Inside *namespaces.Step

	state *State
}

// Begin returns a pass towards a snapshot, which has the turns of the objects with these IDs. host is what was read of
// the host, or the zero State. The caller has the lock.
func (s *State) Begin(to *desired.Snapshot, host device.State, ids ...string) *Pass {
	p := &Pass{state: s, Scope: &scope.Scope{
		Work: s.Objects.NewWork(to), Report: report.New(s.Log, s.Stats), Snap: to, Objects: s.Objects, Namespaces: s.Namespaces,
		Host: device.NewHost(s.NL, host), Hold: s.Turns.Begin(ids...),
	}}
	p.Inside = namespaces.New(p.Scope, s.NL)
	p.Devices.Former = devices.NewFormer(p.Scope)
	p.Devices.Networks = devices.NewNetworks(p.Devices.Former, s.Traffic)
	p.Devices.Endpoints = devices.NewEndpoints(p.Devices.Former, p.Inside, s.Missing)
	return p
}

// Run does the work in an order in which no packet can pass before its checks are in place:
// create devices (still down), write entries, attach programs, then bring the devices up and
// configure the sandboxes' namespaces. Removal is in reverse order.
//
// It works on the devices and namespaces of the objects whose turn it has. While it waits for the kernel, others
// run.
func (p *Pass) Run() {
	p.Prepare()
	p.Attach()
	p.Complete()
}

// Prepare is the part of Run before programs are attached.
func (p *Pass) Prepare() {
	p.Inside.Create()
	p.Devices.Networks.Create()
	p.Devices.Endpoints.Create()
	p.writeEntries()
}

// Complete is the part of Run after programs were attached.
func (p *Pass) Complete() {
	p.Devices.Networks.Configure()
	p.Devices.Endpoints.Configure()
	for _, b := range p.Sandboxes {
		p.FinishSandbox(b)
	}
	p.Serve()
	announce(p.Scope, p.state.NL, p.state.Log)
	p.remove()
	p.DropFlows()
}

// writeEntries writes the entries of the pass's objects, and deletes those that have no successor. The entries
// are those of the latest snapshot, since those of a service, for example, depend on several sandboxes. Whenever
// the lock is free, the tables have the entries of all objects, and no others.
func (p *Pass) writeEntries() {
	p.Collect(p.state.Snap)
	p.replaceEntries()
}

// Serve makes the endpoints that the pass has finished backends of their services: before, they lose what they get.
func (p *Pass) Serve() {
	if p.CollectFinished(p.state.Snap) {
		p.replaceEntries()
	}
}

func (p *Pass) replaceEntries() {
	p.Fail(p.state.Entries.Write(&p.Put))
	stale := p.Old.Without(&p.Put)
	p.Fail(p.state.Entries.Delete(&stale))
}

// Attach attaches the programs of the pass's endpoints and host ports.
func (p *Pass) Attach() {
	for id, n := range p.Networks {
		if n.Usable() && !n.Dirty {
			err := p.attachAt(id, n.Kind.Places(n.Ends), false)
			n.Dirty = err != nil
			p.SetErr(&n.LastErr, "network", id, err)
		}
	}
	for id, e := range p.Endpoints {
		// Fast if a verb is waiting.
		if err := p.attachAt(e.Last.SandboxID, e.Kind.Places(e.Ends), !p.Repair && !p.First); err != nil {
			e.Dirty = true
			p.SetErr(&e.LastErr, "endpoint", id, err)
		}
	}
}

// attachAt attaches programs for the object whose turn the pass has.
func (p *Pass) attachAt(id string, places []device.Place, fast bool) (err error) {
	p.Outside(func() { err = p.state.Programs.Attach(id, places, fast) })
	return err
}

// FinishSandbox configures a sandbox's network namespace and finishes its endpoints.
func (p *Pass) FinishSandbox(b *objects.Sandbox) {
	members := p.Objects.Members(p.Snap, b)
	if b.Want.ManagedBy == model.ByEngine {
		err := p.Inside.Untrack(b, members)
		if !p.Repair && errors.Is(err, rtnl.ErrNoNetNS) {
			err = nil // a check says so
		}
		p.SetErr(&b.LastErr, "sandbox", b.ID, err)
		return
	}
	if !b.Managed() {
		return
	}
	err := p.Inside.Configure(b, members)
	if err == nil {
		err = p.Inside.Untrack(b, members)
	}
	if missing := (*configure.MissingError)(nil); errors.As(err, &missing) {
		again := p.Devices.Endpoints.Recreate(members, missing.Alias)
		if p.Repair && again == nil {
			b.Dirty, b.LastErr = true, err.Error() // nothing to report before the next pass, which creates it
			return
		}
		err = errors.Join(err, again)
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && p.MayVanish(b.ID) {
		p.Namespaces.NoteVanished(&b.Sandbox, err)
		return
	}
	p.SetErr(&b.LastErr, "sandbox", b.ID, err)
	if b.Dirty = err != nil; b.Dirty {
		return
	}
	p.Namespaces.NoteBack(&b.Sandbox)
	for _, e := range members {
		if !e.Finished && !e.Dirty {
			p.Devices.Endpoints.Finish(e)
		}
	}
}

// remove deletes the devices and namespaces that are no longer wanted. Their entries were deleted before: the program drops
// everything from a device without an entry. The program is removed together with the device, so
// nothing passes in between.
func (p *Pass) remove() {
	p.Devices.Endpoints.Remove()
	p.Devices.Networks.Remove(p.state.Snap)
	p.Inside.Remove()
	var errs []error
	p.Outside(func() {
		for _, at := range p.Devices.Former.Places {
			errs = append(errs, p.state.Programs.Detach(at))
		}
	})
	p.Fail(errors.Join(errs...))
}

// DropFlows removes the flows of objects that were removed.
func (p *Pass) DropFlows() {
	var err error
	p.Outside(func() { err = p.state.Flows.Drop(&p.Flows) }) // it reads all flows
	p.Fail(err)
	p.Flows = tables.Filter{}
}

// WriteHostAddrs writes the tables of the host's addresses and uplinks after networks changed.
func (p *Pass) WriteHostAddrs() {
	if !p.NetworksTouched {
		return
	}
	restored, err := p.state.Uplinks.WriteAddrs(p.Objects.UsableNetworks(), p.state.Snap.Announced())
	p.Count(report.Entry, restored)
	p.Fail(errors.Join(err, p.state.Uplinks.WriteOnLink(p.Objects.OnLink())))
}
