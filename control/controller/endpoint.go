// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// Connect attaches a sandbox to a network, whether or not its program is running.
func (c *Controller) Connect(ctx context.Context, netRef, sandboxRef string, spec model.EndpointSpec) (*model.Endpoint, error) {
	var ep *model.Endpoint
	var n *model.Network
	var sb *model.Sandbox
	connect := func(t *txn.Tx) (err error) {
		if n, err = t.Next.FindNetwork(netRef); err != nil {
			return err
		}
		if sb, err = t.Next.FindSandbox(sandboxRef); err != nil {
			return err
		}
		if err := connectable(t.Next, n, sb); err != nil {
			return err
		}
		if ep, err = addEndpoint(ctx, t, n, sb, spec); err != nil {
			return err
		}
		if err := updateGateway(t, sb, true); err != nil {
			return err
		}
		ep = t.Next.Endpoint(ep.ID) // may have become the gateway
		return nil
	}
	var member model.Member
	if joins, err := c.Sandbox(sandboxRef); err == nil {
		member = model.Member{SandboxID: joins.ID, Name: joins.Name, Hostname: joins.Hostname}
	}
	err := c.withClaim(ctx, netRef, &spec, member, func() error { return c.state.Update(ctx, connect) })
	if err != nil {
		return nil, err
	}
	c.state.Log().Info("connected sandbox", "sandbox", sb.Name, "network", n.Name, "ipv4", model.AddrText(ep.IPv4.Addr()), "ipv6", model.AddrText(ep.IPv6.Addr()))
	return ep, nil
}

func connectable(s *desired.Snapshot, n *model.Network, sb *model.Sandbox) error {
	mode := sb.NetworkMode
	if err := model.RefuseConfigOnly(n); err != nil {
		return err
	}
	switch {
	case n.ManagedBy == model.ByEngine || sb.ManagedBy == model.ByEngine:
		return model.RefuseEngineManaged("network "+n.Name+" or sandbox "+sb.Name, model.ByEngine.CLI()+" network connect")
	case sb.SharesNetNS() || mode == model.NetworkHost && n.Driver != model.DriverHost:
		return model.Refuse(model.ErrForbidden, "sandbox %q shares the network namespace of another sandbox or of the host and cannot be connected to any other network (recreate it with --network %s)", sb.Name, n.Name)
	case n.Driver == model.DriverHost:
		return model.Refuse(model.ErrForbidden, "cannot connect sandbox %q to host network - it must be created in host network mode (recreate it with --network host)", sb.Name)
	case n.Driver == model.DriverNull || mode == model.NetworkNone:
		return model.Refuse(model.ErrForbidden, "sandbox %q cannot be connected to multiple networks with one of the networks in private (none) mode (recreate it with --network NETWORK)", sb.Name)
	}
	if s.Connection(sb.ID, n.ID) != nil {
		return model.Refuse(model.ErrForbidden, "endpoint with name %s already exists in network %s (disconnect it first to change it)", sb.Name, n.Name)
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
	var leaving []*model.Endpoint
	if ep := c.connection(netRef, sandboxRef); ep != nil {
		leaving = append(leaving, ep)
		if err := c.withdraw(ctx, leaving); err != nil && !force {
			return err
		}
	}
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		t.IgnoreApplyErr = force
		if n, err = t.Next.FindNetwork(netRef); err != nil {
			return err
		}
		if sb, err = t.Next.FindSandbox(sandboxRef); err != nil {
			return err
		}
		if sb.ManagedBy == model.ByEngine {
			return model.RefuseEngineManaged("sandbox "+sb.Name, sb.ManagedBy.CLI()+" network disconnect")
		}
		if n.Driver == model.DriverHost && sb.NetworkMode == model.NetworkHost {
			return model.Refuse(model.ErrForbidden, "sandbox %q cannot be disconnected from host network (remove it instead)", sb.Name)
		}
		if ep := t.Old.Connection(sb.ID, n.ID); ep != nil {
			was = true
			resource.RemoveEndpoint(t, ep)
			return updateGateway(t, sb, false)
		}
		if force {
			return nil
		}
		return model.NotConnected(sb.Name, n.Name)
	})
	if err != nil {
		return c.stay(ctx, idsOf(leaving), err)
	}
	if was {
		c.state.Log().Info("disconnected sandbox", "sandbox", sb.Name, "network", n.Name)
	}
	return nil
}

