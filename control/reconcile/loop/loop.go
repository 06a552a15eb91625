// SPDX-License-Identifier: Apache-2.0

// Package loop decides when what is checked: it watches the host and the sandboxes, and checks them after events and
// in turn.
package loop

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/logonce"
	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
	"github.com/fairlead-net/fairlead/control/reconcile/repair"
)

// The timing. Any damage is repaired within 5 s: devices and addresses, on the host and in
// sandboxes, after an event of the kernel, the rest at the next tick.
const (
	tick     = 2 * time.Second
	Settle   = 100 * time.Millisecond // after a change, to collect those that follow
	distance = 500 * time.Millisecond // between checks, however much changes
	retry    = time.Second            // of a watch that ended, initially
	maxRetry = time.Minute            // and at most
)

// sandboxesPerTick bounds how many sandboxes are checked per tick.
const sandboxesPerTick = 50

// Loop keeps the kernel in the state of the last snapshot.
type Loop struct {
	state     *pass.State
	host      *check.Host
	sandboxes *repair.Sandboxes
	promoter  *Promoter
	pending   *Pending
	uplinks   *uplinks
	changed   chan struct{} // has a token if the host changed
}

// New returns a Loop over these checks.
func New(s *pass.State, host *check.Host, sandboxes *repair.Sandboxes, promoter *Promoter) *Loop {
	return &Loop{
		state: s, host: host, sandboxes: sandboxes, promoter: promoter, pending: NewPending(sandboxes),
		uplinks: newUplinks(s, host, promoter), changed: make(chan struct{}, 1),
	}
}

// Run checks and promotes until ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { keepWatching(ctx, l.state.Log, "devices", l.watchHost) })
	wg.Go(func() { l.uplinks.attach(ctx) })
	wg.Go(func() { keepWatching(ctx, l.state.Log, "sandboxes", l.pending.Watch) })
	wg.Go(func() { l.promoter.run(ctx) })
	wg.Go(func() { l.verify(ctx) })
	return l.check(ctx)
}

// check checks the host and the sandboxes, after events and in turn, until ctx ends.
func (l *Loop) check(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var last time.Time
	var due, pendingDue <-chan time.Time
	for {
		how := check.Quick
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.changed:
			if due == nil {
				due = time.After(max(Settle, time.Until(last.Add(distance))))
			}
			continue
		case <-l.pending.Ready:
			if pendingDue == nil {
				pendingDue = time.After(max(Settle, time.Until(l.pending.Rested)))
			}
			continue
		case <-pendingDue:
			pendingDue = nil
			l.pending.Check(ctx)
			if l.state.Unfinished() {
				wake(l.changed)
			}
			continue
		case <-due:
		case <-ticker.C:
			how = check.Regular
			// Errors are logged where they occur, here and below.
			_, _ = l.sandboxes.Check(ctx, l.sandboxes.Next(sandboxesPerTick))
		}
		due = nil
		_, _ = l.host.Check(ctx, how)
		last = time.Now()
	}
}

// verifyPause is the time between two parts of a large table: a round of 100 000 entries takes 4 s.
const verifyPause = 40 * time.Millisecond

// verify verifies the tables at every tick until ctx ends, large ones a part at a time.
func (l *Loop) verify(ctx context.Context) {
	var last logonce.Error
	for wait := tick; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !l.state.Started() {
			continue
		}
		start := time.Now()
		restored, more, err := l.state.Entries.VerifyPart()
		if last.IsNew(err) {
			l.state.Log.Error("cannot verify the tables", "err", err)
		}
		l.host.NoteVerified(ctx, start, restored, err)
		if wait = tick; more {
			wait = verifyPause
		}
	}
}

// keepWatching restarts a watch whenever it ends, with increasing delay, until ctx ends.
func keepWatching(ctx context.Context, log *slog.Logger, what string, watch func(context.Context) error) {
	for wait := retry; ctx.Err() == nil; wait = min(2*wait, maxRetry) {
		start := time.Now()
		err := watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > maxRetry {
			wait = retry
		}
		log.Warn("watch ended; changes are noticed late until it is restarted", "watch", what, "in", wait, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// wake puts a token into c unless c has one.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
