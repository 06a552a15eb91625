// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
	"github.com/fairlead-net/fairlead/control/rtnl/frames"
)

// writeEntries writes the entries of the pass's objects, and deletes those that have no successor. The entries
// are those of the latest snapshot, since those of a service, for example, depend on several sandboxes. Whenever
// the lock is free, the tables have the entries of all objects, and no others.
func (p *pass) writeEntries() {
	p.Collect(p.r.snap)
	p.Fail(p.r.tables.Write(&p.Put))
	stale := p.Old.Without(&p.Put)
	p.Fail(p.r.tables.Delete(&stale))
}

// finishNetworks configures the pass's host ports and brings them up.
func (p *pass) finishNetworks() {
	for id, f := range p.netDevices {
		n := p.r.objects.Networks[id]
		if n.Dirty || n.Want == nil {
			continue
		}
		err := p.finishNetwork(n, f)
		n.Dirty = err != nil
		p.SetErr(&n.LastErr, "network", id, err)
	}
}

func (p *pass) finishNetwork(n *objects.Network, f device.Found) error {
	kind, spec, ends := n.Kind, n.Spec(p.s), n.Ends
	var ch configure.Changes
	var err error
	p.outside(func() {
		if ch, err = kind.Configure(p.host, spec, f); f.Created {
			err = errors.Join(err, kind.Finish(spec.ID, ends))
		}
	})
	if f.Created {
		return err
	}
	p.CountChanges(ch)
	return err
}

// finishSandboxes brings host ends up, configures the network namespaces of the sandboxes, and
// finishes endpoints.
func (p *pass) finishSandboxes() {
	for id, f := range p.epDevices {
		e := p.r.objects.Endpoints[id]
		n := p.r.objects.Networks[e.Want.NetworkID]
		if e.Dirty || n == nil || n.Want == nil {
			continue
		}
		kind, spec := e.Kind, e.Spec(p.s, n)
		var ch configure.Changes
		var err error
		p.outside(func() { ch, err = kind.Configure(p.host, spec, f) })
		if e.Finished {
			p.CountChanges(ch)
		}
		if err == nil && !e.Finished && objects.IsEngineManaged(p.s, e.Want) {
			err = p.finishEndpoint(e)
		}
		if err != nil {
			e.Dirty = true
			p.SetErr(&e.LastErr, "endpoint", id, err)
		}
	}
	for _, b := range p.Sandboxes {
		p.finishSandbox(b)
	}
}

