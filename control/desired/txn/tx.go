// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
	"github.com/fairlead-net/fairlead/control/store"
)

// Tx is the transaction of one verb: the next snapshot, which shares every unchanged
// map with the old one, the changes of the store, and the functions that undo
// changes of the state's indices.
type Tx struct {
	Old  *desired.Snapshot
	Next *desired.Snapshot // what the verb has changed so far
	// IgnoreApplyErr makes the verb succeed even if the kernel refuses to remove something.
	IgnoreApplyErr bool
	// StoreOnly skips Apply: the kernel is not affected, or can follow later.
	StoreOnly bool

	s       *State
	edit    *desired.Edit // of Next
	changes []change
	changed map[string]int // key -> index into changes
	undo    []func()
	locals  map[string]model.Local // by network ID, while the state is loaded: those without a network
	// hostPrefixes caches HostPrefixes.
	hostPrefixes []netip.Prefix
}

func (s *State) begin() *Tx {
	old := s.snap.Load()
	edit := old.Edit()
	edit.Rev++
	return &Tx{s: s, Old: old, edit: edit, Next: &edit.Snapshot, changed: map[string]int{}}
}

// Host returns the facts of the host.
func (t *Tx) Host() HostFacts { return t.s.cfg.Host }

// HostPrefixes returns the prefixes that the host has addresses in or routes to. They stay the
// same during the transaction.
func (t *Tx) HostPrefixes(ctx context.Context) ([]netip.Prefix, error) {
	if t.hostPrefixes == nil {
		ps, err := t.s.cfg.Host.HostPrefixes(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the host's prefixes: %w", err)
		}
		t.hostPrefixes = append([]netip.Prefix{}, ps...)
	}
	return t.hostPrefixes, nil
}

// Log returns the logger of what changes.
func (t *Tx) Log() *slog.Logger { return t.s.cfg.Log }

// Now returns the time to record in an object.
func (t *Tx) Now() time.Time { return t.s.cfg.Now().UTC().Round(0) }

// Update runs one verb: fn changes the model, then the change is persisted and
// applied. If one of these steps fails or panics, the change is reverted.
func (s *State) Update(ctx context.Context, fn func(*Tx) error) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	if err := s.finishRollback(ctx); err != nil {
		return err
	}
	t := s.begin()
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
	s.pendingRollback = inverse
	if err := t.commit(ctx, ops); err != nil {
		t.rollback()
		// The verb may have failed because the caller's context ended.
		if rollbackErr := s.finishRollback(context.WithoutCancel(ctx)); rollbackErr != nil {
			return fmt.Errorf("%w (and %w)", err, rollbackErr)
		}
		return err
	}
	s.pendingRollback = nil
	s.snap.Store(t.Next)
	done = true
	s.notify(t.Next)
	return nil
}

// commit persists the change and applies it.
// Plan calls fn with a transaction that is discarded, to find out what a change would be.
func (s *State) Plan(ctx context.Context, fn func(*Tx) error) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	t := s.begin()
	defer t.rollback()
	return fn(t)
}

// commit persists and applies the change.
func (t *Tx) commit(ctx context.Context, ops []store.Op) error {
	if _, err := t.s.cfg.Store.Commit(ctx, ops...); err != nil {
		return fmt.Errorf("persist the change: %w", err)
	}
	if t.StoreOnly {
		return nil
	}
	err := t.s.cfg.Realizer.Apply(ctx, t.Next)
	if err != nil && t.IgnoreApplyErr {
		t.s.cfg.Log.Warn("could not apply a removal by force; kernel objects may remain until the next resync", "err", err)
		return nil
	}
	return err
}

// finishRollback reverts a failed verb's changes in the store and the kernel, if there
// are any. Until it succeeds no other verb can run.
func (s *State) finishRollback(ctx context.Context) error {
	if s.pendingRollback == nil {
		return nil
	}
	if _, err := s.cfg.Store.Commit(ctx, s.pendingRollback...); err != nil {
		return fmt.Errorf("revert a failed change in the store: %w", err)
	}
	s.pendingRollback = nil
	if err := s.cfg.Realizer.Apply(ctx, s.snap.Load()); err != nil {
		// The store is consistent again, and a resync repairs the kernel's state.
		s.cfg.Log.Error("could not revert a failed change in the kernel; the next resync repairs it", "err", err)
	}
	return nil
}

// rollback undoes the changes of the indices, last change first.
func (t *Tx) rollback() {
	for _, f := range slices.Backward(t.undo) {
		f()
	}
	t.undo = nil
}

// OnUndo registers what undoes a change of something that the transaction does not hold.
func (t *Tx) OnUndo(f func()) { t.undo = append(t.undo, f) }

// change is a verb's change of one key of the store. A nil value means that the key does
// not exist.
type change struct {
	key      string
	from, to any
}

// write records the change of a key from one value to another. Several changes of
// one key are merged: the first from and the last to are kept.
func (t *Tx) write(key string, from, to any) {
	if i, ok := t.changed[key]; ok {
		t.changes[i].to = to
		return
	}
	t.changed[key] = len(t.changes)
	t.changes = append(t.changes, change{key, from, to})
}

// encode returns the store operations that make the change, and those that revert
// it.
func (t *Tx) encode() (ops, inverse []store.Op, err error) {
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

// PutNetwork sets a network, or deletes it when n is nil. So do the next three with objects of
// their kind.
func (t *Tx) PutNetwork(id string, n *model.Network) {
	was := t.Next.Network(id)
	t.write(schema.PrefixNetwork+id, orNil(was), orNil(n))
	if from, to := localOf(was), localOf(n); from != to {
		t.write(schema.PrefixLocal+id, from, to)
	}
	t.edit.PutNetwork(id, n)
}

// PutSandbox sets or deletes a sandbox.
func (t *Tx) PutSandbox(id string, sb *model.Sandbox) {
	t.write(schema.PrefixSandbox+id, orNil(t.Next.Sandbox(id)), orNil(sb))
	t.edit.PutSandbox(id, sb)
}

// PutEndpoint sets or deletes an endpoint.
func (t *Tx) PutEndpoint(id string, ep *model.Endpoint) {
	t.write(schema.PrefixEndpoint+id, orNil(t.Next.Endpoint(id)), orNil(ep))
	t.edit.PutEndpoint(id, ep)
}

// PutPool sets or deletes an address pool.
func (t *Tx) PutPool(id string, p *model.AddressPool) {
	t.write(schema.PrefixPool+id, orNil(t.Next.Pool(id)), orNil(p))
	t.edit.PutPool(id, p)
}
