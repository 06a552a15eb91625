// SPDX-License-Identifier: Apache-2.0

// Package turns lets passes of the reconciler run at the same time: at most one works on a sandbox or on a
// network. It does not access the kernel.
package turns

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// OfHost stands for what belongs to no object: the programs of uplinks, of the host's sockets, and of devices that are to
// have none.
const OfHost = ""

// Turns are the sandboxes and networks, by ID, that passes work on. The caller has a lock in all methods.
type Turns struct {
	lock   sync.Locker
	taken  map[string]bool
	queued map[string]int // by verbs, which precede repairs
	freed  chan struct{}  // closed when a turn ends
	given  map[string]int // of queued: by verbs that gave up or failed and are not reverted yet
	moved  uint64
}

// New returns Turns that a lock guards.
func New(lock sync.Locker) *Turns {
	return &Turns{lock: lock, taken: make(map[string]bool), queued: make(map[string]int), freed: make(chan struct{}), given: make(map[string]int)}
}

// Free reports whether nothing works on an object or waits for it.
func (t *Turns) Free(id string) bool { return !t.taken[id] && t.queued[id] == 0 }

// Idle reports whether all objects are free.
func (t *Turns) Idle() bool { return len(t.taken)+len(t.queued) == 0 }

// Take takes the turn of an object if it is free.
func (t *Turns) Take(id string) bool {
	if !t.Free(id) {
		return false
	}
	t.taken[id] = true
	return true
}

// Queue announces a Wait for the objects.
func (t *Turns) Queue(ids []string) {
	for _, id := range ids {
		if t.given[id] > 0 {
			add(t.given, id, -1)
		} else {
			add(t.queued, id, 1)
		}
	}
}

// Wait takes the turn of all objects, after a Queue. It gives up the lock while it waits. After an error it is as after
// EndReverted.
func (t *Turns) Wait(ctx context.Context, ids []string) error {
	if err := t.until(ctx, func() bool { return !slices.ContainsFunc(ids, func(id string) bool { return t.taken[id] }) }); err != nil {
		t.keep(ids)
		return err
	}
	for _, id := range ids {
		add(t.queued, id, -1)
		t.taken[id] = true
	}
	return nil
}

// keep has objects stay queued until the next Queue.
func (t *Turns) keep(ids []string) {
	for _, id := range ids {
		add(t.given, id, 1)
	}
}

// Reverting reports whether there is a verb that failed and is not reverted yet.
func (t *Turns) Reverting() bool { return len(t.given) > 0 }

func add(counts map[string]int, id string, n int) {
	if counts[id] += n; counts[id] == 0 {
		delete(counts, id)
	}
}

// WaitFree takes the turn of an object once it is free: after all verbs about it, whose snapshots are accepted
// already.
func (t *Turns) WaitFree(ctx context.Context, id string) error {
	if err := t.until(ctx, func() bool { return t.Free(id) }); err != nil {
		return err
	}
	t.taken[id] = true
	return nil
}

func (t *Turns) until(ctx context.Context, may func() bool) error {
	for !may() {
		freed := t.freed
		t.lock.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		t.lock.Lock()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for another operation on the same sandbox: %w (try again)", err)
		}
	}
	return nil
}

// End ends turns.
func (t *Turns) End(ids []string) {
	if len(ids) == 0 {
		return
	}
	for _, id := range ids {
		delete(t.taken, id)
	}
	close(t.freed)
	t.freed = make(chan struct{})
}

// EndReverted ends the turns of a verb that failed. The objects stay queued until the next Queue, of the snapshot that
// reverts the verb's: until then no repair may complete what the verb began, or take what it was about to remove
// for a leftover.
func (t *Turns) EndReverted(ids []string) {
	for _, id := range ids {
		add(t.queued, id, 1)
	}
	t.keep(ids)
	t.End(ids)
}

// Changed returns the sandboxes and networks that the difference of two snapshots is about.
func Changed(before, s *desired.Snapshot) []string {
	ids := make(map[string]bool)
	use := func(eps ...*model.Endpoint) {
		for _, ep := range eps {
			if ep == nil || ep.SandboxID == "" {
				continue
			}
			ids[ep.SandboxID] = true
			if n := s.Network(ep.NetworkID); n != nil && (n.HostAccess || n.OnLink()) {
				ids[n.ID] = true // its device has a route to each member, or accepts frames to them
			}
		}
	}
	for c := range desired.DiffNetworks(before, s) {
		if OfNetwork(c) {
			ids[c.ID] = true
			use(slices.Collect(s.Members(c.ID))...)
		}
	}
	for c := range desired.DiffSandboxes(before, s) {
		if OfSandbox(c) {
			ids[c.ID] = true
		}
	}
	for c := range desired.DiffEndpoints(before, s) {
		use(c.Old, c.New)
	}
	for c := range desired.DiffPublishes(before, s) {
		for _, at := range []struct {
			p *model.Publish
			s *desired.Snapshot
		}{{c.Old, before}, {c.New, s}} {
			if at.p != nil {
				use(at.s.Endpoint(at.p.EndpointID))
			}
		}
	}
	return slices.Collect(maps.Keys(ids))
}

// Changes counts how often a pass began, or took the lock again.
func (t *Turns) Changes() uint64 { return t.moved }

// Hold is what a pass has while it runs: the lock, and the turns of the objects that it works on.
type Hold struct {
	// Locked: the pass keeps the lock while it waits for the kernel.
	Locked bool

	t   *Turns
	ids []string
}

// Begin begins a pass that has the turns of these objects.
func (t *Turns) Begin(ids ...string) *Hold {
	t.moved++
	return &Hold{t: t, ids: ids}
}

// Outside runs fn, which waits for the kernel, without the lock. fn may only use what belongs to the pass,
// and copies.
func (h *Hold) Outside(fn func()) {
	if h.Locked {
		fn()
		return
	}
	h.t.lock.Unlock()
	defer func() {
		h.t.lock.Lock()
		h.t.moved++
	}()
	fn()
}

// End ends the turns of the pass.
func (h *Hold) End() {
	h.t.End(h.ids)
	h.ids = nil
}

// EndReverted ends the turns of the pass of a verb that failed, see [Turns.EndReverted].
func (h *Hold) EndReverted() {
	h.t.EndReverted(h.ids)
	h.ids = nil
}

// OfNetwork reports whether a change of a network concerns its devices, or those of its members. What concerns
// none is only stored, takes no turn, and arrives with a later snapshot that is about something else, possibly after
// a change of the same object that concerns some.
func OfNetwork(c desired.Change[string, model.Network]) bool {
	return (c.Old.HasHostPort() || c.New.HasHostPort()) && (c.Old == nil || c.New == nil || !c.New.SameDevices(c.Old))
}

// OfSandbox reports whether a change of a sandbox concerns its namespace.
func OfSandbox(c desired.Change[string, model.Sandbox]) bool {
	return c.Old == nil || c.New == nil || c.Old.NetNS != c.New.NetNS
}

// OfEndpoint reports whether a change of an endpoint concerns a sandbox. It does not while its addresses are only
// reserved.
func OfEndpoint(c desired.Change[string, model.Endpoint]) bool {
	return c.Old != nil && c.Old.SandboxID != "" || c.New != nil && c.New.SandboxID != ""
}
