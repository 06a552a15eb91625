// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/controller/presets"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
	"github.com/fairlead-net/fairlead/control/resource/options"
)

// Network finds a network by full ID, by name, or by a unique prefix of its ID, in
// this order.
func (c *Controller) Network(ref string) (*model.Network, error) {
	return c.Snapshot().FindNetwork(ref)
}

// PruneNetworks removes the networks without endpoints, except predefined ones, those managed
// by container engines, and those for which keep (which may be nil) returns true. It
// returns the names of the removed networks, sorted. A shared network stays if another node uses it.
func (c *Controller) PruneNetworks(ctx context.Context, keep func(*model.Network) bool) ([]string, error) {
	names := []string{}
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		for n := range t.Old.Networks() {
			if t.Next.HasMembers(n.ID) || t.Next.HasServices(n.ID) || resource.Predefined(n.Name) || n.ConfigOnly || n.Has().Shared || n.ManagedBy == model.ByEngine || keep != nil && keep(n) {
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
	names = append(names, c.pruneShared(ctx, keep)...)
	slices.Sort(names)
	if len(names) > 0 {
		c.state.Log().Info("removed unused networks", "count", len(names))
	}
	return names, nil
}

// CreateNetwork creates a network.
func (c *Controller) CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error) {
	spec, err := presets.Configured(c.Snapshot(), presets.Network(c.cfg.Defaults, spec))
	if err != nil {
		return nil, err
	}
	if d, ok := model.DriverNamed(spec.Driver); ok && d.Shared && !spec.ConfigOnly {
		return c.createShared(ctx, spec)
	}
	return resource.CreateNetwork(ctx, c.state, spec)
}

// RemoveNetwork removes a network that has no endpoints.
func (c *Controller) RemoveNetwork(ctx context.Context, ref string) error {
	return c.removeNetwork(ctx, ref, true)
}

func (c *Controller) removeNetwork(ctx context.Context, ref string, wait bool) error {
	s, err := c.state.Decided(ctx)
	if err != nil {
		return err
	}
	n, err := s.FindNetwork(ref)
	switch {
	case err != nil:
		return err
	case n.EngineNetwork != "":
		return refuseEngineNetwork(n)
	case n.Has().Shared && !s.HasMembers(n.ID) && !s.HasServices(n.ID):
		// With members or services the removal is refused below.
		if err := c.removeShared(ctx, n, wait); err != nil {
			return err
		}
	}
	err = c.state.Update(ctx, func(t *txn.Tx) error {
		t.Needs(txn.Network, n.ID)
		now := t.Next.Network(n.ID)
		switch {
		case now != nil:
			n = now
		case n.Has().Shared: // the watch over the cluster's networks was faster
			return nil
		default: // another client was faster
			return model.NoNetwork(ref)
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

// refuseEngineNetwork refuses to remove a shared network that is one of a container engine.
func refuseEngineNetwork(n *model.Network) error {
	cli := model.ByEngine.CLI()
	return model.Refuse(model.ErrForbidden, "network %s is used by a container engine of this host (remove it there first: %s network rm %s; if the engine no longer has it: fairlead network rm --force %[1]s)",
		n.Name, cli, model.ShortID(n.EngineNetwork))
}

// createShared creates a network in the cluster, and here.
func (c *Controller) createShared(ctx context.Context, spec model.NetworkSpec) (*model.Network, error) {
	if err := resource.ValidateNetwork(spec); err != nil {
		return nil, err
	}
	cluster := c.cfg.Cluster()
	if cluster == nil {
		return nil, errNoCluster
	}
	encrypted, err := options.IsEncrypted(spec.Options)
	if err != nil {
		return nil, err
	}
	n, err := cluster.CreateNetwork(ctx, encrypted, func(taken []netip.Prefix, mtu int) (n *model.Network, err error) {
		err = c.state.Plan(ctx, func(t *txn.Tx) error {
			n, err = resource.PlanShared(ctx, t, spec, taken, mtu)
			return err
		})
		return n, err
	})
	if err != nil {
		return nil, err
	}
	if err := c.AdoptNetwork(ctx, n); err != nil {
		return nil, errors.Join(err, cluster.RemoveNetwork(context.WithoutCancel(ctx), n, false))
	}
	return c.Network(n.ID)
}

// AdoptNetwork adds a network of the cluster. It does nothing if the network exists.
func (c *Controller) AdoptNetwork(ctx context.Context, shared *model.Network) error {
	added := false
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		if t.Needs(txn.Network, shared.ID); t.Next.Network(shared.ID) != nil {
			return nil
		}
		added = true
		t.StoreOnly = true // it is idle
		return resource.AdoptNetwork(t, shared)
	})
	if err == nil && added {
		c.state.Log().Info("added network of the cluster", "network", shared.Name, "id", model.ShortID(shared.ID), "vni", shared.VNI)
	}
	return err
}

// ForgetNetwork removes a network that another node removed from the cluster, unless it has endpoints.
func (c *Controller) ForgetNetwork(ctx context.Context, id string) error {
	var n *model.Network
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		t.Needs(txn.Network, id)
		if n = t.Next.Network(id); n == nil || !n.Has().Shared || t.Next.HasMembers(id) {
			n = nil
			return nil
		}
		for svc := range t.Old.ServicesOf(id) { // the watch over services is late
			resource.RemoveService(t, svc)
		}
		resource.DropNetwork(t, t.Next.Network(id))
		return nil
	})
	if err == nil && n != nil {
		c.state.Log().Info("removed network: another node removed it from the cluster", "network", n.Name, "id", model.ShortID(n.ID))
	}
	return err
}

// removeShared removes a network from the cluster. Without one, it is removed here only.
func (c *Controller) removeShared(ctx context.Context, n *model.Network, wait bool) error {
	if cluster := c.cfg.Cluster(); cluster != nil {
		return cluster.RemoveNetwork(ctx, n, wait)
	}
	return nil
}

// pruneShared removes the shared networks that no node uses, and returns their names.
func (c *Controller) pruneShared(ctx context.Context, keep func(*model.Network) bool) (names []string) {
	for n := range c.Snapshot().Networks() {
		if !n.Has().Shared || c.Snapshot().HasMembers(n.ID) || c.Snapshot().HasServices(n.ID) || keep != nil && keep(n) {
			continue
		}
		if err := c.removeNetwork(ctx, n.ID, false); err == nil {
			names = append(names, n.Name)
		}
	}
	return names
}
