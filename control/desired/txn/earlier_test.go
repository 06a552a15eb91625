// SPDX-License-Identifier: Apache-2.0

package txn_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
	"github.com/fairlead-net/fairlead/control/store"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// earlierState writes the state of a build of schema 1 to a path. It has networks of every kind,
// some of them an engine's, sandboxes of every manager, published ports and pools.
func earlierState(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open("../../schema/testdata/abe0ab4.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// earlierWorld is a world that started with that state. Its first start had a fault, unless fl is
// zero.
func earlierWorld(t *testing.T, fl fault) *verbtest.World {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	earlierState(t, path)
	if fl != (fault{}) {
		s, err := store.OpenBolt(store.BoltConfig{Path: path, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		w := verbtest.NewWorld(t)
		w.Kernel.OnApply = fl.apply
		parts := w.Open(&faultyStore{s, &fl}, w.Kernel)
		func() {
			defer func() { _ = recover() }()
			_ = parts.Start(t.Context())
		}()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return verbtest.NewWorldAt(t, path)
}

// What an earlier build stored means the same to this one, even if its first start fails halfway.
func TestStateOfEarlierBuild(t *testing.T) {
	kinds := faults()
	kinds["none"] = fault{}
	for what, fl := range kinds {
		t.Run(what, func(t *testing.T) {
			w := earlierWorld(t, fl)
			if diff := cmp.Diff(earlierObjects, objects(w.Snapshot())); diff != "" {
				t.Errorf("loaded (+) and stored (-) objects differ:\n%s", diff)
			}
			w.Check()
			first := objects(w.Snapshot())
			w.Restart()
			if diff := cmp.Diff(first, objects(w.Snapshot())); diff != "" {
				t.Errorf("objects changed at the second start:\n%s", diff)
			}
			if n := w.MakeNetwork(model.NetworkSpec{Name: "new"}); n.Index != 12 {
				t.Errorf("a new network has number %d, want the one after the highest", n.Index)
			}
			w.Check()
		})
	}
}

// earlierObjects are the objects of that state.
var earlierObjects = []string{
	"network bridge: 1, fairlead, \"\"",
	"network dual: 11, engine, \"ENGINE-ONE\"",
	"network dualown: 5, fairlead, \"\"",
	"network front: 4, fairlead, \"\"",
	"network host: 2, fairlead, \"\"",
	"network inner: 6, fairlead, \"\"",
	"network later: 9, fairlead, \"\"",
	"network none: 3, fairlead, \"\"",
	"network shop: 10, engine, \"ENGINE-ONE\"",
	"network six: 7, fairlead, \"\"",
	"pool 10.79.0.0/24: 10.79.0.130 10.79.0.128",
	"sandbox byuser: user, front with default routes true, true",
	"sandbox docker-44444444444: engine, shop with default routes true, false, 32769 serves 443",
	"sandbox hosted: fairlead",
	"sandbox joiner: fairlead",
	"sandbox lonely: fairlead",
	"sandbox plain: fairlead, dualown with default routes true, true, 32768 serves 80, 8443 serves 443",
	"sandbox pod: runtime, front with default routes true, true, 8081 serves 80",
	"sandbox podman: runtime, six with default routes true, true",
	"sandbox sixer: fairlead, six with default routes true, true, 8086 serves 86",
	"sandbox web: fairlead, front with default routes true, true, 8080 serves 80, 9000 serves 9000," +
		" dualown with default routes false, false, inner with default routes false, false",
	"sandbox webshop: engine, shop with default routes true, true, 8053 serves 53, 8090 serves 80," +
		" dual with default routes true, true, 8090 serves 80",
}

// objects describes the parts of a snapshot that schemas store differently.
func objects(s *desired.Snapshot) []string {
	var out []string
	for n := range s.Networks() {
		out = append(out, fmt.Sprintf("network %s: %d, %v, %q", n.Name, n.Index, n.ManagedBy, n.Engine))
	}
	for sb := range s.Sandboxes() {
		text := fmt.Sprintf("sandbox %s: %v", sb.Name, sb.ManagedBy)
		for ep := range s.EndpointsOf(sb.ID) {
			text += fmt.Sprintf(", %s with default routes %t, %t", s.Network(ep.NetworkID).Name, ep.DefaultRoute4, ep.DefaultRoute6)
			var ports []string
			for p := range s.Publishes() {
				if p.EndpointID == ep.ID {
					ports = append(ports, fmt.Sprintf(", %d serves %d", p.HostPort, p.Port))
				}
			}
			slices.Sort(ports)
			for _, p := range ports {
				text += p
			}
		}
		out = append(out, text)
	}
	for p := range s.Pools() {
		text := "pool " + p.ID + ":"
		for _, a := range p.Taken {
			text += " " + a.String()
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

// A network whose number this host does not know gets one, and a number without a network is
// forgotten.
func TestNumbersOfNetworks(t *testing.T) {
	w := verbtest.NewWorld(t)
	a, b := w.MakeNetwork(model.NetworkSpec{Name: "a"}), w.MakeNetwork(model.NetworkSpec{Name: "b"})
	for _, op := range []store.Op{store.Delete(schema.PrefixLocal + a.ID), store.Put(schema.PrefixLocal+"lost", []byte(`{"index":77}`))} {
		if _, err := w.Store.Commit(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	w.Restart()
	now := w.Snapshot().Network(a.ID)
	if now.Index == 0 || now.Index == b.Index || w.Snapshot().Network(b.ID).Index != b.Index {
		t.Errorf("the networks have numbers %d and %d, had %d and %d", now.Index, w.Snapshot().Network(b.ID).Index, a.Index, b.Index)
	}
	if _, err := w.Store.Get(t.Context(), schema.PrefixLocal+"lost"); err == nil {
		t.Error("the number of a network that does not exist is still stored")
	}
	w.Check()
	w.Restart()
	if again := w.Snapshot().Network(a.ID); again.Index != now.Index {
		t.Errorf("the number changed from %d to %d at a start", now.Index, again.Index)
	}
}
