// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// exitUnknown is the exit code of a program whose exit was not reported.
const exitUnknown = -1

// SandboxStarted records the program that a client runs in a sandbox.
func (c *Controller) SandboxStarted(ctx context.Context, ref string, pid int, start uint64) error {
	if pid <= 0 {
		return model.Refuse(model.ErrInvalid, "invalid process ID %d (report the ID of the program)", pid)
	}
	return c.state.Update(ctx, func(t *txn.Tx) error {
		sb, err := t.Next.FindSandbox(ref)
		if err != nil {
			return err
		}
		if (sb.PID != pid || sb.PIDStart != start) && c.running(sb) {
			return model.Refuse(model.ErrConflict, "sandbox %q already runs a program (PID %d; use exec to run another)", sb.Name, sb.PID)
		}
		now := *sb
		now.PID, now.PIDStart, now.Exited, now.ExitCode = pid, start, false, 0
		t.PutSandbox(sb.ID, &now)
		t.StoreOnly = !t.Next.IsRelied(sb.ID)
		return nil
	})
}

// SandboxExited records that the program exited, and removes an AutoRemove sandbox. If
// other sandboxes share its namespace, Reap removes it later.
func (c *Controller) SandboxExited(ctx context.Context, ref string, code int) error {
	var removed *model.Sandbox
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		sb, err := t.Next.FindSandbox(ref)
		if err != nil {
			return err
		}
		if sb.AutoRemove && len(t.Next.Joiners(sb.ID)) == 0 {
			removeSandbox(t, sb)
			t.IgnoreApplyErr = true
			removed = sb
			return nil
		}
		markExited(t, sb, code)
		t.StoreOnly = !t.Next.IsRelied(sb.ID)
		return nil
	})
	if err == nil && removed != nil {
		c.logRemoved(removed)
	}
	return err
}

func markExited(t *txn.Tx, sb *model.Sandbox, code int) {
	now := *sb
	now.Exited, now.ExitCode = true, code
	t.PutSandbox(sb.ID, &now)
}

// running reports whether the sandbox's program is known and still alive.
func (c *Controller) running(sb *model.Sandbox) bool {
	return sb.PID != 0 && !sb.Exited && c.cfg.Alive(sb.PID, sb.PIDStart)
}
