// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource/options"
)

// ValidateNetwork checks the name and the driver of a network that is to be created.
func ValidateNetwork(spec model.NetworkSpec) error {
	switch d, ok := model.DriverNamed(cmp.Or(spec.Driver, model.DriverBridge)); {
	case ok && !d.Predefined:
	case ok:
		return model.Refuse(model.ErrForbidden, "only one instance of %q network is allowed (it exists already; use driver bridge)", spec.Driver)
	default:
		return model.Refuse(model.ErrInvalid, "unknown network driver %q (use driver bridge, macvlan, ipvlan, lan or overlay)", spec.Driver)
	}
	name := spec.Name
	switch {
	case name == "":
		return model.Refuse(model.ErrInvalid, "the network has no name (give one)")
	case len(name) > model.MaxNameLen:
		return model.Refuse(model.ErrInvalid, "the network's name is %d bytes long (give at most %d)", len(name), model.MaxNameLen)
	case strings.IndexFunc(name, unicode.IsControl) >= 0 || strings.TrimSpace(name) != name:
		return model.Refuse(model.ErrInvalid, "invalid network name %q: it contains control characters, or begins or ends with a blank (choose another)", name)
	case name == "." || name == "..":
		return model.Refuse(model.ErrInvalid, "invalid network name %q: it is a directory in paths, such as those of the API (choose another)", name)
	case name == "default" || model.SharesNetNS(name):
		return model.Refuse(model.ErrInvalid, "invalid network name %q: it has another meaning in --network (choose another)", name)
	case Predefined(name):
		return model.Refuse(model.ErrForbidden, "operation is not permitted on predefined %s network (choose another name)", name)
	}
	return nil
}

// Predefined reports whether the name is that of a network that is created at the first
// start and cannot be removed.
func Predefined(name string) bool {
	return name == model.NetworkBridge || name == model.NetworkHost || name == model.NetworkNone
}

// AddNetwork adds a network. The driver is bridge unless the spec names another.
func AddNetwork(ctx context.Context, t *txn.Tx, spec model.NetworkSpec) (*model.Network, error) {
	if err := checkName(t, spec.Name); err != nil {
		return nil, err
	}
	n, err := Plan(ctx, t, spec)
	if err != nil {
		return nil, err
	}
	if n.Index, err = t.NewIndex(); err != nil {
		return nil, err
	}
	if n.Has().Pools {
		if err := t.UseAddresses(n); err != nil {
			return nil, err
		}
	}
	if n.HostAccess {
		if err := joinHost(t, n); err != nil {
			return nil, err
		}
	}
	t.PutNetwork(n.ID, n)
	return n, nil
}

// Plan returns the network of a spec, without a number, and adds nothing. Its name may be that of another network.
func Plan(ctx context.Context, t *txn.Tx, spec model.NetworkSpec) (*model.Network, error) {
	return planNetwork(ctx, t, spec, nil)
}

// underlay is what the cluster contributes to the plan of a shared network.
type underlay struct {
	taken []netip.Prefix // subnets of other networks
	mtu   int            // default
}

// PlanShared returns a network that a cluster is to share, without a VNI unless the user requested
// one, and changes nothing. It avoids the subnets of the cluster's other networks.
func PlanShared(ctx context.Context, t *txn.Tx, spec model.NetworkSpec, taken []netip.Prefix, mtu int) (*model.Network, error) {
	if err := checkName(t, spec.Name); err != nil {
		return nil, err
	}
	return planNetwork(ctx, t, spec, &underlay{taken, mtu})
}

// checkName refuses the name of another network.
func checkName(t *txn.Tx, name string) error {
	for o := range t.Next.NetworksNamed(name) {
		if o.HasName(name) {
			return model.Refuse(model.ErrConflict, "network with name %s already exists (choose another name, or remove it with: %s network rm %s)",
				name, o.ManagedBy.CLI(), name)
		}
	}
	return nil
}

