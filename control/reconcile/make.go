// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
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
	var endpoints []*objects.Endpoint
	for ep := range p.s.EndpointsOf(b.ID) {
		if e := p.r.objects.Endpoints[ep.ID]; e != nil && e.Want != nil {
			endpoints = append(endpoints, e)
		}
	}
	hasDevice := func(e *objects.Endpoint) bool {
		_, ok := e.Kind.Check(p.host, e.Spec(p.s, nil), e.Ends)
		return ok && e.Ends.Host != 0
	}
	p.inside(b, func(b *netns.Sandbox) {
		made, err = p.r.namespaces.Create(b, func() bool { return slices.ContainsFunc(endpoints, hasDevice) })
	})
	return made, err
}

// makeHostPort creates or adopts a network's host port.
func (p *pass) makeHostPort(n *objects.Network) error {
	kind, spec, ends := n.Kind, n.Spec(p.s), n.Ends
	var f device.Found
	var ok bool
	var err error
	p.outside(func() { f, ok, err = kind.Adopt(p.host, spec, ends) })
	if err != nil {
		return err
	}
	if !ok {
		if err := p.countUnder(n); err != nil {
			return err
		}
		if p.outside(func() { f, err = kind.Create(spec) }); f.Created {
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
	if !p.hostOnly {
		delete(p.r.missing, e.ID)
	}
	f, err := p.endpointDevice(e)
	e.Dirty = err != nil
	b := p.r.objects.Sandboxes[e.Want.SandboxID]
	if err == nil {
		p.epDevices[e.ID] = f
		p.moveEndpoint(e, f.Ends())
		e.Finished, e.LastErr = f.Finished, ""
		switch {
		case b == nil || p.first && e.Finished && f.Host.Running:
		case p.hostOnly:
			p.leave(b.ID, false)
		default:
			p.Sandboxes[b.ID] = b
		}
		return
	}
	p.moveEndpoint(e, device.Ends{})
	if errors.Is(err, errPairGone) {
		e.Dirty, e.LastErr = false, ""
		return
	}
	if errors.Is(err, errLater) {
		p.leave(e.Want.SandboxID, true)
		return
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && p.mayVanish(e.ID) {
		if b != nil {
			p.r.namespaces.NoteVanished(&b.Sandbox, err)
		}
		return
	}
	p.SetErr(&e.LastErr, "endpoint", e.ID, err)
}

// moveEndpoint records the current devices of an endpoint.
func (p *pass) moveEndpoint(e *objects.Endpoint, now device.Ends) {
	if !e.Ends.Same(now) {
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

// errLater means that another pass creates the devices: the lock is not held while a sandbox's namespace
// is opened.
var errLater = errors.New("the devices are missing")

// endpointDevice finds an endpoint's devices, or creates them. For an engine-managed endpoint only
// a verb creates them, since only then will the engine move the inner end.
func (p *pass) endpointDevice(e *objects.Endpoint) (device.Found, error) {
	n := p.r.objects.Networks[e.Want.NetworkID]
	b := p.r.objects.Sandboxes[e.Want.SandboxID]
	if n == nil || !n.Usable() || b == nil || b.Want == nil {
		return device.Found{}, errors.New("its network or sandbox does not exist")
	}
	kind, spec, ends := e.Kind, e.Spec(p.s, n), e.Ends
	var f device.Found
	var ok bool
	var err error
	p.outside(func() { f, ok, err = kind.Adopt(p.host, spec, ends) })
	if ok || err != nil {
		return f, err
	}
	if objects.IsEngineManaged(p.s, e.Want) && (p.Repair || p.first) {
		return f, errPairGone
	}
	if p.hostOnly {
		return f, errLater
	}
	return p.createEndpoint(e, spec, b)
}

func (p *pass) createEndpoint(e *objects.Endpoint, spec device.Spec, b *objects.Sandbox) (f device.Found, err error) {
	if spec.EngineManaged {
		return p.createDevice(e, spec, "the host's namespace")
	}
	b.Cookie = 0 // the user may have replaced the namespace
	made, err := p.makeNamespace(b)
	if made {
		p.Count(report.Namespace, 1)
	}
	if err != nil {
		return f, err
	}
	p.inside(b, func(b *netns.Sandbox) { spec.NetNS, err = p.r.namespaces.Open(b) })
	if err != nil {
		return f, err
	}
	defer spec.NetNS.Close()
	if kind, ok := e.Kind.(device.SandboxKind); ok {
		var found bool
		if p.outside(func() { f, found, err = kind.Find(spec) }); found || err != nil {
			return f, err
		}
	}
	return p.createDevice(e, spec, b.Want.NetNS)
}

// createDevice creates the devices. where names the namespace of the inner end, for errors.
func (p *pass) createDevice(e *objects.Endpoint, spec device.Spec, where string) (device.Found, error) {
	kind := e.Kind
	var f device.Found
	var err error
	p.outside(func() { f, err = kind.Create(spec) })
	if errors.Is(err, rtnl.ErrExists) && len(p.RemovedEndpoints) > 0 {
		// An endpoint that this pass removes may still have the name.
		for _, old := range p.RemovedEndpoints {
			if err := p.removeEndpoint(old); err != nil {
				return f, err
			}
		}
		p.outside(func() { f, err = kind.Create(spec) })
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
			err := p.attachAt(id, n.Kind.Places(n.Ends), false)
			n.Dirty = err != nil
			p.SetErr(&n.LastErr, "network", id, err)
		}
	}
	for id, e := range p.Endpoints {
		// Fast if a verb is waiting.
		if err := p.attachAt(e.Last.SandboxID, e.Kind.Places(e.Ends), !p.Repair && !p.first); err != nil {
			e.Dirty = true
			p.SetErr(&e.LastErr, "endpoint", id, err)
		}
	}
}

// attachAt attaches programs for the object whose turn the pass has.
func (p *pass) attachAt(id string, places []device.Place, fast bool) (err error) {
	p.outside(func() { err = p.r.programs.Attach(id, places, fast) })
	return err
}
