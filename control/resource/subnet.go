// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource/options"
)

// chooseFamilies sets the address families of a network. An IPv6 subnet enables IPv6 like
// --ipv6 does. In an engine-managed network only the subnets count: the engine has derived
// them from the user's options.
func chooseFamilies(n *model.Network, spec model.NetworkSpec) error {
	has := func(f model.Family) bool {
		return slices.ContainsFunc(spec.Subnets, func(sp model.SubnetSpec) bool {
			return sp.Prefix.IsValid() && model.FamilyOf(sp.Prefix.Addr()) == f
		})
	}
	if n.ManagedBy == model.ByEngine {
		n.EnableIPv4, n.EnableIPv6 = has(model.V4), has(model.V6)
		return nil
	}
	n.EnableIPv4, n.EnableIPv6 = !spec.NoIPv4, spec.EnableIPv6 || has(model.V6)
	if v, ok := spec.Options[model.OptIPv4]; ok {
		on, err := options.Bool(model.OptIPv4, v)
		if err != nil {
			return err
		}
		n.EnableIPv4 = n.EnableIPv4 && on
	}
	if v, ok := spec.Options[model.OptIPv6]; ok {
		on, err := options.Bool(model.OptIPv6, v)
		if err != nil {
			return err
		}
		n.EnableIPv6 = n.EnableIPv6 || on
	}
	switch {
	case !n.EnableIPv4 && !n.EnableIPv6:
		return model.Refuse(model.ErrInvalid, "network %s would have neither IPv4 nor IPv6 (add --ipv6)", n.Name)
	case !n.EnableIPv4 && has(model.V4):
		return model.Refuse(model.ErrInvalid, "network %s has an IPv4 subnet although IPv4 is disabled (leave one out)", n.Name)
	}
	return nil
}

// resolveSubnets turns the user's request into the network's subnets, IPv4 first. A
// family without a requested subnet gets one from the default pools that does not overlap avoid.
func resolveSubnets(ctx context.Context, t *txn.Tx, n *model.Network, specs []model.SubnetSpec, avoid []netip.Prefix) error {
	if n.IPAM != "" {
		return withoutAddresses(n, specs)
	}
	var byFamily [len(model.Families)][]model.SubnetSpec
	for _, sp := range specs {
		if err := ValidateSubnet(sp); err != nil {
			return err
		}
		f := model.V4
		if sp.Prefix.IsValid() {
			f = model.FamilyOf(sp.Prefix.Addr())
		}
		if f == model.V4 && !n.EnableIPv4 {
			return model.Refuse(model.ErrInvalid, "a subnet without a prefix is an IPv4 subnet, but IPv4 is disabled in network %s (name an IPv6 subnet)", n.Name)
		}
		if o := byFamily[f]; len(o) > 0 && n.Has().Entries {
			return model.Refuse(model.ErrInvalid, "driver %s takes one subnet per address family; %v and %v are both %s (create two networks)",
				n.Driver, o[0].Prefix, sp.Prefix, f)
		}
		byFamily[f] = append(byFamily[f], sp)
	}
	for i, list := range byFamily {
		f := model.Family(i)
		if f == model.V4 && !n.EnableIPv4 || f == model.V6 && !n.EnableIPv6 {
			continue
		}
		if list == nil {
			list = []model.SubnetSpec{{}}
		}
		for _, sp := range list {
			s, err := resolveSubnet(ctx, t, n, f, sp, avoid)
			if err != nil {
				return err
			}
			for _, o := range n.Subnets {
				if o.Prefix.Overlaps(s.Prefix) {
					return model.Refuse(model.ErrInvalid, "subnets %v and %v of network %s overlap (leave one out)", o.Prefix, s.Prefix, n.Name)
				}
			}
			n.Subnets, avoid = append(n.Subnets, s), append(slices.Clip(avoid), s.Prefix)
		}
	}
	return nil
}

