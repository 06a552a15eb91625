// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"time"
)

// promoteDelay is how long no verb must have run before filters that were attached fast are
// replaced by tcx links: replacing them earlier would delay what an engine does next with its
// container.
const promoteDelay = 500 * time.Millisecond

// promoteLoop replaces fast attachments by tcx links, one at a time, until ctx ends. The first
// pass of the next daemon promotes those that remain.
func (r *Reconciler) promoteLoop(ctx context.Context) {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.attachments.promote:
		case <-due:
		}
		due = nil
		if wait, more := r.promoteOne(); more {
			due = time.After(wait)
		}
	}
}

// promoteOne promotes one attachment. If a verb ran within promoteDelay, it promotes none and
// returns how long to wait.
func (r *Reconciler) promoteOne() (wait time.Duration, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wait := time.Until(r.lastApply.Add(promoteDelay)); wait > 0 {
		return wait, true
	}
	return 0, r.attachments.promoteOne()
}
