// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"iter"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
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

func findNetwork(s *desired.Snapshot, ref string) (*model.Network, error) {
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
		return nil, refuse(model.ErrInvalid, "network %s is ambiguous (%d matches found on ID prefix; give more digits or the name)", ref, matches)
	}
	return nil, model.NoNetwork(ref)
}

func findSandbox(s *desired.Snapshot, ref string) (*model.Sandbox, error) {
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
		return nil, refuse(model.ErrInvalid, "sandbox %s is ambiguous (%d matches found on ID prefix; give more digits or the name)", ref, matches)
	}
	return nil, model.NoSandbox(ref)
}

// first returns the first of a sequence; nil if it is empty.
func first[V any](seq iter.Seq[*V]) *V {
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

// endpointsOf lists a sandbox's endpoints in the order of attachment.
func endpointsOf(s *desired.Snapshot, sandboxID string) []*model.Endpoint {
	return slices.Collect(s.EndpointsOf(sandboxID))
}

// connection returns the endpoint of a sandbox in a network; nil if there is none.
func connection(s *desired.Snapshot, sandboxID, networkID string) *model.Endpoint {
	for ep := range s.EndpointsOf(sandboxID) {
		if ep.NetworkID == networkID {
			return ep
		}
	}
	return nil
}

// joinersOf lists the sandboxes that share a sandbox's namespace, by name.
func joinersOf(s *desired.Snapshot, sandboxID string) []*model.Sandbox {
	return slices.SortedFunc(s.SandboxesInMode(model.ModeContainer+sandboxID), func(a, b *model.Sandbox) int { return strings.Compare(a.Name, b.Name) })
}

// sandboxName returns a name for messages. It is the short ID if the sandbox does not
// exist any more.
func sandboxName(s *desired.Snapshot, id string) string {
	if sb := s.Sandbox(id); sb != nil {
		return sb.Name
	}
	return model.ShortID(id)
}
