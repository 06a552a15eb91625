// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// RequestPool reserves a subnet for an engine (see [model.Network]): the requested one, or
// one from the default pools if the prefix is zero.
func (e *Engine) RequestPool(ctx context.Context, engine string, f model.Family, prefix netip.Prefix, within model.AddrRange) (*model.AddressPool, error) {
	spec := model.SubnetSpec{Prefix: prefix, IPRange: within}
	if err := resource.ValidateSubnet(spec); err != nil {
		return nil, err
	}
	var made *model.AddressPool
	err := e.state.Update(ctx, func(t *txn.Tx) (err error) {
		p := &model.AddressPool{Prefix: prefix, IPRange: within, Engine: engine}
		if !prefix.IsValid() {
			if p.Prefix, err = resource.PickSubnet(ctx, t, f, 0); err != nil {
				return err
			}
		}
		p.ID = p.Prefix.String()
		if err := resource.CheckTaken(ctx, t, p.Prefix, false); err != nil {
			return err
		}
		made = p
		t.StoreOnly = true
		return addPool(t, p)
	})
	return made, err
}

func addPool(t *txn.Tx, p *model.AddressPool) error {
	pool, err := ipam.ForEngine(p)
	if err != nil {
		return err
	}
	t.UseEnginePool(p.ID, pool)
	t.PutPool(p.ID, p)
	return nil
}

// ReleasePool releases a subnet. It succeeds if the pool does not exist. That of a shared network stays
// while another network of the engine uses it.
func (e *Engine) ReleasePool(ctx context.Context, id string) error {
	return e.state.Update(ctx, func(t *txn.Tx) error {
		if p := t.Next.Pool(id); p != nil && inUse(t.Next, p) {
			return nil
		}
		t.UseEnginePool(id, nil)
		t.PutPool(id, nil)
		t.StoreOnly = true
		return nil
	})
}

// RequestAddress allocates an address from a pool: the wanted one if it is valid, the lowest
// one for a gateway, otherwise the next one.
func (e *Engine) RequestAddress(ctx context.Context, poolID string, want netip.Addr, gateway bool) (netip.Prefix, error) {
	if p := e.Snapshot().Pool(poolID); p != nil && p.NetworkID != "" {
		return e.requestShared(ctx, p, want, gateway)
	}
	var got netip.Prefix
	err := e.state.Update(ctx, func(t *txn.Tx) (err error) {
		p, pool := t.Next.Pool(poolID), t.EnginePool(poolID)
		if p == nil || pool == nil {
			return unknownPool(poolID)
		}
		a := want
		switch {
		case want.IsValid():
		case gateway:
			a, err = pool.First()
		default:
			a, err = pool.Allocate()
		}
		if err == nil && (want.IsValid() || gateway) {
			err = pool.Reserve(a)
		}
		if err != nil {
			return refuseAddress(p, want, err)
		}
		t.OnUndo(func() { pool.Release(a) })
		now := *p
		now.Taken = append(slices.Clone(p.Taken), a)
		t.PutPool(poolID, &now)
		t.StoreOnly = true
		got = netip.PrefixFrom(a, p.Prefix.Bits())
		return nil
	})
	return got, err
}

func unknownPool(id string) error {
	return model.Refuse(model.ErrNotFound, "address pool %q is not known to Fairlead (remove the network from the engine and create it again)", id)
}

func refuseAddress(p *model.AddressPool, want netip.Addr, err error) error {
	if !want.IsValid() {
		return model.Refuse(model.ErrExhausted, "no available addresses in pool %v: %v (remove containers, or create a larger network)", p.Prefix, err)
	}
	return model.Refuse(model.ErrConflict, "address %v of pool %v: %v (choose another)", want, p.Prefix, err)
}

// ReleaseAddress releases an address. It succeeds if the address is not allocated.
func (e *Engine) ReleaseAddress(ctx context.Context, poolID string, a netip.Addr) error {
	return e.state.Update(ctx, func(t *txn.Tx) error {
		p := t.Next.Pool(poolID)
		if p != nil && p.NetworkID != "" {
			releaseShared(t, p.NetworkID, a)
			return nil
		}
		if p == nil || !slices.Contains(p.Taken, a) {
			return nil
		}
		pool := t.EnginePool(poolID)
		pool.Release(a)
		t.OnUndo(func() { _ = pool.Reserve(a) }) // cannot fail: nothing else allocates while the lock is held
		now := *p
		now.Taken = slices.DeleteFunc(slices.Clone(p.Taken), func(o netip.Addr) bool { return o == a })
		t.PutPool(poolID, &now)
		t.StoreOnly = true
		return nil
	})
}
