// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// Network finds a network by full ID, by name, or by a unique prefix of its ID, in
// this order.
func (c *Controller) Network(ref string) (*model.Network, error) {
	return c.Snapshot().FindNetwork(ref)
}

// PruneNetworks removes the networks without endpoints, except predefined ones, those managed
// by container engines, and those for which keep (which may be nil) returns true. It
// returns the names of the removed networks, sorted.
func (c *Controller) PruneNetworks(ctx context.Context, keep func(*model.Network) bool) ([]string, error) {
	names := []string{}
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		for n := range t.Old.Networks() {
			if t.Next.HasMembers(n.ID) || resource.Predefined(n.Name) || n.ManagedBy == model.ByEngine || keep != nil && keep(n) {
				continue
			}
			resource.DropNetwork(t, n)
			names = append(names, n.Name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	if len(names) > 0 {
		c.state.Log().Info("removed unused networks", "count", len(names))
	}
	return names, nil
}

// CreateNetwork creates a network with driver bridge.
func (c *Controller) CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error) {
	return resource.CreateNetwork(ctx, c.state, spec)
}

// RemoveNetwork removes a network that has no endpoints.
func (c *Controller) RemoveNetwork(ctx context.Context, ref string) error {
	var n *model.Network
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		if n, err = t.Next.FindNetwork(ref); err != nil {
			return err
		}
		if n.ManagedBy == model.ByEngine {
			return model.RefuseEngineManaged("network "+n.Name, fmt.Sprintf("%s network rm %s; to remove a network that the engine no longer has: fairlead network rm --force %[2]s", n.ManagedBy.CLI(), n.Name))
		}
		return resource.RemoveNetwork(t, n)
	})
	if err == nil {
		c.state.Log().Info("removed network", "network", n.Name, "id", model.ShortID(n.ID))
	}
	return err
}
