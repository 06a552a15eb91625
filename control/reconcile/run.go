// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/logonce"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
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

// loop keeps the kernel in the state of the last snapshot.
type loop struct {
	r        *Reconciler
	changed  chan struct{} // has a token if the host changed
	appeared chan uint32   // devices that may be new uplinks
	pending  pending
}

func newLoop(r *Reconciler) *loop {
	return &loop{
		r: r, changed: make(chan struct{}, 1), appeared: make(chan uint32, uplinkQueueLen),
		pending: pending{Events: netns.NewEvents()},
	}
}

// Run keeps the kernel in the state of the last snapshot until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	l := newLoop(r)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { l.keepWatching(ctx, "devices", l.watchHost) })
	wg.Go(func() { l.attachUplinks(ctx) })
	wg.Go(func() { l.keepWatching(ctx, "sandboxes", l.watchNetNS) })
	wg.Go(func() { l.promote(ctx) })
	wg.Go(func() { l.verify(ctx) })
	wg.Go(func() { r.followRemote(ctx) })
	return l.check(ctx)
}

// check checks the host and the sandboxes, after events and in turn, until ctx ends.
func (l *loop) check(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var last time.Time
	var due, pendingDue <-chan time.Time
	for {
		how := quick
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.changed:
			if due == nil {
				due = time.After(max(settle, time.Until(last.Add(distance))))
			}
			continue
		case <-l.pending.Ready:
			if pendingDue == nil {
				pendingDue = time.After(max(settle, time.Until(l.pending.rested)))
			}
			continue
		case <-pendingDue:
			pendingDue = nil
			l.checkPending(ctx)
			if l.r.unfinished() {
				wake(l.changed)
			}
			continue
		case <-due:
		case <-ticker.C:
			how = regular
			// Errors are logged where they occur, here and below.
			_, _ = l.r.checkSandboxes(ctx, l.r.nextSandboxes(sandboxesPerTick))
		}
		due = nil
		_, _ = l.r.check(ctx, how)
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
func (l *loop) keepWatching(ctx context.Context, what string, watch func(context.Context) error) {
	for wait := retry; ctx.Err() == nil; wait = min(2*wait, maxRetry) {
		start := time.Now()
		err := watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > maxRetry {
			wait = retry
		}
		l.r.log.Warn("watch ended; changes are noticed late until it is restarted", "watch", what, "in", wait, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// uplinkQueueLen bounds the queue of devices that may be new uplinks.
const uplinkQueueLen = 64

// watchHost watches the host until ctx ends.
func (l *loop) watchHost(ctx context.Context) error {
	send := func(index uint32) {
		select {
		case l.appeared <- index:
		default: // the next check finds it
		}
	}
	return watch.Host(ctx, l.r.nl, watch.Listener{
		Changed: func() { wake(l.changed) },
		FilterRemoved: func(ifindex int) {
			if l.r.programs.Suspect(ifindex) {
				wake(l.changed)
			}
		},
		Link: func(link rtnl.Link) {
			if l.r.uplinks.IsNew(link) {
				send(link.Index)
			}
		},
		Addr: send,
	})
}

// attachUplinks attaches programs to new uplinks without waiting for the next check: until they
// are attached, packets of flows would reach the host's stack.
func (l *loop) attachUplinks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case index := <-l.appeared:
			if link, err := l.r.nl.Link(index); err != nil || link.Ours() {
				continue // deleted, or a gateway
			}
			if err := l.r.attachUplinks(ctx); err != nil {
				l.r.log.Debug("cannot attach to new uplinks before the next check", "err", err)
			}
		}
	}
}

// promoteDelay is how long no verb must have run before filters that were attached fast are
// replaced by tcx links: replacing them earlier would delay what an engine does next with its
// container.
const promoteDelay = 500 * time.Millisecond

// promote replaces fast attachments by tcx links, one at a time, until ctx ends. The first pass of
// the next daemon promotes those that remain.
func (l *loop) promote(ctx context.Context) {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.r.promote:
		case <-due:
		}
		due = nil
		if wait, more := l.r.promoteOne(); more {
			due = time.After(wait)
		}
	}
}

// verifyPause is the time between two parts of a large table: a round of 100 000 entries takes 4 s.
const verifyPause = 40 * time.Millisecond

