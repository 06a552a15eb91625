// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
	"github.com/fairlead-net/fairlead/control/resource/options"
)

// An engine's network may be one that the hosts of a cluster share. Engines do not know of each other,
// so that the cluster allocates the addresses: the engine requests the network's subnets as pools, then
// its own network with these subnets, then an address for each endpoint. That address is claimed in the
// cluster and held by an endpoint without a sandbox, whose addresses the engine's endpoint takes over.

// RequestSharedPool makes the subnet of a shared network a pool of an engine, and returns the gateway's
// address too. prefix and within are what the engine's user gave, if anything.
func (e *Engine) RequestSharedPool(ctx context.Context, engine, network string, f model.Family, prefix netip.Prefix, within model.AddrRange) (p *model.AddressPool, gateway netip.Prefix, err error) {
	id, err := e.findShared(network)
	if err != nil {
		return nil, gateway, err
	}
	err = e.state.Update(ctx, func(t *txn.Tx) error {
		n := t.Next.Network(id)
		if n == nil {
			return model.NoNetwork(network)
		}
		s, err := sharedSubnet(n, f, prefix, within)
		if err != nil {
			return err
		}
		gateway = netip.PrefixFrom(s.Gateway, s.Prefix.Bits())
		if p = resource.SharedPool(t.Next, n, s.Prefix); p != nil {
			return nil // of a network that the engine could not create, or is about to
		}
		if n.Idle {
			if err := resource.CheckTaken(ctx, t, s.Prefix, false); err != nil {
				return model.Refuse(model.ErrConflict, "network %s cannot be used on this host: %v", n.Name, err)
			}
		}
		p = &model.AddressPool{ID: s.Prefix.String(), Prefix: s.Prefix, IPRange: s.IPRange, Engine: engine, NetworkID: n.ID}
		t.PutPool(p.ID, p)
		t.StoreOnly = true
		return nil
	})
	return p, gateway, err
}

// findShared returns the ID of a network that a network of an engine can be.
func (e *Engine) findShared(ref string) (string, error) {
	n, err := e.Snapshot().FindNetwork(ref)
	cluster := e.cfg.Cluster()
	switch {
	case err == nil && !n.Has().Shared:
		return "", model.Refuse(model.ErrInvalid, "network %s has driver %s, and an engine can only join networks with driver overlay, which hosts share (leave out --ipam-opt %s)", n.Name, n.Driver, model.OptNetwork)
	case cluster == nil:
		return "", model.Refuse(model.ErrForbidden, "option %s=%s names a network of a cluster, and this daemon is not part of one (start it with --store embed, or with --store etcd://HOST:2379 of another host)", model.OptNetwork, ref)
	case err != nil:
		return "", cmp.Or(cluster.Answers(), model.Refuse(model.ErrNotFound, "network %s does not exist in the cluster (create it first, on any host, with: fairlead network create -d overlay %[1]s)", ref))
	case n.EngineNetwork != "":
		return "", joinedAlready(n)
	}
	return n.ID, model.RefuseInSwarm(n)
}

func joinedAlready(n *model.Network) error {
	return model.Refuse(model.ErrConflict, "an engine of this host has joined network %s of the cluster already (use its network: %s network inspect %s)", n.Name, model.ByEngine.CLI(), model.ShortID(n.EngineNetwork))
}

// sharedSubnet returns the subnet of a family, unless the engine's user gave another one.
func sharedSubnet(n *model.Network, f model.Family, prefix netip.Prefix, within model.AddrRange) (model.Subnet, error) {
	s, ok := n.Subnet(f)
	switch {
	case !ok:
		return s, model.Refuse(model.ErrInvalid, "network %s of the cluster has no %s subnet (create the engine's network without %[2]s, or the cluster's with it)", n.Name, f)
	case prefix.IsValid() && prefix != s.Prefix:
		return s, model.Refuse(model.ErrInvalid, "network %s of the cluster has subnet %v, not %v (leave out --subnet)", n.Name, s.Prefix, prefix)
	case within.IsValid() && within != s.IPRange:
		return s, model.Refuse(model.ErrInvalid, "network %s of the cluster has another --ip-range than %v (leave it out)", n.Name, within)
	case !s.Gateway.IsValid():
		return s, model.Refuse(model.ErrNotSupported, "network %s of the cluster has no gateway in %v, which engines require (create it with a larger subnet)", n.Name, s.Prefix)
	}
	return s, nil
}

