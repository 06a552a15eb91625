// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/store"
)

// What the operator named is tried here, before anything of the kernel's is
// touched; the directories even before another daemon is taken over from.

// makeDirs makes the directories that files are made in.
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
			return fmt.Errorf("%s %q cannot be used (name a directory in which the daemon may make files): %w", dir.flag, dir.path, err)
		}
	}
	return nil
}

// openStore opens the file of what should be. No other daemon has it open then.
func (d *daemon) openStore() error {
	state, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(d.cfg.Dirs.State, stateFile)})
	if err != nil {
		return d.explainDamage(fmt.Errorf("--state-dir: %w", err))
	}
	d.store = state
	d.onClose("state", state.Close)
	return nil
}

// explainDamage says what can be done about a state file that is damaged, if that is the
// error.
func (d *daemon) explainDamage(err error) error {
	if !errors.Is(err, store.ErrDamaged) {
		return err
	}
	path := filepath.Join(d.cfg.Dirs.State, stateFile)
	return fmt.Errorf("%w (put a copy of %[2]s back, or move it aside with \"mv %[2]s %[2]s.damaged\" and start again:"+
		" then all networks, sandboxes and published ports are forgotten, and running containers have to be started anew)", err, path)
}

// listenMetrics makes the socket of the metrics, which a daemon that was taken
// over from has let go of.
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

// warnUplinks warns of pinned uplinks that are not there, which may come, and
// of those that cannot be one.
func (d *daemon) warnUplinks() error {
	links, err := d.handle.Links()
	if err != nil {
		return err
	}
	for _, name := range d.cfg.Uplinks {
		switch i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == name }); {
		case i < 0:
			d.log.Warn("no such device yet; it is an uplink as soon as it is there", "uplink", name)
		case !links[i].Ethernet():
			d.log.Warn("packets of the device have no Ethernet header, so it is no uplink (docs/limits.md)", "uplink", name)
		}
	}
	return nil
}
