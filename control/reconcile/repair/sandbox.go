// SPDX-License-Identifier: Apache-2.0

package repair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// CheckOne inspects a sandbox and its endpoints immediately and repairs them. It returns what it
// could not repair; the error is a [model.ErrVanished] if the namespace no longer exists, by the
// rules of [Sandboxes.Vanished].
func (s *Sandboxes) CheckOne(ctx context.Context, id string) error {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if err := s.Turns.WaitFree(ctx, id); err != nil {
		return err
	}
	defer s.Turns.End([]string{id})
	again, err := s.checkOnce(ctx, id)
	if again {
		_, err = s.checkOnce(ctx, id)
	}
	return err
}

// checkOnce runs one pass over a sandbox and its endpoints. again means that it deleted a pair without its other end, which
// another pass creates.
func (s *Sandboxes) checkOnce(ctx context.Context, id string) (again bool, err error) {
	b := s.Objects.Sandboxes[id]
	if b == nil || s.Snap.Sandbox(id) == nil {
		return false, fmt.Errorf("sandbox %s does not exist", model.ShortID(id))
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	start := time.Now()
	p := s.Begin(s.Snap, device.State{})
	p.Repair = true
	p.Sandboxes[id] = b
	p.TouchSandbox(id)
	p.Run()
	s.DoneRepairs(p.Repairs, start, nil)
	for id := range p.Endpoints {
		again = again || s.Missing[id]
	}
	return again, s.unrepaired(p, b)
}

// unrepaired returns what a pass over a sandbox could not repair.
func (s *Sandboxes) unrepaired(p *pass.Pass, b *objects.Sandbox) error {
	errs := p.Errs
	for _, e := range p.Endpoints {
		if e.Dirty && !b.Vanished() {
			errs = append(errs, errors.New(e.LastErr))
		}
	}
	switch {
	case b.Vanished() && s.hasDevice(b.ID):
		errs = append(errs, fmt.Errorf("sandbox %s: its network namespace exists, but not at %s (bind-mount it there again)", model.ShortID(b.ID), b.Want.NetNS))
	case b.Vanished():
		errs = append(errs, &model.Refusal{Kind: model.ErrVanished, Text: fmt.Sprintf(
			"sandbox %s: its network namespace %s no longer exists", model.ShortID(b.ID), b.Want.NetNS)})
	case b.Dirty:
		errs = append(errs, errors.New(b.LastErr))
	}
	return errors.Join(errs...)
}

// Vanished lists the sandboxes whose namespace ended at least that long ago: there is
// none at its path, and none of its devices is left. A namespace that still exists without a
// path, or that this process cannot see, does not count.
func (s *Sandboxes) Vanished(least time.Duration) []string {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	var ids []string
	for id, b := range s.Objects.Sandboxes {
		if b.VanishedFor(least) && !s.hasDevice(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// hasDevice reports whether an endpoint of the sandbox has a device, or may have one.
func (s *Sandboxes) hasDevice(id string) bool {
	for _, e := range s.Objects.MadeOf(s.Snap, id) {
		if e.Ends.Host == 0 {
			continue // it would be in the sandbox
		}
		if _, err := s.NL.Link(e.Ends.Host); !errors.Is(err, rtnl.ErrNoDevice) {
			return true
		}
	}
	return false
}
