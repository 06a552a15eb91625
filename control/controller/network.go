// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// CreateNetwork creates a network with driver bridge.
func (c *Controller) CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error) {
	if err := validateNetworkSpec(spec); err != nil {
		return nil, err
	}
	var n *model.Network
	err := c.update(ctx, func(t *tx) (err error) {
		n, err = t.createNetwork(ctx, spec)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.state.Log().Info("created network", "network", n.Name, "id", model.ShortID(n.ID))
	return n, nil
}

func validateNetworkSpec(spec model.NetworkSpec) error {
	switch d, ok := model.DriverNamed(cmp.Or(spec.Driver, model.DriverBridge)); {
	case ok && !d.Predefined:
	case ok:
		return refuse(model.ErrForbidden, "only one instance of %q network is allowed (it exists already; use driver bridge)", spec.Driver)
	case slices.Contains([]string{"overlay", "macvlan", "ipvlan"}, spec.Driver):
		return refuse(model.ErrNotSupported, "driver %s is not available yet (use driver bridge)", spec.Driver)
	default:
		return refuse(model.ErrInvalid, "unknown network driver %q (use driver bridge)", spec.Driver)
	}
	name := spec.Name
	switch {
	case name == "":
		return refuse(model.ErrInvalid, "the network has no name (give one)")
	case len(name) > maxNameLen:
		return refuse(model.ErrInvalid, "the network's name is %d bytes long (give at most %d)", len(name), maxNameLen)
	case strings.IndexFunc(name, unicode.IsControl) >= 0 || strings.TrimSpace(name) != name:
		return refuse(model.ErrInvalid, "invalid network name %q: it contains control characters, or begins or ends with a blank (choose another)", name)
	case name == "." || name == "..":
		return refuse(model.ErrInvalid, "invalid network name %q: it is a directory in paths, such as those of the API (choose another)", name)
	case name == "default" || strings.HasPrefix(name, model.ModeContainer):
		return refuse(model.ErrInvalid, "invalid network name %q: it has another meaning in --network (choose another)", name)
	case predefined(name):
		return refuse(model.ErrForbidden, "operation is not permitted on predefined %s network (choose another name)", name)
	}
	return nil
}

// predefined reports whether the name is that of a network that is created at the first
// start and cannot be removed.
func predefined(name string) bool {
	return name == model.NetworkBridge || name == model.NetworkHost || name == model.NetworkNone
}

// createNetwork adds a network. The driver is bridge unless the spec names another.
func (t *tx) createNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error) {
	for o := range t.Next.NetworksNamed(spec.Name) {
		if o.HasName(spec.Name) {
			return nil, refuse(model.ErrConflict, "network with name %s already exists (choose another name, or remove it with: %s network rm %s)",
				spec.Name, managingCLI(o.ManagedBy), spec.Name)
		}
	}
	index, err := t.NewIndex()
	if err != nil {
		return nil, err
	}
	id, err := chooseID(t.Next.NetworksByPrefix, spec.EngineID)
	if err != nil {
		return nil, err
	}
	n := &model.Network{
		ID:      id,
		Name:    spec.Name,
		Engine:  spec.Engine,
		Index:   index,
		Created: t.Now(),
		Driver:  model.DriverBridge,
		Labels:  maps.Clone(spec.Labels),
	}
	if spec.Driver != "" {
		n.Driver = spec.Driver
	}
	if spec.EngineID != "" {
		n.ManagedBy = model.ByEngine
	}
	if !n.Has().Pools {
		t.PutNetwork(n.ID, n)
		return n, nil
	}
	if err := chooseFamilies(n, spec); err != nil {
		return nil, err
	}
	n.Internal, n.GatewayMAC = spec.Internal, newMAC()
	if err := applyOptions(n, spec.Options); err != nil {
		return nil, err
	}
	n.Idle = predefined(n.Name)
	err = t.resolveSubnets(ctx, n, spec.Subnets)
	if n.Idle && errors.Is(err, model.ErrExhausted) {
		n.Subnets, err = nil, nil // a subnet may be available when the network is first used
	}
	if err != nil {
		return nil, err
	}
	if err := t.UseAddresses(n); err != nil {
		return nil, err
	}
	t.PutNetwork(n.ID, n)
	return n, nil
}

// claimSubnets ends the idle state of a network: it claims its previous subnets, or others if
// those have been taken in the meantime.
func (t *tx) claimSubnets(ctx context.Context, n *model.Network) (*model.Network, error) {
	if !n.Idle {
		return n, nil
	}
	now := *n
	now.Idle = false
	free, usable, err := t.stillFree(ctx, n)
	if err != nil {
		return nil, err
	}
	if !free {
		now.Subnets = nil
		err := t.resolveSubnets(ctx, &now, nil)
		switch {
		case errors.Is(err, model.ErrExhausted) && usable:
			now.Subnets = n.Subnets
		case err != nil:
			return nil, err
		default:
			if err := t.UseAddresses(&now); err != nil {
				return nil, err
			}
		}
	}
	t.PutNetwork(n.ID, &now)
	return &now, nil
}

// stillFree reports whether neither a network nor an address or route of the host overlaps an
// idle network's subnets. usable reports whether only wider routes of the host do, such
// as that of a tunnel for all traffic.
func (t *tx) stillFree(ctx context.Context, n *model.Network) (free, usable bool, err error) {
	host, err := t.HostPrefixes(ctx)
	if err != nil {
		return false, false, err
	}
	free, usable = len(n.Subnets) > 0, len(n.Subnets) > 0
	for _, s := range n.Subnets {
		only := []ipam.DefaultPool{{Base: s.Prefix, Size: s.Prefix.Bits()}}
		_, taken := ipam.Pick(only, model.FamilyOf(s.Prefix.Addr()), 0, slices.Concat(host, t.claimed()))
		free = free && taken == nil
		usable = usable && !slices.ContainsFunc(t.claimed(), s.Prefix.Overlaps) && !slices.ContainsFunc(host, func(p netip.Prefix) bool { return s.Prefix.Contains(p.Addr()) && p.Bits() >= s.Prefix.Bits() })
	}
	return free, usable, nil
}

// idleIfUnused releases the subnets of a predefined network that has no endpoints.
func (t *tx) idleIfUnused(networkID string) {
	n := t.Next.Network(networkID)
	if n == nil || n.Idle || !n.Has().Pools || !predefined(n.Name) || t.Next.HasMembers(n.ID) {
		return
	}
	now := *n
	now.Idle = true
	t.PutNetwork(n.ID, &now)
}

// RemoveNetwork removes a network that has no endpoints.
func (c *Controller) RemoveNetwork(ctx context.Context, ref string) error {
	return c.removeNetwork(ctx, ref, false)
}

// removeNetwork removes a network. byEngine is set when its engine requests that.
func (c *Controller) removeNetwork(ctx context.Context, ref string, byEngine bool) error {
	var n *model.Network
	err := c.update(ctx, func(t *tx) (err error) {
		if n, err = t.Next.FindNetwork(ref); err != nil {
			return err
		}
		if n.ManagedBy == model.ByEngine && !byEngine {
			return refuseEngineManaged("network "+n.Name, fmt.Sprintf("docker network rm %s; to remove a network that the engine no longer has: fairlead network rm --force %[1]s", n.Name))
		}
		if predefined(n.Name) {
			return refuse(model.ErrForbidden, "%s is a pre-defined network and cannot be removed (use a network of your own instead)", n.Name)
		}
		if eps := slices.Collect(t.Next.Members(n.ID)); len(eps) > 0 {
			return refuse(model.ErrForbidden, "error while removing network: network %s has active endpoints (%s); remove the sandboxes or disconnect them first",
				n.Name, describeMembers(t.Next, eps))
		}
		t.removeNetwork(n)
		return nil
	})
	if err == nil {
		c.state.Log().Info("removed network", "network", n.Name, "id", model.ShortID(n.ID))
	}
	return err
}

// describeMembers lists the sandboxes of endpoints by name and ID, the first few in full.
func describeMembers(s *desired.Snapshot, eps []*model.Endpoint) string {
	const most = 4
	var b strings.Builder
	for i, ep := range eps {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(eps)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "name:%q id:%q", s.SandboxName(ep.SandboxID), model.ShortID(ep.SandboxID))
	}
	return b.String()
}

func (t *tx) removeNetwork(n *model.Network) {
	t.DropAddresses(n.ID)
	t.PutNetwork(n.ID, nil)
}

// PruneNetworks removes the networks without endpoints, except predefined ones, those managed
// by container engines, and those for which keep (which may be nil) returns true. It
// returns the names of the removed networks, sorted.
func (c *Controller) PruneNetworks(ctx context.Context, keep func(*model.Network) bool) ([]string, error) {
	names := []string{}
	err := c.update(ctx, func(t *tx) error {
		for n := range t.Old.Networks() {
			if t.Next.HasMembers(n.ID) || predefined(n.Name) || n.ManagedBy == model.ByEngine || keep != nil && keep(n) {
				continue
			}
			t.removeNetwork(n)
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