// verify verifies the tables at every tick until ctx ends, large ones a part at a time.
func (l *loop) verify(ctx context.Context) {
	var last logonce.Error
	for wait := tick; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !l.r.started() {
			continue
		}
		start := time.Now()
		restored, more, err := l.r.tables.VerifyPart()
		if last.IsNew(err) {
			l.r.log.Error("cannot verify the tables", "err", err)
		}
		l.r.noteVerified(ctx, start, restored, err)
		if wait = tick; more {
			wait = verifyPause
		}
	}
}

const (
	// sandboxesAtOnce bounds how many changed sandboxes are checked in a row.
	sandboxesAtOnce = 100
	// restFactor is how long verbs have the lock to themselves afterwards, as a multiple of the
	// time that the checks took: a sandbox whose program changes something all the time gets no
	// more than its share.
	restFactor = 3
)

// pending are the sandboxes that changed and are not checked yet.
type pending struct {
	*netns.Events
	waiting []string // IDs
	rested  time.Time
}

// checkPending checks some of the sandboxes that changed, or may have. The repairs themselves
// cause events, and so one more check, which finds nothing to repair.
func (l *loop) checkPending(ctx context.Context) {
	b := &l.pending
	start := time.Now()
	for _, id := range l.r.affected(b.Take()) {
		if !slices.Contains(b.waiting, id) {
			b.waiting = append(b.waiting, id)
		}
	}
	n := min(len(b.waiting), sandboxesAtOnce)
	busy := l.r.busy(b.waiting[:n])               // are left out
	_, _ = l.r.checkSandboxes(ctx, b.waiting[:n]) // errors are logged where they arise
	if b.waiting = append(b.waiting[n:], busy...); len(b.waiting) > 0 {
		b.Wake()
	}
	end := time.Now()
	b.rested = end.Add(restFactor * end.Sub(start))
}

// watchNetNS collects events until ctx ends. The watch starts without sandboxes; each is added
// when it is checked, and the initial missed has all of them checked.
func (l *loop) watchNetNS(ctx context.Context) error {
	w, err := watch.NewSandboxes()
	if err != nil {
		return err
	}
	defer w.Close()
	l.r.setWatch(w)
	defer l.r.setWatch(nil)
	l.pending.Missed()
	return w.Run(ctx, l.pending.Note, l.pending.Missed)
}

// RemoteBackend is a backend of a service on another node.
type RemoteBackend = objects.RemoteBackend

// remoteSettle is how long changes on other nodes are collected: a service's tables are computed
// again for each, and a node that starts brings many.
const remoteSettle = 20 * time.Millisecond

// remoteChanges are the networks whose backends on other nodes changed.
type remoteChanges struct {
	mu       sync.Mutex
	networks map[string]bool
	wake     chan struct{} // has a token if there are any
	applying func(networks map[string]bool) (applied func())
}

// SetRemote sets the source of the backends that services have on other nodes. What they are is not
// part of a snapshot: RemoteChanged says when it is another. applying is called before such a change is applied,
// and what it returns afterwards, unless that failed.
func (r *Reconciler) SetRemote(backends func(*model.Service) []RemoteBackend, applying func(networks map[string]bool) (applied func())) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.objects.Remote, r.remote.applying = backends, applying
}

// RemoteChanged schedules the services of a network whose members on other nodes changed. It does not
// wait.
func (r *Reconciler) RemoteChanged(network string) {
	r.remote.mu.Lock()
	defer r.remote.mu.Unlock()
	r.remote.networks[network] = true
	wake(r.remote.wake)
}

// followRemote updates the services of changed networks until ctx ends.
func (r *Reconciler) followRemote(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.remote.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(remoteSettle):
		}
		if err := r.updateRemote(ctx); err != nil {
			r.log.Error("cannot update services after a change on another node; the next check tries again", "err", err)
		}
	}
}

// updateRemote updates the services of the networks that changed.
func (r *Reconciler) updateRemote(ctx context.Context) error {
	r.remote.mu.Lock()
	changed := r.remote.networks
	r.remote.networks = make(map[string]bool)
	r.remote.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.snap == nil {
		return nil // the first Apply finds them
	}
	applied := r.remote.applying(changed)
	p, err := r.newPass(ctx, r.snap, device.State{})
	if err != nil {
		return err
	}
	for id := range changed {
		p.TouchServices(id)
	}
	if len(p.Services) > 0 {
		p.run()
	}
	if len(p.Errs) == 0 {
		applied()
	}
	return errors.Join(p.Errs...)
}
