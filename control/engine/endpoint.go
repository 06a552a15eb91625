// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// innerPrefix is the prefix of an inner end's name on the host, before the engine
// moves it. The third letter is not a hexadecimal digit, so that the name differs from
// that of every host end.
const innerPrefix = "fls"

// ReserveEndpoint allocates a MAC and addresses for an endpoint in an engine-managed
// network. It chooses the MAC if the spec has none, and an IPv4 address if the spec has
// no address at all.
func (e *Engine) ReserveEndpoint(ctx context.Context, networkID string, spec model.EndpointSpec) (*model.Endpoint, error) {
	if n := e.Snapshot().EngineNetwork(networkID); n != nil && n.Has().Shared {
		return e.reserveShared(ctx, n, spec)
	}
	var ep *model.Endpoint
	err := e.state.Update(ctx, func(t *txn.Tx) (err error) {
		t.StoreOnly = true
		n := t.Next.Network(networkID)
		if n == nil || n.ManagedBy != model.ByEngine {
			return unknownNetwork(networkID)
		}
		if ep = t.Next.Endpoint(spec.EngineID); ep != nil && ep.NetworkID == networkID && fits(ep, spec) {
			return nil // a retry: the engine did not receive the response
		}
		e.evictHolder(t, n, spec)
		// Do not choose an address that the engine did not request: the container may have
		// IPv6 disabled, and the address would enable it.
		spec.Exact = spec.IPv4.IsValid() || spec.IPv6.IsValid() || !n.EnableIPv4
		if ep, err = resource.NewEndpoint(t, n, spec); err != nil {
			return err
		}
		ep.IfName = innerPrefix + ep.ID[:resource.IDPrefix]
		ep.Reserved = t.Now()
		t.PutEndpoint(ep.ID, ep)
		return nil
	})
	return ep, err
}

func unknownNetwork(id string) error {
	return model.Refuse(model.ErrNotFound, "network %s is not known to Fairlead (remove it from the engine and create it again)", model.ShortID(id))
}

// evictHolder removes the requested addresses from the network's other endpoints. The engine
// allocates the addresses in its networks and never reuses one that it considers in use.
// So either it took the address back, as it does for interfaces without IPv6, or it lost
// track of the holder, because it was killed, for example. In the second case a process may
// still hold the old namespace. An endpoint whose namespace exists keeps everything else; any
// other is released.
func (e *Engine) evictHolder(t *txn.Tx, n *model.Network, spec model.EndpointSpec) {
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
		if e.isInUse(t, ep) && (spec.MAC.IsZero() || spec.MAC != ep.MAC) {
			log.Warn("address reassigned by the engine; its previous endpoint continues without it")
			dropAddresses(t, n, ep, lost)
		} else {
			log.Warn("address reassigned by the engine; releasing its previous endpoint")
			releaseEndpoint(t, ep)
		}
		t.StoreOnly, t.IgnoreApplyErr = false, true
	}
}

// isInUse reports whether an engine has moved the endpoint's inner end into a namespace that
// still exists. It returns true if that cannot be determined.
func (e *Engine) isInUse(t *txn.Tx, ep *model.Endpoint) bool {
	if ep.SandboxID == "" {
		return false
	}
	inner, err := e.cfg.Inner.InnerEnd(ep)
	if err != nil {
		t.Log().Warn("cannot determine whether the engine still uses the endpoint; keeping it", "endpoint", model.ShortID(ep.ID), "err", err)
	}
	return err != nil || inner == model.InnerTaken
}

