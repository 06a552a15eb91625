// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/fairlead-net/fairlead/control/dockerplugin"
	"github.com/fairlead-net/fairlead/control/httpserve"
)

// pluginSocket is where a Docker Engine finds the drivers.
func pluginSocket(dir string) string { return filepath.Join(dir, dockerplugin.Name+".sock") }

// adoptDockerSocket takes the socket that systemd has made for the engine's drivers, and
// passes: an engine that asks while no daemon runs then starts one, and waits, instead
// of trying for 15 s.
func (d *daemon) adoptDockerSocket() error {
	want := pluginSocket(d.cfg.Dirs.DockerPlugins)
	for _, l := range d.passed {
		switch {
		case l == nil || l.Addr().String() != want:
			return fmt.Errorf("systemd passes another socket than %q (see fairlead.socket and --docker-plugin-dir)", want)
		case d.dockerSocket != nil:
			return fmt.Errorf("systemd passes %q twice (see fairlead.socket)", want)
		}
		d.dockerSocket = l
		d.onClose("Docker's socket", l.Close)
	}
	return nil
}

// refuseTime is how long a daemon that cannot start tells so to engines that made
// systemd start it. They would try on their own for 15 s if it just ended.
const refuseTime = time.Second

// Refuse is for a daemon that is not even run, for the reason: it answers engines that made
// systemd start it, as [Run] does when it cannot start.
func Refuse(ctx context.Context, reason error, log *slog.Logger) {
	passed, err := activation.Listeners()
	if err != nil {
		log.Warn("engines are not told that nobody serves them", "err", err)
	}
	(&daemon{passed: passed, log: log}).refuseDocker(ctx, reason)
}

// refuseDocker answers whatever engines ask at systemd's sockets with the reason why
// nobody serves them.
func (d *daemon) refuseDocker(ctx context.Context, reason error) {
	ctx, cancel := context.WithTimeout(ctx, refuseTime)
	defer cancel()
	var all sync.WaitGroup
	for _, l := range d.passed {
		if l == nil {
			continue // no socket that listens
		}
		all.Go(func() {
			if err := dockerplugin.Refuse(ctx, l, fmt.Errorf("fairlead cannot start: %w", reason), d.log); err != nil {
				d.log.Warn("engines are not told that nobody serves them", "err", err)
			}
		})
	}
	all.Wait()
}

// checkDockerSocket refuses what listenDocker would, before a running daemon is asked to end: one
// that systemd has started does not take its socket with it.
func (d *daemon) checkDockerSocket() error {
	dir := d.cfg.Dirs.DockerPlugins
	if dir == "" || d.dockerSocket != nil {
		return nil
	}
	path := pluginSocket(dir)
	// What cannot be seen is not refused; listening fails then, if it must.
	inode, _ := httpserve.Listener(path)
	if has, _ := httpserve.HasSocket(1, inode); inode != "" && has {
		return fmt.Errorf(`systemd listens at %q for fairlead.socket (use systemctl, or give this daemon a --docker-plugin-dir of its own, or "" for none)`, path)
	}
	return nil
}

// listenDocker makes the socket of the Docker Engine's drivers, for root alone.
// It is served once there is something to serve: who asks before that waits.
func (d *daemon) listenDocker() error {
	dir := d.cfg.Dirs.DockerPlugins
	if dir == "" || d.dockerSocket != nil {
		return nil
	}
	path := pluginSocket(dir)
	if isServed(path) {
		return fmt.Errorf(`another daemon serves Docker at %q, or systemd (fairlead.socket) listens there (give this one a --docker-plugin-dir of its own, or "" for none)`, path)
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = removeDockerSocket(dir)
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

// isServed reports whether somebody serves a socket. One that is seen to listen is not
// called: it may be systemd's, who would start a daemon.
func isServed(path string) bool {
	if inode, err := httpserve.Listener(path); err == nil && inode != "" {
		return true
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// removeDockerSocket removes the socket that a killed daemon left, which would
// keep an engine trying. One that somebody serves stays, and none is success.
func removeDockerSocket(dir string) error {
	if dir == "" || isServed(pluginSocket(dir)) {
		return nil
	}
	if err := os.Remove(pluginSocket(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
