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
	"github.com/fairlead-net/fairlead/loader"
)

// Directories in the run directory.
const (
	namespaces = "netns" // of the sandboxes Fairlead made
	logs       = "logs"  // what detached programs write
)

// stopWait is for a daemon that was just told to end to be gone.
const stopWait = 3 * time.Second

// devicesAtOnce is how many devices go between two looks whether to stop, and two
// reports: about a second's.
const devicesAtOnce = 64

// Cleanup removes every kernel object of the daemon that lived in the
// directories, and nothing else: devices, namespaces, programs, maps and pins.
// The run directory, which describes them, goes along; what is stored in the
// state directory stays. It is refused while the daemon runs, or one of other
// directories in this network namespace. Absent directories are success.
//
// Devices are known by their alias, in the network namespace the daemon noted
// in its run directory. Without a note there are none it could have made since
// the machine came up, save for a run directory removed by hand; those the next
// daemon there sweeps. A thousand take some 20 s: progress is told how many are
// gone, of how many.
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
	if err := loader.Cleanup(dirs.BPF, handle); err != nil {
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

// lockStopped keeps a daemon from starting in the directories until unlock, and
// reports whether one ran there, in this network namespace.
func lockStopped(ctx context.Context, dirs Dirs) (ran bool, unlock func() error, retErr error) {
	path := filepath.Join(dirs.Run, lockName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false, func() error { return nil }, nil
	}
	l, err := awaitLock(ctx, dirs.Run, stopWait)
	if errors.Is(err, errLocked) {
		return false, nil, fmt.Errorf("a daemon serves %q (stop it first, with systemctl stop fairlead.socket fairlead, or SIGTERM)", dirs.Run)
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
	if id == (identity{}) { // it ended before it signed
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

// removeDevices removes what bears Fairlead's alias; the other ends, inside the
// sandboxes, go along.
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
			log.Debug("device goes", "device", link.Name, "alias", link.Alias)
		}
		if err := handle.DeleteLinks(indices); err != nil {
			return err
		}
	}
	return nil
}

// removeNamespaces lets go of the sandboxes' namespaces. Each lives on as long
// as a program is in it.
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

// removeRunDir removes what Fairlead keeps in its run directory, and the
// directories if nothing else is in them. The lock goes last.
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
