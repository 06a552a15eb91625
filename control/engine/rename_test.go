// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/model"
)

// Engine-managed objects get the engine's names unless those are taken. The original name
// and both IDs always find them.
func TestEngineNames(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	verbtest.PopulateEngine(w.World)
	w.MakeSandbox(model.SandboxSpec{Name: "mine"})
	w.MakeNetwork(model.NetworkSpec{Name: "own"})
	is := func(name string, refs ...string) {
		t.Helper()
		for _, ref := range refs {
			if sb, err := w.Sandbox(ref); err != nil || sb.Name != name {
				t.Errorf("%s is %+v, %v; want %s", ref, sb, err, name)
			}
		}
	}
	name := func(names model.EngineNames) {
		t.Helper()
		applies := w.Kernel.Applies
		if err := w.SyncEngineNames(ctx, names); err != nil {
			t.Fatal(err)
		}
		if w.Kernel.Applies != applies {
			t.Error("names were applied to the kernel")
		}
		w.Check()
	}
	name(verbtest.EngineNames("web", "joined", "ben", "serves", "mine", "waits", "waits", "unknown", "anna"))
	id := verbtest.EngineID("container joined")
	is("ben", "ben", "docker-1", id, id[:12])
	is("docker-3", "docker-3", verbtest.EngineID("container serves"))
	if sb, _ := w.Sandbox("ben"); sb.NetworkMode != "web" {
		t.Errorf("its network is %q", sb.NetworkMode)
	}
	for _, ref := range []string{"web", "f", verbtest.EngineID("f")} {
		if n, err := w.Network(ref); err != nil || n.Name != "web" {
			t.Errorf("network %s is %+v, %v", ref, n, err)
		}
	}
	before := w.Snapshot()
	for _, taken := range []string{"ben", "docker-1"} {
		_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: taken})
		w.Refused(before, err, model.ErrConflict, "already in use")
	}
	_, err := w.CreateNetwork(ctx, model.NetworkSpec{Name: "f"})
	w.Refused(before, err, model.ErrConflict, "already exists")

	name(verbtest.EngineNames("own", "joined", "paul", "serves", "ben")) // one name moves to another container
	is("paul", "paul", "docker-1")
	is("ben", "ben", "docker-3")
	if n, _ := w.Network("f"); n.Name != "f" {
		t.Errorf("the network's name is %s", n.Name)
	}
	name(verbtest.EngineNames("bridge", "joined", "ben", "serves", "paul")) // two names are exchanged
	is("ben", "docker-1")
	is("paul", "docker-3")
	name(verbtest.EngineNames("\n", "joined", "../x", "serves", "")) // invalid names are ignored
	is("ben", "docker-1")
	is("paul", "docker-3")
	if before := w.Snapshot(); w.SyncEngineNames(ctx, model.EngineNames{}) != nil || w.Snapshot() != before {
		t.Error("an empty update changed something")
	}
	w.Restart()
	is("ben", "docker-1", id)
}

// Endpoints of engines get the engine's aliases, which reach the kernel: a service may have another backend.
func TestEngineAliases(t *testing.T) {
	w := newWorld(t)
	verbtest.PopulateEngine(w.World)
	var id string
	for ep := range w.Snapshot().Endpoints() {
		if !ep.Reserved.IsZero() && ep.SandboxID != "" {
			id = ep.ID
		}
	}
	for _, tt := range []struct{ given, want []string }{
		{[]string{"shop", "not a name"}, []string{"shop"}}, {nil, nil}, {[]string{"store", "*.store", "*"}, []string{"store", "*.store"}},
	} {
		applies := w.Kernel.Applies
		if err := w.SyncEngineNames(t.Context(), model.EngineNames{Aliases: map[string][]string{id: tt.given, "unknown": {"x"}}}); err != nil {
			t.Fatal(err)
		}
		if got := w.Snapshot().Endpoint(id).Aliases; !slices.Equal(got, tt.want) || w.Kernel.Applies != applies+1 {
			t.Errorf("aliases %q became %q, applied %d times; want %q", tt.given, got, w.Kernel.Applies-applies, tt.want)
		}
	}
	if err := w.SyncEngineNames(t.Context(), model.EngineNames{}); err != nil || len(w.Snapshot().Endpoint(id).Aliases) != 2 {
		t.Errorf("without an answer aliases change: %v", err)
	}
	w.Check()
}
