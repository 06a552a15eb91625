// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
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

// netnsEvents are events from the network namespaces of sandboxes that are not handled yet.
type netnsEvents struct {
	ready chan struct{} // gets a token when there are some

	mu      sync.Mutex
	changed map[int32]bool // numbers in the watch
	lost    bool           // any sandbox may have changed
}

func newNetnsEvents() *netnsEvents {
	return &netnsEvents{ready: make(chan struct{}, 1), changed: make(map[int32]bool)}
}

func (n *netnsEvents) note(number int32) {
	n.mu.Lock()
	n.changed[number] = true
	n.mu.Unlock()
	wake(n.ready)
}

func (n *netnsEvents) missed() {
	n.mu.Lock()
	n.lost = true
	n.mu.Unlock()
	wake(n.ready)
}

func (n *netnsEvents) take() (changed map[int32]bool, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed, lost = n.changed, n.lost
	n.changed, n.lost = make(map[int32]bool), false
	return changed, lost
}

// watchNetNS collects events until ctx ends. The watch starts without sandboxes; each is added
// when it is checked, and the initial missed has all of them checked.
func (r *Reconciler) watchNetNS(ctx context.Context, n *netnsEvents) error {
	w, err := rtnl.NewNetNSWatch()
	if err != nil {
		return err
	}
	defer w.Close()
	r.setWatch(w)
	defer r.setWatch(nil)
	n.missed()
	return w.Run(ctx, n.note, n.missed)
}

// setWatch sets the watch that sandboxes are added to, or nil.
func (r *Reconciler) setWatch(w *rtnl.NetNSWatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.netnsWatch = w
	for _, b := range r.sandboxes {
		b.number = -1
	}
}

// watchSandbox adds a sandbox to the watch. A sandbox that cannot be added is still checked in
// its turn.
func (r *Reconciler) watchSandbox(b *sandbox, ns *rtnl.NetNS) {
	if r.netnsWatch == nil {
		return
	}
	number, err := r.netnsWatch.Add(ns)
	if err != nil {
		r.log.Warn("cannot watch the sandbox; changes in it are noticed late", "sandbox", b.want.Name, "id", model.ShortID(b.id), "err", err)
	}
	b.number = number
}

// pending are the sandboxes that changed and are not checked yet.
type pending struct {
	*netnsEvents
	waiting []string // IDs
	rested  time.Time
}

// checkPending checks some of the sandboxes that changed, or may have. The repairs themselves
// cause events, and so one more check, which finds nothing to repair.
func (r *Reconciler) checkPending(ctx context.Context, b *pending) {
	start := time.Now()
	for _, id := range r.affected(b.take()) {
		if !slices.Contains(b.waiting, id) {
			b.waiting = append(b.waiting, id)
		}
	}
	n := min(len(b.waiting), sandboxesAtOnce)
	_, _ = r.checkSandboxes(ctx, b.waiting[:n]) // errors are logged where they arise
	if b.waiting = b.waiting[n:]; len(b.waiting) > 0 {
		wake(b.ready)
	}
	end := time.Now()
	b.rested = end.Add(restFactor * end.Sub(start))
}

// affected returns the IDs of the sandboxes that have one of the numbers, or of all sandboxes.
func (r *Reconciler) affected(changed map[int32]bool, all bool) (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, b := range r.sandboxes {
		if all || b.number >= 0 && changed[b.number] {
			ids = append(ids, id)
		}
	}
	return ids
}

// checkSandboxes checks the network namespaces of sandboxes and repairs them. It takes the lock
// for each sandbox separately, so that verbs do not wait long.
func (r *Reconciler) checkSandboxes(ctx context.Context, ids []string) (Repairs, error) {
	start := time.Now()
	total := newRepairs()
	var errs []error
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		repairs, err := r.checkSandbox(ctx, id, start)
		errs = append(errs, err)
		total.add(repairs)
	}
	return total, errors.Join(errs...)
}

func (r *Reconciler) checkSandbox(ctx context.Context, id string, start time.Time) (Repairs, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.sandboxes[id]
	if b == nil || r.snap.Sandbox(id) == nil {
		return nil, nil
	}
	p, err := r.newPass(ctx, r.snap, device.State{})
	if err != nil {
		return nil, err
	}
	p.repair = true
	p.boxes[id] = b
	p.makeNamespaces()
	p.finishSandbox(b)
	if p.repairs.Total() > 0 {
		r.finish(p, "resync", start, nil)
	}
	if b.dirty {
		return p.repairs, fmt.Errorf("%s", b.lastErr)
	}
	return p.repairs, nil
}

// nextSandboxes returns the IDs of the next limit sandboxes in turn. A negative limit means all.
func (r *Reconciler) nextSandboxes(limit int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := slices.Sorted(maps.Keys(r.sandboxes))
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
