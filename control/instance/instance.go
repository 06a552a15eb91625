// SPDX-License-Identifier: Apache-2.0

// Package instance keeps daemons apart: at most one uses a set of directories, and at most one
// manages a network namespace.
package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Start makes this process the daemon of the directories, and of its network namespace, until
// release is called. It asks a daemon that runs in the directories to end.
func Start(ctx context.Context, dirs Dirs, log *slog.Logger) (release func() error, retErr error) {
	cookie, err := rtnl.NetNSCookie()
	if err != nil {
		return nil, err
	}
	me := identity{PID: os.Getpid(), NetNSCookie: cookie, BPFDir: dirs.BPF}
	l, err := takeOver(ctx, dirs.Run, me, log)
	if err != nil {
		return nil, err
	}
	if err := checkPins(dirs.Run, me); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	release, err = claimLocked(ctx, dirs.Run, l.Close, log) // the previous daemon has released both
	if err != nil {
		return nil, err
	}
	if err := l.sign(me); err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// Stopped prevents a daemon from starting in the directories, and in this network namespace, until
// release is called. It reports whether one ran there, in this network namespace. It fails if
// one is running.
func Stopped(ctx context.Context, dirs Dirs, log *slog.Logger) (ran bool, release func() error, err error) {
	ran, unlock, err := lockStopped(ctx, dirs)
	if err != nil {
		return false, nil, err
	}
	release, err = claimLocked(ctx, dirs.Run, unlock, log)
	return ran, release, err
}

// claimLocked claims the network namespace, or unlocks the directories. release undoes both.
func claimLocked(ctx context.Context, runDir string, unlock func() error, log *slog.Logger) (release func() error, err error) {
	unclaim, err := claimNetNS(ctx, runDir, log)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	return func() error { return errors.Join(unclaim(), unlock()) }, nil
}

// lockStopped prevents a daemon from starting in the directories until unlock is called, and
// reports whether one ran there, in this network namespace.
func lockStopped(ctx context.Context, dirs Dirs) (ran bool, unlock func() error, retErr error) {
	path := filepath.Join(dirs.Run, lockName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false, func() error { return nil }, nil
	}
	l, err := awaitLock(ctx, dirs.Run, stopWait)
	if errors.Is(err, errLocked) {
		return false, nil, fmt.Errorf("a daemon is running in %q (stop it first, with systemctl stop fairlead.socket fairlead, or SIGTERM)", dirs.Run)
	}
	if err != nil {
		return false, nil, err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, l.Close())
		}
	}()
	id, err := readIdentity(path)
	if err != nil {
		return false, nil, err
	}
	if id == (identity{}) { // the holder exited before it wrote its identity
		return false, l.Close, nil
	}
	cookie, err := rtnl.NetNSCookie()
	if err != nil {
		return false, nil, err
	}
	if err := id.sameNode(identity{NetNSCookie: cookie, BPFDir: dirs.BPF}, dirs.Run); err != nil {
		return false, nil, err
	}
	return true, l.Close, nil
}
