// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/fairlead-net/fairlead/control/model"
)

// exitUnknown is the exit code of a program that died unseen.
const exitUnknown = -1

// SandboxStarted notes the program that a client runs in a sandbox.
func (c *Controller) SandboxStarted(ctx context.Context, ref string, pid int, start uint64) error {
	if pid <= 0 {
		return refuse(model.ErrInvalid, "invalid process ID %d (report the program's own)", pid)
	}
	return c.update(ctx, func(t *tx) error {
		sb, err := findSandbox(t.next, ref)
		if err != nil {
			return err
		}
		if (sb.PID != pid || sb.PIDStart != start) && c.running(sb) {
			return refuse(model.ErrConflict, "sandbox %q runs a program already (PID %d; use exec for another)", sb.Name, sb.PID)
		}
		now := *sb
		now.PID, now.PIDStart, now.Exited, now.ExitCode = pid, start, false, 0
		t.putSandbox(sb.ID, &now)
		t.storeOnly = true
		return nil
	})
}

// SandboxExited notes that the program ended. An AutoRemove sandbox is removed
// with that, unless others share its namespace: then Reap does it later.
func (c *Controller) SandboxExited(ctx context.Context, ref string, code int) error {
	var removed *model.Sandbox
	err := c.update(ctx, func(t *tx) error {
		sb, err := findSandbox(t.next, ref)
		if err != nil {
			return err
		}
		if sb.AutoRemove && len(joinersOf(t.next, sb.ID)) == 0 {
			t.removeSandbox(sb)
			t.ignoreApplyErr = true
			removed = sb
			return nil
		}
		t.markExited(sb, code)
		t.storeOnly = true
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
	t.putSandbox(sb.ID, &now)
}

// Reap removes AutoRemove sandboxes whose program is dead or never came, and
// notes the death of other programs that nobody reported. It removes what
// container engines and runtimes forgot, too. It is to be called every few seconds.
func (c *Controller) Reap(ctx context.Context) error {
	s := c.Snapshot() // without the lock: mostly there is nothing
	if len(c.exitedSandboxes(s)) == 0 && len(c.orphanedEndpoints(s)) == 0 && len(c.vanishedSandboxes(s)) == 0 {
		return nil
	}
	removed, released := 0, 0
	var vanished []*model.Sandbox
	err := c.update(ctx, func(t *tx) error {
		orphaned := c.orphanedEndpoints(t.next)
		removed, released = t.reap(c.exitedSandboxes(t.next), orphaned), len(orphaned)
		vanished = c.vanishedSandboxes(t.next)
		for _, sb := range vanished {
			t.removeSandbox(sb)
			t.storeOnly = false
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reap dead sandboxes: %w", err)
	}
	if removed > 0 {
		c.cfg.Log.Info("sandboxes of dead programs removed", "count", removed)
	}
	if released > 0 {
		c.cfg.Log.Info("endpoints that an engine forgot removed", "count", released)
	}
	for _, sb := range vanished {
		c.cfg.Log.Info("sandbox removed, whose network namespace ended without a word of its runtime's", "sandbox", sb.Name, "id", short(sb.ID))
	}
	return nil
}

// reap removes both, and returns how many sandboxes of dead programs there were.
func (t *tx) reap(exited []*model.Sandbox, orphaned []*model.Endpoint) (removed int) {
	t.ignoreApplyErr, t.storeOnly = true, len(orphaned) == 0
	for _, ep := range orphaned {
		t.releaseEndpoint(ep)
	}
	var shared []*model.Sandbox
	remove := func(sb *model.Sandbox) {
		t.removeSandbox(sb)
		t.storeOnly = false
		removed++
	}
	for _, sb := range exited {
		switch {
		case !sb.AutoRemove:
			t.markExited(sb, exitUnknown)
		case len(joinersOf(t.next, sb.ID)) > 0:
			shared = append(shared, sb) // their last joiner may be in exited
		default:
			remove(sb)
		}
	}
	for _, sb := range shared {
		if len(joinersOf(t.next, sb.ID)) == 0 {
			remove(sb)
		}
	}
	return removed
}

// exitedSandboxes lists the sandboxes that Reap has to do something about.
func (c *Controller) exitedSandboxes(s *model.Snapshot) []*model.Sandbox {
	var out []*model.Sandbox
	var shared map[string]bool // modes that join a sandbox
	for _, sb := range s.Sandboxes {
		neverStarted := sb.PID == 0 && c.cfg.Now().Sub(sb.Created) > c.cfg.StartGrace
		switch {
		case sb.AutoRemove && !sb.Exited && sb.PID != 0 && !c.running(sb),
			sb.AutoRemove && sb.PID == 0 && !sb.Exited && neverStarted,
			!sb.AutoRemove && sb.PID != 0 && !sb.Exited && !c.running(sb):
			out = append(out, sb)
		case sb.AutoRemove && sb.Exited:
			if shared == nil {
				shared = joinedModes(s)
			}
			if !shared[modeContainer+sb.ID] {
				out = append(out, sb)
			}
		}
	}
	return out
}

func joinedModes(s *model.Snapshot) map[string]bool {
	out := map[string]bool{}
	for _, sb := range s.Sandboxes {
		if joinsSandbox(sb.NetworkMode) {
			out[sb.NetworkMode] = true
		}
	}
	return out
}

// orphanedEndpoints lists the endpoints that a container engine forgot: their devices
// went with its namespace, or it has not taken them for longer than an engine
// takes. Where the namespace's path is does not matter, nor whether it can be
// seen from here.
func (c *Controller) orphanedEndpoints(s *model.Snapshot) []*model.Endpoint {
	var out []*model.Endpoint
	for _, ep := range s.Endpoints {
		if ep.Reserved.IsZero() {
			continue
		}
		inner := model.InnerOnHost
		if ep.SandboxID != "" {
			var err error
			if inner, err = c.cfg.Kernel.InnerEnd(ep); err != nil {
				c.cfg.Log.Warn("endpoint is kept, not knowing whether an engine has it", "endpoint", short(ep.ID), "err", err)
				continue
			}
		}
		late := c.cfg.Now().Sub(ep.Reserved) > c.cfg.StartGrace
		if inner == model.InnerGone || inner == model.InnerOnHost && late {
			out = append(out, ep)
		}
	}
	return out
}

// vanishedSandboxes lists the sandboxes of container runtimes whose namespace ended without
// the runtime's taking them away: in a crash, or a restart of the host. Those that
// people attached wait for the namespace to come back, and those with leased addresses
// for the runtime.
func (c *Controller) vanishedSandboxes(s *model.Snapshot) []*model.Sandbox {
	var out []*model.Sandbox
	for _, id := range c.cfg.Kernel.VanishedSandboxes(c.cfg.StartGrace) {
		if sb := s.Sandboxes[id]; sb != nil && sb.OfRuntime() && len(joinersOf(s, id)) == 0 && !slices.ContainsFunc(endpointsOf(s, id), isLeased) {
			out = append(out, sb)
		}
	}
	return out
}

func isLeased(ep *model.Endpoint) bool { return ep.Leased }

// running reports whether the program that was reported still lives.
func (c *Controller) running(sb *model.Sandbox) bool {
	return sb.PID != 0 && !sb.Exited && c.cfg.Alive(sb.PID, sb.PIDStart)
}

// alive looks the process up in /proc. A zombie is dead: its program is gone,
// only its exit status waits to be read.
func alive(pid int, start uint64) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The second field is the program's name in parentheses, which may contain
	// anything; the third follows the last parenthesis.
	const state, startTime = 3, 22
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) <= startTime-state {
		return false
	}
	if s := fields[0][0]; s == 'Z' || s == 'X' {
		return false
	}
	got, err := strconv.ParseUint(string(fields[startTime-state]), 10, 64)
	return err == nil && (start == 0 || got == start)
}
