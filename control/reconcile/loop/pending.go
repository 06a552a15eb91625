// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"context"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/repair"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
)

const (
	// SandboxesAtOnce bounds how many changed sandboxes are checked in a row.
	SandboxesAtOnce = 100
	// restFactor is how long verbs have the lock to themselves afterwards, as a multiple of the
	// time that the checks took: a sandbox whose program changes something all the time gets no
	// more than its share.
	restFactor = 3
)

// Pending are the sandboxes that changed and are not checked yet.
type Pending struct {
	*netns.Events
	Waiting []string  // IDs
	Rested  time.Time // before it, nothing is checked

	sandboxes *repair.Sandboxes
}

// NewPending returns Pending without events.
func NewPending(sandboxes *repair.Sandboxes) *Pending {
	return &Pending{Events: netns.NewEvents(), sandboxes: sandboxes}
}

// Check checks some of the sandboxes that changed, or may have. The repairs themselves
// cause events, and so one more check, which finds nothing to repair.
func (p *Pending) Check(ctx context.Context) {
	start := time.Now()
	for _, id := range p.sandboxes.Affected(p.Take()) {
		if !slices.Contains(p.Waiting, id) {
			p.Waiting = append(p.Waiting, id)
		}
	}
	n := min(len(p.Waiting), SandboxesAtOnce)
	busy := p.sandboxes.Busy(p.Waiting[:n])      // are left out
	_, _ = p.sandboxes.Check(ctx, p.Waiting[:n]) // errors are logged where they arise
	if p.Waiting = append(p.Waiting[n:], busy...); len(p.Waiting) > 0 {
		p.Wake()
	}
	end := time.Now()
	p.Rested = end.Add(restFactor * end.Sub(start))
}

// Watch collects events until ctx ends. The watch starts without sandboxes; each is added
// when it is checked, and the initial missed has all of them checked.
func (p *Pending) Watch(ctx context.Context) error {
	w, err := watch.NewSandboxes()
	if err != nil {
		return err
	}
	defer w.Close()
	p.sandboxes.SetWatch(w)
	defer p.sandboxes.SetWatch(nil)
	p.Missed()
	return w.Run(ctx, p.Note, p.Missed)
}
