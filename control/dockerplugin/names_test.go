// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

// fakeNames has one network of an engine's, and notes the names.
type fakeNames struct {
	mu    sync.Mutex
	snap  model.Snapshot
	names []model.EngineNames
}

func (f *fakeNames) Snapshot() *model.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.snap
	return &s
}

func (f *fakeNames) NameForeign(_ context.Context, names model.EngineNames) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = append(f.names, names)
	return nil
}

// last are the names that came last, and how often some came.
func (f *fakeNames) last() (model.EngineNames, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.names) == 0 {
		return model.EngineNames{}, 0
	}
	return f.names[len(f.names)-1], len(f.names)
}

func eventually(t *testing.T, what string, try func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !try(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// The engine is asked when it comes, and for each of its events; it may be absent, end,
// or not answer.
func TestNamer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	f := &fakeNames{snap: model.Snapshot{Networks: map[string]*model.Network{"own": {}}}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewNamer(socket, f, slog.New(slog.DiscardHandler)).Run(ctx) }()

	events := make(chan struct{})
	var asked, name = make(chan string, 100), "ben"
	var mu sync.Mutex
	serve := func() *http.Server {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- r.URL.Path
			mu.Lock()
			defer mu.Unlock()
			switch r.URL.Path {
			case "/networks":
				fmt.Fprint(w, `[{"Name":"web","Id":"n1","Driver":"fairlead"}]`)
			case "/containers/json":
				fmt.Fprintf(w, `[{"Id":"c1","Names":["/anna/link","/%s"],"NetworkSettings":{"Networks":{"web":{"EndpointID":"e1"}}}}]`, name)
			case "/events":
				mu.Unlock()
				defer mu.Lock()
				w.(http.Flusher).Flush()
				for {
					select {
					case <-r.Context().Done():
						return
					case <-events:
						fmt.Fprintln(w, `{"Type":"container"}`)
						w.(http.Flusher).Flush()
					}
				}
			}
		})}
		go server.Serve(l)
		return server
	}
	server := serve()
	time.Sleep(2 * lookEvery)
	if len(asked) > 0 {
		t.Errorf("the engine was asked for %s with no network of its own here", <-asked)
	}
	f.mu.Lock()
	f.snap.Networks = map[string]*model.Network{"n1": {ID: "n1", Foreign: true}}
	f.mu.Unlock()
	want := model.EngineNames{Networks: map[string]string{"n1": "web"}, Containers: map[string]model.EngineName{"e1": {Name: "ben", ID: "c1"}}}
	eventually(t, "names", func() bool { _, n := f.last(); return n > 0 })
	if got, _ := f.last(); !reflect.DeepEqual(got, want) {
		t.Errorf("names are %+v, want %+v", got, want)
	}
	renamed := func(to string) {
		t.Helper()
		mu.Lock()
		name = to
		mu.Unlock()
		select {
		case events <- struct{}{}:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody listens to the events")
		}
		eventually(t, "the name "+to, func() bool { got, _ := f.last(); return got.Containers["e1"].Name == to })
	}
	renamed("benjamin")
	server.Close()
	server = serve()
	renamed("again")
	mu.Lock() // it does not answer
	before := runtime.NumGoroutine()
	events <- struct{}{}
	time.Sleep(askTimeout + 2*lookEvery)
	if now := runtime.NumGoroutine(); now > before+20 {
		t.Errorf("%d goroutines were %d before the engine hung", now, before)
	}
	mu.Unlock()
	renamed("back")
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	server.Close()
}
