// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

const (
	// sandboxesPerTick bounds how many sandboxes are checked per tick.
	sandboxesPerTick = 50
	// sandboxesAtOnce bounds how many changed sandboxes are checked in a row.
	sandboxesAtOnce = 100
	// restFactor is how long verbs have the lock to themselves afterwards, as a multiple of the
	// time that the checks took: a sandbox whose program changes something all the time gets no
	// more than its share.
	restFactor = 3
)

// watchNetNS collects events until ctx ends. The watch starts without sandboxes; each is added
// when it is checked, and the initial missed has all of them checked.
func (r *Reconciler) watchNetNS(ctx context.Context, n *netns.Events) error {
	w, err := rtnl.NewNetNSWatch()
	if err != nil {
		return err
	}
	defer w.Close()
	r.setWatch(w)
	defer r.setWatch(nil)
	n.Missed()
	return w.Run(ctx, n.Note, n.Missed)
}

// setWatch sets the watch that sandboxes are added to, or nil.
func (r *Reconciler) setWatch(w *rtnl.NetNSWatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.namespaces.SetWatch(w)
	for _, b := range r.objects.Sandboxes {
		b.Unwatch()
	}
}

// pending are the sandboxes that changed and are not checked yet.
type pending struct {
	*netns.Events
	waiting []string // IDs
	rested  time.Time
}

// checkPending checks some of the sandboxes that changed, or may have. The repairs themselves
// cause events, and so one more check, which finds nothing to repair.
func (r *Reconciler) checkPending(ctx context.Context, b *pending) {
	start := time.Now()
	for _, id := range r.affected(b.Take()) {
		if !slices.Contains(b.waiting, id) {
			b.waiting = append(b.waiting, id)
		}
	}
	n := min(len(b.waiting), sandboxesAtOnce)
	_, _ = r.checkSandboxes(ctx, b.waiting[:n]) // errors are logged where they arise
	if b.waiting = b.waiting[n:]; len(b.waiting) > 0 {
		b.Wake()
	}
	end := time.Now()
	b.rested = end.Add(restFactor * end.Sub(start))
}

// affected returns the IDs of the sandboxes that have one of the numbers, or of all sandboxes.
func (r *Reconciler) affected(changed map[int32]bool, all bool) (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, b := range r.objects.Sandboxes {
		if number, watched := b.Number(); all || watched && changed[number] {
			ids = append(ids, id)
		}
	}
	return ids
}

// checkSandboxes checks the network namespaces of sandboxes and repairs them. It takes the lock
// for each sandbox separately, so that verbs do not wait long.
func (r *Reconciler) checkSandboxes(ctx context.Context, ids []string) (report.Repairs, error) {
	start := time.Now()
	total := report.NewRepairs()
	var errs []error
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		repairs, err := r.checkSandbox(ctx, id, start)
		errs = append(errs, err)
		total.Add(repairs)
	}
	return total, errors.Join(errs...)
}

func (r *Reconciler) checkSandbox(ctx context.Context, id string, start time.Time) (report.Repairs, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.objects.Sandboxes[id]
	if b == nil || r.snap.Sandbox(id) == nil {
		return nil, nil
	}
	p, err := r.newPass(ctx, r.snap, device.State{})
	if err != nil {
		return nil, err
	}
	p.Repair = true
	p.Sandboxes[id] = b
	p.makeNamespaces()
	p.finishSandbox(b)
	if p.Repairs.Total() > 0 {
		r.finish(p, "resync", start, nil)
	}
	if b.Dirty {
		return p.Repairs, fmt.Errorf("%s", b.LastErr)
	}
	return p.Repairs, nil
}

// nextSandboxes returns the IDs of the next limit sandboxes in turn. A negative limit means all.
func (r *Reconciler) nextSandboxes(limit int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := slices.Sorted(maps.Keys(r.objects.Sandboxes))
	if limit < 0 || limit >= len(ids) {
		return ids
	}
	i, _ := slices.BinarySearch(ids, r.cursor+"\x00")
	next := make([]string, 0, limit)
	for k := range limit {
		next = append(next, ids[(i+k)%len(ids)])
	}
	r.cursor = next[len(next)-1]
	return next
}
