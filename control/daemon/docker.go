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

// pluginSocket is where a Docker Engine finds the driver.
func pluginSocket(dir string) string { return filepath.Join(dir, dockerplugin.Name+".sock") }

// openDocker makes the socket of the Docker Engine's drivers.
func (d *daemon) openDocker() error {
	if d.cfg.DockerPluginDir == "" {
		return nil
	}
	l, err := listenDocker(d.cfg.DockerPluginDir)
	if err != nil {
		return err
	}
	d.dockerSocket = l
	d.closeLater("Docker's socket", l.Close)
	d.docker = dockerplugin.NewServer(dockerplugin.Config{Controller: d.controller, Log: d.log})
	return nil
}

// listenDocker makes the socket, for root alone. One that nobody answers at is
// stale; who answers serves other sandboxes than these.
func listenDocker(dir string) (net.Listener, error) {
	path := pluginSocket(dir)
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("another daemon serves Docker at %q (give this one a --docker-plugin-dir of its own, or \"\" for none)", path)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make Docker's plugin directory: %w (name another with --docker-plugin-dir, or \"\" for none)", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	mask := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(mask)
	if err != nil {
		return nil, fmt.Errorf("listen for Docker: %w", err)
	}
	return l, nil
}