// withoutAddresses checks a network whose addresses programs in the sandboxes configure, or a DHCP server allocates.
func withoutAddresses(n *model.Network, specs []model.SubnetSpec) error {
	switch {
	case n.Has().Entries: // of lan networks, too: sources are checked
		return model.Refuse(model.ErrInvalid, "IPAM driver %s is for networks of drivers macvlan and ipvlan: those of driver %s carry packets by their addresses (leave out --ipam-driver)", n.IPAM, n.Driver)
	case n.Routes():
		return model.Refuse(model.ErrInvalid, "IPAM driver %s is not for ipvlan mode %s, which routes by addresses (choose mode %s)", n.IPAM, n.Mode, model.ModeL2)
	case n.HostAccess:
		return model.Refuse(model.ErrInvalid, "option %s needs the addresses of members, and IPAM driver %s allocates none (leave one out)", model.OptHostAccess, n.IPAM)
	case len(specs) > 0:
		return model.Refuse(model.ErrInvalid, "IPAM driver %s has no subnets (leave out --subnet)", n.IPAM)
	case n.IPAM == model.IPAMDHCP && n.Parent == "":
		return model.Refuse(model.ErrInvalid, "IPAM driver dhcp needs a parent, on whose link a DHCP server answers (give one: -o parent=)")
	case n.IPAM == model.IPAMDHCP && !n.EnableIPv4:
		return model.Refuse(model.ErrInvalid, "IPAM driver dhcp is for IPv4 (leave out --ipv4=false, or choose driver null)")
	}
	return nil
}

func resolveSubnet(ctx context.Context, t *txn.Tx, n *model.Network, f model.Family, sp model.SubnetSpec, avoid []netip.Prefix) (model.Subnet, error) {
	s := model.Subnet{Prefix: sp.Prefix, Gateway: sp.Gateway, IPRange: sp.IPRange, Aux: maps.Clone(sp.Aux), Fixed: sp.Fixed}
	if !sp.Prefix.IsValid() || sp.Prefix.Addr().IsUnspecified() {
		size := 0
		if sp.Prefix.IsValid() {
			size = sp.Prefix.Bits()
		}
		var err error
		pools := t.DefaultPools()
		if n.Has().Shared {
			pools = t.SharedPools()
		}
		if s.Prefix, err = pickSubnet(ctx, t, pools, f, size, avoid); err != nil {
			return s, err
		}
	} else if err := checkSubnet(ctx, t, n, sp.Prefix); err != nil {
		return s, err
	}
	switch isolated := model.Isolated(n.Options, f); {
	case isolated && n.ManagedBy == model.ByEngine: // older engines reserve a gateway nevertheless
		s.Gateway = netip.Addr{}
		return s, nil
	case isolated && s.Gateway.IsValid():
		return s, model.Refuse(model.ErrInvalid, "network %s has no %s gateway in gateway mode isolated (leave out gateway %v, or the mode)", n.Name, f, s.Gateway)
	case n.ManagedBy == model.ByEngine:
		return s, nil // the engine chooses the gateway, if any
	}
	return s, placeGateway(n, &s)
}

// SharedPool returns the pool that an engine requested of a shared network; nil if there is none.
func SharedPool(s *desired.Snapshot, n *model.Network, p netip.Prefix) *model.AddressPool {
	if pool := s.Pool(p.String()); pool != nil && pool.NetworkID == n.ID {
		return pool
	}
	return nil
}

// DropSharedPools removes the pools that engines requested of a shared network.
func DropSharedPools(t *txn.Tx, n *model.Network) {
	for _, s := range n.Subnets {
		if p := SharedPool(t.Next, n, s.Prefix); p != nil {
			t.PutPool(p.ID, nil)
		}
	}
}

