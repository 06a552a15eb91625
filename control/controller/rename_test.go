// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// A renamed sandbox has its new name only. Links to it follow in the networks that it is in; aliases, ports, addresses and
// what shares its namespace stays.
func TestRename(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"web", "db"} {
		w.MakeNetwork(model.NetworkSpec{Name: name})
	}
	link := func(target string) model.EndpointSpec {
		return model.EndpointSpec{Links: []model.Link{{Target: target, Alias: "store"}, {Target: "other", Alias: "o"}}}
	}
	was := w.MakeSandbox(model.SandboxSpec{Name: "anna", NetworkMode: "web", Endpoint: model.EndpointSpec{Aliases: []string{"alias"}}})
	w.MakeSandbox(model.SandboxSpec{Name: "joined", NetworkMode: "container:anna"})
	w.MakeSandbox(model.SandboxSpec{Name: "ben", NetworkMode: "web", Endpoint: link("Anna")})
	w.MakeSandbox(model.SandboxSpec{Name: "carl", NetworkMode: "db", Endpoint: link("anna")}) // of one that may come
	w.MakeSandbox(model.SandboxSpec{Name: "default"})
	before := w.EndpointIn("web", "anna")
	if err := w.RenameSandbox(t.Context(), "anna", "dora"); err != nil {
		t.Fatal(err)
	}
	w.Check()
	now, err := w.Sandbox("dora")
	if err != nil || now.ID != was.ID || w.EndpointIn("web", "dora") != before {
		t.Errorf("the sandbox is %+v, %v", now, err)
	}
	if _, err := w.Sandbox("anna"); err == nil {
		t.Error("the former name is one still")
	}
	for sandbox, want := range map[string]string{"ben": "dora", "carl": "anna"} {
		network := map[string]string{"ben": "web", "carl": "db"}[sandbox]
		if got := fmt.Sprint(w.EndpointIn(network, sandbox).Links); got != "[{"+want+" store} {other o}]" {
			t.Errorf("the links of %s are %s", sandbox, got)
		}
	}
	w.MakeSandbox(model.SandboxSpec{Name: "anna", NetworkMode: "container:dora"})
	w.Restart()
	w.Check()
	if err := w.RenameSandbox(t.Context(), now.ID[:12], "DORA"); err != nil { // names differ by case
		t.Error(err)
	}
}

func TestRenameRefuses(t *testing.T) {
	w := newWorld(t)
	w.MakeSandbox(model.SandboxSpec{Name: "anna"})
	w.MakeSandbox(model.SandboxSpec{Name: "ben"})
	w.MakeSandbox(model.SandboxSpec{Name: "pod", NetNS: "/run/ns/a", Labels: map[string]string{"fairlead.cni.container": "c"}})
	w.MakeNetwork(verbtest.EngineNetwork("f", "10.8.0.0/24"))
	w.Reserve("ep", "/run/x/1")
	w.MakeNetwork(model.NetworkSpec{Name: "gated", Options: map[string]string{model.OptGateway: "vpn"}})
	w.MakeSandbox(model.SandboxSpec{Name: "vpn", NetworkMode: "gated"})
	w.MakeNetwork(model.NetworkSpec{Name: "later", Options: map[string]string{model.OptGateway: "carl"}})
	w.MakeSandbox(model.SandboxSpec{Name: "member", NetworkMode: "later"})
	for _, tt := range []struct {
		ref, name string
		kind      error
		text      string
	}{
		{"nobody", "carl", model.ErrNotFound, "no such sandbox: nobody"},
		{"anna", "ben", model.ErrConflict, `Conflict. The sandbox name "ben" is already in use by sandbox`},
		{"anna", "anna", model.ErrInvalid, "sandbox anna has that name already"},
		{"anna", "", model.ErrInvalid, "Invalid sandbox name ()"},
		{"anna", "-x", model.ErrInvalid, "Invalid sandbox name (-x)"},
		{"pod", "carl", model.ErrForbidden, "sandbox pod is managed by a container runtime"},
		{"vpn", "carl", model.ErrConflict, "network gated has gateway vpn by its name, and sandbox vpn is connected to it (disconnect it first: fairlead network disconnect gated vpn)"},
		{"member", "carl", model.ErrConflict, "network later has gateway carl by its name, and sandbox member is connected to it"},
		{"docker-1", "carl", model.ErrForbidden, "docker rename docker-1 carl"},
	} {
		before := w.Snapshot()
		err := w.RenameSandbox(t.Context(), tt.ref, tt.name)
		w.Refused(before, err, tt.kind, tt.text)
	}
}
