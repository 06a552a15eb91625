// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
)

// sandboxesPerTick bounds how many sandboxes are checked per tick.
const sandboxesPerTick = 50

// setWatch sets the watch that sandboxes are added to, or nil.
func (r *Reconciler) setWatch(w *watch.Sandboxes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.namespaces.SetWatch(w)
	for _, b := range r.objects.Sandboxes {
		b.Unwatch()
	}
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
		repairs, err := r.repairPatiently(ctx, id, false, start)
		errs = append(errs, err)
		total.Add(repairs)
	}
	return total, errors.Join(errs...)
}

// patience is how long the check of a sandbox delays that of the next. It goes on in its turn.
const patience = 5 * time.Second

// repairPatiently repairs a sandbox. If that takes long, it returns before the end.
func (r *Reconciler) repairPatiently(ctx context.Context, id string, devices bool, start time.Time) (report.Repairs, error) {
	var repairs report.Repairs
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.mu.Lock()
		defer r.mu.Unlock()
		repairs, err = r.repairSandbox(ctx, id, devices, start)
		if b := r.objects.Sandboxes[id]; !devices && b != nil && b.Dirty && r.turns.Free(id) {
			err = errors.Join(err, errors.New(b.LastErr))
		}
	}()
	select {
	case <-done:
		return repairs, err
	case <-time.After(patience):
		r.log.Warn("the check of a sandbox takes long; others are checked meanwhile", "id", model.ShortID(id))
		return nil, nil
	}
}

// repairSandbox repairs a sandbox's network namespace, and with devices its devices too. It does nothing if
// another pass works on the sandbox.
func (r *Reconciler) repairSandbox(ctx context.Context, id string, devices bool, start time.Time) (report.Repairs, error) {
	b := r.objects.Sandboxes[id]
	if b == nil || r.snap.Sandbox(id) == nil || !r.turns.Free(id) {
		return nil, nil
	}
	p, err := r.newPass(ctx, r.snap, device.State{})
	if err != nil {
		return nil, err
	}
	r.turns.Take(id)
	p.turn = []string{id}
	defer p.end()
	p.Repair = true
	p.Sandboxes[id] = b
	if devices {
		p.TouchSandbox(id)
		p.run()
	} else {
		p.makeNamespaces()
		p.finishSandbox(b)
	}
	if p.Repairs.Total() > 0 {
		r.finish(p, "resync", start, nil)
	}
	return p.Repairs, errors.Join(p.Errs...)
}

// busy returns those of the sandboxes that another pass works on.
func (r *Reconciler) busy(ids []string) (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if !r.turns.Free(id) {
			list = append(list, id)
		}
	}
	return list
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
