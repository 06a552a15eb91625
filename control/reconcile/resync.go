// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/loader"
)

// The timing of Run. Any damage is repaired within 5 s: devices and addresses, on the host and in
// sandboxes, after an event of the kernel, the rest at the next tick.
const (
	tick     = 2 * time.Second
	settle   = 100 * time.Millisecond // after a change, to collect those that follow
	distance = 500 * time.Millisecond // between checks, however much changes
	retry    = time.Second            // of a watch that ended, initially
	maxRetry = time.Minute            // and at most

	// maxHostReads bounds how often the host is read without the lock while it changes.
	maxHostReads = 2
)

// thoroughness is the scope of a check of the host's side.
type thoroughness int

const (
	quick   thoroughness = iota // devices, addresses, uplinks
	regular                     // also attachments
	full                        // also tables, which otherwise verifyLoop verifies
)

// Resync reads everything back (devices, addresses, sysctls, attachments, tables, and the network
// namespaces of all sandboxes), repairs what differs from the last snapshot, and returns what it
// repaired.
func (r *Reconciler) Resync(ctx context.Context) (Repairs, error) {
	repairs, err := r.check(ctx, full)
	if err != nil {
		return repairs, err
	}
	inside, err := r.checkSandboxes(ctx, r.nextSandboxes(-1))
	repairs.add(inside)
	if r.unfinished() {
		more, checkErr := r.check(ctx, full)
		repairs.add(more)
		err = checkErr
	}
	return repairs, err
}

// unfinished reports whether a pass left something for the next one.
func (r *Reconciler) unfinished() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rerun
}

// Run keeps the kernel in the state of the last snapshot until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	changed, queue := make(chan struct{}, 1), pending{Events: netns.NewEvents()}
	uplinks := make(chan uint32, uplinkQueueLen)
	wg.Go(func() {
		r.keepWatching(ctx, "devices", func() error { return r.watchHost(ctx, changed, uplinks) })
	})
	wg.Go(func() { r.uplinkLoop(ctx, uplinks) })
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

// check compares the host's side with the snapshot, and repairs it.
func (r *Reconciler) check(ctx context.Context, how thoroughness) (Repairs, error) {
	repairs, err := r.checkOnce(ctx, how)
	if err == nil && r.unfinished() {
		var more Repairs
		more, err = r.checkOnce(ctx, how)
		repairs.add(more)
	}
	return repairs, err
}

// checkOnce reads before it takes the lock, so that verbs do not wait long. The list of
// attachments may be slightly outdated, but a redundant attach or detach changes nothing.
func (r *Reconciler) checkOnce(ctx context.Context, how thoroughness) (Repairs, error) {
	start := time.Now()
	if !r.started() {
		return newRepairs(), nil // no snapshot to compare with yet
	}
	var errs [2]error
	var attached []loader.Attachment
	restored := 0
	if how >= regular {
		if attached, errs[0] = r.dp.Attached(); errs[0] == nil && attached == nil {
			attached = []loader.Attachment{}
		}
	}
	if how == full {
		restored, errs[1] = r.tables.verify()
	}
	s, err := r.readHostLocked()
	defer r.mu.Unlock()
	if err = errors.Join(append(errs[:], err)...); err != nil {
		_ = r.tables.noteFailed(errs[1])
		r.logCheckErr(err)
		return newRepairs(), err
	}
	p, err := r.newPass(ctx, r.snap, s)
	if err != nil {
		return newRepairs(), err
	}
	p.repair, r.rerun = true, false
	p.count(RepairEntry, restored)
	err = p.checkHost(how, attached)
	if err == nil {
		err = r.commit()
	}
	r.logCheckErr(err)
	r.finish(p, "resync", start, err)
	return p.repairs, err
}

// checkHost repairs what the pass found to differ.
func (p *pass) checkHost(how thoroughness, attached []loader.Attachment) error {
	errs := []error{p.sweep()}
	p.findDirty()
	p.run()
	errs = append(errs, p.errs...)
	if how >= regular && p.r.tables.unsynced {
		errs = append(errs, p.syncTables())
	}
	errs = append(errs, p.checkUplinks(), p.checkCgroup(), p.checkAttachments(attached))
	return errors.Join(errs...)
}

