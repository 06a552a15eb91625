// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/instance"
	"github.com/fairlead-net/fairlead/control/schema/handover"
	"github.com/fairlead-net/fairlead/loader/downgrade"
)

// DowngradeConfig configures Downgrade. All fields are required.
type DowngradeConfig struct {
	StateDir, RunDir, BPFDir string
	// To is the path of the fairlead binary that takes over.
	To string
	// Ready is called with the names of what was converted once the daemon of To may start. There
	// are none if it reads everything as it is.
	Ready func(converted []string)
	Log   *slog.Logger
}

// ConvertedState is the name of the stored state in messages.
const ConvertedState = "the stored state"

// Downgrade hands the flow tables and the stored state over to an earlier build, whose daemon is to
// be started once Ready was called. It returns when that daemon has taken over the tables, and can
// read the state. Whether a daemon of this build still runs until then makes no difference.
func Downgrade(ctx context.Context, cfg DowngradeConfig) (retErr error) {
	if err := raisePriority(); err != nil {
		cfg.Log.Warn("on a busy machine connections may be lost", "err", err)
	}
	state, err := handover.Begin(ctx, instance.Dirs{State: cfg.StateDir}.StateFile(), cfg.To)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, state.Cancel()) }()
	err = downgrade.Run(ctx, downgrade.Config{BPFDir: cfg.BPFDir, To: cfg.To, Log: cfg.Log, Wait: state.Wait, Ready: func(converted []string) {
		if state.Needed {
			converted = append(converted, ConvertedState)
		}
		cfg.Ready(converted)
	}})
	if err != nil {
		return err
	}
	// Builds up to schema 1 have no files of sandboxes, and do not remove them. Programs that run keep theirs. Of the later
	// builds most use them, and so may the daemon of this one, which may still run.
	if state.Schema > 1 {
		return nil
	}
	if err := os.RemoveAll(instance.Dirs{Run: cfg.RunDir}.EtcFiles()); err != nil {
		return fmt.Errorf("remove the files of sandboxes: %w", err)
	}
	return nil
}

// raisePriority has this process run before others: it has some 40 ms to notice what the other daemon does.
func raisePriority() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads { // those that they start inherit it
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			return err
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, -20); err != nil && err != unix.ESRCH {
			return os.NewSyscallError("setpriority", err)
		}
	}
	return nil
}