// planNetwork returns the network of a spec. under is nil unless the network is to be shared.
func planNetwork(ctx context.Context, t *txn.Tx, spec model.NetworkSpec, under *underlay) (*model.Network, error) {
	id, err := chooseID(t.Next.NetworksByPrefix, spec.EngineID)
	if err != nil {
		return nil, err
	}
	n := &model.Network{
		ID:      id,
		Name:    spec.Name,
		Local:   model.Local{Engine: spec.Engine},
		Created: t.Now(),
		Driver:  model.DriverBridge,
		Labels:  maps.Clone(spec.Labels),
		Swarm:   spec.Swarm,
	}
	if spec.Driver != "" {
		n.Driver = spec.Driver
	}
	if spec.EngineID != "" {
		n.ManagedBy = model.ByEngine
	}
	n.ConfigFrom, n.IPAM = spec.ConfigFrom, spec.IPAM
	if spec.ConfigOnly {
		return n, planConfig(n, spec)
	}
	if !n.Has().Pools {
		return n, nil
	}
	if err := chooseFamilies(n, spec); err != nil {
		return nil, err
	}
	n.Internal = spec.Internal
	defaults, avoid := options.Defaults(n), []netip.Prefix(nil)
	if n.Has().OnHost == model.DeviceHostPort {
		n.GatewayMAC = NewMAC()
	}
	if under != nil {
		avoid = under.taken
		defaults[model.OptMTU] = strconv.Itoa(under.mtu)
	}
	if err := options.Apply(n, spec.Options, defaults); err != nil {
		return nil, err
	}
	if n.Has().OnHost == model.DeviceParent {
		if err := planParent(t, n); err != nil {
			return nil, err
		}
	}
	n.Idle = Predefined(n.Name)
	err = resolveSubnets(ctx, t, n, spec.Subnets, avoid)
	if n.Idle && errors.Is(err, model.ErrExhausted) {
		n.Subnets, err = nil, nil // a subnet may be available when the network is first used
		for _, sp := range spec.Subnets {
			n.Subnets = append(n.Subnets, model.Subnet(sp))
		}
	}
	return n, err
}

// planConfig completes a network that holds only configuration, which is checked when a network uses it.
func planConfig(n *model.Network, spec model.NetworkSpec) error {
	n.Driver, n.ConfigOnly, n.Idle = model.DriverNull, true, true
	n.EnableIPv4, n.EnableIPv6, n.Options = !spec.NoIPv4, spec.EnableIPv6, maps.Clone(spec.Options)
	for _, sp := range spec.Subnets {
		if err := ValidateSubnet(sp); err != nil {
			return err
		}
		n.Subnets = append(n.Subnets, model.Subnet(sp))
	}
	return nil
}

// AdoptNetwork adds a network that a cluster shares. Without endpoints it is idle: it has no device,
// and claims no subnet on this host.
func AdoptNetwork(t *txn.Tx, shared *model.Network) error {
	if err := checkName(t, shared.Name); err != nil {
		return err
	}
	if _, ok := model.DriverNamed(shared.Driver); !ok {
		return model.Refuse(model.ErrNotSupported, "network %s has driver %q, which this build does not know (use a newer one)", shared.Name, shared.Driver)
	}
	if _, err := chooseID(t.Next.NetworksByPrefix, shared.ID); err != nil {
		return err
	}
	index, err := t.NewIndex()
	if err != nil {
		return err
	}
	n := *shared
	n.Idle, n.Local = true, model.Local{Index: index}
	if err := t.UseAddresses(&n); err != nil {
		return err
	}
	t.PutNetwork(n.ID, &n)
	return nil
}

// ErrStaleClaim means that the network was used by another endpoint when the claim was made, and is no
// longer: the claim lacks the node's own address. The caller claims again.
var ErrStaleClaim = errors.New("the claim lacks an address of this node")

// Activate ends the idle state of a network, if it is idle. claim is what the cluster reserved for its
// first endpoint, if the network is shared.
func Activate(ctx context.Context, t *txn.Tx, n *model.Network, claim *model.Claim) (*model.Network, error) {
	switch {
	case !n.Idle:
		return n, nil
	case n.Has().Shared:
		return activateShared(ctx, t, n, claim)
	default:
		return claimSubnets(ctx, t, n)
	}
}

// activateShared gives this host its own addresses in a network. The subnets are those of all nodes,
// so this host must not use them otherwise.
func activateShared(ctx context.Context, t *txn.Tx, n *model.Network, claim *model.Claim) (*model.Network, error) {
	if claim == nil {
		return nil, NeedsCluster(n)
	}
	now := *n
	now.Idle, now.NodeIPv4, now.NodeIPv6 = false, claim.NodeIPv4, claim.NodeIPv6
	for _, s := range n.Subnets {
		if s.Gateway.IsValid() && n.Swarm == "" && !now.NodeAddr(model.FamilyOf(s.Prefix.Addr())).IsValid() {
			return nil, ErrStaleClaim
		}
		if err := CheckTaken(ctx, t, s.Prefix, SharedPool(t.Next, n, s.Prefix) != nil); err != nil {
			return nil, model.Refuse(model.ErrConflict, "network %s cannot be used on this host: %v", n.Name, err)
		}
	}
	t.PutNetwork(n.ID, &now)
	return &now, nil
}

// NeedsCluster refuses the use of a shared network on a host that is not part of a cluster.
func NeedsCluster(n *model.Network) error {
	return model.Refuse(model.ErrForbidden, "network %s is shared by a cluster, and this daemon is not part of one (start it with --store)", n.Name)
}

