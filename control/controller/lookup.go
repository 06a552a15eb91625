// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
)

// Network finds a network by full ID, by name, or by a unique prefix of its ID, in
// this order.
func (c *Controller) Network(ref string) (*model.Network, error) {
	return findNetwork(c.Snapshot(), ref)
}

// Sandbox finds a sandbox as Network finds a network. An engine-managed sandbox is also
// found by the engine's ID of the container.
func (c *Controller) Sandbox(ref string) (*model.Sandbox, error) {
	return findSandbox(c.Snapshot(), ref)
}

func findNetwork(s *model.Snapshot, ref string) (*model.Network, error) {
	n, matches := find(s.Networks, ref, (*model.Network).HasName, nil)
	switch {
	case n != nil:
		return n, nil
	case matches > 1:
		return nil, refuse(model.ErrInvalid, "network %s is ambiguous (%d matches found on ID prefix; give more digits or the name)", ref, matches)
	}
	return nil, model.NoNetwork(ref)
}

func findSandbox(s *model.Snapshot, ref string) (*model.Sandbox, error) {
	sb, matches := find(s.Sandboxes, ref, (*model.Sandbox).HasName, func(sb *model.Sandbox) string { return sb.EngineID })
	switch {
	case sb != nil:
		return sb, nil
	case matches > 1:
		return nil, refuse(model.ErrInvalid, "sandbox %s is ambiguous (%d matches found on ID prefix; give more digits or the name)", ref, matches)
	}
	return nil, model.NoSandbox(ref)
}

// find returns the object that ref identifies, or nil and the number of matches. otherID,
// if not nil, returns another ID of an object.
func find[V any](m map[string]*V, ref string, hasName func(*V, string) bool, otherID func(*V) string) (*V, int) {
	if v := m[ref]; v != nil {
		return v, 1
	}
	var byID *V
	matches := 0
	for id, v := range m {
		if hasName(v, ref) {
			return v, 1
		}
		if ref != "" && (strings.HasPrefix(id, ref) || otherID != nil && strings.HasPrefix(otherID(v), ref)) {
			byID = v
			matches++
		}
	}
	if matches == 1 {
		return byID, 1
	}
	return nil, matches
}

// endpointsOf lists a sandbox's endpoints in the order of attachment.
func endpointsOf(s *model.Snapshot, sandboxID string) []*model.Endpoint {
	var out []*model.Endpoint
	for _, ep := range s.Endpoints {
		if ep.SandboxID == sandboxID {
			out = append(out, ep)
		}
	}
	slices.SortFunc(out, func(a, b *model.Endpoint) int { return cmp.Compare(a.Order, b.Order) })
	return out
}

// membersOf lists a network's endpoints by ID.
func membersOf(s *model.Snapshot, networkID string) []*model.Endpoint {
	var out []*model.Endpoint
	for _, id := range slices.Sorted(maps.Keys(s.Endpoints)) {
		if ep := s.Endpoints[id]; ep.NetworkID == networkID {
			out = append(out, ep)
		}
	}
	return out
}

func hasMembers(s *model.Snapshot, networkID string) bool {
	for _, ep := range s.Endpoints {
		if ep.NetworkID == networkID {
			return true
		}
	}
	return false
}

// joinersOf lists the sandboxes that share a sandbox's namespace.
func joinersOf(s *model.Snapshot, sandboxID string) []*model.Sandbox {
	var out []*model.Sandbox
	for _, sb := range s.Sandboxes {
		if sb.NetworkMode == modeContainer+sandboxID {
			out = append(out, sb)
		}
	}
	slices.SortFunc(out, func(a, b *model.Sandbox) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// sandboxName returns a name for messages. It is the short ID if the sandbox does not
// exist any more.
func sandboxName(s *model.Snapshot, id string) string {
	if sb := s.Sandboxes[id]; sb != nil {
		return sb.Name
	}
	return short(id)
}
