// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// The verbs of a container engine. It reserves an endpoint, then joins a sandbox to
// it, then publishes ports. It may repeat any of them, and abort between any two:
// Reap removes what is left behind.

// innerPrefix is the prefix of an inner end's name on the host, before the engine
// moves it. The third letter is not a hexadecimal digit, so that the name differs from
// that of every host end.
const innerPrefix = "fls"

// refuseEngineManaged refuses a change that only the container engine may make.
func refuseEngineManaged(what, remedy string) error {
	return refuse(model.ErrForbidden, "%s is managed by a container engine (use: %s)", what, remedy)
}

// managingCLI returns the command that created an object and can remove it.
func managingCLI(m model.Manager) string {
	if m == model.ByEngine {
		return "docker"
	}
	return "fairlead"
}

// retryAfterReap runs fn like update. If fn conflicts with something and the engine has
// orphaned endpoints (because it was killed, for example), it reaps those and retries once.
func (c *Controller) retryAfterReap(ctx context.Context, fn func(*tx) error) error {
	err := c.update(ctx, fn)
	if !errors.Is(err, model.ErrConflict) || len(c.orphanedEndpoints(c.Snapshot())) == 0 {
		return err
	}
	if err := c.Reap(ctx); err != nil {
		return err
	}
	return c.update(ctx, fn)
}

// ReserveEndpoint allocates a MAC and addresses for an endpoint in an engine-managed
// network. It chooses the MAC if the spec has none, and an IPv4 address if the spec has
// no address at all.
func (c *Controller) ReserveEndpoint(ctx context.Context, networkID string, spec model.EndpointSpec) (*model.Endpoint, error) {
	var ep *model.Endpoint
	err := c.update(ctx, func(t *tx) (err error) {
		t.StoreOnly = true
		n := t.Next.Network(networkID)
		if n == nil || n.ManagedBy != model.ByEngine {
			return refuse(model.ErrNotFound, "network %s is not known to Fairlead (remove it from the engine and create it again)", model.ShortID(networkID))
		}
		if ep = t.Next.Endpoint(spec.EngineID); ep != nil && ep.NetworkID == networkID && fits(ep, spec) {
			return nil // a retry: the engine did not receive the response
		}
		t.evictHolder(n, spec)
		// Do not choose an address that the engine did not request: the container may have
		// IPv6 disabled, and the address would enable it.
		spec.Exact = spec.IPv4.IsValid() || spec.IPv6.IsValid() || !n.EnableIPv4
		if ep, err = t.newEndpoint(n, spec); err != nil {
			return err
		}
		ep.IfName = innerPrefix + ep.ID[:idPrefix]
		ep.Reserved = t.Now()
		t.PutEndpoint(ep.ID, ep)
		return nil
	})
	return ep, err
}

// evictHolder removes the requested addresses from the network's other endpoints. The engine
// allocates the addresses in its networks and never reuses one that it considers in use.
// So either it took the address back, as it does for interfaces without IPv6, or it lost
// track of the holder, because it was killed, for example. In the second case a process may
// still hold the old namespace. An endpoint whose namespace exists keeps everything else; any
// other is released.
func (t *tx) evictHolder(n *model.Network, spec model.EndpointSpec) {
	for _, ep := range slices.Collect(t.Next.Members(n.ID)) {
		var lost []netip.Addr
		for _, a := range []netip.Addr{spec.IPv4, spec.IPv6} {
			if a.IsValid() && ep.Addr(model.FamilyOf(a)) == a {
				lost = append(lost, a)
			}
		}
		if len(lost) == 0 {
			continue
		}
		log := t.Log().With("addresses", lost, "sandbox", t.Next.SandboxName(ep.SandboxID))
		if t.isInUse(ep) && (spec.MAC.IsZero() || spec.MAC != ep.MAC) {
			log.Warn("address reassigned by the engine; its previous endpoint continues without it")
			t.dropAddresses(n, ep, lost)
		} else {
			log.Warn("address reassigned by the engine; releasing its previous endpoint")
			t.releaseEndpoint(ep)
		}
		t.StoreOnly, t.IgnoreApplyErr = false, true
	}
}

