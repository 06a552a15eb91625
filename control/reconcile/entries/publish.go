// SPDX-License-Identifier: Apache-2.0

package entries

import (
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// Run stands for the entries of Count consecutive ports, of which First is the first.
type Run struct {
	First maps.Publish
	Count uint16
	From  model.Sources
}

// OfPublish returns the entries of a publish whose backend is an endpoint with the given host
// end. An internal network publishes nothing, and a routed family at the endpoint's own address.
func OfPublish(p *model.Publish, ep *model.Endpoint, n *model.Network, hostIf uint32) []Run {
	var runs []Run
	for _, o := range n.Openings(ep, p.PortBinding) {
		runs = append(runs, Run{Count: p.Count, From: p.From, First: maps.Publish{
			HostIP: o.Host, Port: o.Port, Proto: uint8(p.Proto), Backend: o.Backend, BackendPort: p.Port,
			IfIndex: hostIf, Net: n.Index, ID: p.ID, Direct: o.Direct, Limited: p.From != "",
		}})
	}
	return runs
}

// AddRuns appends the entries that the runs stand for, and those of their clients, which the runs of one publish share.
func (s *Set) AddRuns(runs []Run) {
	s.Publishes = AppendRuns(s.Publishes, runs)
	for i, run := range runs {
		if i > 0 && runs[i-1].First.ID == run.First.ID {
			continue
		}
		for _, p := range run.From.Prefixes() {
			s.Sources = append(s.Sources, maps.Source{Publish: run.First.ID, Prefix: p})
		}
	}
}

// AppendRuns appends the entries that the runs stand for.
func AppendRuns(es []maps.Publish, runs []Run) []maps.Publish {
	for _, run := range runs {
		es = slices.Grow(es, int(run.Count))
		for i := range run.Count {
			e := run.First
			e.Port += i
			e.BackendPort += i
			es = append(es, e)
		}
	}
	return es
}
