// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"path/filepath"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// sweep removes Fairlead's devices that belong to no object, and in the first pass the namespaces
// too. It runs first, since their peers may have names that are needed.
func (p *pass) sweep() error {
	wanted := p.r.objects.Names(p.s)
	for id, e := range p.r.objects.Endpoints { // devices that another pass removes in its order
		if !p.mayWork(e.Last.SandboxID) {
			for _, name := range e.Kind.Names(device.Spec{ID: id, Endpoint: e.Last, EngineManaged: true}) {
				wanted[name] = true
			}
		}
	}
	for id, n := range p.r.objects.Networks {
		if !p.mayWork(id) {
			for _, name := range n.Kind.Names(device.Spec{ID: id, Network: n.Last}) {
				wanted[name] = true
			}
		}
	}
	errs := []error{p.host.Sweep(wanted, p.r.log)}
	if p.first && p.r.cfg.NetNSDir != "" {
		errs = append(errs, p.sweepNamespaces())
	}
	return errors.Join(errs...)
}

func (p *pass) sweepNamespaces() error {
	wanted := make(map[string]bool)
	for b := range p.s.Sandboxes() {
		wanted[filepath.Clean(b.NetNS)] = true
	}
	return p.r.namespaces.Sweep(p.r.cfg.NetNSDir, wanted)
}

// remove deletes the devices and namespaces that are no longer wanted. Their entries were deleted before: the program drops
// everything from a device without an entry. The program is removed together with the device, so
// nothing passes in between.
func (p *pass) remove() {
	for _, e := range p.RemovedEndpoints {
		delete(p.r.missing, e.ID)
		p.Flows.Device(e.Ends.Host)
		err := p.removeEndpoint(e)
		p.SetErr(&e.LastErr, "endpoint", e.ID, err)
		if err == nil {
			delete(p.r.objects.Endpoints, e.ID)
		}
	}
	for _, n := range p.RemovedNetworks {
		p.Flows.Device(n.Ends.Host)
		err := p.removeDevice(n.Kind, n.Spec(p.r.snap), n.Ends)
		p.SetErr(&n.LastErr, "network", n.ID, err)
		if err == nil {
			delete(p.r.objects.Networks, n.ID)
		}
	}
	for _, b := range p.RemovedSandboxes {
		var err error
		p.inside(b, func(b *netns.Sandbox) { err = p.r.namespaces.Remove(b) })
		p.SetErr(&b.LastErr, "sandbox", b.ID, err)
		if err == nil {
			delete(p.r.objects.Sandboxes, b.ID)
		}
	}
	var errs []error
	p.outside(func() {
		for _, at := range p.detached {
			errs = append(errs, p.r.programs.Detach(at))
		}
	})
	p.Fail(errors.Join(errs...))
}

// removeEndpoint deletes the devices of an endpoint. Those that have no end on the host are found in the sandbox's
// namespace, and do not exist if that does not.
func (p *pass) removeEndpoint(e *objects.Endpoint) error {
	spec := e.Spec(p.s, nil)
	if b := p.r.objects.Sandboxes[e.Last.SandboxID]; b != nil && b.Want != nil && e.Ends.Host == 0 && e.Ends.Exist() {
		var err error
		p.inside(b, func(b *netns.Sandbox) { spec.NetNS, err = p.r.namespaces.Open(b) })
		if errors.Is(err, rtnl.ErrNoNetNS) {
			return nil
		}
		if err != nil {
			return err
		}
		defer spec.NetNS.Close()
	}
	return p.removeDevice(e.Kind, spec, e.Ends)
}

// removeDevice deletes the devices of an object.
func (p *pass) removeDevice(kind device.Kind, spec device.Spec, ends device.Ends) error {
	var err error
	if p.outside(func() { err = kind.Remove(p.host, spec, ends) }); err != nil {
		return err
	}
	p.detached = append(p.detached, kind.Places(ends)...)
	return nil
}

// dropFlows removes the flows of objects that were removed.
func (p *pass) dropFlows() {
	var err error
	p.outside(func() { err = p.r.flows.Drop(&p.Flows) }) // it reads all flows
	p.Fail(err)
	p.Flows = tables.Filter{}
}
