// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/host/socket"
)

func pluginSocket(dir string) string { return Dirs{DockerPlugins: dir}.PluginSocket() }

// A killed daemon's socket does not prevent the next one from starting, and a cleanup removes it.
// A socket that is served is kept.
func TestDockerSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "docker", "plugins")
	listen := func() *net.UnixListener {
		t.Helper()
		l, err := Dirs{DockerPlugins: dir}.ListenPlugin()
		if err != nil {
			t.Fatal(err)
		}
		return l.(*net.UnixListener)
	}
	l := listen()
	if info, err := os.Stat(pluginSocket(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	if err := (Dirs{DockerPlugins: dir}).RemovePluginSocket(); err != nil || !socket.IsServed(pluginSocket(dir)) {
		t.Errorf("a socket that is served was removed: %v", err)
	}
	l.SetUnlinkOnClose(false) // as if the daemon was killed
	l.Close()
	l = listen()
	l.SetUnlinkOnClose(false)
	l.Close()
	for range 2 {
		if err := (Dirs{DockerPlugins: dir}).RemovePluginSocket(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(pluginSocket(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := (Dirs{}).RemovePluginSocket(); err != nil {
		t.Error(err)
	}
}

// Checking whether systemd's socket is served does not connect to it, which would start a daemon.
func TestDockerSocketIsNotCalled(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", pluginSocket(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := (Dirs{DockerPlugins: dir}).ListenPlugin(); err == nil || !strings.Contains(err.Error(), "fairlead.socket") {
		t.Errorf("beside systemd's socket: %v", err)
	}
	if err := (Dirs{DockerPlugins: dir}).RemovePluginSocket(); err != nil {
		t.Error(err)
	}
	inode, err := socket.Listener(pluginSocket(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, number := range []string{inode, "1"} {
		if has, err := socket.IsOpenIn(os.Getpid(), number); err != nil || has != (number == inode) {
			t.Errorf("this process has the socket with inode %s open: %t, %v", number, has, err)
		}
	}
	if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("there was a connection to the socket: %v", err)
	}
}
