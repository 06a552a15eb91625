// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// Connect attaches a sandbox to a network, whether or not its program is running.
func (c *Controller) Connect(ctx context.Context, netRef, sandboxRef string, spec model.EndpointSpec) (*model.Endpoint, error) {
	var ep *model.Endpoint
	var n *model.Network
	var sb *model.Sandbox
	err := c.update(ctx, func(t *tx) (err error) {
		if n, err = t.Next.FindNetwork(netRef); err != nil {
			return err
		}
		if sb, err = t.Next.FindSandbox(sandboxRef); err != nil {
			return err
		}
		if err := connectable(t.Next, n, sb); err != nil {
			return err
		}
		if ep, err = t.addEndpoint(ctx, n, sb, spec); err != nil {
			return err
		}
		if err := t.updateGateway(sb, true); err != nil {
			return err
		}
		ep = t.Next.Endpoint(ep.ID) // may have become the gateway
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.state.Log().Info("connected sandbox", "sandbox", sb.Name, "network", n.Name, "ipv4", model.AddrText(ep.IPv4.Addr()), "ipv6", model.AddrText(ep.IPv6.Addr()))
	return ep, nil
}

func connectable(s *desired.Snapshot, n *model.Network, sb *model.Sandbox) error {
	mode := sb.NetworkMode
	switch {
	case n.ManagedBy == model.ByEngine || sb.ManagedBy == model.ByEngine:
		return refuseEngineManaged("network "+n.Name+" or sandbox "+sb.Name, "docker network connect")
	case joinsSandbox(mode) || mode == model.NetworkHost && n.Driver != model.DriverHost:
		return refuse(model.ErrForbidden, "sandbox %q shares the network namespace of another sandbox or of the host and cannot be connected to any other network (recreate it with --network %s)", sb.Name, n.Name)
	case n.Driver == model.DriverHost:
		return refuse(model.ErrForbidden, "cannot connect sandbox %q to host network - it must be created in host network mode (recreate it with --network host)", sb.Name)
	case n.Driver == model.DriverNull || mode == model.NetworkNone:
		return refuse(model.ErrForbidden, "sandbox %q cannot be connected to multiple networks with one of the networks in private (none) mode (recreate it with --network NETWORK)", sb.Name)
	}
	if s.Connection(sb.ID, n.ID) != nil {
		return refuse(model.ErrForbidden, "endpoint with name %s already exists in network %s (disconnect it first to change it)", sb.Name, n.Name)
	}
	return nil
}

// Disconnect detaches a sandbox from a network. Its default route and published
// ports move to the next network that can serve them. With force it also succeeds
// if the sandbox is not connected, or if the kernel refuses to remove something.
func (c *Controller) Disconnect(ctx context.Context, netRef, sandboxRef string, force bool) error {
	var n *model.Network
	var sb *model.Sandbox
	was := false
	err := c.update(ctx, func(t *tx) (err error) {
		t.IgnoreApplyErr = force
		if n, err = t.Next.FindNetwork(netRef); err != nil {
			return err
		}
		if sb, err = t.Next.FindSandbox(sandboxRef); err != nil {
			return err
		}
		if sb.ManagedBy == model.ByEngine {
			return refuseEngineManaged("sandbox "+sb.Name, "docker network disconnect")
		}
		if n.Driver == model.DriverHost && sb.NetworkMode == model.NetworkHost {
			return refuse(model.ErrForbidden, "sandbox %q cannot be disconnected from host network (remove it instead)", sb.Name)
		}
		if ep := t.Old.Connection(sb.ID, n.ID); ep != nil {
			was = true
			t.removeEndpoint(ep)
			return t.updateGateway(sb, false)
		}
		if force {
			return nil
		}
		return refuse(model.ErrForbidden, "sandbox %q is not connected to network %s (see: fairlead inspect %s)", sb.Name, n.Name, sb.Name)
	})
	if err == nil && was {
		c.state.Log().Info("disconnected sandbox", "sandbox", sb.Name, "network", n.Name)
	}
	return err
}

// addEndpoint creates an endpoint for a sandbox that is in the next snapshot.
func (t *tx) addEndpoint(ctx context.Context, n *model.Network, sb *model.Sandbox, spec model.EndpointSpec) (*model.Endpoint, error) {
	if len(spec.Aliases) > 0 && n.Name == model.NetworkBridge {
		return nil, refuse(model.ErrInvalid, "network-scoped aliases are only supported for user-defined networks (create one with: fairlead network create)")
	}
	if err := checkBandwidth(n, spec.Bandwidth); err != nil {
		return nil, err
	}
	n, err := t.claimSubnets(ctx, n)
	if err != nil {
		return nil, err
	}
	ep, err := t.newEndpoint(n, spec)
	if err != nil {
		return nil, err
	}
	ep.SandboxID, ep.Bandwidth = sb.ID, spec.Bandwidth
	others := endpointsOf(t.Next, sb.ID)
	for _, o := range others {
		ep.Order = max(ep.Order, o.Order+1)
	}
	if ep.IfName, err = chooseIfName(n, sb, others, spec.IfName); err != nil {
		return nil, err
	}
	t.PutEndpoint(ep.ID, ep)
	return ep, nil
}

// newEndpoint returns an endpoint without a sandbox, with its addresses allocated.
func (t *tx) newEndpoint(n *model.Network, spec model.EndpointSpec) (*model.Endpoint, error) {
	id, err := chooseID(t.Next.EndpointsByPrefix, spec.EngineID)
	if err != nil {
		return nil, err
	}
	ep := &model.Endpoint{
		ID:        id,
		NetworkID: n.ID,
		Aliases:   slices.Clone(spec.Aliases),
		FixedIPv4: spec.IPv4.IsValid(),
		FixedIPv6: spec.IPv6.IsValid(),
		FixedMAC:  !spec.MAC.IsZero(),
		Leased:    spec.Leased,
	}
	exact := spec.Exact || spec.Leased
	if spec.IPv4.IsValid() || !exact {
		if ep.IPv4, err = t.takeAddr(n, model.V4, spec.IPv4); err != nil {
			return nil, err
		}
	}
	if spec.IPv6.IsValid() || !exact {
		if ep.IPv6, err = t.takeAddr(n, model.V6, spec.IPv6); err != nil {
			return nil, err
		}
	}
	if ep.MAC, err = t.chooseMAC(n, spec.MAC, cmp.Or(ep.IPv4.Addr(), ep.IPv6.Addr())); err != nil {
		return nil, err
	}
	return ep, nil
}

// chooseIfName checks the name that the user requested, or chooses the first free one
// if it is "". Devices in the namespace that Fairlead does not know can still use the
// name; that is detected when the device is created.
func chooseIfName(n *model.Network, sb *model.Sandbox, others []*model.Endpoint, want string) (string, error) {
	taken := func(name string) bool {
		return slices.ContainsFunc(others, func(o *model.Endpoint) bool { return o.IfName == name })
	}
	switch {
	case want == "":
		for i := 0; ; i++ {
			if name := fmt.Sprint(n.InterfacePrefix(), i); !taken(name) {
				return name, nil
			}
		}
	case !ifNameRule.MatchString(want) || slices.Contains(reservedIfNames, want):
		return "", refuse(model.ErrInvalid, "invalid interface name %q (want 1 to 15 letters, digits, and _ . -, and none of %s)", want, strings.Join(reservedIfNames, ", "))
	case taken(want):
		return "", refuse(model.ErrConflict, "sandbox %q already has an interface %s (choose another name)", sb.Name, want)
	}
	return want, nil
}

// chooseMAC checks the MAC that the user requested, or derives one from the IP address
// if it is zero, so that neighbour entries of the previous owner remain valid. A MAC must be
// unique in its network, because it is a key of the forwarding table.
func (t *tx) chooseMAC(n *model.Network, want model.MAC, ip netip.Addr) (model.MAC, error) {
	if want.IsZero() {
		m := macOf(ip)
		for m.IsZero() || t.macOwner(n, m) != "" {
			m = newMAC()
		}
		return m, nil
	}
	if want[0]&1 != 0 {
		return want, refuse(model.ErrInvalid, "MAC address %v is multicast (choose one whose first byte is even)", want)
	}
	if o := t.macOwner(n, want); o != "" {
		return want, refuse(model.ErrConflict, "MAC address %v is already in use on network %s by %s (choose another --mac-address)",
			want, n.Name, o)
	}
	return want, nil
}

// macOwner names the owner of a hardware address in a network; "" if it has none.
func (t *tx) macOwner(n *model.Network, m model.MAC) string {
	ep := desired.First(t.Next.MembersWithMAC(n.ID, m))
	switch {
	case m == n.GatewayMAC:
		return "the gateway"
	case ep == nil:
		return ""
	case ep.SandboxID == "":
		return "endpoint " + model.ShortID(ep.ID)
	}
	return t.Next.SandboxName(ep.SandboxID)
}

// takeAddr allocates an address of a family, the requested one if want is valid, and
// returns it with the subnet's length. The result is zero if the network does not have
// this family.
func (t *tx) takeAddr(n *model.Network, f model.Family, want netip.Addr) (netip.Prefix, error) {
	s, ok := n.Subnet(f)
	if want.IsValid() && (!ok || !s.Prefix.Contains(want)) {
		remedy := "has no " + f.String() + ", leave it out"
		if ok {
			remedy = "has " + s.Prefix.String() + ", choose one of it"
		}
		return netip.Prefix{}, refuse(model.ErrInvalid, "no configured subnet contains IP address %v (network %s %s)", want, n.Name, remedy)
	}
	if !ok {
		return netip.Prefix{}, nil
	}
	pool := t.Addresses(n.ID).Pool(f)
	a, err := want, error(nil)
	if want.IsValid() {
		err = pool.Reserve(want)
	} else {
		a, err = pool.Allocate()
	}
	switch {
	case errors.Is(err, ipam.ErrExhausted):
		return netip.Prefix{}, refuse(model.ErrExhausted, "no available %s addresses on this network's address pools: %s (%s); remove sandboxes from it, or create a larger network",
			f, n.Name, n.ID)
	case errors.Is(err, ipam.ErrTaken):
		return netip.Prefix{}, refuse(model.ErrConflict, "Address already in use: %v belongs to %s of network %s (choose another, or none to get a free one)",
			want, t.addrOwner(n, s, want), n.Name)
	case err != nil:
		return netip.Prefix{}, refuse(model.ErrInvalid, "%v: %v (it is the network or broadcast address of subnet %v; choose another)", want, err, s.Prefix)
	}
	t.OnUndo(func() { pool.Release(a) })
	return netip.PrefixFrom(a, s.Prefix.Bits()), nil
}

func (t *tx) addrOwner(n *model.Network, s model.Subnet, a netip.Addr) string {
	if a == s.Gateway {
		return "the gateway"
	}
	for name, x := range s.Aux {
		if x == a {
			return fmt.Sprintf("auxiliary address %q", name)
		}
	}
	if ep := t.Next.MemberWithAddr(n.ID, a); ep != nil {
		return fmt.Sprintf("sandbox %q", t.Next.SandboxName(ep.SandboxID))
	}
	return "another sandbox"
}

// removeEndpoint removes an endpoint. The caller updates the sandbox's gateway and
// publishes, see updateGateway.
func (t *tx) removeEndpoint(ep *model.Endpoint) {
	t.releaseAddr(ep.NetworkID, ep.IPv4.Addr())
	t.releaseAddr(ep.NetworkID, ep.IPv6.Addr())
	t.PutEndpoint(ep.ID, nil)
	t.idleIfUnused(ep.NetworkID)
}

// releaseAddr returns an address to a network's pool. It ignores the zero Addr.
func (t *tx) releaseAddr(networkID string, a netip.Addr) {
	pool := t.Addresses(networkID).Pool(model.FamilyOf(a))
	if !a.IsValid() || pool == nil {
		return
	}
	pool.Release(a)
	// This cannot fail: nothing else allocates while the lock is held.
	t.OnUndo(func() { _ = pool.Reserve(a) })
}

// chooseGateway finds and marks the endpoint for the sandbox's default routes: the first
// one whose network has a default route. It returns nil if there is none.
func (t *tx) chooseGateway(sandboxID string) *model.Endpoint {
	var gw *model.Endpoint
	for _, ep := range endpointsOf(t.Next, sandboxID) {
		is := gw == nil && hasDefaultRoute(t.Next.Network(ep.NetworkID))
		if ep.IsGateway() != is {
			changed := *ep
			changed.DefaultRoute4, changed.DefaultRoute6 = is, is
			ep = &changed
			t.PutEndpoint(ep.ID, ep)
		}
		if is {
			gw = ep
		}
	}
	return gw
}

func hasDefaultRoute(n *model.Network) bool {
	return !n.Internal && slices.ContainsFunc(n.Subnets, func(s model.Subnet) bool { return s.Gateway.IsValid() })
}