// claimSubnets claims the previous subnets of an idle network, or others if those have been taken in
// the meantime. A fixed one is claimed or refused.
func claimSubnets(ctx context.Context, t *txn.Tx, n *model.Network) (*model.Network, error) {
	now := *n
	now.Idle = false
	kept, free, usable, err := stillFree(ctx, t, n)
	if err != nil {
		return nil, err
	}
	if !free {
		now.Subnets = nil
		err := resolveSubnets(ctx, t, &now, kept, nil)
		switch {
		case errors.Is(err, model.ErrExhausted) && usable:
			now.Subnets = n.Subnets
		case errors.Is(err, model.ErrConflict): // no other is refused
			return nil, model.Refuse(model.ErrConflict, "network %s has its subnet from the daemon's --bip or --fixed-cidr, and %v, for the daemon", n.Name, err)
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
// idle network's subnets. kept are the subnets to claim: those that are free, or fixed. usable reports whether only
// wider routes of the host overlap, such as that of a tunnel for all traffic.
func stillFree(ctx context.Context, t *txn.Tx, n *model.Network) (kept []model.SubnetSpec, free, usable bool, err error) {
	host, err := t.HostPrefixes(ctx)
	if err != nil {
		return nil, false, false, err
	}
	_, v4 := n.Subnet(model.V4)
	_, v6 := n.Subnet(model.V6)
	free = v4 == n.EnableIPv4 && v6 == n.EnableIPv6
	usable = free
	for _, s := range n.Subnets {
		only := []ipam.DefaultPool{{Base: s.Prefix, Size: s.Prefix.Bits()}}
		_, taken := ipam.Pick(only, model.FamilyOf(s.Prefix.Addr()), 0, slices.Concat(host, claimed(t)))
		if free = free && taken == nil; taken == nil || s.Fixed {
			kept = append(kept, model.SubnetSpec(s))
		}
		usable = usable && !slices.ContainsFunc(claimed(t), s.Prefix.Overlaps) && !slices.ContainsFunc(host, func(p netip.Prefix) bool { return s.Prefix.Contains(p.Addr()) && p.Bits() >= s.Prefix.Bits() })
	}
	return kept, free, usable, nil
}

// MayIdle reports whether a network is idle while it has no endpoints.
func MayIdle(n *model.Network) bool { return n.Has().Pools && (Predefined(n.Name) || n.Has().Shared) }

// IdleIfUnused releases the subnets of a predefined or shared network that has no endpoints here, and
// no services whose ports this host publishes.
func IdleIfUnused(t *txn.Tx, networkID string) {
	n := t.Next.Network(networkID)
	if n == nil || n.Idle || !MayIdle(n) || t.Next.HasMembers(n.ID) || n.Has().Shared && HasPorts(t.Next, n.ID) {
		return
	}
	now := *n
	now.Idle, now.NodeIPv4, now.NodeIPv6 = true, netip.Addr{}, netip.Addr{}
	t.PutNetwork(n.ID, &now)
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
		if ep.SandboxID == "" {
			fmt.Fprintf(&b, "endpoint:%q, which its engine reserved", model.ShortID(ep.ID))
			continue
		}
		fmt.Fprintf(&b, "name:%q id:%q", s.SandboxName(ep.SandboxID), model.ShortID(ep.SandboxID))
	}
	return b.String()
}

// CreateNetwork is the verb that creates a network of this host.
func CreateNetwork(ctx context.Context, s *txn.State, spec model.NetworkSpec) (*model.Network, error) {
	if err := ValidateNetwork(spec); err != nil {
		return nil, err
	}
	var n *model.Network
	err := s.Update(ctx, func(t *txn.Tx) (err error) {
		n, err = AddNetwork(ctx, t, spec)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.Log().Info("created network", "network", n.Name, "id", model.ShortID(n.ID))
	return n, nil
}

// RemoveNetwork removes a network. It refuses predefined networks and those with endpoints.
func RemoveNetwork(t *txn.Tx, n *model.Network) error {
	if Predefined(n.Name) {
		return model.Refuse(model.ErrForbidden, "%s is a pre-defined network and cannot be removed (use a network of your own instead)", n.Name)
	}
	for o := range t.Next.Networks() {
		if n.ConfigOnly && o.ConfigFrom == n.Name {
			return model.Refuse(model.ErrForbidden, "configuration network %q is in use by network %s (remove that first)", n.Name, o.Name)
		}
	}
	if eps := slices.Collect(t.Next.Members(n.ID)); len(eps) > 0 {
		return model.Refuse(model.ErrForbidden, "error while removing network: network %s has active endpoints (%s); remove the sandboxes or disconnect them first",
			n.Name, describeMembers(t.Next, eps))
	}
	if names := describeServices(t.Next, n.ID); len(names) > 0 {
		return model.Refuse(model.ErrForbidden, "error while removing network: network %s has services (%s); remove them first with: fairlead service rm",
			n.Name, strings.Join(names, ", "))
	}
	DropNetwork(t, n)
	return nil
}

// DropNetwork removes a network that has no endpoints, and the pools that engines requested of it.
func DropNetwork(t *txn.Tx, n *model.Network) {
	DropSharedPools(t, n)
	t.DropAddresses(n.ID)
	t.PutNetwork(n.ID, nil)
}
