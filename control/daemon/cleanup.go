// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
	"github.com/fairlead-net/fairlead/loader"
)

// Directories in the run directory.
const (
	namespaces = "netns" // of the sandboxes with owned namespaces
	logs       = "logs"  // output of detached programs
)

// stopWait bounds the wait for a daemon that was just asked to stop.
const stopWait = 3 * time.Second

// devicesAtOnce is how many devices are removed between two checks for cancellation and two
// progress reports. It takes about a second.
const devicesAtOnce = 64

// Cleanup removes every kernel object of the daemon that used the directories, and nothing else:
// devices, namespaces, programs, maps and pins. It also removes the run directory, which
// describes them, but not the stored state in the state directory. It refuses while the daemon
// runs, or a daemon of other directories in this network namespace. Missing directories are not
// an error.
//
// Devices are recognized by their alias, in the network namespace that the daemon recorded in its
// run directory. Without that record the daemon has created none since the machine's start,
// unless the run directory was removed by hand; the next daemon there removes those. A thousand
// devices take some 20 s: progress is called with the number of removed devices and of all.
func Cleanup(ctx context.Context, dirs Dirs, progress func(done, all int), log *slog.Logger) error {
	if err := dirs.validate(); err != nil {
		return err
	}
	handle, err := rtnl.New()
	if err != nil {
		return err
	}
	err = cleanup(ctx, dirs, handle, progress, log)
	return errors.Join(err, handle.Close())
}

func cleanup(ctx context.Context, dirs Dirs, handle *rtnl.Handle, progress func(done, all int), log *slog.Logger) (retErr error) {
	ran, unlock, err := lockStopped(ctx, dirs)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, unlock()) }()
	release, err := claimNetNS(ctx, dirs.Run, log)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, release()) }()
	if ran {
		if err := removeDevices(ctx, handle, progress, log); err != nil {
			return err
		}
	}
	if err := loader.Cleanup(dirs.BPF, tc.NewFilters(handle)); err != nil {
		return err
	}
	if err := removeNamespaces(dirs.Run); err != nil {
		return err
	}
	if err := removeDockerSocket(dirs.DockerPlugins); err != nil {
		return err
	}
	return removeRunDir(dirs.Run)
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
	cookie, err := netnsCookie()
	if err != nil {
		return false, nil, err
	}
	if err := id.sameNode(identity{NetNSCookie: cookie, BPFDir: dirs.BPF}, dirs.Run); err != nil {
		return false, nil, err
	}
	return true, l.Close, nil
}

// removeDevices removes the devices with Fairlead's alias. Their peers in the sandboxes are
// removed with them.
func removeDevices(ctx context.Context, handle *rtnl.Handle, progress func(done, all int), log *slog.Logger) error {
	links, err := handle.Links()
	if err != nil {
		return err
	}
	links = slices.DeleteFunc(links, func(l rtnl.Link) bool { return !l.Ours() })
	done := 0
	for some := range slices.Chunk(links, devicesAtOnce) {
		progress(done, len(links))
		done += len(some)
		if err := ctx.Err(); err != nil {
			return err
		}
		var indices []uint32
		for _, link := range some {
			indices = append(indices, link.Index)
			log.Debug("removing device", "device", link.Name, "alias", link.Alias)
		}
		if err := handle.DeleteLinks(indices); err != nil {
			return err
		}
	}
	return nil
}

// removeNamespaces removes the sandboxes' namespaces. Each exists as long as a program is in it.
func removeNamespaces(runDir string) error {
	dir := filepath.Join(runDir, namespaces)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, entry := range entries {
		if err := rtnl.RemoveNetNS(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeRunDir removes Fairlead's files in its run directory, and the directories if they are
// empty then. It removes the lock last.
func removeRunDir(runDir string) error {
	files, err := filepath.Glob(filepath.Join(runDir, logs, "*.log"))
	if err != nil {
		return fmt.Errorf("list logs: %w", err)
	}
	for _, name := range []string{logs, namespaces, socketName, lockName, ""} {
		files = append(files, filepath.Join(runDir, name))
	}
	for _, file := range files {
		err := os.Remove(file)
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
			continue
		}
		return fmt.Errorf("clean run directory: %w", err)
	}
	return nil
}
