// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/httpserve"
	"github.com/fairlead-net/fairlead/control/model"
)

// leftovers are objects of an engine: n1 and 10.1.0.0/24, which it has, and others that it does
// not have, created by engine me or by another, or in use.
func leftovers() desiredtest.Plain {
	pool := func(p, engine string) *model.AddressPool {
		return &model.AddressPool{ID: p, Prefix: netip.MustParsePrefix(p), Engine: engine}
	}
	s := desiredtest.Plain{
		Networks: map[string]*model.Network{
			"n1":     {ManagedBy: model.ByEngine, Local: model.Local{Engine: "me"}},
			"own":    {Local: model.Local{Engine: "me"}},
			"lost":   {ManagedBy: model.ByEngine, Local: model.Local{Engine: "me"}},
			"new":    {ManagedBy: model.ByEngine, Local: model.Local{Engine: model.EngineQueried}},
			"used":   {ManagedBy: model.ByEngine, Local: model.Local{Engine: "me"}},
			"theirs": {ManagedBy: model.ByEngine, Local: model.Local{Engine: "another"}},
			"whose":  {ManagedBy: model.ByEngine},
			"shared": {Driver: model.DriverOverlay, Local: model.Local{Engine: "me", EngineNetwork: "joined"}},
			"common": {Driver: model.DriverOverlay},
		},
		Endpoints: map[string]*model.Endpoint{"e": {NetworkID: "used"}},
		Pools: map[string]*model.AddressPool{
			"10.1.0.0/24": pool("10.1.0.0/24", "me"), "10.2.0.0/24": pool("10.2.0.0/24", "me"),
			"10.3.0.0/24": pool("10.3.0.0/24", "another"), "10.4.0.0/24": pool("10.4.0.0/24", ""),
		},
	}
	for id, n := range s.Networks {
		n.ID = id
	}
	return s
}

// What the engine created and no longer has is removed once it was missing for long enough
// without interruption.
func TestForget(t *testing.T) {
	f := &fakeNames{snap: leftovers()}
	has := model.EngineNames{
		Engine: "me", Networks: map[string]string{"n1": "web", "joined": "shop"}, Subnets: map[netip.Prefix]bool{netip.MustParsePrefix("10.1.0.0/24"): true},
	}
	hasMore := has
	hasMore.Networks = map[string]string{"n1": "web", "new": "new", "joined": "shop"}
	synctest.Test(t, func(t *testing.T) {
		n := NewNamer("", f, slog.New(slog.DiscardHandler))
		check := func(names model.EngineNames, want ...string) {
			t.Helper()
			f.removed = nil
			if err := n.removeOrphans(t.Context(), names); err != nil {
				t.Fatal(err)
			}
			if slices.Sort(f.removed); !slices.Equal(f.removed, want) {
				t.Errorf("removed %q, want %q", f.removed, want)
			}
		}
		check(has)
		time.Sleep(orphanAfter - time.Second)
		check(hasMore)
		if wait := n.untilOrphan(); wait != time.Second {
			t.Errorf("the next check is after %v", wait)
		}
		time.Sleep(time.Second)
		check(has, "10.2.0.0/24", "lost")
		time.Sleep(orphanAfter)
		check(has, "new") // the others seem to be in use
		for engine, want := range map[string][]string{"": nil, "another": {"10.3.0.0/24", "new", "theirs"}} {
			has.Engine, n.missing = engine, nil
			check(has)
			time.Sleep(orphanAfter)
			check(has, want...)
		}
	})
}

// A Namer checks for missing objects without an event, and starts counting again after the engine
// was unreachable.
func TestNamerForgets(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{socket: filepath.Join(t.TempDir(), "docker.sock"), queried: make(chan string, 1000), events: make(chan struct{}), name: "ben"}
	f := &fakeNames{snap: leftovers()}
	n := NewNamer(e.socket, f, slog.New(slog.DiscardHandler))
	if has, err := n.Has(t.Context(), "n1"); has || err != nil {
		t.Errorf("an engine that does not run has the network: %v, %v", has, err)
	}
	n.orphanAfter = 2 * time.Second
	server := e.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	queries := func() int { _, n := f.last(); return n }
	removed := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.removed)
	}
	eventually(t, "a query", func() bool { return queries() > 0 })
	server.Close()
	time.Sleep(n.orphanAfter)
	before := queries()
	server = e.start(t)
	eventually(t, "a query after the engine's start", func() bool { return queries() > before })
	if n := removed(); n > 0 {
		t.Errorf("%d are removed because the engine was unreachable", n)
	}
	eventually(t, "orphans are removed", func() bool { return removed() == 4 })
	for id, want := range map[string]bool{"n1": true, "lost": false} {
		if has, err := n.Has(t.Context(), id); has != want || err != nil {
			t.Errorf("the engine has %s: %v, %v", id, has, err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	server.Close()
}

// The engine that serves the API is recognized by its socket, even if the path differs.
func TestMaker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real, link := filepath.Join(dir, "run"), filepath.Join(dir, "var")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	api, err := net.Listen("unix", filepath.Join(real, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	for socket, want := range map[string]string{
		filepath.Join(link, "docker.sock"): model.EngineQueried,
		filepath.Join(real, "docker.sock"): model.EngineQueried,
		filepath.Join(real, "other.sock"):  "",
		"":                                 "",
	} {
		s := NewServer(Config{Log: slog.New(slog.DiscardHandler), Socket: socket})
		if got := s.requester(t.Context()); got != "" {
			t.Errorf("without a connection the engine is %q", got)
		}
		l, err := net.Listen("unix", filepath.Join(dir, "plugin.sock"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(s.requester(r.Context()))) })
		go func() { ended <- httpserve.Serve(ctx, "a test", l, h, time.Second, slog.New(slog.DiscardHandler)) }()
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		answer, err := io.ReadAll(conn)
		conn.Close()
		if _, got, _ := strings.Cut(string(answer), "\r\n\r\n"); err != nil || got != want {
			t.Errorf("socket %q: the engine is %q, %v; want %q", socket, got, err, want)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