// inUse reports whether the pool is one of a shared network that is a network of the engine.
func inUse(s *desired.Snapshot, p *model.AddressPool) bool {
	n := s.Network(p.NetworkID)
	return n != nil && n.EngineNetwork != ""
}

// sharedNetwork returns the shared network that has the subnets of a spec, or nil if none has. It
// removes the option that names the network from the spec.
func sharedNetwork(s *desired.Snapshot, spec *model.NetworkSpec) (n *model.Network, err error) {
	for _, subnet := range spec.Subnets {
		if p := s.Pool(subnet.Prefix.String()); p != nil && p.NetworkID != "" {
			n = s.Network(p.NetworkID)
		}
	}
	named, ok := spec.Options[model.OptNetwork]
	if !ok {
		return n, nil
	}
	spec.Options = maps.Clone(spec.Options)
	delete(spec.Options, model.OptNetwork)
	switch {
	case n == nil:
		return nil, model.Refuse(model.ErrInvalid, "option %s=%s needs the addresses of that network (add: --ipam-driver fairlead --ipam-opt %[1]s=%[2]s)", model.OptNetwork, named)
	case !n.HasName(named) && n.ID != named:
		return nil, model.Refuse(model.ErrInvalid, "-o %s=%s contradicts --ipam-opt, which names network %s (leave out -o)", model.OptNetwork, named, n.Name)
	}
	return n, nil
}

// joinNetwork records that a shared network is one of the engine, too.
func (e *Engine) joinNetwork(ctx context.Context, id string, spec model.NetworkSpec) error {
	var n *model.Network
	err := e.state.Update(ctx, func(t *txn.Tx) error {
		if n = t.Next.Network(id); n == nil {
			return unknownNetwork(spec.EngineID)
		}
		if err := matches(n, spec); err != nil {
			return err
		}
		if n.EngineNetwork != "" && n.EngineNetwork != spec.EngineID {
			return joinedAlready(n)
		}
		now := *n
		now.EngineNetwork, now.Engine = spec.EngineID, spec.Engine
		t.PutNetwork(n.ID, &now)
		t.StoreOnly = true
		return nil
	})
	if err == nil {
		e.state.Log().Info("engine joined a network of the cluster", "network", n.Name, "id", model.ShortID(spec.EngineID))
	}
	return err
}

// matches refuses what the engine's user gave if the shared network has something else.
func matches(n *model.Network, spec model.NetworkSpec) error {
	if spec.Internal != n.Internal {
		word := map[bool]string{true: "with", false: "without"}
		return model.Refuse(model.ErrInvalid, "network %s of the cluster was created %s --internal (create the engine's network so too)", n.Name, word[n.Internal])
	}
	for _, given := range spec.Subnets {
		s, _ := n.Subnet(model.FamilyOf(given.Prefix.Addr()))
		switch {
		case given.Prefix != s.Prefix:
			return model.Refuse(model.ErrInvalid, "subnet %v is not one of network %s of the cluster (leave out --subnet)", given.Prefix, n.Name)
		case given.Gateway.IsValid() && given.Gateway != s.Gateway:
			return model.Refuse(model.ErrInvalid, "network %s of the cluster has gateway %v, not %v (leave out --gateway)", n.Name, s.Gateway, given.Gateway)
		case len(given.Aux) > 0 && !maps.Equal(given.Aux, s.Aux):
			return model.Refuse(model.ErrInvalid, "network %s of the cluster has other auxiliary addresses (leave out --aux-address)", n.Name)
		}
	}
	return options.Check(n, spec.Options)
}

