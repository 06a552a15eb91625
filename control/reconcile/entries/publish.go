// SPDX-License-Identifier: Apache-2.0

package entries

import (
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// Run stands for the entries of Count consecutive ports, of which First is the first.
type Run struct {
	First maps.Publish
	Count uint16
}

// OfPublish returns the entries of a publish whose backend is an endpoint with the given host
// end. An internal network publishes nothing, and a routed family at the endpoint's own address.
func OfPublish(p *model.Publish, ep *model.Endpoint, n *model.Network, hostIf uint32) []Run {
	if n.Internal {
		return nil
	}
	hosts := []netip.Addr{p.HostIP}
	if !p.HostIP.IsValid() {
		hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	var runs []Run
	for _, host := range hosts {
		row := maps.Publish{
			HostIP: host, Port: p.HostPort, Proto: uint8(p.Proto),
			Backend: n.Backend(ep, host), BackendPort: p.Port,
			IfIndex: hostIf, Net: n.Index, ID: p.ID,
		}
		if own := n.Direct(ep, host); own.IsValid() {
			row.HostIP, row.Port, row.Backend, row.Direct = own, p.Port, own, true
		}
		if row.Backend.IsValid() {
			runs = append(runs, Run{Count: p.Count, First: row})
		}
	}
	return runs
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
