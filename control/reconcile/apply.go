// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// collect computes the table entries of the pass's objects, and records the previous ones.
func (p *pass) collect() {
	for _, n := range p.nets {
		var now entries.Set
		if n.usable() {
			now = entries.OfNetwork(n.want, n.hostPort())
		}
		p.replace(&n.entries, now)
	}
	for _, e := range p.eps {
		var now entries.Set
		if n := p.r.networks[e.want.NetworkID]; e.ends.Host != 0 && n != nil && n.usable() {
			e.published = len(p.r.serving[e.id]) > 0
			now = entries.OfEndpoint(e.want, n.want, n.hostPort(), e.ends.Host, e.published)
		}
		p.replace(&e.entries, now)
		for id, b := range p.r.serving[e.id] {
			p.pubs[id] = b
		}
	}
	for id, b := range p.pubs {
		var now []entries.Run
		if e := p.r.endpoints[b.want.EndpointID]; e != nil && e.want != nil && e.ends.Host != 0 {
			if n := p.r.networks[e.want.NetworkID]; n != nil && n.usable() {
				now = entries.OfPublish(b.want, e.want, n.want, e.ends.Host)
			}
		}
		if len(b.runs) > 0 && !slices.Equal(b.runs, now) {
			p.flows.publish(id)
		}
		p.old.Publishes = entries.AppendRuns(p.old.Publishes, b.runs)
		p.put.Publishes = entries.AppendRuns(p.put.Publishes, now)
		b.runs = now
	}
	for _, e := range p.removedEps {
		p.replace(&e.entries, entries.Set{})
	}
	for _, n := range p.removedNets {
		p.replace(&n.entries, entries.Set{})
	}
}

func (p *pass) replace(have *entries.Set, now entries.Set) {
	p.old.Add(*have)
	p.put.Add(now)
	*have = now
}

// writeEntries writes the entries of the pass's objects.
func (p *pass) writeEntries() error { return p.r.tables.write(&p.put) }

// deleteEntries deletes entries that have no successor.
func (p *pass) deleteEntries() error {
	stale := p.old.Without(&p.put)
	return p.r.tables.delete(&stale)
}

// finishNetworks configures the pass's host ports and brings them up.
func (p *pass) finishNetworks() {
	for id, f := range p.netDevices {
		n := p.r.networks[id]
		if n.dirty || n.want == nil {
			continue
		}
		err := p.finishNetwork(n, f)
		n.dirty = err != nil
		p.setErr(&n.lastErr, "network", id, err)
	}
}

func (p *pass) finishNetwork(n *network, f device.Found) error {
	kind := p.r.kinds.HostPort
	ch, err := kind.Configure(p.host, n.spec(), f)
	if f.Created {
		return errors.Join(err, kind.Finish(n.spec(), n.ends))
	}
	p.countChanges(ch)
	return err
}

// finishSandboxes brings host ends up, configures the network namespaces of the sandboxes, and
// finishes endpoints.
func (p *pass) finishSandboxes() {
	for id, f := range p.epDevices {
		e := p.r.endpoints[id]
		n := p.r.networks[e.want.NetworkID]
		if e.dirty || n == nil || n.want == nil {
			continue
		}
		ch, err := e.kind.Configure(p.host, e.spec(p.s, n), f)
		if e.finished {
			p.countChanges(ch)
		}
		if err == nil && !e.finished && isEngineManaged(p.s, e.want) {
			err = p.finishEndpoint(e, n)
		}
		if err != nil {
			e.dirty = true
			p.setErr(&e.lastErr, "endpoint", id, err)
		}
	}
	for _, b := range p.boxes {
		p.finishSandbox(b)
	}
}

