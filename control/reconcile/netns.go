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

	"github.com/fairlead-net/fairlead/control/rtnl"
)

const (
	// sandboxesPerTick bounds how many sandboxes are entered at one tick.
	sandboxesPerTick = 50
	// sandboxesAtOnce bounds how many that changed are entered in a row.
	sandboxesAtOnce = 100
	// restFactor is how long the others come first after that, in times of what
	// it took: a sandbox whose program changes something all the time gets no
	// more than its share.
	restFactor = 3
)

// netnsEvents is what the kernel told of the insides of sandboxes and nobody looked
// at yet.
type netnsEvents struct {
	ready chan struct{} // gets a token when there is some

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

// watchNetNS collects news until ctx ends. At first it knows no sandbox: each
// is added when it is looked into, which all of them are, then.
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

// hear sets the watch that sandboxes are added to; nil: there is none.
func (r *Reconciler) setWatch(w *rtnl.NetNSWatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.netnsWatch = w
	for _, b := range r.sandboxes {
		b.number = -1
	}
}

// watchSandbox has the watch hear a sandbox. One that it cannot hear is still checked
// in its turn.
func (r *Reconciler) watchSandbox(b *sandbox, ns *rtnl.NetNS) {
	if r.netnsWatch == nil {
		return
	}
	number, err := r.netnsWatch.Add(ns)
	if err != nil {
		r.log.Warn("changes in a sandbox are noticed late", "sandbox", b.want.Name, "id", short(b.id), "err", err)
	}
	b.number = number
}

// pending is the sandboxes that changed and are not checked yet.
type pending struct {
	*netnsEvents
	waiting []string // IDs
	rested  time.Time
}

// checkPending checks some of the sandboxes that changed, or may have. News that
// the repairs themselves make lead to another look, which finds nothing.
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

// affected are the IDs of the sandboxes that have one of the numbers, or of all.
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

// checkSandboxes enters sandboxes and repairs what is not right inside. The
// lock is taken for each anew, so that nobody waits long.
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
	if b == nil || r.snap.Sandboxes[id] == nil {
		return nil, nil
	}
	p, err := r.newPass(ctx, r.snap)
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

// nextSandboxes returns the IDs of the limit sandboxes after those it returned
// last. A negative limit is all of them.
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
