// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// makeNamespaces creates the owned namespaces that are missing.
func (p *pass) makeNamespaces() {
	for id, b := range p.boxes {
		made, err := p.makeNamespace(b)
		if made {
			p.count(RepairNamespace, 1)
		}
		b.dirty = err != nil
		if errors.Is(err, rtnl.ErrNoNetNS) {
			p.r.namespaces.NoteVanished(&b.Sandbox, err)
		} else {
			p.setErr(&b.lastErr, "sandbox", id, err)
		}
		if p.first && !made && err == nil {
			// The namespace is as the last daemon left it; a periodic check inspects it.
			delete(p.boxes, id)
		}
	}
}

// makeNamespace creates an owned sandbox's namespace if it is missing.
func (p *pass) makeNamespace(b *sandbox) (made bool, err error) {
	return p.r.namespaces.Create(&b.Sandbox, func() bool {
		for ep := range p.s.EndpointsOf(b.ID) {
			if e := p.r.endpoints[ep.ID]; e != nil && e.want != nil {
				if _, ok := e.kind.Check(p.host, e.id, e.ends); ok {
					return true
				}
			}
		}
		return false
	})
}

// makeHostPort creates or adopts a network's host port.
func (p *pass) makeHostPort(n *network) error {
	kind := p.r.kinds.HostPort
	f, ok, err := kind.Adopt(p.host, n.id, n.ends)
	if err != nil {
		return err
	}
	if !ok {
		if err := p.countUnder(n); err != nil {
			return err
		}
		if f, err = kind.Create(n.spec()); f.Created {
			p.count(RepairDevice, 1)
		}
		if err != nil {
			return err
		}
	}
	p.netDevices[n.id] = f
	if n.ends == f.Ends() {
		return nil
	}
	p.replaced(n.ends)
	n.ends = f.Ends()
	p.touchNetwork(n) // its endpoints' entries contain the host port
	return nil
}

// countUnder makes sure that a network's traffic is counted from 0 if its number belonged to
// another network.
func (p *pass) countUnder(n *network) error {
	if p.r.numbers[n.want.Index] == n.id {
		return nil
	}
	if err := p.r.tables.Traffic.ResetTraffic(n.want.Index); err != nil {
		return err
	}
	p.r.numbers[n.want.Index] = n.id
	return nil
}

// makeEndpoint creates or adopts an endpoint's pair of devices.
func (p *pass) makeEndpoint(e *endpoint) {
	f, err := p.endpointDevice(e)
	e.dirty = err != nil
	if err == nil {
		p.epDevices[e.id] = f
		p.moveEndpoint(e, f.Ends())
		e.finished, e.lastErr = f.Finished, ""
		if b := p.r.sandboxes[e.want.SandboxID]; b != nil && (!p.first || !e.finished || !f.Host.Running) {
			p.boxes[b.ID] = b
		}
		return
	}
	p.moveEndpoint(e, device.Ends{})
	if errors.Is(err, errPairGone) {
		e.dirty, e.lastErr = false, ""
		return
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && p.mayVanish(e.id) {
		if b := p.r.sandboxes[e.want.SandboxID]; b != nil {
			p.r.namespaces.NoteVanished(&b.Sandbox, err)
		}
		return
	}
	p.setErr(&e.lastErr, "endpoint", e.id, err)
}

// moveEndpoint records the current devices of an endpoint.
func (p *pass) moveEndpoint(e *endpoint, now device.Ends) {
	if e.ends.Host != now.Host {
		p.replaced(e.ends)
		e.finished = false
	}
	e.ends = now
}

// replaced schedules the removal of flows and programs of a device that no longer exists.
func (p *pass) replaced(ends device.Ends) {
	p.flows.device(ends.Host)
	p.detachLater(ends)
}

// mayVanish reports whether a missing namespace is not the caller's error: a namespace that
// existed before this pass may disappear at any time.
func (p *pass) mayVanish(id string) bool { return p.first || !p.fresh[id] }

// errPairGone means that an engine's pair of devices was deleted, by the end of the container's
// namespace or otherwise. The engine would not move a new one: it will remove the endpoint, or
// the container has to be restarted.
var errPairGone = errors.New("the pair of devices of an engine-managed sandbox was deleted")

// endpointDevice finds an endpoint's devices, or creates them. For an engine-managed endpoint only
// a verb creates them, since only then will the engine move the inner end.
func (p *pass) endpointDevice(e *endpoint) (device.Found, error) {
	n := p.r.networks[e.want.NetworkID]
	b := p.r.sandboxes[e.want.SandboxID]
	if n == nil || !n.usable() || b == nil || b.Want == nil {
		return device.Found{}, errors.New("its network or sandbox does not exist")
	}
	f, ok, err := e.kind.Adopt(p.host, e.id, e.ends)
	if ok || err != nil {
		return f, err
	}
	if isEngineManaged(p.s, e.want) && (p.repair || p.first) {
		return f, errPairGone
	}
	return p.createEndpoint(e, n, b)
}

func (p *pass) createEndpoint(e *endpoint, n *network, b *sandbox) (f device.Found, err error) {
	spec := e.spec(p.s, n)
	if spec.EngineManaged {
		return p.createDevice(e, spec, "the host's namespace")
	}
	made, err := p.makeNamespace(b)
	if made {
		p.count(RepairNamespace, 1)
	}
	if err != nil {
		return f, err
	}
	if spec.NetNS, err = p.r.namespaces.Open(&b.Sandbox); err != nil {
		return f, err
	}
	defer spec.NetNS.Close()
	return p.createDevice(e, spec, b.Want.NetNS)
}

// createDevice creates the devices. where names the namespace of the inner end, for errors.
func (p *pass) createDevice(e *endpoint, spec device.Spec, where string) (device.Found, error) {
	f, err := e.kind.Create(spec)
	if errors.Is(err, rtnl.ErrExists) && len(p.removedEps) > 0 {
		// An endpoint that this pass removes may still have the name.
		for _, old := range p.removedEps {
			if err := p.removeDevice(old.kind, old.id, old.ends); err != nil {
				return f, err
			}
		}
		f, err = e.kind.Create(spec)
	}
	if errors.Is(err, rtnl.ErrExists) {
		return f, &model.Refusal{Kind: model.ErrConflict, Text: fmt.Sprintf("interface %q already exists in %s (remove it, or choose another name)", e.want.IfName, where)}
	}
	if err == nil {
		p.count(RepairDevice, 1)
	}
	return f, err
}

// detachLater schedules the detachment from a device that was removed or is about to be.
func (p *pass) detachLater(ends device.Ends) {
	if ends.Host != 0 {
		p.detached = append(p.detached, ends.Host)
	}
}

// attach attaches the programs of the pass's endpoints and host ports.
func (p *pass) attach() {
	for id, n := range p.nets {
		if n.usable() && !n.dirty {
			err := p.r.attachments.attachAll(p.r.kinds.HostPort.Places(n.ends), false)
			n.dirty = err != nil
			p.setErr(&n.lastErr, "network", id, err)
		}
	}
	for id, e := range p.eps {
		// Fast if a verb is waiting.
		if err := p.r.attachments.attachAll(e.kind.Places(e.ends), !p.repair && !p.first); err != nil {
			e.dirty = true
			p.setErr(&e.lastErr, "endpoint", id, err)
		}
	}
}
