// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"time"
)

// verifyPause is the time between two parts of a large table: a round of 100 000 entries takes 4 s.
const verifyPause = 50 * time.Millisecond

// verify reads the tables of networks, endpoints and publishes back and restores entries that
// others changed.
func (t *Tables) verify() (restored int, err error) {
	var errs []error
	for _, verify := range []func() (int, error){
		t.Subnets.Verify, t.Endpoints.Verify, t.FDB.Verify, t.Neighbours.Verify, t.Publishes.Verify,
	} {
		n, err := verify()
		restored += n
		errs = append(errs, err)
	}
	return restored, errors.Join(errs...)
}

// verifier verifies a part of a table.
type verifier func() (restored int, more bool, err error)

// verifiers returns the verifiers of the same tables.
func (t *Tables) verifiers() []verifier {
	return []verifier{
		t.Subnets.VerifySome, t.Endpoints.VerifySome, t.FDB.VerifySome, t.Neighbours.VerifySome, t.Publishes.VerifySome,
	}
}

// verifySome runs verifiers and returns those that have more to verify in this round.
func verifySome(all []verifier) (restored int, rest []verifier, err error) {
	var errs []error
	for _, verify := range all {
		n, more, err := verify()
		restored += n
		if errs = append(errs, err); more {
			rest = append(rest, verify)
		}
	}
	return restored, rest, errors.Join(errs...)
}

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
	r.unsynced = r.unsynced || err != nil // so that the next check writes what is missing
	p, passErr := r.newPass(ctx, r.snap)
	if passErr != nil {
		return
	}
	p.repair = true
	p.count(RepairEntry, restored)
	r.finish(p, "resync", start, err)
}
