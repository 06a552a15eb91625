// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// shortID is how many digits of a sandbox's ID are a name of it.
const shortID = 12

// names are those of one snapshot.
type names struct {
	snapshot *model.Snapshot
	byName   map[place][]*model.Endpoint // by name in lower case
	byAddr   map[owner]*model.Endpoint
	of       map[string][]*model.Endpoint // by sandbox
	networks map[string]string            // ID by name in lower case
}

// place is a name in a network.
type place struct{ network, name string }

// owner is an address in a network.
type owner struct {
	network string
	addr    netip.Addr
}

// newNames lists the names of every sandbox in each of its networks.
func newNames(s *model.Snapshot) *names {
	n := &names{s, map[place][]*model.Endpoint{}, map[owner]*model.Endpoint{}, map[string][]*model.Endpoint{}, map[string]string{}}
	for id, network := range s.Networks {
		n.networks[strings.ToLower(network.Name)] = id
	}
	for _, ep := range s.Endpoints {
		sb := s.Sandboxes[ep.SandboxID]
		if sb == nil {
			continue
		}
		n.of[sb.ID] = append(n.of[sb.ID], ep)
		for _, addr := range []netip.Addr{ep.Addr(true), ep.Addr(false)} {
			if addr.IsValid() {
				n.byAddr[owner{ep.NetworkID, addr}] = ep
			}
		}
		for _, name := range namesOf(sb, ep) {
			at := place{ep.NetworkID, name}
			n.byName[at] = append(n.byName[at], ep)
		}
	}
	for _, own := range n.of {
		slices.SortFunc(own, func(a, b *model.Endpoint) int { return cmp.Compare(rank(a), rank(b)) })
	}
	return n
}

// rank orders a sandbox's endpoints: that of its default route, then as they were joined.
func rank(ep *model.Endpoint) int {
	if ep.Gateway {
		return -1
	}
	return ep.Order
}

// namesOf are a sandbox's names in the network of one of its endpoints, in lower case,
// each once.
func namesOf(sb *model.Sandbox, ep *model.Endpoint) (list []string) {
	for _, name := range append([]string{sb.Name, sb.ID[:min(shortID, len(sb.ID))], sb.Hostname}, ep.Aliases...) {
		if name = strings.ToLower(name); name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// networksOf are the networks whose names a member may know who asks in one: all he is
// a member of, the one of his default route first. nil: it is no member.
func (n *names) networksOf(asked string, from netip.Addr) (list []string) {
	ep := n.byAddr[owner{asked, from}]
	if ep == nil {
		return nil
	}
	for _, own := range n.of[ep.SandboxID] {
		list = append(list, own.NetworkID)
	}
	return list
}

// host reports whether an address is the host's own in a network.
func (n *names) host(network string, addr netip.Addr) bool {
	in := n.snapshot.Networks[network]
	return in != nil && slices.Contains(gateways(in), addr)
}

// find returns the endpoints that have a name, in the first of the networks that knows
// it. A name may be qualified by its network's, at any of its dots.
func (n *names) find(networks []string, name string) []*model.Endpoint {
	for _, id := range networks {
		if found := n.byName[place{id, name}]; len(found) > 0 {
			return found
		}
	}
	for i := len(name) - 1; i > 0; i-- {
		if name[i] != '.' {
			continue
		}
		id, ok := n.networks[name[i+1:]]
		if ok && slices.Contains(networks, id) && len(n.byName[place{id, name[:i]}]) > 0 {
			return n.byName[place{id, name[:i]}]
		}
	}
	return nil
}

// nameOf is the name of the sandbox that has an address in one of the networks,
// qualified by the network's; "": none has it.
func (n *names) nameOf(networks []string, addr netip.Addr) string {
	for _, id := range networks {
		if ep := n.byAddr[owner{id, addr}]; ep != nil {
			return n.snapshot.Sandboxes[ep.SandboxID].Name + "." + n.snapshot.Networks[id].Name
		}
	}
	return ""
}

// outside reports whether one of the networks has a way out.
func (n *names) outside(networks []string) bool {
	return slices.ContainsFunc(networks, func(id string) bool {
		network := n.snapshot.Networks[id]
		return network != nil && !network.Internal
	})
}
