// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/dockerplugin"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// A path that is not a network namespace is refused before anything is created.
func TestNoNamespaceThere(t *testing.T) {
	for _, path := range []string{"/no/such", "/etc/passwd", "/etc/passwd/below", "/proc/self/ns/mnt"} {
		_, err := New(Config{}).CreateSandbox(t.Context(), model.SandboxSpec{Name: "box", NetNS: path})
		if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "ip netns add") {
			t.Errorf("%s: %v, want a refusal that names the path and the remedy", path, err)
		}
	}
}

// The host's own namespace cannot be a sandbox, whatever the path.
func TestHostIsNoSandbox(t *testing.T) {
	handle, err := rtnl.New()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	const own = "/proc/self/ns/net"
	link, mount := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "mount")
	if err := errors.Join(os.Symlink(own, link), os.WriteFile(mount, nil, 0o600), unix.Mount(own, mount, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(mount, unix.MNT_DETACH)
	for _, path := range []string{own, fmt.Sprintf("/proc/%d/ns/net", os.Getpid()), link, mount} {
		_, create := New(Config{Handle: handle}).CreateSandbox(t.Context(), model.SandboxSpec{Name: "box", NetNS: path})
		_, join := Engines{Handle: handle, Log: slog.New(slog.DiscardHandler)}.JoinEndpoint(t.Context(), "", "box", path)
		for _, err := range []error{create, join} {
			if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "host's own (name another") {
				t.Errorf("%s: %v, want a refusal that names the path and the remedy", path, err)
			}
		}
	}
}

// A name that the engine's events bring while a request looks for it is found, although the request could not fetch it.
func TestNameLearnedMeanwhile(t *testing.T) {
	w := verbtest.NewWorld(t)
	verbtest.PopulateEngine(w)
	names := map[string]model.EngineNames{"ben": verbtest.EngineNames("", "joined", "ben"), "web": verbtest.EngineNames("web")}
	var asked string
	engine := httptest.NewUnstartedServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		if err := w.SyncEngineNames(t.Context(), names[asked]); err != nil {
			t.Error(err)
		}
		out.WriteHeader(http.StatusServiceUnavailable)
	}))
	socket := filepath.Join(t.TempDir(), "docker.sock")
	var err error
	if engine.Listener, err = net.Listen("unix", socket); err != nil {
		t.Fatal(err)
	}
	engine.Start()
	defer engine.Close()
	log := slog.New(slog.DiscardHandler)
	n := New(Config{Controller: w.Controller, Namer: dockerplugin.NewNamer(socket, w.Parts, log), Log: log})
	asked = "ben"
	if sb, err := n.Sandbox(asked); err != nil || sb.Name != asked {
		t.Errorf("sandbox %s: %v, %v", asked, sb, err)
	}
	asked = "web"
	if in, err := n.Network(asked); err != nil || in.Name != asked {
		t.Errorf("network %s: %v, %v", asked, in, err)
	}
}
