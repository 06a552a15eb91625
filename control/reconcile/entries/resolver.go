// SPDX-License-Identifier: Apache-2.0

package entries

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// OfSandbox returns the entries of a sandbox whose network namespace has this cookie, and which is in
// these networks: the name server of the first network that has one in a family knows the names of all. If no
// network has one at its gateways, it may be in the sandbox.
func OfSandbox(sb *model.Sandbox, cookie uint64, in []*model.Network) Set {
	r := maps.Resolver{Cookie: cookie}
	if sb.ResolvesInside(in) {
		r.IPv4 = model.ResolverAddr
	}
	for _, n := range in {
		if !n.ResolvesAtGateway() {
			continue
		}
		for f, addr := range map[model.Family]*netip.Addr{model.V4: &r.IPv4, model.V6: &r.IPv6} {
			if !addr.IsValid() {
				*addr = gateway(n, f)
			}
		}
	}
	if cookie == 0 || !r.IPv4.IsValid() && !r.IPv6.IsValid() {
		return Set{}
	}
	return Set{Resolvers: []maps.Resolver{r}}
}
