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
	// insideRest is how long the others come first after that, in times of what
	// it took: a sandbox whose program changes something all the time gets no
	// more than its share.
	insideRest = 3
)

// news is what the kernel told of the insides of sandboxes and nobody looked
// at yet.
type news struct {
	ready chan struct{} // gets a token when there is some

	mu      sync.Mutex
	changed map[int32]bool // numbers in the watch
	lost    bool           // any sandbox may have changed
}

func newNews() *news {
	return &news{ready: make(chan struct{}, 1), changed: make(map[int32]bool)}
}

func (n *news) note(number int32) {
	n.mu.Lock()
	n.changed[number] = true
	n.mu.Unlock()
	wake(n.ready)
}

func (n *news) missed() {
	n.mu.Lock()
	n.lost = true
	n.mu.Unlock()
	wake(n.ready)
}

func (n *news) take() (changed map[int32]bool, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed, lost = n.changed, n.lost
	n.changed, n.lost = make(map[int32]bool), false
	return changed, lost
}

// watchInsides collects news until ctx ends. At first it knows no sandbox: each
// is added when it is looked into, which all of them are, then.
func (r *Reconciler) watchInsides(ctx context.Context, n *news) error {
	w, err := rtnl.NewInsidesWatch()
	if err != nil {
		return err
	}
	defer w.Close()
	r.hear(w)
	defer r.hear(nil)
	n.missed()
	return w.Run(ctx, n.note, n.missed)
}

// hear sets the watch that sandboxes are added to; nil: there is none.
func (r *Reconciler) hear(w *rtnl.InsidesWatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.insides = w
	for _, b := range r.sandboxes {
		b.number = -1
	}
}

// listen has the watch hear a sandbox. One that it cannot hear is still checked
// in its turn.
func (r *Reconciler) listen(b *sandbox, ns *rtnl.NetNS) {
	if r.insides == nil {
		return
	}
	number, err := r.insides.Add(ns)
	if err != nil {
		r.log.Warn("changes in a sandbox are noticed late", "sandbox", b.want.Name, "id", short(b.id), "err", err)
	}
	b.number = number
}

// backlog is the sandboxes that changed and are not checked yet.
type backlog struct {
	*news
	waiting []string // IDs
	rested  time.Time
}

// checkBacklog checks some of the sandboxes that changed, or may have. News that
// the repairs themselves make lead to another look, which finds nothing.
func (r *Reconciler) checkBacklog(ctx context.Context, b *backlog) {
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
	b.rested = end.Add(insideRest * end.Sub(start))
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