// syncTables makes the tables contain exactly the objects' entries.
func (p *pass) syncTables() error {
	all := p.r.entries()
	restored, err := p.r.tables.sync(&all)
	p.count(RepairEntry, restored)
	return err
}

// entries returns the entries of all objects.
func (r *Reconciler) entries() entries.Set {
	var all entries.Set
	for _, n := range r.networks {
		all.Add(n.entries)
	}
	for _, e := range r.endpoints {
		all.Add(e.entries)
	}
	for _, b := range r.publishes {
		all.Publishes = entries.AppendRuns(all.Publishes, b.runs)
	}
	return all
}

// checkAttachments makes sure that every program is attached where it should be, and nowhere
// else.
func (p *pass) checkAttachments(have []loader.Attachment) error {
	restored, err := p.r.attachments.check(have, p.r.places(), p.first)
	p.count(RepairProgram, restored)
	return err
}

// started reports whether there was a first Apply.
func (r *Reconciler) started() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snap != nil
}

// readHostLocked reads the host's state and returns with the lock held. It reads without the
// lock, and again if a pass ran meanwhile; after maxHostReads attempts it reads with the lock
// held.
func (r *Reconciler) readHostLocked() (device.State, error) {
	for range maxHostReads {
		r.mu.Lock()
		before := r.passes
		r.mu.Unlock()
		s, err := device.Read(r.nl)
		r.mu.Lock()
		if err != nil || r.passes == before {
			return s, err
		}
		r.mu.Unlock()
	}
	r.mu.Lock()
	return device.Read(r.nl)
}

// logCheckErr logs an error that keeps a check from completing, unless it logged it last time.
func (r *Reconciler) logCheckErr(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != r.lastCheckErr {
		r.log.Error("check of the kernel's objects is incomplete", "err", err)
	}
	r.lastCheckErr = text
}

// finish records a pass that repairs.
func (r *Reconciler) finish(p *pass, operation string, start time.Time, err error) {
	vanished := 0
	for _, b := range r.sandboxes {
		if b.Vanished() {
			vanished++
		}
	}
	r.stats.repaired(p.repairs, vanished)
	for kind, n := range p.repairs {
		if n > 0 {
			r.log.Warn("repaired what others broke", "kind", kind, "count", n)
		}
	}
	r.done(operation, start, err)
}

// findDirty adds to the pass what needs a repair: what differs from the state that the pass read,
// and what an earlier pass failed on.
func (p *pass) findDirty() {
	for id, n := range p.r.networks {
		if n.want == nil {
			p.removedNets = append(p.removedNets, n)
			continue
		}
		f, ok := p.r.kinds.HostPort.Check(p.host, id, n.ends)
		if n.dirty || !ok || f.Ends() != n.ends {
			p.touchNetwork(n)
			continue
		}
		p.netDevices[id] = f // compared; no change if it matches
	}
	for id, e := range p.r.endpoints {
		if e.want == nil {
			p.removedEps = append(p.removedEps, e)
			continue
		}
		f, ok := e.kind.Check(p.host, id, e.ends)
		if e.dirty || !ok || f.Host.Index != e.ends.Host {
			p.eps[id] = e
			continue
		}
		e.ends = f.Ends()
		p.epDevices[id] = f
		b := p.r.sandboxes[e.want.SandboxID]
		if b != nil && (!f.Host.Running || p.isTracked(b, e)) {
			p.boxes[b.ID] = b // the other end is down or was moved, possibly by an engine
		}
	}
	for id, b := range p.r.sandboxes {
		if p.s.Sandbox(id) == nil {
			p.removedBoxes = append(p.removedBoxes, b)
		} else if b.dirty {
			p.boxes[id] = b
		}
	}
}

// checkCgroup makes sure that the socket programs are attached.
func (p *pass) checkCgroup() error {
	changed, err := p.r.dp.AttachCgroup()
	p.count(RepairProgram, changed)
	return err
}

// places returns where programs should be attached.
func (r *Reconciler) places() map[place]bool {
	all := make(map[place]bool)
	add := func(places []place) {
		for _, at := range places {
			all[at] = true
		}
	}
	for _, n := range r.networks {
		if n.usable() {
			add(r.kinds.HostPort.Places(n.ends))
		}
	}
	for _, e := range r.endpoints {
		if e.want != nil {
			add(e.kind.Places(e.ends))
		}
	}
	add(r.uplinks.Places())
	return all
}
