// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
)

// PortConflict finds the first host port of a binding that another publish occupies.
func (t *Tx) PortConflict(b model.PortBinding) (port uint16, id uint32, found bool) {
	return t.s.ports.Conflict(b)
}

// NextPort returns where the next search for an automatic host port begins; SetNextPort sets
// that, so that a port is not reused soon.
func (t *Tx) NextPort() uint16 { return t.s.nextPort }

// SetNextPort sets what NextPort returns. It is not undone.
func (t *Tx) SetNextPort(port uint16) { t.s.nextPort = port }

// NewPublish claims the host ports that a binding needs at an endpoint, and returns its publish, for Serve.
func (t *Tx) NewPublish(ep *model.Endpoint, b model.PortBinding) *model.Publish {
	p := &model.Publish{ID: t.NewNumber(), EndpointID: ep.ID, PortBinding: b}
	if on, ok := t.Next.Network(ep.NetworkID).OnHost(b); ok {
		t.ClaimPorts(p.ID, on)
	}
	return p
}

// Claimed returns the address at which a publish has claimed ports of the host, and whether it has.
func (t *Tx) Claimed(p *model.Publish) (at netip.Addr, ok bool) {
	return t.s.ports.Claimed(p.ID, p.PortBinding)
}

// FreePublish releases the host ports of a publish that Serve removes.
func (t *Tx) FreePublish(p *model.Publish) {
	b := p.PortBinding
	var claimed bool
	if b.HostIP, claimed = t.s.ports.Release(p.ID, b); claimed {
		t.OnUndo(func() { t.s.ports.Claim(p.ID, b) })
	}
}

// Served returns the publishes of a sandbox.
func (t *Tx) Served(sandboxID string) []*model.Publish { return t.s.served[sandboxID] }

// Serve sets the publishes of a sandbox. The caller has already claimed their ports in
// the port index.
func (t *Tx) Serve(sandboxID string, now []*model.Publish) {
	was := t.s.served[sandboxID]
	if len(was) == 0 && len(now) == 0 {
		return
	}
	replace := func(was, now []*model.Publish) func(*desired.Edit) {
		return func(e *desired.Edit) {
			for _, p := range was {
				e.PutPublish(p.ID, nil)
			}
			for _, p := range now {
				e.PutPublish(p.ID, p)
			}
		}
	}
	t.put(replace(was, now), replace(now, was))
	t.write(schema.PrefixPublish+sandboxID, publishRecords(was), publishRecords(now))
	t.s.setServed(sandboxID, now)
	t.OnUndo(func() { t.s.setServed(sandboxID, was) })
}

func (s *State) setServed(sandboxID string, ps []*model.Publish) {
	if len(ps) == 0 {
		delete(s.served, sandboxID)
	} else {
		s.served[sandboxID] = ps
	}
}
