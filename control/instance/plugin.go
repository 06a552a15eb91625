// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/fairlead-net/fairlead/control/host/socket"
)

// AdoptPluginSocket takes the socket that systemd created for the drivers and passed to the
// daemon. If no daemon runs, an engine's request then starts one and waits, instead of retrying
// for 15 s. It returns nil if systemd passed nothing.
func (d Dirs) AdoptPluginSocket(passed []net.Listener) (adopted net.Listener, err error) {
	want := d.PluginSocket()
	for _, l := range passed {
		switch {
		case l == nil || l.Addr().String() != want:
			return adopted, fmt.Errorf("systemd passed another socket than %q (see fairlead.socket and --docker-plugin-dir)", want)
		case adopted != nil:
			return adopted, fmt.Errorf("systemd passed %q twice (see fairlead.socket)", want)
		}
		adopted = l
	}
	return adopted, nil
}

// CheckPluginSocket refuses, before a running daemon is asked to end, what ListenPlugin would
// refuse later: a daemon that systemd started leaves its socket with systemd when it ends.
func (d Dirs) CheckPluginSocket() error {
	if d.DockerPlugins == "" {
		return nil
	}
	path := d.PluginSocket()
	// If the socket cannot be examined, there is no refusal here; listening may then fail.
	inode, _ := socket.Listener(path)
	if has, _ := socket.IsOpenIn(1, inode); inode != "" && has {
		return fmt.Errorf(`systemd listens at %q for fairlead.socket (use systemctl, or give this daemon a --docker-plugin-dir of its own, or "" for none)`, path)
	}
	return nil
}

// ListenPlugin opens the socket of the Docker Engine's drivers, for root only. It returns nil if
// Docker is not served.
func (d Dirs) ListenPlugin() (net.Listener, error) {
	if d.DockerPlugins == "" {
		return nil, nil
	}
	path := d.PluginSocket()
	if socket.IsServed(path) {
		return nil, fmt.Errorf(`another daemon serves Docker at %q, or systemd (fairlead.socket) listens there (give this one a --docker-plugin-dir of its own, or "" for none)`, path)
	}
	err := os.MkdirAll(d.DockerPlugins, 0o755)
	if err == nil {
		err = d.RemovePluginSocket()
	}
	if err != nil {
		return nil, fmt.Errorf(`--docker-plugin-dir %q cannot be used (name another, or "" for none): %w`, d.DockerPlugins, err)
	}
	mask := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(mask)
	if err != nil {
		return nil, fmt.Errorf(`--docker-plugin-dir %q cannot be used (name another, or "" for none): %w`, d.DockerPlugins, err)
	}
	return l, nil
}

// RemovePluginSocket removes the socket of a killed daemon, which would keep an engine retrying.
// It keeps a socket that is served. A missing socket is not an error.
func (d Dirs) RemovePluginSocket() error {
	if d.DockerPlugins == "" || socket.IsServed(d.PluginSocket()) {
		return nil
	}
	if err := os.Remove(d.PluginSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
