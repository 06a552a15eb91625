// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"

	"github.com/fairlead-net/fairlead/control/model"
)

// recordEngine records the engine's ID in the networks and pools that it has.
func (t *tx) recordEngine(names model.EngineNames) {
	if names.Engine == "" {
		return
	}
	for n := range t.next.Networks() {
		if _, has := names.Networks[n.ID]; has && n.ManagedBy == model.ByEngine && n.Engine != names.Engine {
			now := *n
			now.Engine = names.Engine
			t.putNetwork(n.ID, &now)
		}
	}
	for p := range t.next.Pools() {
		if names.Subnets[p.Prefix] && p.Engine != names.Engine {
			now := *p
			now.Engine = names.Engine
			t.putPool(p.ID, &now)
		}
	}
}

// RemoveOrphaned removes the engine-managed networks and pools with these IDs, which their
// engine no longer has. It keeps networks with endpoints, and pools with a network.
func (c *Controller) RemoveOrphaned(ctx context.Context, ids []string) error {
	var networks []*model.Network
	var pools []*model.AddressPool
	err := c.update(ctx, func(t *tx) error {
		for _, id := range ids {
			if n := t.next.Network(id); n != nil && n.ManagedBy == model.ByEngine && !t.next.HasMembers(id) {
				t.removeNetwork(n)
				networks = append(networks, n)
			}
		}
		for _, id := range ids {
			p := t.next.Pool(id)
			if p == nil {
				continue
			}
			if user, _ := overlapping(t.next, p.Prefix); user == nil {
				t.usePool(id, nil)
				t.putPool(id, nil)
				pools = append(pools, p)
			}
		}
		t.storeOnly = len(networks) == 0
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range networks {
		c.cfg.Log.Info("removed orphaned network", "network", n.Name, "id", model.ShortID(n.ID))
	}
	for _, p := range pools {
		c.cfg.Log.Info("released orphaned address pool", "pool", p.Prefix.String())
	}
	return nil
}