// finishSandbox configures a sandbox's network namespace and finishes its endpoints.
func (p *pass) finishSandbox(b *sandbox) {
	members := p.r.members(b)
	if b.Want.ManagedBy == model.ByEngine {
		p.setErr(&b.lastErr, "sandbox", b.ID, p.untrack(b, members))
		return
	}
	if !b.Managed() {
		return
	}
	err := p.configureSandbox(b, members)
	if err == nil {
		err = p.untrack(b, members)
	}
	if missing := (*rtnl.MissingError)(nil); errors.As(err, &missing) {
		err = errors.Join(err, p.recreate(members, missing.HostIndex))
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && p.mayVanish(b.ID) {
		p.r.namespaces.NoteVanished(&b.Sandbox, err)
		return
	}
	p.setErr(&b.lastErr, "sandbox", b.ID, err)
	if b.dirty = err != nil; b.dirty {
		return
	}
	p.r.namespaces.NoteBack(&b.Sandbox)
	for _, e := range members {
		if e.finished || e.dirty {
			continue
		}
		if err := p.finishEndpoint(e, p.r.networks[e.want.NetworkID]); err != nil {
			e.dirty = true
			p.setErr(&e.lastErr, "endpoint", e.id, err)
		}
	}
}

// members returns the endpoints that have a device in the sandbox's namespace. The namespace of
// an engine-managed sandbox has no path that another could share.
func (r *Reconciler) members(b *sandbox) []*endpoint {
	es := r.appendMade(nil, b.ID)
	if b.Want.NetNS == "" {
		return es
	}
	for o := range r.snap.SandboxesAt(b.Want.NetNS) {
		if o.ID != b.ID {
			es = r.appendMade(es, o.ID)
		}
	}
	return es
}

// appendMade appends the endpoints of a sandbox that have a device.
func (r *Reconciler) appendMade(es []*endpoint, sandboxID string) []*endpoint {
	for ep := range r.snap.EndpointsOf(sandboxID) {
		if e := r.endpoints[ep.ID]; e != nil && e.want != nil && e.ends.Host != 0 {
			es = append(es, e)
		}
	}
	return es
}

// configureSandbox configures a sandbox's network namespace.
func (p *pass) configureSandbox(b *sandbox, members []*endpoint) error {
	var devs []rtnl.SandboxDevice
	for _, e := range members {
		n := p.r.networks[e.want.NetworkID]
		if n == nil || n.want == nil {
			continue
		}
		devs = append(devs, e.kind.Inside(e.spec(p.s, n), e.ends, !e.finished))
	}
	ch, err := p.r.namespaces.Configure(&b.Sandbox, devs)
	if !slices.ContainsFunc(members, func(e *endpoint) bool { return !e.finished }) {
		p.countChanges(ch)
	}
	return err
}

// recreate deletes the pair whose other end left the sandbox. The next pass creates it again.
func (p *pass) recreate(members []*endpoint, hostIf uint32) error {
	for _, e := range members {
		if e.ends.Host == hostIf {
			p.moveEndpoint(e, device.Ends{})
			e.dirty, p.r.rerun = true, true
			return p.r.nl.DeleteLink(hostIf)
		}
	}
	return nil
}

// finishEndpoint marks an endpoint as fully configured.
func (p *pass) finishEndpoint(e *endpoint, n *network) error {
	err := e.kind.Finish(e.spec(p.s, n), e.ends)
	e.finished = err == nil
	return err
}

// isTracked reports whether, as far as is known, the kernel tracks connections of an endpoint in
// its sandbox although its network is untracked.
func (p *pass) isTracked(b *sandbox, e *endpoint) bool {
	n := p.r.networks[e.want.NetworkID]
	return n != nil && n.want != nil && n.want.Untracked && !b.IsUntracked(e.ends.Peer)
}

// untrack exempts the devices of untracked networks in a sandbox's namespace from connection
// tracking. A device that an engine has not moved yet is exempted once it is up.
func (p *pass) untrack(b *sandbox, members []*endpoint) error {
	var devices []uint32
	var outer rtnl.Link // a host end of an engine-managed sandbox
	for _, e := range members {
		n := p.r.networks[e.want.NetworkID]
		if n == nil || n.want == nil || !n.want.Untracked {
			continue
		}
		if b.Want.ManagedBy == model.ByEngine {
			l, err := p.r.nl.Link(e.ends.Host)
			if errors.Is(err, rtnl.ErrNoDevice) || err == nil && !l.Running {
				continue
			}
			if err != nil {
				return err
			}
			e.ends.Peer, outer = l.PeerIndex, l
		}
		devices = append(devices, e.ends.Peer)
	}
	restored, err := p.r.namespaces.Untrack(&b.Sandbox, devices, outer)
	if restored {
		p.count(RepairRule, 1)
	}
	return err
}
