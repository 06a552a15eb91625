// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// An engine-managed sandbox has one gateway endpoint, which serves the published ports, or
// one per address family. The engine reports which endpoints are gateways, but only partly
// for which family.

// gateways holds the endpoints of a sandbox that serve published ports at the host's
// addresses of each family. v6 is nil if another driver's endpoint serves that family.
type gateways struct{ v4, v6 *model.Endpoint }

// PublishEndpoint makes an endpoint serve published ports, which replace all others of its
// sandbox. It shares them with the current gateway if either is for one family only.
// ipv4Only means that the endpoint is not the gateway for IPv6.
func (e *Engine) PublishEndpoint(ctx context.Context, id string, ports []model.PortSpec, ipv4Only bool) error {
	if err := resource.ValidatePorts(ports); err != nil {
		return err
	}
	ports = resource.JoinRuns(ports)
	for {
		done, err := e.withdraw(ctx, id, ports, ipv4Only)
		if err == nil && !done {
			done, err = e.serve(ctx, id, ports, ipv4Only)
		}
		if err != nil || done {
			return err
		}
	}
}

// withdraw ends what the sandbox of an endpoint publishes, in a change before the one that publishes: PortFree needs the ports
// released in the kernel. done: it is what the endpoint is to publish.
func (e *Engine) withdraw(ctx context.Context, id string, ports []model.PortSpec, ipv4Only bool) (done bool, err error) {
	err = e.state.Update(ctx, func(t *txn.Tx) error {
		ep, sb, err := joined(t, id)
		if err != nil {
			return err
		}
		t.Needs(txn.Sandbox, sb.ID)
		gws := gatewaysWith(t, ep, ipv4Only)
		if done = ep.DefaultRoute4 && ep.DefaultRoute6 == !ipv4Only && servesExactly(t, sb, gws, ports); done {
			return nil
		}
		for _, o := range slices.Collect(t.Next.EndpointsOf(sb.ID)) {
			unpublish(t, o)
		}
		for _, gw := range []*model.Endpoint{gws.v4, gws.v6} { // the next update reads it
			if gw != nil && gw.ID != id {
				t.PutEndpoint(gw.ID, gw)
			}
		}
		return nil
	})
	return done, err
}

// serve publishes ports of a sandbox that publishes none. done is false if another request has published some since.
func (e *Engine) serve(ctx context.Context, id string, ports []model.PortSpec, ipv4Only bool) (done bool, err error) {
	err = e.retryAfterReap(ctx, func(t *txn.Tx) error {
		was, in, err := joined(t, id)
		if err != nil {
			return err
		}
		t.Needs(txn.Sandbox, in.ID)
		if done = len(t.Served(in.ID)) == 0; !done {
			return nil
		}
		ep, sb := *was, *in
		gws := gatewaysWith(t, &ep, ipv4Only)
		ep.DefaultRoute4, ep.DefaultRoute6 = true, !ipv4Only
		t.PutEndpoint(id, &ep)
		pubs, err := bindSplitPorts(t, &sb, gws, ports)
		if err != nil {
			return err
		}
		t.PutSandbox(sb.ID, &sb)
		t.Serve(sb.ID, pubs)
		return nil
	})
	return done, err
}

// joined finds an engine-managed endpoint and its sandbox.
func joined(t *txn.Tx, id string) (*model.Endpoint, *model.Sandbox, error) {
	ep, err := engineEndpoint(t, id)
	if err != nil {
		return nil, nil, err
	}
	if sb := t.Next.Sandbox(ep.SandboxID); sb != nil {
		return ep, sb, nil
	}
	return nil, nil, model.Refuse(model.ErrInvalid, "no sandbox has joined endpoint %s (join first)", model.ShortID(id))
}

// gatewaysWith returns the gateways of a sandbox after the engine has made ep one (for IPv4
// only, if ipv4Only). The other gateway stays if exactly one of the two has an IPv6
// default route: the engine revokes a replaced gateway before it names the next one.
func gatewaysWith(t *txn.Tx, ep *model.Endpoint, ipv4Only bool) gateways {
	has6 := func(e *model.Endpoint) bool { return t.Next.Network(e.NetworkID).DefaultGateway(e, model.V6).IsValid() }
	no6 := ipv4Only || !has6(ep)
	for _, o := range slices.Collect(t.Next.EndpointsOf(ep.SandboxID)) {
		switch other6 := has6(o) && o.DefaultRoute6; {
		case o.ID == ep.ID || !o.IsGateway():
		case no6 && other6:
			return gateways{ep, o}
		case !no6 && !other6:
			return gateways{o, ep}
		}
	}
	if ipv4Only {
		return gateways{v4: ep}
	}
	return gateways{ep, ep}
}

