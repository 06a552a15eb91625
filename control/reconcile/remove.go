// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/loader"
)

// remove removes what is no longer wanted. Entries are deleted first: the program drops
// everything from a device without an entry. The program is removed together with the device, so
// nothing passes in between.
func (p *pass) remove() {
	p.fail(p.deleteEntries())
	for _, e := range p.removedEps {
		p.flows.device(e.ends.Host)
		err := p.removeDevice(e.kind, e.id, e.ends)
		p.setErr(&e.lastErr, "endpoint", e.id, err)
		if err == nil {
			delete(p.r.endpoints, e.id)
		}
	}
	for _, n := range p.removedNets {
		p.flows.device(n.ends.Host)
		err := p.removeDevice(p.r.kinds.HostPort, n.id, n.ends)
		p.setErr(&n.lastErr, "network", n.id, err)
		if err == nil {
			delete(p.r.networks, n.id)
		}
	}
	for _, b := range p.removedBoxes {
		err := p.r.namespaces.Remove(&b.Sandbox)
		p.setErr(&b.lastErr, "sandbox", b.ID, err)
		if err == nil {
			delete(p.r.sandboxes, b.ID)
		}
	}
	for _, ifindex := range p.detached {
		p.fail(p.r.attachments.detach(place{IfIndex: int(ifindex), Hook: loader.FromEndpoint}))
	}
}

// removeDevice deletes the devices of an object.
func (p *pass) removeDevice(kind device.Kind, id string, ends device.Ends) error {
	if err := kind.Remove(p.host, id, ends); err != nil {
		return err
	}
	p.detachLater(ends)
	return nil
}

// dropFlows removes the flows of objects that were removed.
func (p *pass) dropFlows() {
	p.fail(p.r.flows.drop(&p.flows))
	p.flows = flowFilter{}
}
