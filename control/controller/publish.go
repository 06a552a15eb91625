// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// gateways holds the endpoints of a sandbox that serve published ports at the host's addresses of each family, or nil.
type gateways struct{ v4, v6 *model.Endpoint }

// chooseGateways finds and marks the endpoints for the sandbox's default routes, in each family the first whose network has
// one, in Docker's order: by priority, internal ones last, by the number of families with a default route, by the network's name. If no network
// has a default route of one family, the endpoint of the other has it. Ports are not published at an endpoint
// whose packets the datapath does not carry.
func chooseGateways(t *txn.Tx, sandboxID string) (gws gateways) {
	all := slices.Collect(t.Next.EndpointsOf(sandboxID))
	network := func(ep *model.Endpoint) *model.Network { return t.Next.Network(ep.NetworkID) }
	routes := func(ep *model.Endpoint) (n int) {
		if network(ep).Internal { // they are for answers only
			n = -len(model.Families)
		}
		for _, f := range model.Families {
			if network(ep).HasDefaultRoute(ep, f) {
				n++
			}
		}
		return n
	}
	ranked := slices.SortedFunc(slices.Values(all), func(a, b *model.Endpoint) int {
		return cmp.Or(cmp.Compare(b.GwPriority, a.GwPriority), cmp.Compare(routes(b), routes(a)), cmp.Compare(network(a).Name, network(b).Name))
	})
	var first [len(model.Families)]string // IDs
	for _, f := range model.Families {
		if i := slices.IndexFunc(ranked, func(ep *model.Endpoint) bool { return network(ep).HasDefaultRoute(ep, f) }); i >= 0 {
			first[f] = ranked[i].ID
		}
	}
	first = [...]string{cmp.Or(first[model.V4], first[model.V6]), cmp.Or(first[model.V6], first[model.V4])}
	for _, ep := range all {
		if is4, is6 := ep.ID == first[model.V4], ep.ID == first[model.V6]; ep.DefaultRoute4 != is4 || ep.DefaultRoute6 != is6 {
			changed := *ep
			changed.DefaultRoute4, changed.DefaultRoute6 = is4, is6
			ep = &changed
			t.PutEndpoint(ep.ID, ep)
		}
		if ep.DefaultRoute4 && network(ep).Has().OnHost == model.DeviceHostPort {
			gws.v4 = ep
		}
		if ep.DefaultRoute6 && network(ep).Has().OnHost == model.DeviceHostPort {
			gws.v6 = ep
		}
	}
	return gws
}

// served is a published port at one of the gateways.
type served struct {
	at *model.Endpoint
	model.PortBinding
}

// split returns where a binding is served. Two gateways share one without an address.
func (g gateways) split(t *txn.Tx, b model.PortBinding) (list []served) {
	add := func(at *model.Endpoint, host netip.Addr) {
		if at == nil {
			return
		}
		b := b
		if b.HostIP = host; host.IsValid() {
			if !t.Next.Network(at.NetworkID).Serves(at, host) {
				return
			}
		}
		list = append(list, served{at, b})
	}
	host := b.HostIP
	if gw := cmp.Or(g.v4, g.v6); !host.IsValid() && gw != nil {
		host = t.Next.Network(gw.NetworkID).HostBindingIPv4
	}
	switch {
	case host.IsValid() && model.FamilyOf(host) == model.V4:
		add(g.v4, host)
	case host.IsValid():
		add(g.v6, host)
	case g.v4 == g.v6:
		add(g.v4, host)
	default:
		add(g.v4, netip.IPv4Unspecified())
		add(g.v6, netip.IPv6Unspecified())
	}
	return list
}

// claimedAs reports whether a publish has the ports of the host that it needs at another endpoint: networks differ in which
// families they translate.
func claimedAs(t *txn.Tx, p *model.Publish, at served) bool {
	has, some := t.Claimed(p)
	needs, any := t.Next.Network(at.at.NetworkID).OnHost(at.PortBinding)
	return some == any && (!any || has == needs.HostIP)
}

// checkFree refuses a port of the host that is not free. Of what the sandbox had there until now, the kernel does not know yet
// that it is, not even if the sandbox had it in one family only: then programs of the host are not asked for.
func checkFree(t *txn.Tx, was []*model.Publish, s served) error {
	var ok bool
	if s.PortBinding, ok = t.Next.Network(s.at.NetworkID).OnHost(s.PortBinding); !ok {
		return nil
	}
	held := slices.ContainsFunc(was, func(p *model.Publish) bool {
		overlap := p.HostIP == s.HostIP || !p.HostIP.IsValid() || !s.HostIP.IsValid() ||
			(p.HostIP.IsUnspecified() || s.HostIP.IsUnspecified()) && model.FamilyOf(p.HostIP) == model.FamilyOf(s.HostIP)
		return overlap && p.HostPort == s.HostPort && p.Count == s.Count && p.Proto == s.Proto
	})
	if held {
		return resource.CheckClaim(t, s.PortBinding)
	}
	return resource.CheckPort(t, s.at, s.PortBinding)
}

