// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// exitUnknown is the exit code of a program whose exit was not reported.
const exitUnknown = -1

// SandboxStarted records the program that a client runs in a sandbox.
func (c *Controller) SandboxStarted(ctx context.Context, ref string, pid int, start uint64) error {
	if pid <= 0 {
		return refuse(model.ErrInvalid, "invalid process ID %d (report the ID of the program)", pid)
	}
	return c.update(ctx, func(t *tx) error {
		sb, err := t.Next.FindSandbox(ref)
		if err != nil {
			return err
		}
		if (sb.PID != pid || sb.PIDStart != start) && c.running(sb) {
			return refuse(model.ErrConflict, "sandbox %q already runs a program (PID %d; use exec to run another)", sb.Name, sb.PID)
		}
		now := *sb
		now.PID, now.PIDStart, now.Exited, now.ExitCode = pid, start, false, 0
		t.PutSandbox(sb.ID, &now)
		t.StoreOnly = true
		return nil
	})
}

// SandboxExited records that the program exited, and removes an AutoRemove sandbox. If
// other sandboxes share its namespace, Reap removes it later.
func (c *Controller) SandboxExited(ctx context.Context, ref string, code int) error {
	var removed *model.Sandbox
	err := c.update(ctx, func(t *tx) error {
		sb, err := t.Next.FindSandbox(ref)
		if err != nil {
			return err
		}
		if sb.AutoRemove && len(t.Next.Joiners(sb.ID)) == 0 {
			t.removeSandbox(sb)
			t.IgnoreApplyErr = true
			removed = sb
			return nil
		}
		t.markExited(sb, code)
		t.StoreOnly = true
		return nil
	})
	if err == nil && removed != nil {
		c.logRemoved(removed)
	}
	return err
}

func (t *tx) markExited(sb *model.Sandbox, code int) {
	now := *sb
	now.Exited, now.ExitCode = true, code
	t.PutSandbox(sb.ID, &now)
}

// Reap removes AutoRemove sandboxes whose program exited or was never started, and
// marks other sandboxes whose program exited without a report. It also removes
// objects that container engines and runtimes have left behind. Call it every few seconds.
func (c *Controller) Reap(ctx context.Context) error {
	s := c.Snapshot() // check without the lock first: usually there is nothing to do
	if len(c.exitedSandboxes(s)) == 0 && len(c.orphanedEndpoints(s)) == 0 && len(c.vanishedSandboxes(s)) == 0 {
		return nil
	}
	removed, released := 0, 0
	var vanished []*model.Sandbox
	err := c.update(ctx, func(t *tx) error {
		orphaned := c.orphanedEndpoints(t.Next)
		removed, released = t.reap(c.exitedSandboxes(t.Next), orphaned), len(orphaned)
		vanished = c.vanishedSandboxes(t.Next)
		for _, sb := range vanished {
			t.removeSandbox(sb)
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
	if released > 0 {
		c.state.Log().Info("removed endpoints orphaned by an engine", "count", released)
	}
	for _, sb := range vanished {
		c.state.Log().Info("removed sandbox: its network namespace is gone and the runtime did not remove it", "sandbox", sb.Name, "id", model.ShortID(sb.ID))
	}
	return nil
}

// reap removes orphaned endpoints and exited AutoRemove sandboxes, and returns how many
// sandboxes it removed. It marks the other sandboxes as exited.
func (t *tx) reap(exited []*model.Sandbox, orphaned []*model.Endpoint) (removed int) {
	t.IgnoreApplyErr, t.StoreOnly = true, len(orphaned) == 0
	for _, ep := range orphaned {
		t.releaseEndpoint(ep)
	}
	var shared []*model.Sandbox
	remove := func(sb *model.Sandbox) {
		t.removeSandbox(sb)
		t.StoreOnly = false
		removed++
	}
	for _, sb := range exited {
		switch {
		case !sb.AutoRemove:
			t.markExited(sb, exitUnknown)
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
		if joinsSandbox(sb.NetworkMode) {
			out[sb.NetworkMode] = true
		}
	}
	return out
}

// orphanedEndpoints lists the endpoints that a container engine has left behind: their
// devices were deleted with its namespace, or it did not move the inner end within
// StartGrace. This does not depend on the path of the namespace, which may not be visible
// to this process.
func (c *Controller) orphanedEndpoints(s *desired.Snapshot) []*model.Endpoint {
	var out []*model.Endpoint
	for ep := range s.Endpoints() {
		if ep.Reserved.IsZero() {
			continue
		}
		inner := model.InnerOnHost
		if ep.SandboxID != "" {
			var err error
			if inner, err = c.cfg.Kernel.InnerEnd(ep); err != nil {
				c.state.Log().Warn("cannot determine whether the engine still uses the endpoint; keeping it", "endpoint", model.ShortID(ep.ID), "err", err)
				continue
			}
		}
		late := c.state.Now().Sub(ep.Reserved) > c.cfg.StartGrace
		if inner == model.InnerDeleted || inner == model.InnerOnHost && late {
			out = append(out, ep)
		}
	}
	return out
}

// vanishedSandboxes lists the sandboxes whose namespace is gone and whose container runtime
// did not remove them, because of a crash or a restart of the host. Sandboxes that a
// user attached are kept until the namespace returns, and those with leased addresses until
// the runtime removes them.
func (c *Controller) vanishedSandboxes(s *desired.Snapshot) []*model.Sandbox {
	var out []*model.Sandbox
	for _, id := range c.cfg.Kernel.VanishedSandboxes(c.cfg.StartGrace) {
		if sb := s.Sandbox(id); sb != nil && sb.ManagedBy == model.ByRuntime && len(s.Joiners(id)) == 0 && !slices.ContainsFunc(endpointsOf(s, id), isLeased) {
			out = append(out, sb)
		}
	}
	return out
}

func isLeased(ep *model.Endpoint) bool { return ep.Leased }

// running reports whether the sandbox's program is known and still alive.
func (c *Controller) running(sb *model.Sandbox) bool {
	return sb.PID != 0 && !sb.Exited && c.cfg.Alive(sb.PID, sb.PIDStart)
}
