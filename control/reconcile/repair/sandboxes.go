// SPDX-License-Identifier: Apache-2.0

// Package repair repairs sandboxes and networks, each in its turn.
package repair

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
)

// Sandboxes checks sandboxes: their network namespaces, and what the check of the host finds to differ.
type Sandboxes struct {
	*pass.State
	cursor string // sandbox that was checked last
}

// NewSandboxes returns the check of sandboxes.
func NewSandboxes(s *pass.State) *Sandboxes { return &Sandboxes{State: s} }

// SetWatch sets the watch that sandboxes are added to, or nil.
func (s *Sandboxes) SetWatch(w *watch.Sandboxes) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.Namespaces.SetWatch(w)
	for _, b := range s.Objects.Sandboxes {
		b.Unwatch()
	}
}

// Affected returns the IDs of the sandboxes that have one of the numbers, or of all sandboxes.
func (s *Sandboxes) Affected(changed map[int32]bool, all bool) (ids []string) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	for id, b := range s.Objects.Sandboxes {
		if number, watched := b.Number(); all || watched && changed[number] {
			ids = append(ids, id)
		}
	}
	return ids
}

// Busy returns those of the sandboxes that another pass works on.
func (s *Sandboxes) Busy(ids []string) (list []string) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	for _, id := range ids {
		if !s.Turns.Free(id) {
			list = append(list, id)
		}
	}
	return list
}

// Next returns the IDs of the next limit sandboxes in turn. A negative limit means all.
func (s *Sandboxes) Next(limit int) []string {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.Objects.Sandboxes))
	if limit < 0 || limit >= len(ids) {
		return ids
	}
	i, _ := slices.BinarySearch(ids, s.cursor+"\x00")
	next := make([]string, 0, limit)
	for k := range limit {
		next = append(next, ids[(i+k)%len(ids)])
	}
	s.cursor = next[len(next)-1]
	return next
}

// Check checks the network namespaces of sandboxes and repairs them. It takes the lock
// for each sandbox separately, so that verbs do not wait long.
func (s *Sandboxes) Check(ctx context.Context, ids []string) (report.Repairs, error) {
	start := time.Now()
	total := report.NewRepairs()
	var errs []error
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		repairs, err := s.Patiently(ctx, id, false, start)
		errs = append(errs, err)
		total.Add(repairs)
	}
	return total, errors.Join(errs...)
}

// patience is how long the check of a sandbox delays that of the next. It goes on in its turn.
const patience = 5 * time.Second

// Patiently repairs a sandbox, or a network: in a sandbox's network namespace, and with all everything of it. If that takes long, it returns before the end.
func (s *Sandboxes) Patiently(ctx context.Context, id string, all bool, start time.Time) (report.Repairs, error) {
	var repairs report.Repairs
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Mu.Lock()
		defer s.Mu.Unlock()
		repairs, err = s.repair(ctx, id, all, start)
		if b := s.Objects.Sandboxes[id]; !all && b != nil && b.Dirty && s.Turns.Free(id) {
			err = errors.Join(err, errors.New(b.LastErr))
		}
	}()
	select {
	case <-done:
		return repairs, err
	case <-time.After(patience):
		s.Log.Warn("the check of a sandbox takes long; others are checked meanwhile", "id", model.ShortID(id))
		return nil, nil
	}
}

// repair is Patiently without its patience. It does nothing if another pass works on the sandbox or network.
func (s *Sandboxes) repair(ctx context.Context, id string, all bool, start time.Time) (report.Repairs, error) {
	b := s.Objects.Sandboxes[id]
	if !all && (b == nil || s.Snap.Sandbox(id) == nil) || !s.Turns.Take(id) {
		return nil, nil
	}
	p := s.Begin(s.Snap, device.State{}, id)
	defer p.Hold.End()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.Repair = true
	if all {
		p.TouchAll(id)
		p.Run()
		p.WriteHostAddrs()
	} else {
		p.Sandboxes[id] = b
		p.Inside.Create()
		p.FinishSandbox(b)
		p.Serve()
	}
	if p.Repairs.Total() > 0 {
		s.DoneRepairs(p.Repairs, start, nil)
	}
	return p.Repairs, errors.Join(p.Errs...)
}
