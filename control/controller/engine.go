// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
)

// The verbs of a container engine, which reserves an endpoint first, then joins
// a sandbox to it, then publishes ports. It may repeat each, and give up between
// any two: Reap removes what it forgot.

// innerPrefix begins the name that an endpoint's inner end has on the host until
// the engine takes it. Its third letter is no hexadecimal digit, so it is no host
// end's name.
const innerPrefix = "fls"

// refuseForeign is the refusal of what a container engine has to do itself.
func refuseForeign(what, remedy string) error {
	return refuse(model.ErrForbidden, "%s is a container engine's (use that: %s)", what, remedy)
}

// managingCLI is the command that removes what was made with it.
func managingCLI(foreign bool) string {
	if foreign {
		return "docker"
	}
	return "fairlead"
}

// retryAfterReap is update; but what the engine forgot, as when it was killed, may
// have the port that it asks for.
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

// ReserveEndpoint takes a MAC and addresses for an endpoint in an engine's
// network. A MAC that the spec leaves out is chosen, and an IPv4 address if it names no
// address at all.
func (c *Controller) ReserveEndpoint(ctx context.Context, networkID string, spec model.EndpointSpec) (*model.Endpoint, error) {
	var ep *model.Endpoint
	err := c.update(ctx, func(t *tx) (err error) {
		t.storeOnly = true
		n := t.next.Networks[networkID]
		if n == nil || !n.Foreign {
			return refuse(model.ErrNotFound, "network %s is not known to Fairlead (remove it from the engine and create it anew)", short(networkID))
		}
		if ep = t.next.Endpoints[spec.ForeignID]; ep != nil && ep.NetworkID == networkID && fits(ep, spec) {
			return nil // the engine did not get the answer
		}
		t.evictHolder(n, spec)
		// An address that the engine does not ask for is not for Fairlead to choose: the
		// container may have no IPv6, and would get it with the address.
		spec.Exact = spec.IPv4.IsValid() || spec.IPv6.IsValid() || !n.EnableIPv4
		if ep, err = t.newEndpoint(n, spec); err != nil {
			return err
		}
		ep.IfName = innerPrefix + ep.ID[:idPrefix]
		ep.Reserved = c.cfg.Now().UTC().Round(0)
		t.putEndpoint(ep.ID, ep)
		return nil
	})
	return ep, err
}

// evictHolder takes the addresses that the spec names from the network's other endpoints. In
// its networks the engine chooses the addresses, and never one that it knows to be in
// use: it took the address back, as it does with the IPv6 address of an interface without
// IPv6, or it forgot who had it, as when it was killed. In the second case something may
// hold the old namespace yet. An endpoint whose namespace lives keeps all the rest; any
// other is released.
func (t *tx) evictHolder(n *model.Network, spec model.EndpointSpec) {
	for _, ep := range membersOf(t.next, n.ID) {
		var lost []netip.Addr
		for _, a := range []netip.Addr{spec.IPv4, spec.IPv6} {
			if a.IsValid() && ep.Addr(a.Is4()) == a {
				lost = append(lost, a)
			}
		}
		if len(lost) == 0 {
			continue
		}
		log := t.c.cfg.Log.With("addresses", lost, "sandbox", sandboxName(t.next, ep.SandboxID))
		if t.isInUse(ep) && (spec.MAC.IsZero() || spec.MAC != ep.MAC) {
			log.Warn("the engine gave an address to another endpoint; this one goes on without it")
			t.dropAddresses(n, ep, lost)
		} else {
			log.Warn("the engine gave an address to another endpoint; this one, which the engine forgot, is removed")
			t.releaseEndpoint(ep)
		}
		t.storeOnly, t.ignoreApplyErr = false, true
	}
}

// isInUse reports whether an engine has taken the endpoint's inner end, and its namespace
// is still there. In doubt it does.
func (t *tx) isInUse(ep *model.Endpoint) bool {
	if ep.SandboxID == "" {
		return false
	}
	inner, err := t.c.cfg.Kernel.InnerEnd(ep)
	if err != nil {
		t.c.cfg.Log.Warn("endpoint is kept, not knowing whether an engine has it", "endpoint", short(ep.ID), "err", err)
	}
	return err != nil || inner == model.InnerTaken
}

// dropAddresses takes addresses from an engine's endpoint, and the published ports that
// it cannot serve without them. An IPv4 address is only ever taken from what the engine
// forgot, so all ports go with that. Without any address the endpoint does not keep the
// MAC that belongs to one: that is for the address's next owner.
func (t *tx) dropAddresses(n *model.Network, ep *model.Endpoint, lost []netip.Addr) {
	now, forgotten := *ep, false
	for _, a := range lost {
		if a.Is4() {
			now.IPv4, now.FixedIPv4, forgotten = netip.Prefix{}, false, true
		} else {
			now.IPv6, now.FixedIPv6 = netip.Prefix{}, false
		}
		t.releaseAddr(n.ID, a)
	}
	none := !now.IPv4.IsValid() && !now.IPv6.IsValid()
	if none {
		now.MAC, now.FixedMAC = newMAC(), false
	}
	t.putEndpoint(ep.ID, &now)
	if !now.Gateway {
		return
	}
	t.serveOnly(&now, func(b model.PortBinding) bool {
		_, can := servedAt(n, &now, b)
		return can && !forgotten && !none
	})
}

