// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// recordEngine records the engine's ID in the networks and pools that it has.
func recordEngine(t *txn.Tx, names model.EngineNames) {
	if names.Engine == "" {
		return
	}
	for n := range t.Next.Networks() {
		if _, has := names.Networks[n.EngineRef()]; has && n.Engine != names.Engine {
			now := *n
			now.Engine = names.Engine
			t.PutNetwork(n.ID, &now)
		}
	}
	for p := range t.Next.Pools() {
		if names.Subnets[p.Prefix] && p.Engine != names.Engine {
			now := *p
			now.Engine = names.Engine
			t.PutPool(p.ID, &now)
		}
	}
}

// RemoveOrphaned removes the engine-managed networks and pools with these IDs, which their
// engine no longer has. It keeps networks with endpoints of the engine, and pools with a network.
func (e *Engine) RemoveOrphaned(ctx context.Context, ids []string) error {
	var networks []*model.Network
	var pools []*model.AddressPool
	err := e.state.Update(ctx, func(t *txn.Tx) error {
		for _, id := range ids {
			n := t.Next.EngineNetwork(id)
			switch {
			case n == nil || t.Next.HasEngineMembers(n):
				continue
			case n.Has().Shared:
				if err := leaveNetwork(t, n); err != nil {
					return err
				}
				resource.DropSharedPools(t, n)
			default:
				resource.DropNetwork(t, n)
			}
			networks = append(networks, n)
		}
		for _, id := range ids {
			p := t.Next.Pool(id)
			if p == nil {
				continue
			}
			if user, _ := t.Next.OverlappingNetwork(p.Prefix); !inUse(t.Next, p) && (user == nil || p.NetworkID != "") {
				t.UseEnginePool(id, nil)
				t.PutPool(id, nil)
				pools = append(pools, p)
			}
		}
		t.StoreOnly = len(networks) == 0
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range networks {
		if n.Has().Shared {
			e.state.Log().Info("engine left a network of the cluster: it no longer has one for it", "network", n.Name, "id", model.ShortID(n.EngineNetwork))
			continue
		}
		e.state.Log().Info("removed orphaned network", "network", n.Name, "id", model.ShortID(n.ID))
	}
	for _, p := range pools {
		e.state.Log().Info("released orphaned address pool", "pool", p.Prefix.String())
	}
	return nil
}