// splitPorts assigns ports to the IPv4 and IPv6 gateways. same[i] is the index in v4 of the
// port that v6[i] duplicates (its host port is chosen there), or -1.
func splitPorts(t *txn.Tx, gws gateways, ports []model.PortSpec) (v4, v6 []model.PortSpec, same []int) {
	if gws.v4 == gws.v6 {
		return ports, nil, nil
	}
	binding := t.Next.Network(gws.v4.NetworkID).HostBindingIPv4
	for _, s := range ports {
		a, both := s.HostIP.Unmap(), !s.HostIP.IsValid() && !binding.IsValid()
		if both {
			a, s.HostIP = netip.IPv6Unspecified(), netip.IPv4Unspecified()
		}
		if both || !a.Is6() {
			v4 = append(v4, s)
		}
		if gws.v6 == nil || !a.Is6() {
			continue
		}
		s.HostIP = a
		v6 = append(v6, s)
		if both {
			same = append(same, len(v4)-1)
		} else {
			same = append(same, -1)
		}
	}
	return v4, v6, same
}

// bindSplitPorts resolves ports into sb.Ports and returns the publish of each, in the same
// order.
func bindSplitPorts(t *txn.Tx, sb *model.Sandbox, gws gateways, ports []model.PortSpec) ([]*model.Publish, error) {
	v4, v6, same := splitPorts(t, gws, ports)
	bound4, pubs4, err := resource.ResolvePorts(t, v4, gws.v4)
	if err != nil {
		return nil, err
	}
	for i, k := range same {
		if k >= 0 {
			v6[i].HostPort, v6[i].HostCount = bound4[k].HostPort, v6[i].Count
		}
	}
	bound6, pubs6, err := resource.ResolvePorts(t, v6, gws.v6)
	if err != nil {
		return nil, err
	}
	sb.Ports = slices.Concat(bound4, bound6)
	return slices.Concat(pubs4, pubs6), nil
}

// servesExactly reports whether a sandbox publishes exactly these ports, each at its gateway.
func servesExactly(t *txn.Tx, sb *model.Sandbox, gws gateways, ports []model.PortSpec) bool {
	v4, v6, _ := splitPorts(t, gws, ports)
	pubs := t.Served(sb.ID)
	if len(sb.Ports) != len(pubs) || len(pubs) != len(v4)+len(v6) {
		return false
	}
	for i, s := range slices.Concat(v4, v6) {
		b, gw := sb.Ports[i], gws.v4
		if i >= len(v4) {
			gw = gws.v6
		}
		chosen := s.HostCount == 0 || b.HostPort >= s.HostPort && int(b.HostPort) < int(s.HostPort)+int(s.HostCount)
		if !chosen || b.HostIP != s.HostIP.Unmap() || b.Port != s.Port || b.Count != s.Count || b.Proto != s.Proto || pubs[i].EndpointID != gw.ID {
			return false
		}
	}
	return true
}

// UnpublishEndpoint removes the published ports of an endpoint. It succeeds if there are
// none, or if the endpoint does not exist.
func (e *Engine) UnpublishEndpoint(ctx context.Context, id string) error {
	return e.state.Update(ctx, func(t *txn.Tx) error {
		t.Needs(txn.Endpoint, id)
		if ep := t.Next.Endpoint(id); ep != nil && !ep.Reserved.IsZero() {
			unpublish(t, ep)
		}
		return nil
	})
}

// unpublish removes the ports that an endpoint serves from it and from its sandbox.
func unpublish(t *txn.Tx, ep *model.Endpoint) {
	if !ep.IsGateway() {
		return
	}
	serveOnly(t, ep, func(model.PortBinding) bool { return false })
	now := *ep
	now.DefaultRoute4, now.DefaultRoute6 = false, false
	t.PutEndpoint(ep.ID, &now)
}

// serveOnly removes the ports that an engine-managed endpoint serves, except those to keep,
// from it and from its sandbox.
func serveOnly(t *txn.Tx, ep *model.Endpoint, keep func(model.PortBinding) bool) {
	in := t.Next.Sandbox(ep.SandboxID)
	served := t.Served(in.ID)
	var ports []model.PortBinding
	var pubs []*model.Publish
	for i, p := range served {
		if p.EndpointID == ep.ID && !keep(p.PortBinding) {
			t.FreePublish(p)
			continue
		}
		ports, pubs = append(ports, in.Ports[i]), append(pubs, p)
	}
	if len(pubs) == len(served) {
		return
	}
	t.Serve(in.ID, pubs)
	sb := *in
	sb.Ports = ports
	t.PutSandbox(sb.ID, &sb)
}
