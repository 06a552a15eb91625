// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/downgrade"
)

// Downgrade hands the flow tables over to an earlier build, the fairlead at to, whose daemon is to
// be started once ready was called with the names of the converted tables. It returns when that daemon
// has taken over. Whether a daemon of this build still runs until then makes no difference.
func Downgrade(ctx context.Context, bpfDir, to string, ready func(converted []string), log *slog.Logger) error {
	if err := raisePriority(); err != nil {
		log.Warn("on a busy machine connections may be lost", "err", err)
	}
	return downgrade.Run(ctx, downgrade.Config{BPFDir: bpfDir, To: to, Ready: ready, Log: log})
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
