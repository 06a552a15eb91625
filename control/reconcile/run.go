// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// The timing of Run. Any damage is repaired within 5 s: devices and addresses, on the host and in
// sandboxes, after an event of the kernel, the rest at the next tick.
const (
	tick     = 2 * time.Second
	settle   = 100 * time.Millisecond // after a change, to collect those that follow
	distance = 500 * time.Millisecond // between checks, however much changes
	retry    = time.Second            // of a watch that ended, initially
	maxRetry = time.Minute            // and at most
)

// Run keeps the kernel in the state of the last snapshot until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	changed, queue := make(chan struct{}, 1), pending{Events: netns.NewEvents()}
	appeared := make(chan uint32, uplinkQueueLen)
	wg.Go(func() {
		r.keepWatching(ctx, "devices", func() error { return r.watchHost(ctx, changed, appeared) })
	})
	wg.Go(func() { r.uplinkLoop(ctx, appeared) })
	wg.Go(func() {
		r.keepWatching(ctx, "sandboxes", func() error { return r.watchNetNS(ctx, queue.Events) })
	})
	wg.Go(func() { r.promoteLoop(ctx) })
	wg.Go(func() { r.verifyLoop(ctx) })

	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var last time.Time
	var due, pendingDue <-chan time.Time
	for {
		how := quick
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			if due == nil {
				due = time.After(max(settle, time.Until(last.Add(distance))))
			}
			continue
		case <-queue.Ready:
			if pendingDue == nil {
				pendingDue = time.After(max(settle, time.Until(queue.rested)))
			}
			continue
		case <-pendingDue:
			pendingDue = nil
			r.checkPending(ctx, &queue)
			if r.unfinished() {
				wake(changed)
			}
			continue
		case <-due:
		case <-ticker.C:
			how = regular
			// Errors are logged where they occur, here and below.
			_, _ = r.checkSandboxes(ctx, r.nextSandboxes(sandboxesPerTick))
		}
		due = nil
		_, _ = r.check(ctx, how)
		last = time.Now()
	}
}

// wake puts a token into c unless c has one.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keepWatching restarts a watch whenever it ends, with increasing delay, until ctx ends.
func (r *Reconciler) keepWatching(ctx context.Context, what string, watch func() error) {
	for wait := retry; ctx.Err() == nil; wait = min(2*wait, maxRetry) {
		start := time.Now()
		err := watch()
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > maxRetry {
			wait = retry
		}
		r.log.Warn("watch ended; changes are noticed late until it is restarted", "watch", what, "in", wait, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// uplinkQueueLen bounds the queue of possible new uplinks for uplinkLoop.
const uplinkQueueLen = 64

// watchHost watches the host until ctx ends. It sends possible new uplinks to appeared, for
// uplinkLoop, and wakes changed for everything else.
func (r *Reconciler) watchHost(ctx context.Context, changed chan<- struct{}, appeared chan<- uint32) error {
	send := func(index uint32) {
		select {
		case appeared <- index:
		default: // the check that changed wakes finds it
		}
	}
	return r.nl.Watch(ctx, rtnl.Listener{
		Changed: func() { wake(changed) },
		FilterRemoved: func(ifindex int) {
			if r.programs.Suspect(ifindex) {
				wake(changed)
			}
		},
		Link: func(l rtnl.Link) {
			if r.uplinks.IsNew(l) {
				send(l.Index)
			}
		},
		Addr: send,
	})
}

// uplinkLoop attaches programs to new uplinks without waiting for the next check: until they are
// attached, packets of flows would reach the host's stack.
func (r *Reconciler) uplinkLoop(ctx context.Context, appeared <-chan uint32) {
	for {
		select {
		case <-ctx.Done():
			return
		case index := <-appeared:
			if l, err := r.nl.Link(index); err != nil || l.Ours() {
				continue // deleted, or a gateway
			}
			if err := r.attachUplinks(ctx); err != nil {
				r.log.Debug("cannot attach to new uplinks before the next check", "err", err)
			}
		}
	}
}

// attachUplinks finds the uplinks and attaches missing programs.
func (r *Reconciler) attachUplinks(ctx context.Context) error {
	if !r.started() {
		return nil
	}
	s, err := r.readHostLocked()
	defer r.mu.Unlock()
	if err != nil {
		return err
	}
	p, err := r.newPass(ctx, r.snap, s)
	if err != nil {
		return err
	}
	p.Repair = true
	err = errors.Join(p.checkUplinks(), r.programs.AttachNew(r.uplinks.Places()))
	r.wakePromoter()
	return err
}

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
		case <-r.promote:
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
	return 0, r.programs.PromoteOne()
}

// wakePromoter wakes promoteLoop if there is something to promote.
func (r *Reconciler) wakePromoter() {
	if r.programs.Unpromoted() {
		wake(r.promote)
	}
}

// verifyPause is the time between two parts of a large table: a round of 100 000 entries takes 4 s.
const verifyPause = 50 * time.Millisecond

// verifyLoop verifies the tables at every tick until ctx ends, large ones a part at a time.
func (r *Reconciler) verifyLoop(ctx context.Context) {
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
		start := time.Now()
		restored, more, err := r.tables.VerifyPart()
		if err == nil {
			lastErr = ""
		} else if lastErr != err.Error() {
			lastErr = err.Error()
			r.log.Error("cannot verify the tables", "err", err)
		}
		r.noteVerified(ctx, start, restored, err)
		if wait = tick; more {
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
	_ = r.tables.NoteFailed(err)
	p, passErr := r.newPass(ctx, r.snap, device.State{})
	if passErr != nil {
		return
	}
	p.Repair = true
	p.Count(report.Entry, restored)
	r.finish(p, "resync", start, err)
}
