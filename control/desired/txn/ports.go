// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
)

// portIndex maps a host port to the publishes that occupy it. The cost of a lookup depends on
// the claims of that port only, not on the number of published ports.
type portIndex map[portKey][]claim

type portKey struct {
	proto model.Proto
	port  uint16
}

type claim struct {
	addr netip.Addr // zero: all addresses
	id   uint32     // of the publish
}

// overlap reports whether two host addresses cannot share a port. The zero
// address stands for all addresses, 0.0.0.0 and :: for all of their family.
func overlap(a, b netip.Addr) bool {
	switch {
	case !a.IsValid() || !b.IsValid():
		return true
	case a.Is4() != b.Is4():
		return false
	}
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// conflict finds the first port of a binding that another publish occupies.
func (x portIndex) conflict(b model.PortBinding) (port uint16, id uint32, found bool) {
	for i := range b.Count {
		port := b.HostPort + i
		for _, c := range x[portKey{b.Proto, port}] {
			if overlap(c.addr, b.HostIP) {
				return port, c.id, true
			}
		}
	}
	return 0, 0, false
}

func (x portIndex) claim(id uint32, b model.PortBinding) {
	for i := range b.Count {
		k := portKey{b.Proto, b.HostPort + i}
		x[k] = append(x[k], claim{b.HostIP, id})
	}
}

// release removes what a publish claimed, and returns at which address that was.
func (x portIndex) release(id uint32, b model.PortBinding) (at netip.Addr, claimed bool) {
	at, claimed = x.claimed(id, b)
	for i := range b.Count {
		k := portKey{b.Proto, b.HostPort + i}
		rest := slices.DeleteFunc(x[k], func(c claim) bool { return c.id == id })
		if len(rest) == 0 {
			delete(x, k)
		} else {
			x[k] = rest
		}
	}
	return at, claimed
}

// claimed returns the address at which a publish has claimed its ports, and whether it has.
func (x portIndex) claimed(id uint32, b model.PortBinding) (at netip.Addr, ok bool) {
	all := x[portKey{b.Proto, b.HostPort}]
	if i := slices.IndexFunc(all, func(c claim) bool { return c.id == id }); i >= 0 {
		return all[i].addr, true
	}
	return at, false
}

// PortConflict finds the first host port of a binding that another publish occupies.
func (t *Tx) PortConflict(b model.PortBinding) (port uint16, id uint32, found bool) {
	return t.s.ports.conflict(b)
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
	return t.s.ports.claimed(p.ID, p.PortBinding)
}

// FreePublish releases the host ports of a publish that Serve removes.
func (t *Tx) FreePublish(p *model.Publish) {
	b := p.PortBinding
	var claimed bool
	if b.HostIP, claimed = t.s.ports.release(p.ID, b); claimed {
		t.OnUndo(func() { t.s.ports.claim(p.ID, b) })
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
