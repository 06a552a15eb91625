// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"log/slog"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/pass/scope"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/frames"
)

// announce updates the neighbour caches of the host's stack and of the other members for
// addresses of a pass's endpoints whose MAC changed: they would use the old MAC for some
// seconds. The MACs from before this daemon's start are unknown.
func announce(s *scope.Scope, nl *rtnl.Handle, log *slog.Logger) {
	for _, e := range s.Endpoints {
		n := s.Objects.Networks[e.Want.NetworkID]
		if e.Ends.Host == 0 || n == nil || !n.Usable() {
			continue
		}
		if n.MACs == nil {
			n.MACs = make(map[netip.Addr]model.MAC)
		}
		for _, now := range e.Entries.Neighbours {
			before, known := n.MACs[now.Addr]
			n.MACs[now.Addr] = model.MAC(now.MAC)
			if !known || before == model.MAC(now.MAC) {
				continue
			}
			if err := announceAddress(s.Objects, nl, n, e, now.Addr, model.MAC(now.MAC)); err != nil {
				log.Warn("cannot announce the new MAC of an address; neighbours use the old one for some seconds", "address", now.Addr, "mac", model.MAC(now.MAC), "err", err)
			}
		}
	}
}

func announceAddress(all *objects.Objects, nl *rtnl.Handle, n *objects.Network, e *objects.Endpoint, ip netip.Addr, mac model.MAC) error {
	if err := nl.ChangeNeighbour(n.Ends.Peer, ip, mac); err != nil {
		return err
	}
	var members []frames.Member
	for _, o := range all.Endpoints {
		if o != e && o.Want != nil && o.Ends.Host != 0 && o.Want.NetworkID == n.ID {
			members = append(members, frames.Member{MAC: o.Want.MAC, IPv6: o.Want.Addr(model.V6)})
		}
	}
	return frames.Announce(nl, n.Ends.Peer, ip, mac, members)
}
