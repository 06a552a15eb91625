// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/persistent"
	"github.com/fairlead-net/fairlead/control/model"
)

// names are the names in one snapshot. They are immutable: update returns the next ones.
type names struct {
	snapshot *desired.Snapshot
	byName   persistent.Map[string, *model.Endpoint] // by network, name in lower case, and ID
	networks persistent.Map[string, string]          // ID by name in lower case
	remote   Remote                                  // nil: none
}

// noNames returns the names in an empty snapshot.
func noNames() *names { return &names{snapshot: &desired.Snapshot{}} }

// with returns the same names with those of other nodes.
func (n *names) with(r Remote) *names {
	next := *n
	next.remote = r
	return &next
}

// update returns the names in another snapshot. Its cost is proportional to the difference.
func (n *names) update(s *desired.Snapshot) *names {
	next := &names{s, n.byName, n.networks, n.remote}
	for c := range desired.DiffNetworks(n.snapshot, s) {
		if c.Old != nil {
			next.networks = next.networks.Delete(strings.ToLower(c.Old.Name))
		}
	}
	for c := range desired.DiffNetworks(n.snapshot, s) {
		if c.New != nil {
			next.networks = next.networks.Put(strings.ToLower(c.New.Name), c.New.ID)
		}
	}
	for id := range changedEndpoints(n.snapshot, s) {
		for key := range keysOf(n.snapshot, id) {
			next.byName = next.byName.Delete(key)
		}
		for key, ep := range keysOf(s, id) {
			next.byName = next.byName.Put(key, ep)
		}
	}
	return next
}

// changedEndpoints returns the IDs of the endpoints that differ, or whose sandbox does.
func changedEndpoints(from, to *desired.Snapshot) map[string]bool {
	changed := map[string]bool{}
	for c := range desired.DiffEndpoints(from, to) {
		changed[c.ID] = true
	}
	for c := range desired.DiffSandboxes(from, to) {
		for _, s := range []*desired.Snapshot{from, to} {
			for ep := range s.EndpointsOf(c.ID) {
				changed[ep.ID] = true
			}
		}
	}
	return changed
}

// keysOf returns the keys that an endpoint has in byName.
func keysOf(s *desired.Snapshot, id string) map[string]*model.Endpoint {
	ep := s.Endpoint(id)
	if ep == nil {
		return nil
	}
	sb := s.Sandbox(ep.SandboxID)
	if sb == nil || sb.Exited {
		return nil
	}
	keys := map[string]*model.Endpoint{}
	for _, name := range namesOf(sb, ep) {
		keys[placeOf(ep.NetworkID, name)+id] = ep
	}
	return keys
}

// placeOf returns the prefix of the keys of a name in a network.
func placeOf(network, name string) string { return network + "\x00" + name + "\x00" }

// at returns the endpoints that have a name in a network.
func (n *names) at(network, name string) (list []*model.Endpoint) {
	place := placeOf(network, name)
	for key, ep := range n.byName.From(place) {
		if !strings.HasPrefix(key, place) {
			break
		}
		list = append(list, ep)
	}
	return list
}

// member returns the endpoint of a sandbox that has an address in a network, or nil if none has.
func (n *names) member(network string, addr netip.Addr) *model.Endpoint {
	ep := n.snapshot.MemberWithAddr(network, addr)
	if ep == nil || n.snapshot.Sandbox(ep.SandboxID) == nil {
		return nil
	}
	return ep
}

// rank orders a sandbox's endpoints: that of its default route first, then in the order of
// attachment.
func rank(ep *model.Endpoint) int {
	if ep.IsGateway() {
		return -1
	}
	return ep.Order
}

