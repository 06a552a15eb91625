// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func pluginSocket(dir string) string { return Dirs{DockerPlugins: dir}.PluginSocket() }

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
