// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"fmt"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
)

// PutService sets a service, or deletes it when svc is nil. The caller has claimed its ports and
// addresses, or releases them.
func (t *Tx) PutService(id string, svc *model.Service) {
	was := t.Next.Service(id)
	t.write(schema.PrefixService+id, orNil(was), orNil(svc))
	t.put(func(e *desired.Edit) { e.PutService(id, svc) }, func(e *desired.Edit) { e.PutService(id, was) })
}

// NewNumber returns a number of the datapath that no publish and no service has.
func (t *Tx) NewNumber() uint32 {
	s := t.s
	for s.lastID++; s.lastID == 0 || t.Next.Publish(s.lastID) != nil || t.Next.ServiceNumbered(s.lastID) != nil; s.lastID++ {
	}
	return s.lastID
}

// ClaimPorts claims the host ports of a binding of a service.
func (t *Tx) ClaimPorts(number uint32, b model.PortBinding) {
	t.s.ports.Claim(number, b)
	t.OnUndo(func() { t.s.ports.Release(number, b) })
}

// FreePorts releases the host ports of a binding of a service.
func (t *Tx) FreePorts(number uint32, b model.PortBinding) {
	t.s.ports.Release(number, b)
	t.OnUndo(func() { t.s.ports.Claim(number, b) })
}

func loadService(t *Tx, id string, value []byte) error {
	svc, err := read[model.Service](value)
	if err != nil {
		return err
	}
	addrs := t.s.addrs[svc.NetworkID]
	if addrs == nil {
		return fmt.Errorf("%w: its network does not exist", errOrphan)
	}
	for i, f := range model.Families {
		a := svc.Addr(f)
		if !a.IsValid() {
			continue
		}
		pool := addrs.Pool(a)
		if pool == nil {
			err = fmt.Errorf("%w: its network has no %s subnet", errOrphan, f)
		} else if err = pool.Reserve(a); err != nil {
			err = fmt.Errorf("%w: address %v: %w", errOrphan, a, err)
		}
		if err != nil {
			if first := svc.Addr(model.V4); i > 0 && first.IsValid() {
				addrs.Pool(first).Release(first)
			}
			return err
		}
	}
	for _, b := range svc.Ports {
		t.s.ports.Claim(svc.Number, b)
	}
	t.s.lastID = max(t.s.lastID, svc.Number)
	t.edit.PutService(id, svc)
	return nil
}
