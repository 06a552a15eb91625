// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// announce updates the neighbour caches of the host's stack and of the other members for
// addresses of the pass's endpoints whose MAC changed: they would use the old MAC for some
// seconds. The MACs from before this daemon's start are unknown.
func (p *pass) announce() {
	for _, e := range p.eps {
		n := p.r.networks[e.want.NetworkID]
		if e.ends.Host == 0 || n == nil || !n.usable() {
			continue
		}
		for _, now := range e.entries.Neighbours {
			before, known := n.macs[now.Addr]
			put(&n.macs, now.Addr, model.MAC(now.MAC))
			if !known || before == model.MAC(now.MAC) {
				continue
			}
			if err := p.announceAddress(n, e, now.Addr, model.MAC(now.MAC)); err != nil {
				p.r.log.Warn("cannot announce the new MAC of an address; neighbours use the old one for some seconds", "address", now.Addr, "mac", model.MAC(now.MAC), "err", err)
			}
		}
	}
}

func (p *pass) announceAddress(n *network, e *endpoint, ip netip.Addr, mac model.MAC) error {
	if err := p.r.nl.ChangeNeighbour(n.ends.Peer, ip, mac); err != nil {
		return err
	}
	var members []rtnl.Member
	for _, o := range p.r.endpoints {
		if o != e && o.want != nil && o.ends.Host != 0 && o.want.NetworkID == n.id {
			members = append(members, rtnl.Member{MAC: o.want.MAC, IPv6: o.want.Addr(model.V6)})
		}
	}
	return p.r.nl.Announce(n.ends.Peer, ip, mac, members)
}
