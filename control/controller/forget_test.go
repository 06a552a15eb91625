// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
)

// The engine that has a network or pool is recorded. When it no longer has them, they are
// removed unless they are in use.
func TestForgetOrphaned(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	populateEngine(w)
	own := w.network(model.NetworkSpec{Name: "own"})
	spec := engineNetwork("pooled", "10.6.0.0/24")
	spec.Engine = model.EngineQueried
	if n := w.network(spec); n.Engine != model.EngineQueried {
		t.Errorf("created by engine %q", n.Engine)
	}
	names := engineNames("web")
	names.Engine, names.Subnets = "me", map[netip.Prefix]bool{prefix("10.6.0.0/24"): true}
	names.Networks[own.ID] = "own"
	if err := w.SyncEngineNames(ctx, names); err != nil {
		t.Fatal(err)
	}
	w.restart()
	s := w.Snapshot()
	for id, want := range map[string]string{engineID("f"): "me", engineID("idle-f"): "", engineID("pooled"): model.EngineQueried, own.ID: ""} {
		if got := s.Network(id).Engine; got != want {
			t.Errorf("network %s has engine %q, want %q", s.Network(id).Name, got, want)
		}
	}
	if got := s.Pool("10.6.0.0/24").Engine; got != "me" {
		t.Errorf("the pool has engine %q", got)
	}
	if err := w.RemoveOrphaned(ctx, []string{engineID("f"), own.ID, "10.6.0.0/24", engineID("none"), "10.99.0.0/24"}); err != nil || w.Snapshot() != s {
		t.Errorf("objects in use were removed: %v", err)
	}
	if err := w.RemoveOrphaned(ctx, []string{"10.6.0.0/24", engineID("pooled"), engineID("idle-f")}); err != nil {
		t.Fatal(err)
	}
	w.check()
	if s := w.Snapshot(); s.Counts().Pools != 0 || s.Network(engineID("pooled")) != nil || s.Network(engineID("idle-f")) != nil {
		t.Error("orphaned objects remain")
	}
	w.network(model.NetworkSpec{Name: "again", Subnets: []model.SubnetSpec{subnet("10.6.0.0/16")}})
	w.restart()
	w.check()
}
