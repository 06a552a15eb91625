// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/cmd/fairlead/enter"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

func newRmCommand(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] SANDBOX…",
		Short:             "Remove sandboxes",
		Args:              minArgs("SANDBOX"),
		ValidArgsFunction: completeSandboxes(e, 0),
		RunE:              func(cmd *cobra.Command, args []string) error { return runRm(cmd.Context(), e, force, args) },
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill running programs; ignore missing sandboxes")
	return cmd
}

func runRm(ctx context.Context, e *env, force bool, refs []string) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	return removeEach(e, force, refs, func(ref string) error { return removeSandbox(ctx, c, ref, force) })
}

// removeEach removes each ref and prints it, and continues after errors. With force, a
// missing object is not an error.
func removeEach(e *env, force bool, refs []string, remove func(ref string) error) error {
	var errs []error
	for _, ref := range refs {
		err := remove(ref)
		switch {
		case errors.Is(err, client.ErrUnreachable):
			return errors.Join(append(errs, err)...)
		case force && errors.Is(err, model.ErrNotFound):
		case err != nil:
			errs = append(errs, err)
		default:
			fmt.Fprintln(e.stdout, ref)
		}
	}
	return errors.Join(errs...)
}

// removeSandbox removes a sandbox. With force it first kills the program, because the daemon
// does not own programs and never kills them.
func removeSandbox(ctx context.Context, c *client.Client, ref string, force bool) error {
	sb, err := c.Sandbox(ctx, ref)
	if err != nil {
		return err
	}
	runs := sb.State.Running && sb.State.Pid != 0 // without a PID an engine manages it, and the daemon reports that
	if runs && !force {
		return fmt.Errorf("sandbox %s: its program (process %d) still runs; stop it first or use --force", sb.Name, sb.State.Pid)
	}
	if force {
		// While the program still accepts connections. Whether that works does not decide what is removed, but a
		// program is not killed if its sandbox cannot be removed.
		if err := c.Withdraw(ctx, sb.ID); errors.Is(err, client.ErrUnreachable) || errors.Is(err, model.ErrConflict) {
			return err
		}
	}
	if runs {
		started := func() bool { return host.ProcessAlive(sb.State.Pid, sb.State.PidStart) }
		if err := kill(sb.State.Pid, started); err != nil {
			return fmt.Errorf("sandbox %s: %w", sb.Name, err)
		}
	}
	if force && sb.NetworkSettings.Owned {
		if err := killInNetNS(ctx, c, sb.NetworkSettings.SandboxKey); err != nil {
			return fmt.Errorf("sandbox %s: %w", sb.Name, err)
		}
	}
	return c.RemoveSandbox(ctx, sb.ID, force)
}

// killInNetNS kills the remaining processes in a namespace that Fairlead created. Workers
// that the program left behind would keep the namespace alive without a name. A process that also
// has a thread in the daemon's namespace is a program of the host that looks into the sandbox, as
// the daemon itself does, and is left alone.
func killInNetNS(ctx context.Context, c *client.Client, netns string) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	sandbox, err := netNSInode(enter.Place{NetNS: netns, DaemonPid: st.Pid})
	if errors.Is(err, rtnl.ErrNoNetNS) {
		return nil
	}
	if err != nil {
		return err
	}
	daemon, err := netNSInode(enter.Place{DaemonPid: st.Pid})
	if err != nil {
		return err
	}
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, path := range paths {
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/", &pid); err != nil {
			return fmt.Errorf("read process number in %q: %w", path, err)
		}
		belongs := func() bool { return inNetNS(path, sandbox) && !hasThreadIn(pid, daemon) }
		if !belongs() {
			continue
		}
		if err := kill(pid, belongs); err != nil {
			return err
		}
	}
	return nil
}

func netNSInode(at enter.Place) (uint64, error) {
	ns, err := enter.OpenNetNS(at)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	return ns.Inode()
}

// inNetNS reports whether path, a ns/net of a process or a thread, is the namespace with that inode.
func inNetNS(path string, inode uint64) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Ino == inode
}

// hasThreadIn reports whether a thread of a process is in the namespace with that inode.
func hasThreadIn(pid int, inode uint64) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/ns/net", pid))
	return slices.ContainsFunc(threads, func(path string) bool { return inNetNS(path, inode) })
}

// kill kills a process if meant still returns true, and waits for its end. It opens the
// pidfd before it calls meant, so that it cannot kill another process with the same PID.
func kill(pid int, meant func() bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !meant() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the end of process %d: %w", pid, err)
		case n == 0:
			return fmt.Errorf("process %d has not ended 10 seconds after SIGKILL", pid)
		default:
			return nil
		}
	}
}
