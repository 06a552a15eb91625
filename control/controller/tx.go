// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// Keys of the store. Each object lives under its prefix and its ID.
const (
	prefixNetwork  = "network/"
	prefixSandbox  = "sandbox/"
	prefixEndpoint = "endpoint/"
	prefixPublish  = "publish/" // and the sandbox's ID: what it serves
	prefixPool     = "pool/"
	keySchema      = "meta/schema"
	keyULA         = "meta/ula"
)

// tx is one verb's change in the making: the next snapshot, which shares with
// the old one every map that is not touched, the changes of the store, and how
// to undo those of the controller's own indices.
type tx struct {
	c    *Controller
	old  *model.Snapshot
	next *model.Snapshot

	cloned struct{ networks, sandboxes, endpoints, publishes, pools bool }

	changes []change
	changed map[string]int // key -> index into changes
	undo    []func()
	// hostPrefixes are those of the host, once the verb has asked for them.
	hostPrefixes []netip.Prefix
	// ignoreApplyErr: a kernel that will not remove something does not hold the verb up.
	ignoreApplyErr bool
	// storeOnly: nothing changed that the kernel has to know at once.
	storeOnly bool
}

func (c *Controller) begin() *tx {
	old := c.snap.Load()
	next := *old
	next.Rev++
	return &tx{c: c, old: old, next: &next, changed: map[string]int{}}
}

// update runs one verb: fn changes the model, then the change is persisted,
// then applied. If any of these fails, or panics, all are as before.
func (c *Controller) update(ctx context.Context, fn func(*tx) error) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if err := c.finishRollback(ctx); err != nil {
		return err
	}
	t := c.begin()
	done := false
	defer func() {
		if !done {
			t.rollback()
		}
	}()
	if err := fn(t); err != nil {
		return err
	}
	ops, inverse, err := t.encode()
	if err != nil || len(ops) == 0 {
		return err
	}
	// From here on a crash, an error, or a panic may leave traces.
	c.pendingRollback = inverse
	if err := t.commit(ctx, ops); err != nil {
		t.rollback()
		// The caller's context may be what failed the verb.
		if worse := c.finishRollback(context.WithoutCancel(ctx)); worse != nil {
			return fmt.Errorf("%w (and %w)", err, worse)
		}
		return err
	}
	c.pendingRollback = nil
	c.snap.Store(t.next)
	done = true
	return nil
}

// lock waits until no other verb is under way, or its caller gives up.
func (c *Controller) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for other changes to be done: %w (try again)", ctx.Err())
	}
}

func (c *Controller) unlock() { <-c.sem }

// commit persists and applies.
func (t *tx) commit(ctx context.Context, ops []store.Op) error {
	if _, err := t.c.cfg.Store.Commit(ctx, ops...); err != nil {
		return fmt.Errorf("persist the change: %w", err)
	}
	if t.storeOnly {
		return nil
	}
	err := t.c.cfg.Kernel.Apply(ctx, t.next)
	if err != nil && t.ignoreApplyErr {
		t.c.cfg.Log.Warn("kernel objects of something removed by force may remain until the next resync", "err", err)
		return nil
	}
	return err
}

// finishRollback takes back what a failed verb may have left in the store and the
// kernel. While that does not succeed, no other verb may build on it.
func (c *Controller) finishRollback(ctx context.Context) error {
	if c.pendingRollback == nil {
		return nil
	}
	if _, err := c.cfg.Store.Commit(ctx, c.pendingRollback...); err != nil {
		return fmt.Errorf("take a failed change back from the store: %w", err)
	}
	c.pendingRollback = nil
	if err := c.cfg.Kernel.Apply(ctx, c.snap.Load()); err != nil {
		// The store is right again, and the kernel side repairs itself.
		c.cfg.Log.Error("kernel state is not back as it was before a failed change; the next resync repairs it", "err", err)
	}
	return nil
}

// rollback undoes the indices, last change first.
func (t *tx) rollback() {
	for _, f := range slices.Backward(t.undo) {
		f()
	}
	t.undo = nil
}

func (t *tx) onUndo(f func()) { t.undo = append(t.undo, f) }

// change is what a verb does to one key of the store. A nil value is absence.
type change struct {
	key      string
	from, to any
}

// write notes that a key goes from one value to another; of several notes for
// one key the first from and the last to count.
func (t *tx) write(key string, from, to any) {
	if i, ok := t.changed[key]; ok {
		t.changes[i].to = to
		return
	}
	t.changed[key] = len(t.changes)
	t.changes = append(t.changes, change{key, from, to})
}

// encode makes the store operations that do the change and those that take it
// back.
func (t *tx) encode() (ops, inverse []store.Op, err error) {
	for _, ch := range t.changes {
		if ch.from == nil && ch.to == nil {
			continue
		}
		do, err1 := op(ch.key, ch.to)
		back, err2 := op(ch.key, ch.from)
		if err := errors.Join(err1, err2); err != nil {
			return nil, nil, err
		}
		ops, inverse = append(ops, do), append(inverse, back)
	}
	return ops, inverse, nil
}

func op(key string, v any) (store.Op, error) {
	if v == nil {
		return store.Delete(key), nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return store.Op{}, fmt.Errorf("encode %q: %w", key, err)
	}
	return store.Put(key, b), nil
}

// orNil turns a nil pointer into a nil any.
func orNil[V any](v *V) any {
	if v == nil {
		return nil
	}
	return v
}

// put sets an object of the next snapshot, or deletes it when v is nil. The
// map is cloned at its first change.
func put[K comparable, V any](m *map[K]*V, cloned *bool, key K, v *V) {
	if !*cloned {
		*m, *cloned = maps.Clone(*m), true
	}
	if v == nil {
		delete(*m, key)
	} else {
		(*m)[key] = v
	}
}

func (t *tx) putNetwork(id string, n *model.Network) {
	t.write(prefixNetwork+id, orNil(t.next.Networks[id]), orNil(n))
	put(&t.next.Networks, &t.cloned.networks, id, n)
}

func (t *tx) putSandbox(id string, sb *model.Sandbox) {
	t.write(prefixSandbox+id, orNil(t.next.Sandboxes[id]), orNil(sb))
	put(&t.next.Sandboxes, &t.cloned.sandboxes, id, sb)
}

func (t *tx) putEndpoint(id string, ep *model.Endpoint) {
	t.write(prefixEndpoint+id, orNil(t.next.Endpoints[id]), orNil(ep))
	put(&t.next.Endpoints, &t.cloned.endpoints, id, ep)
}

func (t *tx) putPool(id string, p *model.AddressPool) {
	t.write(prefixPool+id, orNil(t.next.Pools[id]), orNil(p))
	put(&t.next.Pools, &t.cloned.pools, id, p)
}

// serve sets what a sandbox publishes. The caller has made the claims in the
// port index.
func (t *tx) serve(sandboxID string, now []*model.Publish) {
	was := t.c.served[sandboxID]
	if len(was) == 0 && len(now) == 0 {
		return
	}
	for _, p := range was {
		put(&t.next.Publishes, &t.cloned.publishes, p.ID, nil)
	}
	for _, p := range now {
		put(&t.next.Publishes, &t.cloned.publishes, p.ID, p)
	}
	t.write(prefixPublish+sandboxID, publishRecords(was), publishRecords(now))
	t.c.setServed(sandboxID, now)
	t.onUndo(func() { t.c.setServed(sandboxID, was) })
}

func (c *Controller) setServed(sandboxID string, ps []*model.Publish) {
	if len(ps) == 0 {
		delete(c.served, sandboxID)
	} else {
		c.served[sandboxID] = ps
	}
}
