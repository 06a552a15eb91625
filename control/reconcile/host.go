// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// VanishedSandboxes lists the sandboxes whose namespace ended at least that long ago: there is
// none at its path, and none of its devices is left. A namespace that still exists without a
// path, or that this process cannot see, does not count.
func (r *Reconciler) VanishedSandboxes(least time.Duration) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for id, b := range r.sandboxes {
		if b.VanishedFor(least) && !r.hasDevice(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// hasDevice reports whether an endpoint of the sandbox has a device, or may have one.
func (r *Reconciler) hasDevice(id string) bool {
	for _, e := range r.appendMade(nil, id) {
		if _, err := r.nl.Link(e.ends.Host); !errors.Is(err, rtnl.ErrNoDevice) {
			return true
		}
	}
	return false
}

// InnerEnd reports where the inner end of an engine-managed endpoint is. It reads the kernel,
// since callers ask about changes that others made a moment ago.
func (r *Reconciler) InnerEnd(ep *model.Endpoint) (model.InnerEnd, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.endpoints[ep.ID]
	if e == nil || e.ends.Host == 0 {
		return model.InnerDeleted, nil
	}
	return e.kind.InnerEnd(ep, e.ends)
}
