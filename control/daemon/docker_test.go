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
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// Sockets of the name server that systemd kept are not taken for sockets of engines, whatever they are.
func TestPassedDescriptors(t *testing.T) {
	plugin, err := net.Listen("unix", filepath.Join(t.TempDir(), "a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for _, p := range []struct {
		name   string
		socket interface{ File() (*os.File, error) }
	}{
		{"fairlead.socket", plugin.(*net.UnixListener)},
		{"drivers", plugin.(*net.UnixListener)}, // FileDescriptorName=
		{"fairlead.socket", stream.(*net.TCPListener)},
		{"fairlead.socket", packets.(*net.UDPConn)},
		{"dns-tcp-127.0.0.1-53", stream.(*net.TCPListener)},
		{"dns-udp-127.0.0.1-53", packets.(*net.UDPConn)},
		{"dns-udp-127.0.0.2-53", plugin.(*net.UnixListener)},
		{"later", stream.(*net.TCPListener)},
	} {
		f, err := p.socket.File()
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // another than that of f, to give it another name
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		files = append(files, os.NewFile(uintptr(fd), p.name))
	}
	sockets, stored := sortPassed(files)
	var got []string
	for _, l := range sockets {
		if l == nil {
			got = append(got, "nil")
			continue
		}
		got = append(got, l.Addr().Network())
		l.Close()
	}
	if want := []string{"unix", "unix", "nil", "nil"}; !slices.Equal(got, want) {
		t.Errorf("sockets of units are %q, want %q", got, want)
	}
	got = nil
	for _, f := range stored {
		got = append(got, f.Name())
	}
	if want := []string{"dns-tcp-127.0.0.1-53", "dns-udp-127.0.0.1-53", "dns-udp-127.0.0.2-53", "later"}; !slices.Equal(got, want) {
		t.Errorf("stored are %q, want %q", got, want)
	}
}