// namesOf returns a sandbox's names in the network of one of its endpoints, in lower case and
// without duplicates.
func namesOf(sb *model.Sandbox, ep *model.Endpoint) (list []string) {
	for _, name := range append([]string{sb.Name, model.ShortID(sb.ID), sb.Hostname}, ep.Aliases...) {
		if name = strings.ToLower(name); name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// client is the sandbox that a query comes from.
type client struct {
	*model.Sandbox
	networks []string // in which it may resolve names: that of its default route first
	in       []*model.Endpoint
}

// client returns the sandbox that a query from an address comes from, or nil if it is of no member.
func (n *names) client(to clients, from netip.Addr) *client {
	id := to.sandbox
	if ep := n.member(to.network, from); ep != nil {
		id = ep.SandboxID
	}
	sb := n.snapshot.Sandbox(id)
	if sb == nil {
		return nil
	}
	c := &client{Sandbox: sb}
	c.in = slices.SortedFunc(n.snapshot.EndpointsOf(id), func(a, b *model.Endpoint) int { return cmp.Compare(rank(a), rank(b)) })
	for _, ep := range c.in {
		c.networks = append(c.networks, ep.NetworkID)
	}
	return c
}

// leased returns the servers that a DHCP server named.
func (c *client) leased() []netip.Addr {
	for _, ep := range c.in {
		if servers := ep.LeasedServers(); len(servers) > 0 {
			return servers
		}
	}
	return nil
}

// linked returns what has a name by a link of the client's, which only the client knows.
func (n *names) linked(c *client, name string) (list []addressed) {
	for _, ep := range c.in {
		for _, link := range ep.Links {
			if alias := strings.ToLower(link.Alias); name == alias || n.qualified(name, alias, ep.NetworkID) {
				list = append(list, n.on(ep.NetworkID, strings.ToLower(link.Target))...)
			}
		}
	}
	return list
}

// qualified reports whether a name is an alias followed by the name of a network.
func (n *names) qualified(name, alias, network string) bool {
	rest, ok := strings.CutPrefix(name, alias+".")
	id, exists := n.networks.Get(rest)
	return ok && exists && id == network
}

// servers returns the servers that the user chose for the client, without those that are the server itself: it would
// query itself.
func (n *names) servers(c *client) (list []netip.Addr) {
	for _, server := range c.Lookup.Servers {
		own := server.Unmap() == model.ResolverAddr
		for _, id := range c.networks {
			own = own || slices.Contains(n.snapshot.Network(id).Resolvers(), server)
		}
		if !own {
			list = append(list, server)
		}
	}
	return list
}

// host reports whether an address is the host's own in a network.
func (n *names) host(network string, addr netip.Addr) bool {
	in := n.snapshot.Network(network)
	return in != nil && addr.IsValid() && (slices.Contains(in.Resolvers(), addr) || addr == in.NodeIPv4 || addr == in.NodeIPv6)
}

// account returns what a client's connections count for, where this is served: each member and the host for itself,
// and all others, whose queries are refused, together. A sandbox has its server for itself.
func (n *names) account(to clients, from netip.Addr) netip.Addr {
	if n.member(to.network, from) == nil && !n.host(to.network, from) {
		return netip.Addr{}
	}
	return from
}

// candidate is a name to look for in a network.
type candidate struct{ network, name string }

// candidates returns what a name can mean: itself in each of the networks, then what precedes the name of one of them,
// at any of its dots.
func (n *names) candidates(networks []string, name string) (list []candidate) {
	for _, id := range networks {
		list = append(list, candidate{id, name})
	}
	for i := len(name) - 1; i > 0; i-- {
		if name[i] != '.' {
			continue
		}
		if id, ok := n.networks.Get(name[i+1:]); ok && slices.Contains(networks, id) {
			list = append(list, candidate{id, name[:i]})
		}
	}
	return list
}

// find returns the addresses of what has a name, in the first of the networks in which the name
// exists, or else of what has the longest wildcard that covers it.
func (n *names) find(networks []string, name string) []addressed {
	list := n.candidates(networks, name)
	for _, c := range list {
		if found := n.on(c.network, c.name); len(found) > 0 {
			return found
		}
	}
	list = slices.DeleteFunc(list, func(c candidate) bool { return !n.mayHaveWildcard(c.network) })
	for i := range len(name) {
		if name[i] != '.' {
			continue
		}
		for _, c := range list {
			if i >= len(c.name) {
				continue
			}
			if found := n.members(c.network, "*"+c.name[i:]); len(found) > 0 {
				return found
			}
		}
	}
	return nil
}

// mayHaveWildcard saves the lookups at each dot of a name, of which a query has up to 127. It does not look at other nodes.
func (n *names) mayHaveWildcard(network string) bool {
	for key := range n.byName.From(network + "\x00*") {
		if strings.HasPrefix(key, network+"\x00*") {
			return true
		}
		break
	}
	return n.hasRemote(network)
}

// hasRemote reports whether a network may have members on other nodes.
func (n *names) hasRemote(network string) bool {
	in := n.snapshot.Network(network)
	return n.remote != nil && in != nil && in.Has().Shared
}

// addressed is an endpoint here or a member on another node.
type addressed interface {
	Addr(f model.Family) netip.Addr
}

// on returns what has a name in a network, here and on other nodes.
func (n *names) on(network, name string) []addressed {
	if svc := n.snapshot.ServiceIn(network, name); svc != nil {
		return []addressed{svc}
	}
	if of, ok := strings.CutPrefix(name, "tasks."); ok && n.snapshot.ServiceIn(network, of) != nil {
		name = of // of a service: the addresses of its backends
	}
	return n.members(network, name)
}

// members returns the members of a network that have a name, here and on other nodes.
func (n *names) members(network, name string) (list []addressed) {
	for _, ep := range n.at(network, name) {
		list = append(list, ep)
	}
	if !n.hasRemote(network) {
		return list
	}
	for _, m := range n.remote.Named(network, name) {
		list = append(list, &m)
	}
	return list
}

// nameOf returns the name of the sandbox that has an address in one of the networks, qualified by
// the network's name, or "" if there is none.
func (n *names) nameOf(networks []string, addr netip.Addr) string {
	for _, id := range networks {
		if ep := n.member(id, addr); ep != nil {
			return n.snapshot.Sandbox(ep.SandboxID).Name + "." + n.snapshot.Network(id).Name
		}
		if svc := n.snapshot.ServiceWithAddr(id, addr); svc != nil {
			return svc.Name + "." + n.snapshot.Network(id).Name
		}
		if !n.hasRemote(id) {
			continue
		}
		if name := n.remote.At(id, addr); name != "" {
			return name + "." + n.snapshot.Network(id).Name
		}
	}
	return ""
}

// gated reports whether a client leaves one of its networks only by way of another sandbox.
func (n *names) gated(c *client) bool {
	return slices.ContainsFunc(c.networks, func(id string) bool {
		network := n.snapshot.Network(id)
		return network != nil && network.Router != "" && !network.IsRouter(c.Sandbox)
	})
}

// external reports whether one of the networks is not internal.
func (n *names) external(networks []string) bool {
	return slices.ContainsFunc(networks, func(id string) bool {
		network := n.snapshot.Network(id)
		return network != nil && !network.Internal
	})
}
