// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// makeNamespaces creates the owned namespaces that are missing.
func (p *pass) makeNamespaces() {
	for id, b := range p.Sandboxes {
		made, err := p.makeNamespace(b)
		if made {
			p.Count(report.Namespace, 1)
		}
		b.Dirty = err != nil
		if errors.Is(err, rtnl.ErrNoNetNS) {
			p.r.namespaces.NoteVanished(&b.Sandbox, err)
		} else {
			p.SetErr(&b.LastErr, "sandbox", id, err)
		}
		if p.first && !made && err == nil {
			// The namespace is as the last daemon left it; a periodic check inspects it.
			delete(p.Sandboxes, id)
		}
	}
}

// makeNamespace creates an owned sandbox's namespace if it is missing.
func (p *pass) makeNamespace(b *objects.Sandbox) (made bool, err error) {
	return p.r.namespaces.Create(&b.Sandbox, func() bool {
		for ep := range p.s.EndpointsOf(b.ID) {
			if e := p.r.objects.Endpoints[ep.ID]; e != nil && e.Want != nil {
				if _, ok := e.Kind.Check(p.host, e.ID, e.Ends); ok {
					return true
				}
			}
		}
		return false
	})
}

// makeHostPort creates or adopts a network's host port.
func (p *pass) makeHostPort(n *objects.Network) error {
	f, ok, err := n.Kind.Adopt(p.host, n.ID, n.Ends)
	if err != nil {
		return err
	}
	if !ok {
		if err := p.countUnder(n); err != nil {
			return err
		}
		if f, err = n.Kind.Create(n.Spec()); f.Created {
			p.Count(report.Device, 1)
		}
		if err != nil {
			return err
		}
	}
	p.netDevices[n.ID] = f
	if n.Ends == f.Ends() {
		return nil
	}
	p.replaced(n.Kind, n.Ends)
	n.Ends = f.Ends()
	p.TouchNetwork(n) // its endpoints' entries contain the host port
	return nil
}

// countUnder makes sure that a network's traffic is counted from 0 if its number belonged to
// another network.
func (p *pass) countUnder(n *objects.Network) error {
	if p.r.numbers[n.Want.Index] == n.ID {
		return nil
	}
	if err := p.r.traffic.ResetTraffic(n.Want.Index); err != nil {
		return err
	}
	p.r.numbers[n.Want.Index] = n.ID
	return nil
}

// makeEndpoint creates or adopts an endpoint's pair of devices.
func (p *pass) makeEndpoint(e *objects.Endpoint) {
	f, err := p.endpointDevice(e)
	e.Dirty = err != nil
	if err == nil {
		p.epDevices[e.ID] = f
		p.moveEndpoint(e, f.Ends())
		e.Finished, e.LastErr = f.Finished, ""
		if b := p.r.objects.Sandboxes[e.Want.SandboxID]; b != nil && (!p.first || !e.Finished || !f.Host.Running) {
			p.Sandboxes[b.ID] = b
		}
		return
	}
	p.moveEndpoint(e, device.Ends{})
	if errors.Is(err, errPairGone) {
		e.Dirty, e.LastErr = false, ""
		return
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && p.mayVanish(e.ID) {
		if b := p.r.objects.Sandboxes[e.Want.SandboxID]; b != nil {
			p.r.namespaces.NoteVanished(&b.Sandbox, err)
		}
		return
	}
	p.SetErr(&e.LastErr, "endpoint", e.ID, err)
}

// moveEndpoint records the current devices of an endpoint.
func (p *pass) moveEndpoint(e *objects.Endpoint, now device.Ends) {
	if e.Ends.Host != now.Host {
		p.replaced(e.Kind, e.Ends)
		e.Finished = false
	}
	e.Ends = now
}

// replaced schedules the removal of flows and programs of a device that no longer exists.
func (p *pass) replaced(kind device.Kind, ends device.Ends) {
	p.Flows.Device(ends.Host)
	p.detached = append(p.detached, kind.Places(ends)...)
}

// mayVanish reports whether a missing namespace is not the caller's error: a namespace that
// existed before this pass may disappear at any time.
func (p *pass) mayVanish(id string) bool { return p.first || !p.Fresh[id] }

// errPairGone means that an engine's pair of devices was deleted, by the end of the container's
// namespace or otherwise. The engine would not move a new one: it will remove the endpoint, or
// the container has to be restarted.
var errPairGone = errors.New("the pair of devices of an engine-managed sandbox was deleted")

// endpointDevice finds an endpoint's devices, or creates them. For an engine-managed endpoint only
// a verb creates them, since only then will the engine move the inner end.
func (p *pass) endpointDevice(e *objects.Endpoint) (device.Found, error) {
	n := p.r.objects.Networks[e.Want.NetworkID]
	b := p.r.objects.Sandboxes[e.Want.SandboxID]
	if n == nil || !n.Usable() || b == nil || b.Want == nil {
		return device.Found{}, errors.New("its network or sandbox does not exist")
	}
	f, ok, err := e.Kind.Adopt(p.host, e.ID, e.Ends)
	if ok || err != nil {
		return f, err
	}
	if objects.IsEngineManaged(p.s, e.Want) && (p.Repair || p.first) {
		return f, errPairGone
	}
	return p.createEndpoint(e, n, b)
}

func (p *pass) createEndpoint(e *objects.Endpoint, n *objects.Network, b *objects.Sandbox) (f device.Found, err error) {
	spec := e.Spec(p.s, n)
	if spec.EngineManaged {
		return p.createDevice(e, spec, "the host's namespace")
	}
	made, err := p.makeNamespace(b)
	if made {
		p.Count(report.Namespace, 1)
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
func (p *pass) createDevice(e *objects.Endpoint, spec device.Spec, where string) (device.Found, error) {
	f, err := e.Kind.Create(spec)
	if errors.Is(err, rtnl.ErrExists) && len(p.RemovedEndpoints) > 0 {
		// An endpoint that this pass removes may still have the name.
		for _, old := range p.RemovedEndpoints {
			if err := p.removeDevice(old.Kind, old.ID, old.Ends); err != nil {
				return f, err
			}
		}
		f, err = e.Kind.Create(spec)
	}
	if errors.Is(err, rtnl.ErrExists) {
		return f, &model.Refusal{Kind: model.ErrConflict, Text: fmt.Sprintf("interface %q already exists in %s (remove it, or choose another name)", e.Want.IfName, where)}
	}
	if err == nil {
		p.Count(report.Device, 1)
	}
	return f, err
}

// attach attaches the programs of the pass's endpoints and host ports.
func (p *pass) attach() {
	for id, n := range p.Networks {
		if n.Usable() && !n.Dirty {
			err := p.r.programs.Attach(n.Kind.Places(n.Ends), false)
			n.Dirty = err != nil
			p.SetErr(&n.LastErr, "network", id, err)
		}
	}
	for id, e := range p.Endpoints {
		// Fast if a verb is waiting.
		if err := p.r.programs.Attach(e.Kind.Places(e.Ends), !p.Repair && !p.first); err != nil {
			e.Dirty = true
			p.SetErr(&e.LastErr, "endpoint", id, err)
		}
	}
}
