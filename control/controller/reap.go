// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// Reap removes AutoRemove sandboxes whose program exited or was never started, and
// marks other sandboxes whose program exited without a report. It also removes
// sandboxes that container runtimes have left behind. Call it every few seconds.
func (c *Controller) Reap(ctx context.Context) error {
	if ids := c.leaving.overdue(c.state.Now()); len(ids) > 0 {
		if err := c.stay(ctx, ids, nil); err != nil {
			return fmt.Errorf("let backends serve again whose removal did not follow: %w", err)
		}
	}
	s := c.Snapshot() // check without the lock first: usually there is nothing to do
	if len(c.exitedSandboxes(s)) == 0 && len(c.vanishedSandboxes(s)) == 0 {
		return nil
	}
	removed := 0
	var vanished []*model.Sandbox
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		busy := func(sb *model.Sandbox) bool { return t.Applying(sb.ID) } // they wait for the next call
		removed = reap(t, slices.DeleteFunc(c.exitedSandboxes(t.Next), busy))
		vanished = slices.DeleteFunc(c.vanishedSandboxes(t.Next), busy)
		for _, sb := range vanished {
			removeSandbox(t, sb)
			t.StoreOnly = false
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reap sandboxes: %w", err)
	}
	if removed > 0 {
		c.state.Log().Info("removed sandboxes of exited programs", "count", removed)
	}
	for _, sb := range vanished {
		c.state.Log().Info("removed sandbox: its network namespace no longer exists, and the runtime did not remove it", "sandbox", sb.Name, "id", model.ShortID(sb.ID))
	}
	return nil
}

// reap removes exited AutoRemove sandboxes, and returns how many. It marks the other sandboxes
// as exited.
func reap(t *txn.Tx, exited []*model.Sandbox) (removed int) {
	t.IgnoreApplyErr, t.StoreOnly = true, true
	var shared []*model.Sandbox
	remove := func(sb *model.Sandbox) {
		removeSandbox(t, sb)
		t.StoreOnly = false
		removed++
	}
	for _, sb := range exited {
		switch {
		case !sb.AutoRemove:
			markExited(t, sb, exitUnknown)
			t.StoreOnly = t.StoreOnly && !t.Next.IsRelied(sb.ID)
		case len(t.Next.Joiners(sb.ID)) > 0:
			shared = append(shared, sb) // their last joiner may be in exited
		default:
			remove(sb)
		}
	}
	for _, sb := range shared {
		if len(t.Next.Joiners(sb.ID)) == 0 {
			remove(sb)
		}
	}
	return removed
}

// exitedSandboxes lists the sandboxes without a running program that Reap has to remove or
// to mark.
func (c *Controller) exitedSandboxes(s *desired.Snapshot) []*model.Sandbox {
	var out []*model.Sandbox
	var shared map[string]bool // modes that join a sandbox
	for sb := range s.Sandboxes() {
		neverStarted := sb.PID == 0 && c.state.Now().Sub(sb.Created) > c.cfg.StartGrace
		switch {
		case sb.AutoRemove && !sb.Exited && sb.PID != 0 && !c.running(sb),
			sb.AutoRemove && sb.PID == 0 && !sb.Exited && neverStarted,
			!sb.AutoRemove && sb.PID != 0 && !sb.Exited && !c.running(sb):
			out = append(out, sb)
		case sb.AutoRemove && sb.Exited:
			if shared == nil {
				shared = joinedModes(s)
			}
			if !shared[model.ModeContainer+sb.ID] {
				out = append(out, sb)
			}
		}
	}
	return out
}

func joinedModes(s *desired.Snapshot) map[string]bool {
	out := map[string]bool{}
	for sb := range s.Sandboxes() {
		if sb.SharesNetNS() {
			out[sb.NetworkMode] = true
		}
	}
	return out
}

// vanishedSandboxes lists the sandboxes whose namespace no longer exists and whose container runtime
// did not remove them, because of a crash or a restart of the host. Sandboxes that a
// user attached are kept until the namespace returns, and those with leased addresses until
// the runtime removes them.
func (c *Controller) vanishedSandboxes(s *desired.Snapshot) []*model.Sandbox {
	var out []*model.Sandbox
	for _, id := range c.cfg.Namespaces.VanishedSandboxes(c.cfg.StartGrace) {
		if sb := s.Sandbox(id); sb != nil && sb.ManagedBy == model.ByRuntime && len(s.Joiners(id)) == 0 && !slices.ContainsFunc(slices.Collect(s.EndpointsOf(id)), isLeased) {
			out = append(out, sb)
		}
	}
	return out
}

func isLeased(ep *model.Endpoint) bool { return ep.Leased }