// leaveNetwork records that a shared network does not belong to the engine any more, unless the engine has
// endpoints in it.
func leaveNetwork(t *txn.Tx, n *model.Network) error {
	for _, ep := range slices.Collect(t.Next.Members(n.ID)) {
		switch {
		case ep.Reserved.IsZero():
		case ep.SandboxID != "":
			return model.Refuse(model.ErrForbidden, "error while removing network: network %s has active endpoints (name:%q); disconnect them first", n.Name, t.Next.SandboxName(ep.SandboxID))
		default:
			resource.RemoveEndpoint(t, ep)
		}
	}
	now := *t.Next.Network(n.ID)
	now.EngineNetwork, now.Engine = "", ""
	t.PutNetwork(n.ID, &now)
	return nil
}

// claim calls verb with what the cluster reserves for an endpoint, or refuses in one line.
func (e *Engine) claim(ctx context.Context, n *model.Network, spec *model.EndpointSpec, member model.Member, verb func() error) error {
	cluster := e.cfg.Cluster()
	if cluster == nil {
		return resource.NeedsCluster(n)
	}
	err := resource.WithClaim(ctx, e.state, cluster, n, spec, member, verb)
	if errors.Is(err, context.DeadlineExceeded) {
		err = cmp.Or(cluster.Answers(), model.Refuse(model.ErrUnavailable, "network %s is shared by a cluster, whose store did not answer in time (try again; see: fairlead status)", n.Name))
	}
	return err
}

// requestShared claims an address of a shared network for an endpoint that the engine is about to
// create. Until then, an endpoint without a sandbox holds it.
func (e *Engine) requestShared(ctx context.Context, p *model.AddressPool, want netip.Addr, gateway bool) (netip.Prefix, error) {
	n := e.Snapshot().Network(p.NetworkID)
	if n == nil {
		return netip.Prefix{}, unknownPool(p.ID)
	}
	f := model.FamilyOf(p.Prefix.Addr())
	s, _ := n.Subnet(f)
	switch {
	case gateway && want.IsValid() && want != s.Gateway:
		return netip.Prefix{}, model.Refuse(model.ErrInvalid, "network %s of the cluster has gateway %v, not %v (leave out --gateway)", n.Name, s.Gateway, want)
	case gateway || want.IsValid() && isAux(s, want):
		return netip.PrefixFrom(cmp.Or(want, s.Gateway), p.Prefix.Bits()), nil
	case n.EngineNetwork == "":
		return netip.Prefix{}, model.Refuse(model.ErrInvalid, "addresses of network %s of the cluster are for containers in a network with driver fairlead (add -d fairlead, and leave out --aux-address)", n.Name)
	}
	spec := model.EndpointSpec{NoIPv4: f != model.V4, NoIPv6: f != model.V6}
	if f == model.V4 {
		spec.IPv4 = want
	} else {
		spec.IPv6 = want
	}
	var got netip.Prefix
	err := e.claim(ctx, n, &spec, model.Member{}, func() error {
		return e.state.Update(ctx, func(t *txn.Tx) error {
			n := t.Next.Network(p.NetworkID)
			if n == nil || n.EngineNetwork == "" {
				return unknownPool(p.ID)
			}
			t.StoreOnly = !n.Idle
			n, err := resource.Activate(ctx, t, n, spec.Claim)
			if err != nil {
				return err
			}
			ep, err := resource.NewEndpoint(t, n, spec)
			if err != nil {
				return err
			}
			if got = ep.IPv4; f == model.V6 {
				got = ep.IPv6
			}
			putReserved(t, ep)
			return nil
		})
	})
	return got, err
}

func isAux(s model.Subnet, a netip.Addr) bool {
	for _, aux := range s.Aux {
		if aux == a {
			return true
		}
	}
	return false
}

// putReserved puts an endpoint that waits for the engine's next request.
func putReserved(t *txn.Tx, ep *model.Endpoint) {
	ep.IfName, ep.Reserved = innerPrefix+ep.ID[:resource.IDPrefix], t.Now()
	t.PutEndpoint(ep.ID, ep)
}