// dropAddresses removes addresses from an engine-managed endpoint, and the published ports
// that it cannot serve without them. Only orphaned endpoints lose an IPv4 address, so all
// ports are removed with it. An endpoint without any address gets another MAC, because
// the old one is derived from an address, and that address's next owner will use it.
func dropAddresses(t *txn.Tx, n *model.Network, ep *model.Endpoint, lost []netip.Addr) {
	now, orphaned := *ep, false
	for _, a := range lost {
		if a.Is4() {
			now.IPv4, now.FixedIPv4, orphaned = netip.Prefix{}, false, true
		} else {
			now.IPv6, now.FixedIPv6 = netip.Prefix{}, false
		}
		resource.ReleaseAddr(t, n.ID, a)
	}
	none := !now.IPv4.IsValid() && !now.IPv6.IsValid()
	if none {
		now.MAC, now.FixedMAC = resource.NewMAC(), false
	}
	t.PutEndpoint(ep.ID, &now)
	if !now.IsGateway() {
		return
	}
	serveOnly(t, &now, func(b model.PortBinding) bool {
		_, can := resource.ServedAt(n, &now, b)
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
func (e *Engine) JoinEndpoint(ctx context.Context, id, name, netns string) (*model.Endpoint, error) {
	if !filepath.IsAbs(netns) || filepath.Clean(netns) != netns || !model.ValidName(name) {
		return nil, model.Refuse(model.ErrInvalid, "invalid path %q or name %q of a sandbox (give an absolute path without . or ..)", netns, name)
	}
	var ep *model.Endpoint
	var n *model.Network
	err := e.state.Update(ctx, func(t *txn.Tx) error {
		was, err := engineEndpoint(t, id)
		if err != nil {
			return err
		}
		n = t.Next.Network(was.NetworkID)
		sb, err := engineSandbox(t, name, netns, n)
		if err == nil {
			ep = attachEndpoint(t, was, sb)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	e.state.Log().Info("sandbox joined by the engine", "sandbox", name, "network", n.Name, "ipv4", model.AddrText(ep.IPv4.Addr()), "ipv6", model.AddrText(ep.IPv6.Addr()))
	return ep, nil
}

// attachEndpoint attaches an endpoint to a sandbox, last in its order. It releases another
// endpoint in the same network: an engine has at most one per network, so that one is orphaned.
func attachEndpoint(t *txn.Tx, ep *model.Endpoint, sb *model.Sandbox) *model.Endpoint {
	if ep.SandboxID != sb.ID {
		detachEndpoint(t, ep)
	}
	now := *t.Next.Endpoint(ep.ID)
	now.SandboxID, now.Order = sb.ID, 0
	others := slices.DeleteFunc(slices.Collect(t.Next.EndpointsOf(sb.ID)), func(o *model.Endpoint) bool { return o.ID == ep.ID })
	if len(others) > 0 {
		now.Order = others[len(others)-1].Order + 1
	}
	t.PutEndpoint(ep.ID, &now)
	for _, o := range others {
		if o.NetworkID == ep.NetworkID {
			releaseEndpoint(t, o)
		}
	}
	return &now
}

// engineEndpoint finds an engine-managed endpoint.
func engineEndpoint(t *txn.Tx, id string) (*model.Endpoint, error) {
	if ep := t.Next.Endpoint(id); ep != nil && !ep.Reserved.IsZero() {
		return ep, nil
	}
	return nil, model.Refuse(model.ErrNotFound, "endpoint %s is not known to Fairlead (disconnect the container with force, or remove it, and start it again)", model.ShortID(id))
}

// engineSandbox finds or creates the engine-managed sandbox of a namespace.
func engineSandbox(t *txn.Tx, name, netns string, n *model.Network) (*model.Sandbox, error) {
	if sb := desired.First(t.Next.SandboxesAt(netns)); sb != nil {
		if sb.ManagedBy != model.ByEngine {
			return nil, model.Refuse(model.ErrConflict, "network namespace %s is already in use by sandbox %q (remove that with: fairlead rm %s)", netns, sb.Name, sb.Name)
		}
		return sb, nil
	}
	if desired.First(t.Next.SandboxesNamed(name)) != nil {
		return nil, model.Refuse(model.ErrConflict, "the sandbox name %q is in use (remove that with: fairlead rm %s)", name, name)
	}
	sb := &model.Sandbox{
		ID: resource.NewID(t.Next.SandboxesByPrefix), Name: name, Created: t.Now(),
		NetworkMode: n.Name, NetNS: netns, ManagedBy: model.ByEngine,
	}
	t.PutSandbox(sb.ID, sb)
	return sb, nil
}

// ReleaseEndpoint removes an engine-managed endpoint, its devices and its addresses. It
// succeeds if there is none. The sandbox is removed with its last endpoint. The addresses of a shared
// network are kept until the engine releases them or a minute has passed.
func (e *Engine) ReleaseEndpoint(ctx context.Context, id string) error {
	return e.state.Update(ctx, func(t *txn.Tx) error {
		t.Needs(txn.Endpoint, id)
		ep := t.Next.Endpoint(id)
		if ep == nil {
			return nil
		}
		if ep.Reserved.IsZero() {
			return model.Refuse(model.ErrForbidden, "endpoint %s is managed by Fairlead (use: fairlead network disconnect)", model.ShortID(id))
		}
		t.IgnoreApplyErr = true
		if n := t.Next.Network(ep.NetworkID); n != nil && n.Has().Shared && n.Swarm == "" {
			keepAddresses(t, ep)
		} else {
			releaseEndpoint(t, ep)
		}
		return nil
	})
}

func releaseEndpoint(t *txn.Tx, ep *model.Endpoint) {
	detachEndpoint(t, ep)
	resource.RemoveEndpoint(t, t.Next.Endpoint(ep.ID))
}

// detachEndpoint detaches an endpoint from its sandbox.
func detachEndpoint(t *txn.Tx, ep *model.Endpoint) {
	sb := t.Next.Sandbox(ep.SandboxID)
	if sb == nil {
		return
	}
	unpublish(t, ep)
	now := *t.Next.Endpoint(ep.ID)
	now.SandboxID = ""
	t.PutEndpoint(ep.ID, &now)
	if len(slices.Collect(t.Next.EndpointsOf(sb.ID))) == 0 {
		t.PutSandbox(sb.ID, nil)
	}
}
