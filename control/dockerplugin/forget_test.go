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

// leftovers are an engine's, n1 and 10.1.0.0/24, which it has, and what it has not: some
// made by the engine me, some in use or another's.
func leftovers() desiredtest.Plain {
	pool := func(p, engine string) *model.AddressPool {
		return &model.AddressPool{ID: p, Prefix: netip.MustParsePrefix(p), Engine: engine}
	}
	s := desiredtest.Plain{
		Networks: map[string]*model.Network{
			"n1":     {Foreign: true, Engine: "me"},
			"own":    {Engine: "me"},
			"lost":   {Foreign: true, Engine: "me"},
			"new":    {Foreign: true, Engine: model.EngineQueried},
			"used":   {Foreign: true, Engine: "me"},
			"theirs": {Foreign: true, Engine: "another"},
			"whose":  {Foreign: true},
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

// What the engine made and has no more is forgotten once it was missing for long enough,
// without a break.
func TestForget(t *testing.T) {
	f := &fakeNames{snap: leftovers()}
	has := model.EngineNames{
		Engine: "me", Networks: map[string]string{"n1": "web"}, Subnets: map[netip.Prefix]bool{netip.MustParsePrefix("10.1.0.0/24"): true},
	}
	hasMore := has
	hasMore.Networks = map[string]string{"n1": "web", "new": "new"}
	synctest.Test(t, func(t *testing.T) {
		n := NewNamer("", f, slog.New(slog.DiscardHandler))
		look := func(names model.EngineNames, want ...string) {
			t.Helper()
			f.forgotten = nil
			if err := n.forget(t.Context(), names); err != nil {
				t.Fatal(err)
			}
			if slices.Sort(f.forgotten); !slices.Equal(f.forgotten, want) {
				t.Errorf("forgotten is %q, want %q", f.forgotten, want)
			}
		}
		look(has)
		time.Sleep(forgetAfter - time.Second)
		look(hasMore)
		if wait := n.untilForget(); wait != time.Second {
			t.Errorf("it looks again after %v", wait)
		}
		time.Sleep(time.Second)
		look(has, "10.2.0.0/24", "lost")
		time.Sleep(forgetAfter)
		look(has, "new") // the others are in use, as it seems
		for engine, want := range map[string][]string{"": nil, "another": {"10.3.0.0/24", "new", "theirs"}} {
			has.Engine, n.missing = engine, nil
			look(has)
			time.Sleep(forgetAfter)
			look(has, want...)
		}
	})
}

// A Namer looks for what is missing without an event, and counts anew when the engine
// was away.
func TestNamerForgets(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{socket: filepath.Join(t.TempDir(), "docker.sock"), asked: make(chan string, 1000), events: make(chan struct{}), name: "ben"}
	f := &fakeNames{snap: leftovers()}
	n := NewNamer(e.socket, f, slog.New(slog.DiscardHandler))
	if has, err := n.Has(t.Context(), "n1"); has || err != nil {
		t.Errorf("an engine that does not run has the network: %v, %v", has, err)
	}
	n.forgetAfter = 2 * time.Second
	server := e.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	looked := func() int { _, n := f.last(); return n }
	forgotten := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.forgotten)
	}
	eventually(t, "a look", func() bool { return looked() > 0 })
	server.Close()
	time.Sleep(n.forgetAfter)
	before := looked()
	server = e.start(t)
	eventually(t, "a look after the engine's start", func() bool { return looked() > before })
	if n := forgotten(); n > 0 {
		t.Errorf("%d are forgotten because the engine was away", n)
	}
	eventually(t, "what is lost is forgotten", func() bool { return forgotten() == 3 })
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

// Who serves the API that is asked for names is known by its socket, though that is
// given by another path.
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
		if got := s.maker(t.Context()); got != "" {
			t.Errorf("without a connection the maker is %q", got)
		}
		l, err := net.Listen("unix", filepath.Join(dir, "plugin.sock"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(s.maker(r.Context()))) })
		go func() { ended <- httpserve.Serve(ctx, "a test", l, h, time.Second, slog.New(slog.DiscardHandler)) }()
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		answer, err := io.ReadAll(conn)
		conn.Close()
		if _, got, _ := strings.Cut(string(answer), "\r\n\r\n"); err != nil || got != want {
			t.Errorf("socket %q: the maker is %q, %v; want %q", socket, got, err, want)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
