// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
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
	d := &daemon{cfg: Config{Dirs: Dirs{DockerPlugins: dir}}}
	if err := d.listenDocker(); err == nil || !strings.Contains(err.Error(), "fairlead.socket") {
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

// systemd's socket is accepted if it has the right path. A daemon that cannot start answers
// engines there with the reason, and keeps the socket's file, which belongs to systemd.
func TestDockerSocketOfSystemd(t *testing.T) {
	dir := t.TempDir()
	listen := func(path string) net.Listener {
		t.Helper()
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // like a socket that was passed
		t.Cleanup(func() { l.Close() })
		return l
	}
	right, wrong := listen(pluginSocket(dir)), listen(filepath.Join(dir, "other.sock"))
	for _, passed := range [][]net.Listener{{wrong}, {right, wrong}, {right, right}, {nil}} {
		d := &daemon{cfg: Config{Dirs: Dirs{DockerPlugins: dir}}, passed: passed}
		if err := d.adoptDockerSocket(); err == nil || !strings.Contains(err.Error(), "fairlead.socket") {
			t.Errorf("%v was accepted, or %v", passed, err)
		}
	}
	d := &daemon{cfg: Config{Dirs: Dirs{DockerPlugins: dir}}, passed: []net.Listener{right}, log: slog.New(slog.DiscardHandler)}
	if err := errors.Join(d.adoptDockerSocket(), d.listenDocker()); err != nil || d.dockerSocket != right {
		t.Fatalf("has %v, %v", d.dockerSocket, err)
	}
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		d.refuseDocker(t.Context(), errors.New("no such directory"))
	}()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", pluginSocket(dir))
	}}}
	answer, err := client.Post("http://fairlead/Plugin.Activate", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if want := `{"Err":"fairlead cannot start: no such directory"`; answer.StatusCode < 500 || !strings.HasPrefix(string(text), want) || err != nil {
		t.Errorf("an engine got %s %s, %v", answer.Status, text, err)
	}
	<-refused
	if _, err := os.Lstat(pluginSocket(dir)); err != nil {
		t.Errorf("the socket was removed: %v", err)
	}
}