// SetLease gives an endpoint the address that a DHCP server gave it, or takes it away if that is the zero Prefix.
func (c *Controller) SetLease(ctx context.Context, endpointID string, addr netip.Prefix, lease *model.Lease) error {
	return c.state.Update(ctx, func(t *txn.Tx) error {
		ep := t.Next.Endpoint(endpointID)
		if ep == nil {
			return model.ErrNotFound
		}
		if o := t.Next.MemberWithAddr(ep.NetworkID, addr.Addr()); o != nil && o.ID != ep.ID {
			return model.Refuse(model.ErrConflict, "the DHCP server gave out %v, which sandbox %q has (give each address to one client)", addr.Addr(), t.Next.SandboxName(o.SandboxID))
		}
		now := *ep
		now.IPv4, now.Lease = addr, lease
		t.PutEndpoint(now.ID, &now)
		return updateGateway(t, t.Next.Sandbox(now.SandboxID), false)
	})
}

// connection returns the endpoint of a sandbox in a network, unless an engine manages it; nil: there is none.
func (c *Controller) connection(netRef, sandboxRef string) *model.Endpoint {
	n, err := c.Network(netRef)
	if err != nil {
		return nil
	}
	sb, err := c.Sandbox(sandboxRef)
	if err != nil || sb.ManagedBy == model.ByEngine {
		return nil
	}
	return c.Snapshot().Connection(sb.ID, n.ID)
}

// addEndpoint creates an endpoint for a sandbox that is in the next snapshot.
func addEndpoint(ctx context.Context, t *txn.Tx, n *model.Network, sb *model.Sandbox, spec model.EndpointSpec) (*model.Endpoint, error) {
	if len(spec.Aliases) > 0 && n.Name == model.NetworkBridge {
		return nil, model.Refuse(model.ErrInvalid, "network-scoped aliases are only supported for user-defined networks (create one with: fairlead network create)")
	}
	if err := cmp.Or(model.CheckAliases(spec.Aliases), checkLinks(t, n, spec.Links)); err != nil {
		return nil, err
	}
	if err := n.CheckBandwidth(spec.Bandwidth); err != nil {
		return nil, err
	}
	n, err := resource.Activate(ctx, t, n, spec.Claim)
	if err != nil {
		return nil, err
	}
	ep, err := resource.NewEndpoint(t, n, spec)
	if err != nil {
		return nil, err
	}
	ep.SandboxID = sb.ID
	others := slices.Collect(t.Next.EndpointsOf(sb.ID))
	for _, o := range others {
		ep.Order = max(ep.Order, o.Order+1)
	}
	if ep.IfName, err = resource.ChooseIfName(n, sb, others, spec.IfName); err != nil {
		return nil, err
	}
	t.PutEndpoint(ep.ID, ep)
	return ep, nil
}

// withClaim calls verb with what the cluster reserves for an endpoint in spec, if the network is
// shared. member has the names of the endpoint's sandbox.
func (c *Controller) withClaim(ctx context.Context, netRef string, spec *model.EndpointSpec, member model.Member, verb func() error) error {
	n, err := c.Network(netRef)
	if err != nil || !n.Has().Shared || n.ManagedBy == model.ByEngine {
		return verb() // it refuses what does not exist
	}
	if err := model.RefuseInSwarm(n); err != nil {
		return err
	}
	cluster := c.cfg.Cluster()
	if cluster == nil {
		return errNoCluster
	}
	// It cannot be a backend of a service before the verb has ended.
	member.Aliases, member.Stopped = spec.Aliases, len(spec.Aliases) > 0
	return resource.WithClaim(ctx, c.state, cluster, n, spec, member, verb)
}
