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
	"github.com/fairlead-net/fairlead/control/desired/txn/uses"
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
	// puts repeat the changes of Next on another snapshot, and unputs undo them.
	puts, unputs []func(*desired.Edit)
	inverse      []store.Op // undoes the changes of the store
	needs        []string   // see Needs
	used         *uses.Set
	apply        func() error           // to the kernel
	ended        chan struct{}          // closed once the kernel has the change, or it was reverted
	settled      bool                   // published or reverted
	locals       map[string]model.Local // by network ID, while the state is loaded: those without a network
	// hostPrefixes caches HostPrefixes.
	hostPrefixes []netip.Prefix
}

func (s *State) begin() *Tx {
	old := s.head
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
// applied. If one of these steps fails or panics, the change is reverted. If the verb uses something that a
// change is about which the kernel does not have yet, it waits for that change, and fn is called again.
func (s *State) Update(ctx context.Context, fn func(*Tx) error) error {
	for {
		t, before, err := s.decide(ctx, fn)
		if before != nil {
			select {
			case <-before.ended:
				continue
			case <-ctx.Done():
				return fmt.Errorf("wait for a change of the same object: %w (try again)", ctx.Err())
			}
		}
		if t == nil {
			return err
		}
		return s.apply(ctx, t)
	}
}

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

// decide has fn change the model, and persists the change. It returns the transaction if the kernel needs
// to know it, or the earlier one that it has to wait for.
func (s *State) decide(ctx context.Context, fn func(*Tx) error) (decided, before *Tx, err error) {
	if err := s.lock(ctx); err != nil {
		return nil, nil, err
	}
	defer s.unlock()
	if err := s.finishRollback(ctx); err != nil {
		return nil, nil, err
	}
	t, done := s.begin(), false
	defer func() {
		if !done {
			t.rollback()
		}
	}()
	if err := fn(t); err != nil {
		return nil, nil, err
	}
	var ops []store.Op
	if ops, t.inverse, err = t.encode(); err != nil {
		return nil, nil, err
	}
	for _, o := range s.applying {
		if t.uses().Meets(o.uses()) {
			return nil, o, nil
		}
	}
	if len(ops) == 0 {
		return nil, nil, nil
	}
	// From here on a crash, an error or a panic may leave a partial change.
	s.pendingRollback = t.inverse
	if _, err := s.cfg.Store.Commit(ctx, ops...); err != nil {
		t.rollback()
		if rollbackErr := s.finishRollback(context.WithoutCancel(ctx)); rollbackErr != nil {
			return nil, nil, fmt.Errorf("persist the change: %w (and %w)", err, rollbackErr)
		}
		return nil, nil, fmt.Errorf("persist the change: %w", err)
	}
	s.pendingRollback = nil
	done = true
	s.head = t.Next
	if t.StoreOnly {
		s.publish(t)
		return nil, nil, nil
	}
	t.ended = make(chan struct{})
	s.applying = append(s.applying, t)
	if t.IgnoreApplyErr { // nothing reverts what was given up
		ctx = context.WithoutCancel(ctx)
	}
	t.apply = s.cfg.Realizer.Accept(ctx, t.Next)
	return t, nil, nil
}

// revertPatience is how long a verb that was given up waits until the kernel is reverted.
const revertPatience = time.Second

// apply applies a change that was decided, and publishes or reverts it. If the caller gave up, it does not wait for long until
// the kernel is reverted: what kept the change from being applied may keep that, too.
func (s *State) apply(ctx context.Context, t *Tx) error {
	later := false // whether the end is left to the revert
	defer func() {
		if !later {
			s.end(t)
		}
	}()
	err := t.apply()
	if err != nil && t.IgnoreApplyErr {
		s.cfg.Log.Warn("could not apply a removal by force; kernel objects may remain until the next check", "err", err)
		err = nil
	}
	s.sem <- struct{}{}
	if err == nil {
		defer s.unlock()
		s.publish(t)
		return nil
	}
	s.revert(t)
	// The verb may have failed because the caller's context ended.
	undo, rollbackErr := s.commitRollback(context.WithoutCancel(ctx))
	s.unlock()
	if rollbackErr != nil {
		return fmt.Errorf("%w (and %w)", err, rollbackErr)
	}
	if ctx.Err() == nil {
		s.applyRollback(undo)
		return err
	}
	later = true
	reverted := make(chan struct{})
	go func() {
		defer close(reverted)
		defer s.end(t)
		s.applyRollback(undo)
	}()
	select {
	case <-reverted:
	case <-time.After(revertPatience):
	}
	return err
}

// end ends a change, for which others may wait. After a panic, the next verb completes the revert.
func (s *State) end(t *Tx) {
	s.sem <- struct{}{}
	defer s.unlock()
	if !t.settled {
		s.revert(t)
	}
	s.applying = slices.DeleteFunc(s.applying, func(o *Tx) bool { return o == t })
	close(t.ended)
}

// alone reports whether the kernel has all changes that were decided, apart from t.
func (s *State) alone(t *Tx) bool {
	return !slices.ContainsFunc(s.applying, func(o *Tx) bool { return o != t && !o.settled })
}

// publish makes a change visible.
func (s *State) publish(t *Tx) {
	t.settled = true
	next := s.head
	if !s.alone(t) {
		e := s.snap.Load().Edit()
		e.Rev++
		for _, put := range t.puts {
			put(e)
		}
		next = e.Done()
	}
	s.snap.Store(next)
	s.notify(next)
}

// revert takes a change back, except in the store and in the kernel.
func (s *State) revert(t *Tx) {
	t.settled = true
	t.rollback()
	s.pendingRollback = append(s.pendingRollback, t.inverse...)
	if s.alone(t) {
		s.head = s.snap.Load()
		return
	}
	e := s.head.Edit()
	e.Rev++
	for _, put := range slices.Backward(t.unputs) {
		put(e)
	}
	s.head = e.Done()
}

// commitRollback reverts failed changes in the store, if there are any, and returns what reverts them in
// the kernel.
func (s *State) commitRollback(ctx context.Context) (apply func() error, err error) {
	if s.pendingRollback == nil {
		return nil, nil
	}
	if _, err := s.cfg.Store.Commit(ctx, s.pendingRollback...); err != nil {
		return nil, fmt.Errorf("revert a failed change in the store: %w", err)
	}
	s.pendingRollback = nil
	return s.cfg.Realizer.Accept(context.WithoutCancel(ctx), s.head), nil
}

// applyRollback calls what commitRollback returned.
func (s *State) applyRollback(apply func() error) {
	if apply == nil {
		return
	}
	if err := apply(); err != nil {
		// The store is consistent again, and a check repairs the kernel's state.
		s.cfg.Log.Error("could not revert a failed change in the kernel; the next check repairs it", "err", err)
	}
}

// finishRollback reverts failed changes in the store and the kernel, if there are any. Until it succeeds no
// other verb can run.
func (s *State) finishRollback(ctx context.Context) error {
	apply, err := s.commitRollback(ctx)
	if err == nil {
		s.applyRollback(apply)
	}
	return err
}

// rollback undoes the changes of the indices, last change first.
func (t *Tx) rollback() {
	for _, f := range slices.Backward(t.undo) {
		f()
	}
	t.undo = nil
}

// Applying reports whether an earlier change of a sandbox is still being applied, so that another one of it
// would wait.
func (t *Tx) Applying(sandboxID string) bool {
	return slices.ContainsFunc(t.s.applying, func(o *Tx) bool { return o.uses().Sets(schema.PrefixSandbox + sandboxID) })
}

// Things that a change can need to stay as they are; see [Tx.Needs].
const (
	Network       = schema.PrefixNetwork
	EngineNetwork = uses.EngineNetwork
	Sandbox       = schema.PrefixSandbox
	Endpoint      = schema.PrefixEndpoint
	Service       = schema.PrefixService
)

// Needs records that the verb relies on a thing as the next snapshot has it, although it may not write it.
// A verb that finds nothing to change calls it, so that it does not return before the kernel has what it
// found, or while that may still be reverted.
func (t *Tx) Needs(thing, id string) { t.needs = append(t.needs, thing+id) }

// uses returns what the transaction uses, once it was decided.
func (t *Tx) uses() *uses.Set {
	if t.used != nil {
		return t.used
	}
	t.used = uses.New()
	for _, key := range t.needs {
		t.used.Need(key)
	}
	for _, ch := range t.changes {
		if ch.from != nil || ch.to != nil {
			t.used.Write(ch.key, ch.from, ch.to)
		}
	}
	return t.used
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

// put changes the next snapshot. undo takes the change back.
func (t *Tx) put(do, undo func(*desired.Edit)) {
	do(t.edit)
	t.puts, t.unputs = append(t.puts, do), append(t.unputs, undo)
}

// PutNetwork sets a network, or deletes it when n is nil. So do the next three with objects of
// their kind.
func (t *Tx) PutNetwork(id string, n *model.Network) {
	was := t.Next.Network(id)
	t.write(schema.PrefixNetwork+id, orNil(was), orNil(n))
	if from, to := localOf(was), localOf(n); from != to {
		t.write(schema.PrefixLocal+id, from, to)
	}
	t.put(func(e *desired.Edit) { e.PutNetwork(id, n) }, func(e *desired.Edit) { e.PutNetwork(id, was) })
}

// PutSandbox sets or deletes a sandbox.
func (t *Tx) PutSandbox(id string, sb *model.Sandbox) {
	was := t.Next.Sandbox(id)
	t.write(schema.PrefixSandbox+id, orNil(was), orNil(sb))
	t.put(func(e *desired.Edit) { e.PutSandbox(id, sb) }, func(e *desired.Edit) { e.PutSandbox(id, was) })
}

// PutEndpoint sets or deletes an endpoint.
func (t *Tx) PutEndpoint(id string, ep *model.Endpoint) {
	was := t.Next.Endpoint(id)
	t.write(schema.PrefixEndpoint+id, orNil(was), orNil(ep))
	t.put(func(e *desired.Edit) { e.PutEndpoint(id, ep) }, func(e *desired.Edit) { e.PutEndpoint(id, was) })
}

// PutPool sets or deletes an address pool.
func (t *Tx) PutPool(id string, p *model.AddressPool) {
	was := t.Next.Pool(id)
	t.write(schema.PrefixPool+id, orNil(was), orNil(p))
	t.put(func(e *desired.Edit) { e.PutPool(id, p) }, func(e *desired.Edit) { e.PutPool(id, was) })
}
