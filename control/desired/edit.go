// SPDX-License-Identifier: Apache-2.0

package desired

import "github.com/fairlead-net/fairlead/control/model"

// Edit is a snapshot in the making. It is read as a Snapshot is; what it was made from stays as
// it was.
type Edit struct{ Snapshot }

// Edit begins a change of s.
func (s *Snapshot) Edit() *Edit { return &Edit{*s} }

// Done returns the snapshot as it is now. The Edit may go on.
func (e *Edit) Done() *Snapshot {
	s := e.Snapshot
	return &s
}

// PutNetwork sets a network, or deletes it when n is nil. So do the next four with objects of
// their kind.
func (e *Edit) PutNetwork(id string, n *model.Network) { e.networks.put(id, n, networkKeys) }

// PutSandbox sets or deletes a sandbox.
func (e *Edit) PutSandbox(id string, sb *model.Sandbox) { e.sandboxes.put(id, sb, sandboxKeys) }

// PutEndpoint sets or deletes an endpoint.
func (e *Edit) PutEndpoint(id string, ep *model.Endpoint) { e.endpoints.put(id, ep, endpointKeys) }

// PutPool sets or deletes an address pool.
func (e *Edit) PutPool(id string, p *model.AddressPool) { e.pools.put(id, p, poolKeys) }

// PutPublish sets or deletes a published port.
func (e *Edit) PutPublish(id uint32, p *model.Publish) {
	if old := e.Publish(id); old != nil && (p == nil || p.EndpointID != old.EndpointID) {
		e.published = e.published.Delete(keyPublish(old))
	}
	if p == nil {
		e.publishes = e.publishes.Delete(id)
		return
	}
	e.publishes = e.publishes.Put(id, p)
	e.published = e.published.Put(keyPublish(p), id)
}