// fits reports whether an endpoint has what a spec asks for.
func fits(ep *model.Endpoint, spec model.EndpointSpec) bool {
	return (!spec.IPv4.IsValid() || spec.IPv4 == ep.IPv4.Addr()) && (!spec.IPv6.IsValid() || spec.IPv6 == ep.IPv6.Addr()) &&
		(spec.MAC.IsZero() || spec.MAC == ep.MAC)
}

// JoinEndpoint makes a reserved endpoint's devices, for the sandbox whose
// network namespace is or will be at the path. The sandbox gets the name if it
// is new.
func (c *Controller) JoinEndpoint(ctx context.Context, id, name, netns string) (*model.Endpoint, error) {
	if !filepath.IsAbs(netns) || filepath.Clean(netns) != netns || !nameRule.MatchString(name) || len(name) > maxNameLen {
		return nil, refuse(model.ErrInvalid, "invalid path %q or name %q of a sandbox (give an absolute path without . or ..)", netns, name)
	}
	var ep *model.Endpoint
	var n *model.Network
	err := c.update(ctx, func(t *tx) error {
		was, err := t.foreignEndpoint(id)
		if err != nil {
			return err
		}
		n = t.next.Networks[was.NetworkID]
		sb, err := t.foreignSandbox(name, netns, n)
		if err == nil {
			ep = t.attachEndpoint(was, sb)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c.cfg.Log.Info("engine's sandbox joined", "sandbox", name, "network", n.Name, "ipv4", addrText(ep.IPv4.Addr()), "ipv6", addrText(ep.IPv6.Addr()))
	return ep, nil
}

// attachEndpoint puts an endpoint into a sandbox, last. Another one of the same network
// goes: an engine has one a network, so it forgot that.
func (t *tx) attachEndpoint(ep *model.Endpoint, sb *model.Sandbox) *model.Endpoint {
	if ep.SandboxID != sb.ID {
		t.detachEndpoint(ep)
	}
	now := *t.next.Endpoints[ep.ID]
	now.SandboxID, now.Order = sb.ID, 0
	others := slices.DeleteFunc(endpointsOf(t.next, sb.ID), func(o *model.Endpoint) bool { return o.ID == ep.ID })
	if len(others) > 0 {
		now.Order = others[len(others)-1].Order + 1
	}
	t.putEndpoint(ep.ID, &now)
	for _, o := range others {
		if o.NetworkID == ep.NetworkID {
			t.releaseEndpoint(o)
		}
	}
	return &now
}

// foreignEndpoint finds an engine's endpoint.
func (t *tx) foreignEndpoint(id string) (*model.Endpoint, error) {
	if ep := t.next.Endpoints[id]; ep != nil && !ep.Reserved.IsZero() {
		return ep, nil
	}
	return nil, refuse(model.ErrNotFound, "endpoint %s is not known to Fairlead (disconnect the container with force, or remove it, and start anew)", short(id))
}

// foreignSandbox finds the sandbox of a namespace, or adds it.
func (t *tx) foreignSandbox(name, netns string, n *model.Network) (*model.Sandbox, error) {
	for _, sb := range t.next.Sandboxes {
		switch {
		case sb.NetNS == netns && sb.Foreign:
			return sb, nil
		case sb.NetNS == netns:
			return nil, refuse(model.ErrConflict, "network namespace %s is already sandbox %q (remove that with: fairlead rm %s)", netns, sb.Name, sb.Name)
		case sb.HasName(name):
			return nil, refuse(model.ErrConflict, "the sandbox name %q is in use (remove that with: fairlead rm %s)", name, name)
		}
	}
	sb := &model.Sandbox{
		ID: newID(t.next.Sandboxes), Name: name, Created: t.c.cfg.Now().UTC().Round(0),
		NetworkMode: n.Name, NetNS: netns, Foreign: true,
	}
	t.putSandbox(sb.ID, sb)
	return sb, nil
}

// ReleaseEndpoint gives up an engine's endpoint with its devices and addresses.
// That there is none is success. A sandbox goes with its last endpoint.
func (c *Controller) ReleaseEndpoint(ctx context.Context, id string) error {
	return c.update(ctx, func(t *tx) error {
		ep := t.next.Endpoints[id]
		if ep == nil {
			return nil
		}
		if ep.Reserved.IsZero() {
			return refuse(model.ErrForbidden, "endpoint %s is Fairlead's own (use fairlead network disconnect)", short(id))
		}
		t.ignoreApplyErr = true
		t.releaseEndpoint(ep)
		return nil
	})
}

func (t *tx) releaseEndpoint(ep *model.Endpoint) {
	t.detachEndpoint(ep)
	t.removeEndpoint(t.next.Endpoints[ep.ID])
}

// detachEndpoint takes an endpoint out of its sandbox.
func (t *tx) detachEndpoint(ep *model.Endpoint) {
	sb := t.next.Sandboxes[ep.SandboxID]
	if sb == nil {
		return
	}
	t.unpublish(ep)
	now := *t.next.Endpoints[ep.ID]
	now.SandboxID = ""
	t.putEndpoint(ep.ID, &now)
	if len(endpointsOf(t.next, sb.ID)) == 0 {
		t.putSandbox(sb.ID, nil)
	}
}

// RemoveForeignNetwork removes an engine's network. That there is none is
// success.
func (c *Controller) RemoveForeignNetwork(ctx context.Context, id string) error {
	if n := c.Snapshot().Networks[id]; n != nil && !n.Foreign {
		return refuse(model.ErrForbidden, "network %s is Fairlead's own (use fairlead network rm)", n.Name)
	}
	err := c.removeNetwork(ctx, id, true)
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	return err
}