// withExposed adds the ports that -P publishes: every exposed port that is not
// already published, at an automatic host port.
func withExposed(specs []model.PortSpec, expose []model.PortProto) []model.PortSpec {
	all := slices.Clone(specs)
	covered := func(port uint16, proto model.Proto) bool {
		return slices.ContainsFunc(all, func(s model.PortSpec) bool {
			return s.Proto == proto && port >= s.Port && int(port) < int(s.Port)+int(s.Count)
		})
	}
	for _, e := range expose {
		// Each run of ports that are not covered becomes one publish.
		run := model.PortSpec{Proto: e.Proto}
		var runs []model.PortSpec
		for i := range e.Count {
			switch port := e.Port + i; {
			case covered(port, e.Proto):
				runs = append(runs, run)
				run = model.PortSpec{Proto: e.Proto}
			case run.Count == 0:
				run.Port, run.Count = port, 1
			default:
				run.Count++
			}
		}
		for _, r := range append(runs, run) {
			if r.Count > 0 {
				all = append(all, r)
			}
		}
	}
	return all
}

// joinExposed does the same for exposed ports.
func joinExposed(exposed []model.PortProto) []model.PortProto {
	sorted := slices.Clone(exposed)
	slices.SortFunc(sorted, func(a, b model.PortProto) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port))
	})
	var joined []model.PortProto
	for _, e := range sorted {
		if last := len(joined) - 1; last >= 0 && joined[last].Proto == e.Proto && int(joined[last].Port)+int(joined[last].Count) == int(e.Port) {
			joined[last].Count += e.Count
			continue
		}
		joined = append(joined, e)
	}
	return joined
}

// bindPorts resolves the published ports of a new sandbox into sb.Ports and
// serves them at its gateway endpoint. If that is nil, they are only stored.
func bindPorts(t *txn.Tx, sb *model.Sandbox, specs []model.PortSpec, gw *model.Endpoint) error {
	if len(specs) == 0 {
		return nil
	}
	var pubs []*model.Publish
	var err error
	if sb.Ports, pubs, err = resource.ResolvePorts(t, specs, gw); err == nil && gw != nil {
		t.Serve(sb.ID, pubs)
	}
	return err
}

// updateGateway chooses the sandbox's gateway endpoints again and makes them serve the
// published ports. A port that can no longer be served is an error if strict is set,
// otherwise it is skipped.
func updateGateway(t *txn.Tx, sb *model.Sandbox, strict bool) error {
	gws := chooseGateways(t, sb.ID)
	was := t.Served(sb.ID)
	spare := make(map[model.PortBinding]*model.Publish, len(was))
	var onHost []*model.Publish
	for _, p := range was {
		spare[p.PortBinding] = p
		if _, ok := t.Claimed(p); ok {
			onHost = append(onHost, p)
		}
	}
	now := []*model.Publish{}
	var missing []served
	for _, b := range sb.Ports {
		places := gws.split(t, b)
		if len(places) == 0 && (gws.v4 != nil || gws.v6 != nil) {
			t.Log().Warn("cannot serve published port: the network of the default route lacks its address family or a gateway", "sandbox", sb.Name, "port", b.HostPort)
		}
		for _, at := range places {
			p := spare[at.PortBinding]
			if p == nil || !claimedAs(t, p, at) {
				missing = append(missing, at)
				continue
			}
			delete(spare, at.PortBinding)
			if p.EndpointID != at.at.ID {
				p = &model.Publish{ID: p.ID, EndpointID: at.at.ID, PortBinding: at.PortBinding}
			}
			now = append(now, p)
		}
	}
	for _, p := range spare {
		t.FreePublish(p)
	}
	for _, m := range missing {
		if err := cmp.Or(checkFree(t, onHost, m), resource.CheckClients(t.Next.Network(m.at.NetworkID), m.at, now, m.PortBinding)); err != nil {
			if strict {
				return err
			}
			t.Log().Warn("published port is no longer served", "sandbox", sb.Name, "err", err)
			continue
		}
		now = append(now, t.NewPublish(m.at, m.PortBinding))
	}
	if !slices.Equal(was, now) {
		t.Serve(sb.ID, now)
	}
	return nil
}
