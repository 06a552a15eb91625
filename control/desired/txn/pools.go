// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"slices"

	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// DefaultPools returns the pools for networks without a subnet of their own.
func (t *Tx) DefaultPools() []ipam.DefaultPool { return slices.Clone(t.s.defaults) }

// SharedPools returns the pools for networks that a cluster shares: other hosts use the default pools
// for networks of their own.
func (t *Tx) SharedPools() []ipam.DefaultPool {
	is4 := func(p ipam.DefaultPool) bool { return p.Base.Addr().Is4() }
	if slices.ContainsFunc(t.s.cfg.DefaultPools, is4) {
		return t.DefaultPools()
	}
	return append(ipam.SharedPools(), slices.DeleteFunc(t.DefaultPools(), is4)...)
}

// Addresses returns the address pools of a network; nil if it has no subnets.
func (t *Tx) Addresses(networkID string) *ipam.Addresses { return t.s.addrs[networkID] }

// UseAddresses creates the address pools of a network's subnets.
func (t *Tx) UseAddresses(n *model.Network) error {
	addrs, err := ipam.ForNetwork(n)
	if err != nil {
		return err
	}
	t.setAddresses(n.ID, addrs)
	return nil
}

// DropAddresses removes the address pools of a network.
func (t *Tx) DropAddresses(networkID string) { t.setAddresses(networkID, nil) }

func (t *Tx) setAddresses(networkID string, addrs *ipam.Addresses) {
	set(t, t.s.addrs, networkID, addrs)
}

// EnginePool returns the allocator of an engine's pool; nil if there is none.
func (t *Tx) EnginePool(id string) *ipam.Pool { return t.s.pools[id] }

// UseEnginePool sets the allocator of an engine's pool. nil removes it.
func (t *Tx) UseEnginePool(id string, pool *ipam.Pool) { set(t, t.s.pools, id, pool) }

// set sets an entry of an index, or removes it if v is nil.
func set[V any](t *Tx, index map[string]*V, id string, v *V) {
	was := index[id]
	put(index, id, v)
	t.OnUndo(func() { put(index, id, was) })
}

func put[V any](index map[string]*V, id string, v *V) {
	if v == nil {
		delete(index, id)
	} else {
		index[id] = v
	}
}

// NewIndex chooses the index of a network in the datapath's tables. It cycles through all
// indices, so that one is not reused while something may still be counted under it.
func (t *Tx) NewIndex() (uint32, error) {
	taken := make(map[uint32]bool, t.Next.Counts().Networks)
	for n := range t.Next.Networks() {
		taken[n.Index] = true
	}
	for range model.MaxNetworks - 1 {
		t.s.lastIndex = t.s.lastIndex%(model.MaxNetworks-1) + 1
		if !taken[t.s.lastIndex] {
			return t.s.lastIndex, nil
		}
	}
	return 0, model.Refuse(model.ErrExhausted, "this host already has %d networks, the maximum (remove unused ones with: fairlead network prune)", t.Next.Counts().Networks)
}
