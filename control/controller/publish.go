// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// chooseGateway finds and marks the endpoint for the sandbox's default routes: the first
// one whose network has a default route. It returns the endpoint if it can serve published ports, otherwise nil.
func chooseGateway(t *txn.Tx, sandboxID string) *model.Endpoint {
	var gw *model.Endpoint
	for _, ep := range slices.Collect(t.Next.EndpointsOf(sandboxID)) {
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
	if gw != nil && !t.Next.Network(gw.NetworkID).Has().Entries {
		return nil
	}
	return gw
}

func hasDefaultRoute(n *model.Network) bool {
	return !n.Internal && slices.ContainsFunc(n.Subnets, func(s model.Subnet) bool { return s.Gateway.IsValid() })
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

// updateGateway chooses the sandbox's gateway endpoint again and makes it serve the
// published ports. A port that can no longer be served is an error if strict is set,
// otherwise it is skipped.
func updateGateway(t *txn.Tx, sb *model.Sandbox, strict bool) error {
	gw := chooseGateway(t, sb.ID)
	was := t.Served(sb.ID)
	spare := make(map[model.PortBinding]*model.Publish, len(was))
	for _, p := range was {
		spare[p.PortBinding] = p
	}
	now := []*model.Publish{}
	var missing []model.PortBinding
	for _, b := range sb.Ports {
		if gw == nil {
			break
		}
		var ok bool
		if b.HostIP, ok = resource.ServedAt(t.Next.Network(gw.NetworkID), gw, b); !ok {
			t.Log().Warn("cannot serve published port: the network of the default route lacks its address family or a gateway", "sandbox", sb.Name, "port", b.HostPort)
			continue
		}
		p := spare[b]
		if p == nil {
			missing = append(missing, b)
			continue
		}
		delete(spare, b)
		if p.EndpointID != gw.ID {
			p = &model.Publish{ID: p.ID, EndpointID: gw.ID, PortBinding: b}
		}
		now = append(now, p)
	}
	for _, p := range spare {
		t.FreePublish(p)
	}
	for _, b := range missing {
		if err := resource.CheckPort(t, gw, b); err != nil {
			if strict {
				return err
			}
			t.Log().Warn("published port is no longer served", "sandbox", sb.Name, "err", err)
			continue
		}
		now = append(now, t.NewPublish(gw, b))
	}
	if !slices.Equal(was, now) {
		t.Serve(sb.ID, now)
	}
	return nil
}
