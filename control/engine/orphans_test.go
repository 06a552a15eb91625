// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/model"
)

// The engine that has a network or pool is recorded. When it no longer has them, they are
// removed unless they are in use.
func TestForgetOrphaned(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	verbtest.PopulateEngine(w.World)
	own := w.MakeNetwork(model.NetworkSpec{Name: "own"})
	spec := verbtest.EngineNetwork("pooled", "10.6.0.0/24")
	spec.Engine = model.EngineQueried
	if n := w.MakeNetwork(spec); n.Engine != model.EngineQueried {
		t.Errorf("created by engine %q", n.Engine)
	}
	names := verbtest.EngineNames("web")
	names.Engine, names.Subnets = "me", map[netip.Prefix]bool{verbtest.Prefix("10.6.0.0/24"): true}
	names.Networks[own.ID] = "own"
	if err := w.SyncEngineNames(ctx, names); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	s := w.Snapshot()
	for id, want := range map[string]string{verbtest.EngineID("f"): "me", verbtest.EngineID("idle-f"): "", verbtest.EngineID("pooled"): model.EngineQueried, own.ID: ""} {
		if got := s.Network(id).Engine; got != want {
			t.Errorf("network %s has engine %q, want %q", s.Network(id).Name, got, want)
		}
	}
	if got := s.Pool("10.6.0.0/24").Engine; got != "me" {
		t.Errorf("the pool has engine %q", got)
	}
	if err := w.RemoveOrphaned(ctx, []string{verbtest.EngineID("f"), own.ID, "10.6.0.0/24", verbtest.EngineID("none"), "10.99.0.0/24"}); err != nil || w.Snapshot() != s {
		t.Errorf("objects in use were removed: %v", err)
	}
	if err := w.RemoveOrphaned(ctx, []string{"10.6.0.0/24", verbtest.EngineID("pooled"), verbtest.EngineID("idle-f")}); err != nil {
		t.Fatal(err)
	}
	w.Check()
	if s := w.Snapshot(); s.Counts().Pools != 0 || s.Network(verbtest.EngineID("pooled")) != nil || s.Network(verbtest.EngineID("idle-f")) != nil {
		t.Error("orphaned objects remain")
	}
	w.MakeNetwork(model.NetworkSpec{Name: "again", Subnets: []model.SubnetSpec{verbtest.Subnet("10.6.0.0/16")}})
	w.Restart()
	w.Check()
}
