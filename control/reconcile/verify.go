// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"time"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
)

// verifyPause is the time between two parts of a large table: a round of 100 000 entries takes 4 s.
const verifyPause = 50 * time.Millisecond

// verifyLoop verifies the tables at every tick until ctx ends, large ones a part at a time.
func (r *Reconciler) verifyLoop(ctx context.Context) {
	var rest []verifier
	lastErr := ""
	for wait := tick; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !r.started() {
			continue
		}
		if len(rest) == 0 {
			rest = r.tables.verifiers()
		}
		start := time.Now()
		var restored int
		var err error
		if restored, rest, err = verifySome(rest); err == nil {
			lastErr = ""
		} else if lastErr != err.Error() {
			lastErr = err.Error()
			r.log.Error("cannot verify the tables", "err", err)
		}
		r.noteVerified(ctx, start, restored, err)
		if wait = tick; len(rest) > 0 {
			wait = verifyPause
		}
	}
}

// noteVerified records the result of a part of a verification.
func (r *Reconciler) noteVerified(ctx context.Context, start time.Time, restored int, err error) {
	if restored == 0 && err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.tables.noteFailed(err)
	p, passErr := r.newPass(ctx, r.snap, device.State{})
	if passErr != nil {
		return
	}
	p.repair = true
	p.count(RepairEntry, restored)
	r.finish(p, "resync", start, err)
}