// reserveShared makes the endpoint that takes over the addresses which the engine requested for it.
func (e *Engine) reserveShared(ctx context.Context, n *model.Network, spec model.EndpointSpec) (*model.Endpoint, error) {
	if ep := e.Snapshot().Endpoint(spec.EngineID); ep != nil && ep.NetworkID == n.ID && fits(ep, spec) {
		return ep, nil // a retry: the engine did not receive the response
	}
	if n.Swarm != "" {
		return e.reserveInSwarm(ctx, n, spec)
	}
	holders, err := holdersOf(e.Snapshot(), n, spec)
	if err != nil {
		return nil, err
	}
	spec.Exact = true
	for _, h := range holders {
		spec.TakesOver = append(spec.TakesOver, h.ID)
	}
	var ep *model.Endpoint
	err = e.claim(ctx, n, &spec, model.Member{ID: spec.EngineID}, func() error {
		return e.state.Update(ctx, func(t *txn.Tx) (err error) {
			t.StoreOnly = true
			if n = t.Next.Network(n.ID); n == nil || n.EngineNetwork == "" {
				return unknownNetwork(spec.EngineID)
			}
			holders, err := holdersOf(t.Next, n, spec)
			if err != nil {
				return err
			}
			for _, h := range holders { // the network stays in use
				resource.ReleaseAddr(t, n.ID, h.IPv4.Addr())
				resource.ReleaseAddr(t, n.ID, h.IPv6.Addr())
				t.PutEndpoint(h.ID, nil)
			}
			if ep, err = resource.NewEndpoint(t, n, spec); err == nil {
				putReserved(t, ep)
			}
			return err
		})
	})
	return ep, err
}

// holdersOf returns the endpoints that hold the addresses of a spec since the engine requested them.
func holdersOf(s *desired.Snapshot, n *model.Network, spec model.EndpointSpec) (list []*model.Endpoint, err error) {
	if !spec.IPv4.IsValid() && !spec.IPv6.IsValid() {
		return nil, model.Refuse(model.ErrInvalid, "an endpoint in network %s of the cluster needs an address of it (create the engine's network with: --ipam-driver fairlead --ipam-opt %s=%[1]s)", n.Name, model.OptNetwork)
	}
	for _, a := range []netip.Addr{spec.IPv4, spec.IPv6} {
		if !a.IsValid() {
			continue
		}
		ep := s.MemberWithAddr(n.ID, a)
		if ep == nil || ep.Reserved.IsZero() || ep.SandboxID != "" {
			return nil, model.Refuse(model.ErrConflict, "address %v of network %s of the cluster is not reserved for this endpoint (try again: the engine has a minute to use an address that it requested)", a, n.Name)
		}
		if !slices.Contains(list, ep) {
			list = append(list, ep)
		}
	}
	return list, nil
}

// keepAddresses detaches an endpoint from its sandbox. It goes on holding its addresses, which the engine
// is about to release.
func keepAddresses(t *txn.Tx, ep *model.Endpoint) {
	detachEndpoint(t, ep)
	now := *t.Next.Endpoint(ep.ID)
	putReserved(t, &now)
}

// releaseShared releases an address that an endpoint without a sandbox holds. Of one with a sandbox the
// engine only takes an IPv6 address back, if IPv6 is off in there: everything else belongs to an endpoint
// that was removed before, and whose address another one has now.
func releaseShared(t *txn.Tx, networkID string, a netip.Addr) {
	ep := t.Next.MemberWithAddr(networkID, a)
	switch {
	case ep == nil || ep.Reserved.IsZero() || ep.SandboxID != "" && (a.Is4() || !ep.IPv4.IsValid()):
	case ep.IPv4.IsValid() && ep.IPv6.IsValid():
		t.IgnoreApplyErr = true
		dropAddresses(t, t.Next.Network(networkID), ep, []netip.Addr{a})
		if ep.SandboxID == "" { // the next owner of the address has the MAC that is derived from it
			now := *t.Next.Endpoint(ep.ID)
			now.MAC, now.FixedMAC = resource.NewMAC(), false
			t.PutEndpoint(ep.ID, &now)
		}
	default:
		t.IgnoreApplyErr = true
		resource.RemoveEndpoint(t, ep)
	}
}
