// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
)

// remove removes what is no longer wanted. Entries are deleted first: the program drops
// everything from a device without an entry. The program is removed together with the device, so
// nothing passes in between.
func (p *pass) remove() {
	p.fail(p.deleteEntries())
	for _, e := range p.removedEps {
		p.flows.device(e.hostIf)
		err := p.removeDevice(rtnl.EndpointAlias(e.id), rtnl.EndpointDevice(e.id), e.hostIf)
		p.setErr(&e.lastErr, "endpoint", e.id, err)
		if err == nil {
			delete(p.r.endpoints, e.id)
		}
	}
	for _, n := range p.removedNets {
		p.flows.device(n.hostPort)
		err := p.removeDevice(rtnl.HostPortAlias(n.id), rtnl.HostPortDevice(n.id), n.hostPort)
		p.setErr(&n.lastErr, "network", n.id, err)
		if err == nil {
			delete(p.r.networks, n.id)
		}
	}
	for _, b := range p.removedBoxes {
		var err error
		if b.want.OwnsNetNS() {
			err = rtnl.RemoveNetNS(b.want.NetNS)
		}
		p.setErr(&b.lastErr, "sandbox", b.id, err)
		if err == nil {
			delete(p.r.sandboxes, b.id)
		}
	}
	for _, ifindex := range p.detached {
		p.fail(p.r.attachments.detach(place{int(ifindex), loader.FromEndpoint}))
	}
}

// removeDevice deletes a device and, with it, its peer.
func (p *pass) removeDevice(alias, name string, index uint32) error {
	l, ok, err := p.find(alias, name, index)
	if err != nil {
		return nil // another device has the name, so ours does not exist
	}
	if ok {
		if err := p.r.nl.DeleteLink(l.Index); err != nil {
			return err
		}
	}
	p.detachLater(index)
	return nil
}

// dropFlows removes the flows of objects that were removed.
func (p *pass) dropFlows() {
	p.fail(p.r.flows.drop(&p.flows))
	p.flows = flowFilter{}
}
