// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// FindNetwork finds a network by full ID, by name, or by a unique prefix of its ID, in
// this order.
func (s *Snapshot) FindNetwork(ref string) (*model.Network, error) {
	if n := s.Network(ref); n != nil {
		return n, nil
	}
	for n := range s.NetworksNamed(ref) {
		if n.HasName(ref) {
			return n, nil
		}
	}
	n, matches := byPrefix(s.NetworksByPrefix(ref))
	switch {
	case ref == "":
	case n != nil:
		return n, nil
	case matches > 1:
		return nil, model.Refuse(model.ErrInvalid, "network %s is ambiguous (%d matches found on ID prefix; give more digits or the name)", ref, matches)
	}
	return nil, model.NoNetwork(ref)
}

// FindSandbox finds a sandbox as FindNetwork finds a network. An engine-managed sandbox is
// also found by the engine's ID of the container.
func (s *Snapshot) FindSandbox(ref string) (*model.Sandbox, error) {
	if sb := s.Sandbox(ref); sb != nil {
		return sb, nil
	}
	for sb := range s.SandboxesNamed(ref) {
		if sb.HasName(ref) {
			return sb, nil
		}
	}
	sb, matches := byPrefix(s.SandboxesByPrefix(ref), s.SandboxesByEnginePrefix(ref))
	switch {
	case ref == "":
	case sb != nil:
		return sb, nil
	case matches > 1:
		return nil, model.Refuse(model.ErrInvalid, "sandbox %s is ambiguous (%d matches found on ID prefix; give more digits or the name)", ref, matches)
	}
	return nil, model.NoSandbox(ref)
}

// EngineNetwork returns the network that a container engine knows by an ID: its own, or the shared one
// that it is; nil if there is none.
func (s *Snapshot) EngineNetwork(id string) *model.Network {
	if n := s.Network(id); n != nil && n.ManagedBy == model.ByEngine {
		return n
	}
	return First(s.networks.with(keyEngineID(id)))
}

// HasEngineMembers reports whether a network has an endpoint that a container engine requested.
func (s *Snapshot) HasEngineMembers(n *model.Network) bool {
	for ep := range s.Members(n.ID) {
		if n.ManagedBy == model.ByEngine || !ep.Reserved.IsZero() {
			return true
		}
	}
	return false
}

// First returns the first of a sequence; nil if it is empty.
func First[V any](seq iter.Seq[*V]) *V {
	for v := range seq {
		return v
	}
	return nil
}

// byPrefix returns the one object of the sequences; nil and their number if there is not
// exactly one.
func byPrefix[V any](seqs ...iter.Seq[*V]) (*V, int) {
	found := map[*V]bool{}
	var last *V
	for _, seq := range seqs {
		for v := range seq {
			found[v], last = true, v
		}
	}
	if len(found) != 1 {
		return nil, len(found)
	}
	return last, 1
}

// FindConnection returns a sandbox's endpoint in a network, or its only one.
func (s *Snapshot) FindConnection(sb *model.Sandbox, netRef string) (*model.Endpoint, error) {
	if netRef != "" {
		n, err := s.FindNetwork(netRef)
		if err != nil {
			return nil, err
		}
		if ep := s.Connection(sb.ID, n.ID); ep != nil {
			return ep, nil
		}
		return nil, model.NotConnected(sb.Name, n.Name)
	}
	all := slices.Collect(s.EndpointsOf(sb.ID))
	switch len(all) {
	case 1:
		return all[0], nil
	case 0:
		return nil, model.Refuse(model.ErrInvalid, "sandbox %q has no interface of its own (name the sandbox whose network it shares)", sb.Name)
	}
	var names []string
	for _, ep := range all {
		names = append(names, s.Network(ep.NetworkID).Name)
	}
	slices.Sort(names)
	return nil, model.Refuse(model.ErrInvalid, "sandbox %q is connected to several networks (name one of them: %s)", sb.Name, strings.Join(names, ", "))
}

// Connection returns the endpoint of a sandbox in a network; nil if there is none.
func (s *Snapshot) Connection(sandboxID, networkID string) *model.Endpoint {
	for ep := range s.EndpointsOf(sandboxID) {
		if ep.NetworkID == networkID {
			return ep
		}
	}
	return nil
}

// Joiners lists the sandboxes that share a sandbox's namespace, by name.
func (s *Snapshot) Joiners(sandboxID string) []*model.Sandbox {
	return slices.SortedFunc(s.SandboxesInMode(model.ModeContainer+sandboxID), func(a, b *model.Sandbox) int { return strings.Compare(a.Name, b.Name) })
}

// SandboxName returns a name for messages. It is the short ID if the sandbox does not
// exist any more.
func (s *Snapshot) SandboxName(id string) string {
	if sb := s.Sandbox(id); sb != nil {
		return sb.Name
	}
	return model.ShortID(id)
}

// OverlappingNetwork finds a network that claims a prefix which overlaps p, and that prefix.
func (s *Snapshot) OverlappingNetwork(p netip.Prefix) (*model.Network, netip.Prefix) {
	for n := range s.Networks() {
		for _, o := range n.Claimed() {
			if o.Prefix.Overlaps(p) {
				return n, o.Prefix
			}
		}
	}
	return nil, netip.Prefix{}
}

// OverlappingPool finds an engine's pool that overlaps p; nil if there is none.
func (s *Snapshot) OverlappingPool(p netip.Prefix) *model.AddressPool {
	for o := range s.Pools() {
		if o.Prefix.Overlaps(p) {
			return o
		}
	}
	return nil
}
