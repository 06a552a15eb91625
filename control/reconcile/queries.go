// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
)

// Check inspects a sandbox and its endpoints immediately and repairs them. It returns what it
// could not repair; the error is a [model.ErrVanished] if the namespace no longer exists, by the
// rules of [Reconciler.VanishedSandboxes].
func (r *Reconciler) Check(ctx context.Context, id string) error {
	return r.sandboxes.CheckOne(ctx, id)
}

// VanishedSandboxes lists the sandboxes whose namespace ended at least that long ago: there is
// none at its path, and none of its devices is left. A namespace that still exists without a
// path, or that this process cannot see, does not count.
func (r *Reconciler) VanishedSandboxes(least time.Duration) []string {
	return r.sandboxes.Vanished(least)
}

// Compare compares an endpoint's interface in its sandbox with what the runtime was given: the
// name must be the endpoint's, and the default routes via these gateways must use the interface.
// Differences, which a program in the sandbox made, are reported and not repaired.
func (r *Reconciler) Compare(endpointID string, gateways []netip.Addr) error {
	s := r.state
	s.Mu.Lock()
	e := s.Objects.Endpoints[endpointID]
	if e == nil || e.Want == nil || s.Objects.Sandboxes[e.Want.SandboxID] == nil {
		s.Mu.Unlock()
		return fmt.Errorf("endpoint %s does not exist", model.ShortID(endpointID))
	}
	b, peer, name := s.Objects.Sandboxes[e.Want.SandboxID].Sandbox, e.Ends.Peer, e.Want.IfName
	s.Mu.Unlock()
	return s.Namespaces.Compare(&b, peer, name, gateways)
}

// InnerEnd reports where the inner end of an engine-managed endpoint is. It reads the kernel,
// since callers ask about changes that others made a moment ago.
func (r *Reconciler) InnerEnd(ep *model.Endpoint) (model.InnerEnd, error) {
	s := r.state
	s.Mu.Lock()
	e := s.Objects.Endpoints[ep.ID]
	if e == nil || e.Ends.Host == 0 {
		s.Mu.Unlock()
		return model.InnerDeleted, nil
	}
	kind, ends := e.Kind, e.Ends
	s.Mu.Unlock()
	return kind.InnerEnd(ep, ends)
}

// Stats returns the statistics so far.
func (r *Reconciler) Stats() report.Stats { return r.state.Stats.Get() }
