// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/schema/handover"
	"github.com/fairlead-net/fairlead/control/store"
)

// The checks in this file validate the operator's configuration before any kernel object is
// touched, and the directories even before another daemon is taken over from.

// makeDirs creates the state and run directories.
func (d *daemon) makeDirs() error {
	for _, dir := range []struct {
		flag, path string
		mode       os.FileMode
	}{
		{"--state-dir", d.cfg.Dirs.State, 0o700},
		{"--run-dir", d.cfg.Dirs.Run, 0o755},
	} {
		err := os.MkdirAll(dir.path, dir.mode)
		if err == nil {
			err = unix.Access(dir.path, unix.W_OK|unix.X_OK)
		}
		if err != nil {
			return fmt.Errorf("%s %q cannot be used (name a directory in which the daemon may create files): %w", dir.flag, dir.path, err)
		}
	}
	return nil
}

// openStore opens the state file. No other daemon has it open at this point.
func (d *daemon) openStore() error {
	path := d.cfg.Dirs.StateFile()
	state, err := store.OpenBolt(store.BoltConfig{Path: path})
	if err != nil {
		return d.explainDamage(fmt.Errorf("--state-dir: %w", err))
	}
	d.store = state
	d.onClose("state", func() error {
		return errors.Join(handover.Finish(context.Background(), state, path), state.Close())
	})
	return nil
}

// explainDamage adds the remedy for a damaged state file, if that is the error.
func (d *daemon) explainDamage(err error) error {
	if !errors.Is(err, store.ErrDamaged) {
		return err
	}
	path := d.cfg.Dirs.StateFile()
	return fmt.Errorf("%w (restore a copy of %[2]s, or move it aside with \"mv %[2]s %[2]s.damaged\" and start again;"+
		" all networks, sandboxes and published ports are then lost, and running containers have to be restarted)", err, path)
}

// listenMetrics opens the socket for metrics, which a previous daemon has closed by then.
func (d *daemon) listenMetrics() error {
	if d.cfg.MetricsListen == "" {
		return nil
	}
	l, err := net.Listen("tcp", d.cfg.MetricsListen)
	if err != nil {
		return fmt.Errorf(`--metrics-listen %q cannot be used (name another address, or "" for no metrics): %w`, d.cfg.MetricsListen, err)
	}
	d.metricsSocket = l
	d.onClose("metrics socket", l.Close)
	return nil
}

// warnUplinks warns of pinned uplinks that do not exist, but may later, and of those that cannot
// be uplinks.
func (d *daemon) warnUplinks() error {
	links, err := d.handle.Links()
	if err != nil {
		return err
	}
	for _, name := range d.cfg.Uplinks {
		switch i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == name }); {
		case i < 0:
			d.log.Warn("pinned uplink does not exist yet; it is used as soon as it does", "uplink", name)
		case !links[i].Ethernet():
			d.log.Warn("packets of the device have no Ethernet header, so it cannot be an uplink (docs/limits.md)", "uplink", name)
		}
	}
	return nil
}