// checkSubnet refuses a subnet that is in use. The host may have addresses in that of a network whose gateway is not
// the host: it is that of the link below.
func checkSubnet(ctx context.Context, t *txn.Tx, n *model.Network, p netip.Prefix) error {
	switch {
	case n.Idle: // it claims nothing yet
		return nil
	case n.Has().OnHost != model.DeviceHostPort:
		return checkOverlap(t, p, false)
	}
	return CheckTaken(ctx, t, p, n.ManagedBy == model.ByEngine)
}

// CheckTaken refuses a subnet that overlaps a network or an engine's pool, or that contains an
// address of the host. byEngine allows the exact prefix of a pool, for the engine's own
// network. Routes of the host, and wider prefixes around the subnet, are allowed,
// because the operator chose the subnet.
func CheckTaken(ctx context.Context, t *txn.Tx, p netip.Prefix, byEngine bool) error {
	if err := checkOverlap(t, p, byEngine); err != nil {
		return err
	}
	device, addr, err := t.Host().HostAddr(ctx, p)
	if err != nil {
		return fmt.Errorf("look up the host's addresses in %v: %w", p, err)
	}
	if device != "" {
		return model.Refuse(model.ErrConflict, "subnet %v contains %v, an address of this host's device %s (choose another --subnet)", p, addr, device)
	}
	return nil
}

func checkOverlap(t *txn.Tx, p netip.Prefix, byEngine bool) error {
	if other, o := t.Next.OverlappingNetwork(p); other != nil {
		return model.Refuse(model.ErrConflict, "Pool overlaps with other one on this address space: %v and network %q (%v); choose another --subnet",
			p, other.Name, o)
	}
	if pool := t.Next.OverlappingPool(p); pool != nil && !(byEngine && pool.Prefix == p) {
		return model.Refuse(model.ErrConflict, "Pool overlaps with other one on this address space: %v and a container engine's pool (%v); choose another --subnet", p, pool.Prefix)
	}
	return nil
}

// PickSubnet finds a subnet in the default pools that neither a network nor the
// host uses. It prefers one that is not the former subnet of an idle network.
func PickSubnet(ctx context.Context, t *txn.Tx, f model.Family, size int) (netip.Prefix, error) {
	return pickSubnet(ctx, t, t.DefaultPools(), f, size, nil)
}

