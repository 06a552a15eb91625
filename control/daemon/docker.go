// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/fairlead-net/fairlead/control/dockerplugin"
	"github.com/fairlead-net/fairlead/control/host/socket"
)

// adoptDockerSocket takes the socket that systemd created for the drivers and passed to the
// daemon. If no daemon runs, an engine's request then starts one and waits, instead of retrying
// for 15 s.
func (d *daemon) adoptDockerSocket() error {
	want := d.cfg.Dirs.PluginSocket()
	for _, l := range d.passed {
		switch {
		case l == nil || l.Addr().String() != want:
			return fmt.Errorf("systemd passed another socket than %q (see fairlead.socket and --docker-plugin-dir)", want)
		case d.dockerSocket != nil:
			return fmt.Errorf("systemd passed %q twice (see fairlead.socket)", want)
		}
		d.dockerSocket = l
		d.onClose("Docker's socket", l.Close)
	}
	return nil
}

// refuseTime is how long a daemon that cannot start answers engines whose requests made systemd
// start it. If it just ended, they would retry for 15 s.
const refuseTime = time.Second

// Refuse answers engines that made systemd start this process with the reason why the daemon does
// not run, as [Run] does when it cannot start.
func Refuse(ctx context.Context, reason error, log *slog.Logger) {
	passed, err := activation.Listeners()
	if err != nil {
		log.Warn("cannot report the startup failure to Docker", "err", err)
	}
	(&daemon{passed: passed, log: log}).refuseDocker(ctx, reason)
}

// refuseDocker answers all requests of engines at systemd's sockets with the reason of the
// failure.
func (d *daemon) refuseDocker(ctx context.Context, reason error) {
	ctx, cancel := context.WithTimeout(ctx, refuseTime)
	defer cancel()
	var all sync.WaitGroup
	for _, l := range d.passed {
		if l == nil {
			continue // not a listening socket
		}
		all.Go(func() {
			if err := dockerplugin.Refuse(ctx, l, fmt.Errorf("fairlead cannot start: %w", reason), d.log); err != nil {
				d.log.Warn("cannot report the startup failure to Docker", "err", err)
			}
		})
	}
	all.Wait()
}

// checkDockerSocket refuses, before a running daemon is asked to end, what listenDocker would
// refuse later: a daemon that systemd started leaves its socket with systemd when it ends.
func (d *daemon) checkDockerSocket() error {
	dir := d.cfg.Dirs.DockerPlugins
	if dir == "" || d.dockerSocket != nil {
		return nil
	}
	path := d.cfg.Dirs.PluginSocket()
	// If the socket cannot be examined, there is no refusal here; listening may then fail.
	inode, _ := socket.Listener(path)
	if has, _ := socket.IsOpenIn(1, inode); inode != "" && has {
		return fmt.Errorf(`systemd listens at %q for fairlead.socket (use systemctl, or give this daemon a --docker-plugin-dir of its own, or "" for none)`, path)
	}
	return nil
}

// listenDocker opens the socket of the Docker Engine's drivers, for root only. Requests wait
// until the daemon serves it.
func (d *daemon) listenDocker() error {
	dir := d.cfg.Dirs.DockerPlugins
	if dir == "" || d.dockerSocket != nil {
		return nil
	}
	path := d.cfg.Dirs.PluginSocket()
	if socket.IsServed(path) {
		return fmt.Errorf(`another daemon serves Docker at %q, or systemd (fairlead.socket) listens there (give this one a --docker-plugin-dir of its own, or "" for none)`, path)
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = d.cfg.Dirs.RemovePluginSocket()
	}
	if err != nil {
		return fmt.Errorf(`--docker-plugin-dir %q cannot be used (name another, or "" for none): %w`, dir, err)
	}
	mask := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(mask)
	if err != nil {
		return fmt.Errorf(`--docker-plugin-dir %q cannot be used (name another, or "" for none): %w`, dir, err)
	}
	d.dockerSocket = l
	d.onClose("Docker's socket", l.Close)
	return nil
}
