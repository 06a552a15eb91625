// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/control/dockerplugin"
)

// pluginSocket is where a Docker Engine finds the drivers.
func pluginSocket(dir string) string { return filepath.Join(dir, dockerplugin.Name+".sock") }

// listenDocker makes the socket of the Docker Engine's drivers, for root alone.
// It is served once there is something to serve: who asks before that waits.
func (d *daemon) listenDocker() error {
	dir := d.cfg.Dirs.DockerPlugins
	if dir == "" {
		return nil
	}
	path := pluginSocket(dir)
	if answers(path) {
		return fmt.Errorf(`another daemon serves Docker at %q (give this one a --docker-plugin-dir of its own, or "" for none)`, path)
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
	d.closeLater("Docker's socket", l.Close)
	return nil
}

// answers reports whether somebody serves a socket.
func answers(path string) bool {
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
	if dir == "" || answers(pluginSocket(dir)) {
		return nil
	}
	if err := os.Remove(pluginSocket(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
