// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"context"
	"time"

	"github.com/fairlead-net/fairlead/control/reconcile/pass"
)

// PromoteDelay is how long no verb must have run before filters that were attached fast are
// replaced by tcx links: replacing them earlier would delay what an engine does next with its
// container.
const PromoteDelay = 500 * time.Millisecond

// Promoter replaces fast attachments by tcx links. The first pass of the next daemon promotes those that remain.
type Promoter struct {
	state *pass.State
	wake  chan struct{} // has a token if some attachments are unpromoted

	// LastVerb is when the last verb ended. The lock of the state guards it.
	LastVerb time.Time
}

// NewPromoter returns a Promoter.
func NewPromoter(s *pass.State) *Promoter {
	return &Promoter{state: s, wake: make(chan struct{}, 1)}
}

// Wake wakes the promoter if there is something to promote.
func (p *Promoter) Wake() {
	if p.state.Programs.Unpromoted() {
		wake(p.wake)
	}
}

// run promotes, one attachment at a time, until ctx ends.
func (p *Promoter) run(ctx context.Context) {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-due:
		}
		due = nil
		if wait, more := p.One(); more {
			due = time.After(wait)
		}
	}
}

// One promotes one attachment, in the turn of the object that it belongs to. If a verb ran within PromoteDelay or
// works on all of these objects, it promotes none and returns how long to wait.
func (p *Promoter) One() (wait time.Duration, more bool) {
	s := p.state
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if wait := time.Until(p.LastVerb.Add(PromoteDelay)); wait > 0 {
		return wait, true
	}
	at, owner, ok := s.Programs.NextUnpromoted(s.Turns.Free)
	if !ok {
		return PromoteDelay, s.Programs.Unpromoted()
	}
	s.Turns.Take(owner)
	h := s.Turns.Begin(owner)
	h.Outside(func() { s.Programs.Promote(at) })
	h.End()
	return 0, s.Programs.Unpromoted()
}
