// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// A killed daemon's socket does not keep the next one away, nor does it outlive
// a cleanup; one that is served stays.
func TestDockerSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "docker", "plugins")
	listen := func() *net.UnixListener {
		t.Helper()
		d := &daemon{cfg: Config{Dirs: Dirs{DockerPlugins: dir}}}
		if err := d.listenDocker(); err != nil {
			t.Fatal(err)
		}
		return d.dockerSocket.(*net.UnixListener)
	}
	l := listen()
	if info, err := os.Stat(pluginSocket(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	if err := removeDockerSocket(dir); err != nil || !answers(pluginSocket(dir)) {
		t.Errorf("a socket that is served was removed: %v", err)
	}
	l.SetUnlinkOnClose(false) // as when it is killed
	l.Close()
	l = listen()
	l.SetUnlinkOnClose(false)
	l.Close()
	for range 2 {
		if err := removeDockerSocket(dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(pluginSocket(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := removeDockerSocket(""); err != nil {
		t.Error(err)
	}
}