func pickSubnet(ctx context.Context, t *txn.Tx, pools []ipam.DefaultPool, f model.Family, size int, avoid []netip.Prefix) (netip.Prefix, error) {
	host, err := t.HostPrefixes(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	avoid = slices.Concat(avoid, host, claimed(t))
	withIdle := slices.Clone(avoid)
	for n := range t.Next.Networks() {
		for _, s := range n.Subnets {
			withIdle = append(withIdle, s.Prefix)
		}
	}
	p, err := ipam.Pick(pools, f, size, withIdle)
	if err != nil {
		p, err = ipam.Pick(pools, f, size, avoid)
	}
	if err != nil {
		return p, model.Refuse(model.ErrExhausted, "%v: every %s subnet of the default pools overlaps a network or a route of this host (give one with --subnet, or remove unused networks)",
			err, f)
	}
	return p, nil
}

// claimed returns the prefixes of active networks and of engines' pools.
func claimed(t *txn.Tx) []netip.Prefix {
	var ps []netip.Prefix
	for n := range t.Next.Networks() {
		for _, s := range n.Claimed() {
			ps = append(ps, s.Prefix)
		}
	}
	for p := range t.Next.Pools() {
		ps = append(ps, p.Prefix)
	}
	return ps
}

// ValidateSubnet checks one --subnet and the options that belong to it.
func ValidateSubnet(sp model.SubnetSpec) error {
	p := sp.Prefix
	if !p.IsValid() {
		if sp.Gateway.IsValid() || sp.IPRange.IsValid() || len(sp.Aux) > 0 {
			return model.Refuse(model.ErrInvalid, "every ip-range, gateway or auxiliary address must have a corresponding subnet (add --subnet)")
		}
		return nil
	}
	a := p.Addr()
	switch {
	case a.Is4In6():
		return model.Refuse(model.ErrInvalid, "invalid subnet %v: IPv4 in IPv6 form (write it as IPv4)", p)
	case p != p.Masked():
		return model.Refuse(model.ErrInvalid, "invalid subnet %v: it should be %v", p, p.Masked())
	case p.Bits() < 8:
		return model.Refuse(model.ErrInvalid, "invalid subnet %v: larger than /8 (choose a smaller one)", p)
	case p.Bits() == a.BitLen():
		return model.Refuse(model.ErrInvalid, "invalid subnet %v: no room for a gateway and a sandbox (want /%d or larger)", p, a.BitLen()-1)
	case a.IsLoopback() || a.IsMulticast() || a.Is6() && a.IsLinkLocalUnicast():
		return model.Refuse(model.ErrInvalid, "invalid subnet %v: loopback, multicast and IPv6 link-local addresses cannot be used (choose another --subnet)", p)
	case a.IsUnspecified() && (sp.Gateway.IsValid() || sp.IPRange.IsValid() || len(sp.Aux) > 0):
		return model.Refuse(model.ErrInvalid, "subnet %v requests any subnet of that size, so it takes no ip-range, gateway or auxiliary addresses (give a full --subnet)", p)
	}
	if err := validateRange(p, sp.IPRange); err != nil {
		return err
	}
	if g := sp.Gateway; g.IsValid() && !p.Contains(g) {
		return model.Refuse(model.ErrInvalid, "invalid gateway %v: parent subnet %v doesn't contain this address (choose one of it)", g, p)
	}
	for _, name := range slices.Sorted(maps.Keys(sp.Aux)) {
		if !p.Contains(sp.Aux[name]) {
			return model.Refuse(model.ErrInvalid, "invalid auxiliary address %v: parent subnet %v doesn't contain this address (choose one of it)", sp.Aux[name], p)
		}
	}
	return nil
}

func validateRange(p netip.Prefix, r model.AddrRange) error {
	whole := model.RangeOf(p)
	switch {
	case !r.IsValid():
		return nil
	case r.First.Is4() != p.Addr().Is4():
		return model.Refuse(model.ErrInvalid, "invalid ip-range %v: parent subnet is an %s block (give a part of %v)", r, model.FamilyOf(p.Addr()), p)
	case r != whole && r.Contains(whole.First) && r.Contains(whole.Last):
		return model.Refuse(model.ErrInvalid, "invalid ip-range %v: CIDR block is bigger than its parent subnet %v (give a part of that)", r, p)
	case !p.Contains(r.First) || !p.Contains(r.Last):
		return model.Refuse(model.ErrInvalid, "invalid ip-range %v: parent subnet %v doesn't contain ip-range (give a part of that)", r, p)
	}
	return nil
}

// placeGateway sets the gateway to the first free address. An isolated network has none, and an internal one of two
// addresses neither, so that it has room for two sandboxes. If the gateway is not the host, only the user
// knows it.
func placeGateway(n *model.Network, s *model.Subnet) error {
	pool, err := ipam.ForSubnet(model.Subnet{Prefix: s.Prefix, Gateway: s.Gateway, IPRange: s.IPRange, Aux: s.Aux})
	if err != nil {
		return err
	}
	pair := s.Prefix.Bits() == s.Prefix.Addr().BitLen()-1
	if s.Gateway.IsValid() || n.Closed() && pair || n.Has().OnHost != model.DeviceHostPort || model.Isolated(n.Options, model.FamilyOf(s.Prefix.Addr())) {
		return nil
	}
	if s.Gateway, err = pool.First(); err != nil {
		return model.Refuse(model.ErrExhausted, "subnet %v has no address left for the gateway (reserve fewer with --aux-address)", s.Prefix)
	}
	return nil
}
