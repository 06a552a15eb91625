// SPDX-License-Identifier: Apache-2.0

// Package cleanup removes what a daemon left in the kernel.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/fairlead-net/fairlead/control/instance"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/station"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
	"github.com/fairlead-net/fairlead/control/rtnl/vxlan"
	"github.com/fairlead-net/fairlead/loader"
)

// devicesAtOnce is how many devices are removed between two checks for cancellation and two
// progress reports. It takes about a second.
const devicesAtOnce = 64

// Run removes every kernel object of the daemon that used the directories, and nothing else:
// devices, announced addresses, namespaces, programs, maps and pins. It also removes the run directory, which
// describes them, but not the stored state in the state directory. It refuses while the daemon
// runs, or a daemon of other directories in this network namespace. Missing directories are not
// an error.
//
// Devices are recognized by their alias, in the network namespace that the daemon recorded in its
// run directory. Without that record the daemon has created none since the machine's start,
// unless the run directory was removed by hand; the next daemon there removes those. A thousand
// devices take some 20 s: progress is called with the number of removed devices and of all.
func Run(ctx context.Context, dirs instance.Dirs, progress func(done, all int), log *slog.Logger) error {
	if err := dirs.Validate(); err != nil {
		return err
	}
	handle, err := rtnl.New()
	if err != nil {
		return err
	}
	err = cleanup(ctx, dirs, handle, progress, log)
	return errors.Join(err, handle.Close())
}

func cleanup(ctx context.Context, dirs instance.Dirs, handle *rtnl.Handle, progress func(done, all int), log *slog.Logger) (retErr error) {
	ran, release, err := instance.Stopped(ctx, dirs, log)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, release()) }()
	if ran {
		if err := handle.RemoveAnnounced(func(rtnl.Addr) bool { return false }); err != nil {
			return err
		}
		if err := station.New(handle, dirs.Stations()).Clear(); err != nil {
			return err
		}
		if err := removeDevices(ctx, handle, progress, log); err != nil {
			return err
		}
	}
	if err := loader.Cleanup(dirs.BPF, tc.NewFilters(handle)); err != nil {
		return err
	}
	if err := removeNamespaces(dirs.NetNS()); err != nil {
		return err
	}
	if err := vxlan.New(handle, 0, dirs.Tunnels()).Ensure(nil); err != nil {
		return err
	}
	if err := dirs.RemovePluginSocket(); err != nil {
		return err
	}
	return dirs.RemoveRun()
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
func removeNamespaces(dir string) error {
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
