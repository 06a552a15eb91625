// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"
)

// Resolves reports whether the sandboxes in the network have a name server at 127.0.0.11. Those in
// Docker's default network have none there either, nor in Fairlead's of the same name.
func (n *Network) Resolves() bool { return n.ResolvesAtGateway() || n.ResolvesInside() }

// ResolvesAtGateway reports whether that name server listens on the host, at a gateway of the network.
func (n *Network) ResolvesAtGateway() bool { return n.Name != NetworkBridge && len(n.Resolvers()) > 0 }

// ResolvesInside reports whether that name server listens in the sandbox, unless another network of the sandbox has it at a
// gateway: members of a network with a parent, and of one in gateway mode isolated, reach no gateway on the host.
func (n *Network) ResolvesInside() bool {
	return n.Name != NetworkBridge && n.Has().Endpoint != NoDevice && n.ManagedBy != ByEngine && n.Swarm == "" && len(n.Resolvers()) == 0
}

// ResolverAddr is where sandboxes query names, as in Docker.
var ResolverAddr = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// ResolvesInside reports whether the name server of a sandbox in these networks listens in the sandbox. The containers of runtimes and
// engines have the name servers that those configure.
func (s *Sandbox) ResolvesInside(in []*Network) bool {
	return (s.ManagedBy == ByFairlead || s.ManagedBy == ByUser) &&
		slices.ContainsFunc(in, (*Network).ResolvesInside) && !slices.ContainsFunc(in, (*Network).ResolvesAtGateway)
}

// Resolvers returns the gateway addresses, at which the host can serve names. The addresses in the
// networks of engines, and of swarms, belong to the engines, and the gateway of a network with a parent is a router.
func (n *Network) Resolvers() (list []netip.Addr) {
	if n.ManagedBy == ByEngine || n.Swarm != "" || n.Has().OnHost != DeviceHostPort {
		return nil
	}
	for _, s := range n.Claimed() {
		if s.Gateway.IsValid() {
			list = append(list, s.Gateway)
		}
	}
	return list
}