// isInUse reports whether an engine has moved the endpoint's inner end into a namespace that
// still exists. It returns true if that cannot be determined.
func (t *tx) isInUse(ep *model.Endpoint) bool {
	if ep.SandboxID == "" {
		return false
	}
	inner, err := t.c.cfg.Kernel.InnerEnd(ep)
	if err != nil {
		t.Log().Warn("cannot determine whether the engine still uses the endpoint; keeping it", "endpoint", model.ShortID(ep.ID), "err", err)
	}
	return err != nil || inner == model.InnerTaken
}

// dropAddresses removes addresses from an engine-managed endpoint, and the published ports
// that it cannot serve without them. Only orphaned endpoints lose an IPv4 address, so all
// ports are removed with it. An endpoint without any address gets another MAC, because
// the old one is derived from an address, and that address's next owner will use it.
func (t *tx) dropAddresses(n *model.Network, ep *model.Endpoint, lost []netip.Addr) {
	now, orphaned := *ep, false
	for _, a := range lost {
		if a.Is4() {
			now.IPv4, now.FixedIPv4, orphaned = netip.Prefix{}, false, true
		} else {
			now.IPv6, now.FixedIPv6 = netip.Prefix{}, false
		}
		t.releaseAddr(n.ID, a)
	}
	none := !now.IPv4.IsValid() && !now.IPv6.IsValid()
	if none {
		now.MAC, now.FixedMAC = newMAC(), false
	}
	t.PutEndpoint(ep.ID, &now)
	if !now.IsGateway() {
		return
	}
	t.serveOnly(&now, func(b model.PortBinding) bool {
		_, can := servedAt(n, &now, b)
		return can && !orphaned && !none
	})
}

// fits reports whether an endpoint has the addresses and the MAC of a spec.
func fits(ep *model.Endpoint, spec model.EndpointSpec) bool {
	return (!spec.IPv4.IsValid() || spec.IPv4 == ep.IPv4.Addr()) && (!spec.IPv6.IsValid() || spec.IPv6 == ep.IPv6.Addr()) &&
		(spec.MAC.IsZero() || spec.MAC == ep.MAC)
}