// finishSandbox configures a sandbox's network namespace and finishes its endpoints.
func (p *pass) finishSandbox(b *objects.Sandbox) {
	members := p.r.objects.Members(p.s, b)
	if b.Want.ManagedBy == model.ByEngine {
		err := p.untrack(b, members)
		if !p.Repair && errors.Is(err, rtnl.ErrNoNetNS) {
			err = nil // a check says so
		}
		p.SetErr(&b.LastErr, "sandbox", b.ID, err)
		return
	}
	if !b.Managed() {
		return
	}
	err := p.configureSandbox(b, members)
	if err == nil {
		err = p.untrack(b, members)
	}
	if missing := (*configure.MissingError)(nil); errors.As(err, &missing) {
		err = errors.Join(err, p.recreate(members, missing.Alias))
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && p.mayVanish(b.ID) {
		p.r.namespaces.NoteVanished(&b.Sandbox, err)
		return
	}
	p.SetErr(&b.LastErr, "sandbox", b.ID, err)
	if b.Dirty = err != nil; b.Dirty {
		return
	}
	p.r.namespaces.NoteBack(&b.Sandbox)
	for _, e := range members {
		if e.Finished || e.Dirty {
			continue
		}
		if err := p.finishEndpoint(e); err != nil {
			e.Dirty = true
			p.SetErr(&e.LastErr, "endpoint", e.ID, err)
		}
	}
}

// inside runs fn, which works in a sandbox's namespace, without the lock.
func (p *pass) inside(b *objects.Sandbox, fn func(*netns.Sandbox)) {
	seen := b.Sandbox
	p.outside(func() { fn(&seen) })
	p.r.namespaces.Learn(&b.Sandbox, &seen)
}

// configureSandbox configures a sandbox's network namespace.
func (p *pass) configureSandbox(b *objects.Sandbox, members []*objects.Endpoint) error {
	var devs []configure.Device
	for _, e := range members {
		n := p.r.objects.Networks[e.Want.NetworkID]
		if n == nil || n.Want == nil {
			continue
		}
		devs = append(devs, e.Kind.Inside(e.Spec(p.s, n), e.Ends, !e.Finished))
	}
	var keep []string
	for o := range p.s.SandboxesAt(b.Want.NetNS) {
		for ep := range p.s.EndpointsOf(o.ID) {
			keep = append(keep, rtnl.SandboxAlias(ep.ID))
		}
	}
	var ch configure.Changes
	var err error
	p.inside(b, func(b *netns.Sandbox) { ch, err = p.r.namespaces.Configure(b, devs, keep) })
	if !slices.ContainsFunc(members, func(e *objects.Endpoint) bool { return !e.Finished }) {
		p.CountChanges(ch)
	}
	return err
}

// recreate deletes what is left of the device that is missing in the sandbox, the host end of a pair. The next pass
// creates it again.
func (p *pass) recreate(members []*objects.Endpoint, alias string) error {
	for _, e := range members {
		if rtnl.SandboxAlias(e.ID) == alias {
			spec, ends := e.Spec(p.s, nil), e.Ends
			p.moveEndpoint(e, device.Ends{})
			e.Dirty, p.r.missing[e.ID] = true, true
			var err error
			p.outside(func() { err = e.Kind.Remove(p.host, spec, ends) })
			return err
		}
	}
	return nil
}

// finishEndpoint marks an endpoint as fully configured.
func (p *pass) finishEndpoint(e *objects.Endpoint) error {
	kind, ends := e.Kind, e.Ends
	var err error
	p.outside(func() { err = kind.Finish(e.ID, ends) })
	e.Finished = err == nil
	return err
}

// isTracked reports whether, as far as is known, the kernel tracks connections of an endpoint in
// its sandbox although its network is untracked.
func (p *pass) isTracked(b *objects.Sandbox, e *objects.Endpoint) bool {
	n := p.r.objects.Networks[e.Want.NetworkID]
	return n != nil && n.Want != nil && n.Want.Untracked && !b.IsUntracked(e.Ends.Peer)
}

// untrack exempts the devices of untracked networks in a sandbox's namespace from connection
// tracking. A device that an engine has not moved yet is exempted once it is up.
func (p *pass) untrack(b *objects.Sandbox, members []*objects.Endpoint) error {
	var devices []uint32
	var outer rtnl.Link // a host end of an engine-managed sandbox
	for _, e := range members {
		n := p.r.objects.Networks[e.Want.NetworkID]
		if n == nil || n.Want == nil || !n.Want.Untracked {
			continue
		}
		if b.Want.ManagedBy == model.ByEngine {
			l, err := p.r.nl.Link(e.Ends.Host)
			if errors.Is(err, rtnl.ErrNoDevice) || err == nil && !l.Running {
				continue
			}
			if err != nil {
				return err
			}
			e.Ends.Peer, outer = l.PeerIndex, l
		}
		devices = append(devices, e.Ends.Peer)
	}
	restored := false
	var err error
	p.inside(b, func(b *netns.Sandbox) { restored, err = p.r.namespaces.Untrack(b, devices, outer) })
	if restored {
		p.Count(report.Rule, 1)
	}
	return err
}

// announce updates the neighbour caches of the host's stack and of the other members for
// addresses of the pass's endpoints whose MAC changed: they would use the old MAC for some
// seconds. The MACs from before this daemon's start are unknown.
func (p *pass) announce() {
	for _, e := range p.Endpoints {
		n := p.r.objects.Networks[e.Want.NetworkID]
		if e.Ends.Host == 0 || n == nil || !n.Usable() {
			continue
		}
		if n.MACs == nil {
			n.MACs = make(map[netip.Addr]model.MAC)
		}
		for _, now := range e.Entries.Neighbours {
			before, known := n.MACs[now.Addr]
			n.MACs[now.Addr] = model.MAC(now.MAC)
			if !known || before == model.MAC(now.MAC) {
				continue
			}
			if err := p.announceAddress(n, e, now.Addr, model.MAC(now.MAC)); err != nil {
				p.r.log.Warn("cannot announce the new MAC of an address; neighbours use the old one for some seconds", "address", now.Addr, "mac", model.MAC(now.MAC), "err", err)
			}
		}
	}
}

func (p *pass) announceAddress(n *objects.Network, e *objects.Endpoint, ip netip.Addr, mac model.MAC) error {
	if err := p.r.nl.ChangeNeighbour(n.Ends.Peer, ip, mac); err != nil {
		return err
	}
	var members []frames.Member
	for _, o := range p.r.objects.Endpoints {
		if o != e && o.Want != nil && o.Ends.Host != 0 && o.Want.NetworkID == n.ID {
			members = append(members, frames.Member{MAC: o.Want.MAC, IPv6: o.Want.Addr(model.V6)})
		}
	}
	return frames.Announce(p.r.nl, n.Ends.Peer, ip, mac, members)
}
