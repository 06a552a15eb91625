// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// fakeNames records names and removed objects.
type fakeNames struct {
	mu      sync.Mutex
	snap    desiredtest.Plain
	names   []model.EngineNames
	removed []string
}

func (f *fakeNames) RemoveOrphaned(_ context.Context, ids []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed = append(f.removed, ids...)
	return nil
}

func (f *fakeNames) Snapshot() *desired.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snap.Snapshot()
}

func (f *fakeNames) SyncEngineNames(_ context.Context, names model.EngineNames) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = append(f.names, names)
	return nil
}

// last returns the names that were received last, and how often names were received.
func (f *fakeNames) last() (model.EngineNames, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.names) == 0 {
		return model.EngineNames{}, 0
	}
	return f.names[len(f.names)-1], len(f.names)
}

// Learning names on request takes effect immediately.
func TestNamerLearns(t *testing.T) {
	e := &fakeEngine{socket: filepath.Join(t.TempDir(), "docker.sock"), queried: make(chan string, 100), name: "anna"}
	names := &fakeNames{}
	n := NewNamer(e.socket, names, slog.New(slog.DiscardHandler))
	if err := n.Refresh(t.Context()); err == nil {
		t.Error("fetched names without an engine")
	}
	defer e.start(t).Close()
	if err := n.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, times := names.last()
	if times != 1 || got.Engine != "" || got.Networks["n1"] != "web" || got.Containers["e1"] != (model.EngineName{Name: "anna", ID: "c1"}) {
		t.Errorf("received names %d times, last %+v", times, got)
	}
}

// The aliases of a container in a shared network are queried once, however often its name is.
func TestNamerLearnsAliases(t *testing.T) {
	e := &fakeEngine{socket: filepath.Join(t.TempDir(), "docker.sock"), queried: make(chan string, 100), name: "anna"}
	names := &fakeNames{snap: desiredtest.Plain{
		Networks:  map[string]*model.Network{"n1": {ID: "n1", Driver: model.DriverOverlay}},
		Endpoints: map[string]*model.Endpoint{"e1": {ID: "e1", NetworkID: "n1"}},
	}}
	n := NewNamer(e.socket, names, slog.New(slog.DiscardHandler))
	defer e.start(t).Close()
	for range 2 {
		if _, err := n.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := names.last(); !reflect.DeepEqual(got.Aliases, map[string][]string{"e1": {"shop"}}) {
		t.Errorf("aliases are %v", got.Aliases)
	}
	close(e.queried)
	times := 0
	for path := range e.queried {
		if path == "/containers/c1/json" {
			times++
		}
	}
	if times != 1 {
		t.Errorf("the container was queried %d times", times)
	}
}

func eventually(t *testing.T, what string, try func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !try(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// fakeEngine has a network, and a container whose name changes.
type fakeEngine struct {
	socket  string
	queried chan string // paths
	events  chan struct{}
	mu      sync.Mutex // while it is locked, the engine does not answer
	name    string
}

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.queried <- r.URL.Path
	e.mu.Lock()
	name := e.name
	e.mu.Unlock()
	switch r.URL.Path {
	case "/info":
		fmt.Fprint(w, `{"ID":"me"}`)
	case "/networks":
		fmt.Fprint(w, `[{"Name":"web","Id":"n1","Driver":"fairlead","IPAM":{"Config":[{"Subnet":"10.1.0.0/24"},{}]}}]`)
	case "/containers/json":
		fmt.Fprintf(w, `[{"Id":"c1","Names":["/anna/link","/%s"],"NetworkSettings":{"Networks":{"web":{"EndpointID":"e1"}}}}]`, name)
	case "/containers/c1/json":
		fmt.Fprint(w, `{"NetworkSettings":{"Networks":{"web":{"EndpointID":"e1","Aliases":["shop","c1"]},"other":{"EndpointID":"e2","Aliases":["not"]}}}}`)
	case "/events":
		w.(http.Flusher).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-e.events:
				fmt.Fprintln(w, `{"Type":"container"}`)
				w.(http.Flusher).Flush()
			}
		}
	}
}

func (e *fakeEngine) start(t *testing.T) *http.Server {
	t.Helper()
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: e}
	go server.Serve(l)
	return server
}

// sendEvent sends an event.
func (e *fakeEngine) sendEvent(t *testing.T) {
	t.Helper()
	select {
	case e.events <- struct{}{}:
	case <-time.After(10 * time.Second):
		t.Fatal("the events are not read")
	}
}

// rename changes the container's name and sends an event.
func (e *fakeEngine) rename(t *testing.T, to string, f *fakeNames) {
	t.Helper()
	e.mu.Lock()
	e.name = to
	e.mu.Unlock()
	e.sendEvent(t)
	eventually(t, "the name "+to, func() bool { got, _ := f.last(); return got.Containers["e1"].Name == to })
}

// The engine is queried when it starts, and after each of its events. It may be absent, end, or
// not answer.
func TestNamer(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{socket: filepath.Join(t.TempDir(), "docker.sock"), queried: make(chan string, 1000), events: make(chan struct{}), name: "ben"}
	f := &fakeNames{snap: desiredtest.Plain{Networks: map[string]*model.Network{"own": {}}}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewNamer(e.socket, f, slog.New(slog.DiscardHandler)).Run(ctx) }()

	server := e.start(t)
	time.Sleep(2 * pollInterval)
	if len(e.queried) > 0 {
		t.Errorf("the engine was queried for %s although it has no network here", <-e.queried)
	}
	f.mu.Lock()
	f.snap.Networks = map[string]*model.Network{"n1": {ID: "n1", ManagedBy: model.ByEngine}}
	f.mu.Unlock()
	want := model.EngineNames{Engine: "me", Networks: map[string]string{"n1": "web"}, Subnets: map[netip.Prefix]bool{netip.MustParsePrefix("10.1.0.0/24"): true}, Containers: map[string]model.EngineName{"e1": {Name: "ben", ID: "c1"}}, Aliases: map[string][]string{}}
	eventually(t, "names", func() bool { _, n := f.last(); return n > 0 })
	if got, _ := f.last(); !reflect.DeepEqual(got, want) {
		t.Errorf("names are %+v, want %+v", got, want)
	}
	e.rename(t, "benjamin", f)
	server.Close()
	server = e.start(t)
	e.rename(t, "again", f)

	e.sendEvent(t)
	e.mu.Lock() // before the query, which waits for the lists to settle
	before := len(e.queried)
	time.Sleep(queryTimeout + 2*pollInterval)
	if n := len(e.queried) - before; n > 5 {
		t.Errorf("an engine that hangs was queried %d times in %v", n, queryTimeout+2*pollInterval)
	}
	e.mu.Unlock()
	e.rename(t, "back", f)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	server.Close()
}