// JoinEndpoint creates the devices of a reserved endpoint, for the sandbox whose
// network namespace is or will be at the path. If the sandbox does not exist, it is
// created under the given name.
func (c *Controller) JoinEndpoint(ctx context.Context, id, name, netns string) (*model.Endpoint, error) {
	if !filepath.IsAbs(netns) || filepath.Clean(netns) != netns || !nameRule.MatchString(name) || len(name) > maxNameLen {
		return nil, refuse(model.ErrInvalid, "invalid path %q or name %q of a sandbox (give an absolute path without . or ..)", netns, name)
	}
	var ep *model.Endpoint
	var n *model.Network
	err := c.update(ctx, func(t *tx) error {
		was, err := t.engineEndpoint(id)
		if err != nil {
			return err
		}
		n = t.Next.Network(was.NetworkID)
		sb, err := t.engineSandbox(name, netns, n)
		if err == nil {
			ep = t.attachEndpoint(was, sb)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c.state.Log().Info("sandbox joined by the engine", "sandbox", name, "network", n.Name, "ipv4", model.AddrText(ep.IPv4.Addr()), "ipv6", model.AddrText(ep.IPv6.Addr()))
	return ep, nil
}

// attachEndpoint attaches an endpoint to a sandbox, last in its order. It releases another
// endpoint in the same network: an engine has at most one per network, so that one is orphaned.
func (t *tx) attachEndpoint(ep *model.Endpoint, sb *model.Sandbox) *model.Endpoint {
	if ep.SandboxID != sb.ID {
		t.detachEndpoint(ep)
	}
	now := *t.Next.Endpoint(ep.ID)
	now.SandboxID, now.Order = sb.ID, 0
	others := slices.DeleteFunc(endpointsOf(t.Next, sb.ID), func(o *model.Endpoint) bool { return o.ID == ep.ID })
	if len(others) > 0 {
		now.Order = others[len(others)-1].Order + 1
	}
	t.PutEndpoint(ep.ID, &now)
	for _, o := range others {
		if o.NetworkID == ep.NetworkID {
			t.releaseEndpoint(o)
		}
	}
	return &now
}

// engineEndpoint finds an engine-managed endpoint.
func (t *tx) engineEndpoint(id string) (*model.Endpoint, error) {
	if ep := t.Next.Endpoint(id); ep != nil && !ep.Reserved.IsZero() {
		return ep, nil
	}
	return nil, refuse(model.ErrNotFound, "endpoint %s is not known to Fairlead (disconnect the container with force, or remove it, and start it again)", model.ShortID(id))
}

// engineSandbox finds or creates the engine-managed sandbox of a namespace.
func (t *tx) engineSandbox(name, netns string, n *model.Network) (*model.Sandbox, error) {
	if sb := desired.First(t.Next.SandboxesAt(netns)); sb != nil {
		if sb.ManagedBy != model.ByEngine {
			return nil, refuse(model.ErrConflict, "network namespace %s is already in use by sandbox %q (remove that with: fairlead rm %s)", netns, sb.Name, sb.Name)
		}
		return sb, nil
	}
	if desired.First(t.Next.SandboxesNamed(name)) != nil {
		return nil, refuse(model.ErrConflict, "the sandbox name %q is in use (remove that with: fairlead rm %s)", name, name)
	}
	sb := &model.Sandbox{
		ID: newID(t.Next.SandboxesByPrefix), Name: name, Created: t.Now(),
		NetworkMode: n.Name, NetNS: netns, ManagedBy: model.ByEngine,
	}
	t.PutSandbox(sb.ID, sb)
	return sb, nil
}

// ReleaseEndpoint removes an engine-managed endpoint, its devices and its addresses. It
// succeeds if there is none. The sandbox is removed with its last endpoint.
func (c *Controller) ReleaseEndpoint(ctx context.Context, id string) error {
	return c.update(ctx, func(t *tx) error {
		ep := t.Next.Endpoint(id)
		if ep == nil {
			return nil
		}
		if ep.Reserved.IsZero() {
			return refuse(model.ErrForbidden, "endpoint %s is managed by Fairlead (use: fairlead network disconnect)", model.ShortID(id))
		}
		t.IgnoreApplyErr = true
		t.releaseEndpoint(ep)
		return nil
	})
}

func (t *tx) releaseEndpoint(ep *model.Endpoint) {
	t.detachEndpoint(ep)
	t.removeEndpoint(t.Next.Endpoint(ep.ID))
}

// detachEndpoint detaches an endpoint from its sandbox.
func (t *tx) detachEndpoint(ep *model.Endpoint) {
	sb := t.Next.Sandbox(ep.SandboxID)
	if sb == nil {
		return
	}
	t.unpublish(ep)
	now := *t.Next.Endpoint(ep.ID)
	now.SandboxID = ""
	t.PutEndpoint(ep.ID, &now)
	if len(endpointsOf(t.Next, sb.ID)) == 0 {
		t.PutSandbox(sb.ID, nil)
	}
}

// RemoveEngineNetwork removes an engine-managed network. It succeeds if there is
// none.
func (c *Controller) RemoveEngineNetwork(ctx context.Context, id string) error {
	if n := c.Snapshot().Network(id); n != nil && n.ManagedBy != model.ByEngine {
		return refuse(model.ErrForbidden, "network %s is managed by Fairlead (use: fairlead network rm)", n.Name)
	}
	err := c.removeNetwork(ctx, id, true)
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	return err
}
