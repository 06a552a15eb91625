// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// Keys of the store. The key of an object is its prefix and its ID.
const (
	prefixNetwork  = "network/"
	prefixSandbox  = "sandbox/"
	prefixEndpoint = "endpoint/"
	prefixPublish  = "publish/" // followed by the sandbox's ID: its publishes
	prefixPool     = "pool/"
	keySchema      = "meta/schema"
	keyULA         = "meta/ula"
)

// tx is the transaction of one verb: the next snapshot, which shares every unchanged
// map with the old one, the changes of the store, and the functions that undo
// changes of the controller's indices.
type tx struct {
	c    *Controller
	old  *desired.Snapshot
	edit *desired.Edit
	next *desired.Snapshot // what edit has so far

	changes []change
	changed map[string]int // key -> index into changes
	undo    []func()
	// hostPrefixes caches prefixesOfHost.
	hostPrefixes []netip.Prefix
	// ignoreApplyErr makes the verb succeed even if the kernel refuses to remove something.
	ignoreApplyErr bool
	// storeOnly skips Apply: the kernel is not affected, or can follow later.
	storeOnly bool
}

func (c *Controller) begin() *tx {
	old := c.snap.Load()
	edit := old.Edit()
	edit.Rev++
	return &tx{c: c, old: old, edit: edit, next: &edit.Snapshot, changed: map[string]int{}}
}

// update runs one verb: fn changes the model, then the change is persisted and
// applied. If one of these steps fails or panics, the change is reverted.
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
	// From here on a crash, an error or a panic may leave a partial change.
	c.pendingRollback = inverse
	if err := t.commit(ctx, ops); err != nil {
		t.rollback()
		// The verb may have failed because the caller's context ended.
		if rollbackErr := c.finishRollback(context.WithoutCancel(ctx)); rollbackErr != nil {
			return fmt.Errorf("%w (and %w)", err, rollbackErr)
		}
		return err
	}
	c.pendingRollback = nil
	c.snap.Store(t.next)
	done = true
	c.cfg.Changed(t.next)
	return nil
}

// lock waits until no other verb is running, or until ctx ends.
func (c *Controller) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for other changes to complete: %w (try again)", ctx.Err())
	}
}

func (c *Controller) unlock() { <-c.sem }

// commit persists the change and applies it.
func (t *tx) commit(ctx context.Context, ops []store.Op) error {
	if _, err := t.c.cfg.Store.Commit(ctx, ops...); err != nil {
		return fmt.Errorf("persist the change: %w", err)
	}
	if t.storeOnly {
		return nil
	}
	err := t.c.cfg.Kernel.Apply(ctx, t.next)
	if err != nil && t.ignoreApplyErr {
		t.c.cfg.Log.Warn("could not apply a removal by force; kernel objects may remain until the next resync", "err", err)
		return nil
	}
	return err
}

// finishRollback reverts a failed verb's changes in the store and the kernel, if there
// are any. Until it succeeds no other verb can run.
func (c *Controller) finishRollback(ctx context.Context) error {
	if c.pendingRollback == nil {
		return nil
	}
	if _, err := c.cfg.Store.Commit(ctx, c.pendingRollback...); err != nil {
		return fmt.Errorf("revert a failed change in the store: %w", err)
	}
	c.pendingRollback = nil
	if err := c.cfg.Kernel.Apply(ctx, c.snap.Load()); err != nil {
		// The store is consistent again, and a resync repairs the kernel's state.
		c.cfg.Log.Error("could not revert a failed change in the kernel; the next resync repairs it", "err", err)
	}
	return nil
}

// rollback undoes the changes of the indices, last change first.
func (t *tx) rollback() {
	for _, f := range slices.Backward(t.undo) {
		f()
	}
	t.undo = nil
}

func (t *tx) onUndo(f func()) { t.undo = append(t.undo, f) }

// change is a verb's change of one key of the store. A nil value means that the key does
// not exist.
type change struct {
	key      string
	from, to any
}

// write records the change of a key from one value to another. Several changes of
// one key are merged: the first from and the last to are kept.
func (t *tx) write(key string, from, to any) {
	if i, ok := t.changed[key]; ok {
		t.changes[i].to = to
		return
	}
	t.changed[key] = len(t.changes)
	t.changes = append(t.changes, change{key, from, to})
}

// encode returns the store operations that make the change, and those that revert
// it.
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

// orNil converts a nil pointer to a nil any.
func orNil[V any](v *V) any {
	if v == nil {
		return nil
	}
	return v
}

func (t *tx) putNetwork(id string, n *model.Network) {
	t.write(prefixNetwork+id, networkRecordOf(t.next.Network(id)), networkRecordOf(n))
	t.edit.PutNetwork(id, n)
}

func (t *tx) putSandbox(id string, sb *model.Sandbox) {
	t.write(prefixSandbox+id, sandboxRecordOf(t.next.Sandbox(id)), sandboxRecordOf(sb))
	t.edit.PutSandbox(id, sb)
}

func (t *tx) putEndpoint(id string, ep *model.Endpoint) {
	t.write(prefixEndpoint+id, orNil(t.next.Endpoint(id)), orNil(ep))
	t.edit.PutEndpoint(id, ep)
}

func (t *tx) putPool(id string, p *model.AddressPool) {
	t.write(prefixPool+id, orNil(t.next.Pool(id)), orNil(p))
	t.edit.PutPool(id, p)
}

// serve sets the publishes of a sandbox. The caller has already claimed their ports in
// the port index.
func (t *tx) serve(sandboxID string, now []*model.Publish) {
	was := t.c.served[sandboxID]
	if len(was) == 0 && len(now) == 0 {
		return
	}
	for _, p := range was {
		t.edit.PutPublish(p.ID, nil)
	}
	for _, p := range now {
		t.edit.PutPublish(p.ID, p)
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
