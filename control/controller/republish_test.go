// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"errors"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// Published ports of a sandbox that exists are added and withdrawn, all that are named or none. The others keep their
// IDs, by which flows find them.
func TestPublishLater(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "a"})
	sb := w.MakeSandbox(model.SandboxSpec{Name: "anna", NetworkMode: "a", Ports: []model.PortSpec{verbtest.TCP("", 8080, 1, 80, 1)}})
	idOf := func() (id uint32) {
		for p := range w.Snapshot().Publishes() {
			if p.HostPort == 8080 {
				id = p.ID
			}
		}
		return id
	}
	first := idOf()
	ports := func(specs ...model.PortSpec) []model.PortSpec { return specs }
	step := func(err, want error, left string) {
		t.Helper()
		if !errors.Is(err, want) || w.served() != left || idOf() != first {
			t.Errorf("%v, want %v; published are %s, want %s; ID %d, was %d", err, want, w.served(), left, idOf(), first)
		}
		w.Check()
	}
	three := "*:8080->80/tcp@a *:8443->443/tcp@a *:8445->443/tcp@a"
	step(w.PublishPorts(t.Context(), sb.Name, ports(verbtest.TCP("", 8443, 1, 443, 1), verbtest.TCP("", 8445, 1, 443, 1))), nil, three)
	step(w.PublishPorts(t.Context(), sb.Name, ports(verbtest.TCP("", 8446, 1, 443, 1), verbtest.TCP("", 8080, 1, 443, 1))), model.ErrConflict, three)
	step(w.PublishPorts(t.Context(), sb.Name, ports(verbtest.TCP("", 8446, 0, 0, 1))), model.ErrInvalid, three)
	step(w.UnpublishPorts(t.Context(), sb.Name, ports(verbtest.TCP("", 8443, 1, 443, 1), verbtest.TCP("", 8446, 1, 443, 1))), model.ErrNotFound, three)
	w.Restart()
	step(nil, nil, three)
	step(w.UnpublishPorts(t.Context(), sb.Name, ports(verbtest.TCP("", 8443, 1, 443, 1))), nil, "*:8080->80/tcp@a *:8445->443/tcp@a")
	step(w.UnpublishPorts(t.Context(), sb.Name, ports(verbtest.TCP("", 0, 0, 443, 1))), nil, "*:8080->80/tcp@a")
	// Consecutive ports that were published together are one range.
	together := ports(verbtest.TCP("", 9000, 1, 90, 1), verbtest.TCP("", 9001, 1, 91, 1))
	other := w.MakeSandbox(model.SandboxSpec{Name: "ben", NetworkMode: "a", Ports: together})
	step(w.UnpublishPorts(t.Context(), other.Name, together[:1]), model.ErrNotFound, "*:8080->80/tcp@a *:9000-9001->90-91/tcp@a")
	step(w.UnpublishPorts(t.Context(), other.Name, together), nil, "*:8080->80/tcp@a")
}
