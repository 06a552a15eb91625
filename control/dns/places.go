// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// place is where names are served.
type place struct {
	sandbox string // in whose namespace; "": the host's
	at      netip.AddrPort
}

// clients are those that a place serves: the members of a network and the host, or a sandbox in its namespace.
type clients struct{ network, sandbox, netns string }

// inside is where the name server of a sandbox listens in the sandbox. Port 53 is left to programs there, which may
// serve names at all addresses.
var inside = netip.AddrPortFrom(model.ResolverAddr, model.PortResolver)

// places are where names are to be served in a snapshot, and to whom.
type places struct {
	snapshot *desired.Snapshot
	at       map[place]clients
	examined int // sandboxes, for tests
}

func noPlaces() places { return places{snapshot: &desired.Snapshot{}, at: map[place]clients{}} }

// update makes the places those of another snapshot, and returns those that changed, or whose sandbox did. Its cost is proportional
// to the difference.
func (p *places) update(s *desired.Snapshot) map[place]bool {
	changed, sandboxes := map[place]bool{}, map[string]bool{}
	for c := range desired.DiffNetworks(p.snapshot, s) {
		for _, at := range gateways(c.Old) {
			delete(p.at, place{at: at})
			changed[place{at: at}] = true
		}
		if rolesOf(c.Old) != rolesOf(c.New) {
			for ep := range s.Members(c.ID) {
				sandboxes[ep.SandboxID] = true
			}
		}
	}
	for c := range desired.DiffNetworks(p.snapshot, s) {
		for _, at := range gateways(c.New) {
			p.at[place{at: at}] = clients{network: c.ID}
			changed[place{at: at}] = true
		}
	}
	for c := range desired.DiffSandboxes(p.snapshot, s) {
		sandboxes[c.ID] = true
	}
	for c := range desired.DiffEndpoints(p.snapshot, s) {
		for _, ep := range []*model.Endpoint{c.Old, c.New} {
			if ep != nil {
				sandboxes[ep.SandboxID] = true
			}
		}
	}
	for id := range sandboxes {
		p.examined++
		in := place{id, inside}
		_, was := p.at[in]
		sb := s.Sandbox(id)
		is := sb != nil && sb.NetNS != "" && !sb.Exited && sb.ResolvesInside(networksOf(s, id))
		switch {
		case is:
			p.at[in] = clients{sandbox: id, netns: sb.NetNS}
		case was:
			delete(p.at, in)
		}
		if is || was {
			changed[in] = true
		}
	}
	p.snapshot = s
	return changed
}

// roles are where a network has name servers for sandboxes, which decides about those of its members.
type roles struct{ gateway, inside bool }

func rolesOf(n *model.Network) roles {
	if n == nil {
		return roles{}
	}
	return roles{n.ResolvesAtGateway(), n.ResolvesInside()}
}

// networksOf returns the networks of a sandbox.
func networksOf(s *desired.Snapshot, sandbox string) (in []*model.Network) {
	for ep := range s.EndpointsOf(sandbox) {
		if n := s.Network(ep.NetworkID); n != nil {
			in = append(in, n)
		}
	}
	return in
}

// gateways returns where a network's names are served on the host: at the gateways, on port 53 if the network has
// that option, and for queries that the datapath redirects.
func gateways(n *model.Network) (list []netip.AddrPort) {
	if n == nil {
		return nil
	}
	for _, gateway := range n.Resolvers() {
		if n.DNS {
			list = append(list, netip.AddrPortFrom(gateway, model.PortDNS))
		}
		if n.Resolves() {
			list = append(list, netip.AddrPortFrom(gateway, model.PortResolver))
		}
	}
	return list
}

// Places returns the addresses and ports at which the names of a snapshot's networks are served.
func Places(s *desired.Snapshot) (list []netip.AddrPort) {
	for n := range s.Networks() {
		list = append(list, gateways(n)...)
	}
	return list
}
