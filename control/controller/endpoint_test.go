// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
)

// An address keeps its MAC when its owner changes, unless somebody has that.
func TestMACBelongsToTheAddress(t *testing.T) {
	w := newWorld(t)
	w.network(model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{subnet("10.0.0.0/24")}})
	at := func(s string, m model.MAC) model.SandboxSpec {
		return model.SandboxSpec{Name: "at" + s, NetworkMode: "n", Endpoint: model.EndpointSpec{IPv4: addr(s), MAC: m}}
	}
	w.sandbox(at("10.0.0.9", model.MAC{}))
	if got := w.endpoint("n", "at10.0.0.9").MAC.String(); got != "02:42:0a:00:00:09" {
		t.Errorf("MAC = %s, want the address's", got)
	}
	w.sandbox(at("10.0.0.8", mac("02:42:0a:00:00:07")))
	w.sandbox(at("10.0.0.7", model.MAC{}))
	if got := w.endpoint("n", "at10.0.0.7").MAC; got.IsZero() || got == mac("02:42:0a:00:00:07") {
		t.Errorf("MAC = %s, want another than the one that is taken", got)
	}
	w.check()
}

func TestInterfaceNames(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		w.network(model.NetworkSpec{Name: name})
	}
	w.sandbox(model.SandboxSpec{Name: "web", NetworkMode: "a", Endpoint: model.EndpointSpec{IfName: "eth1"}})
	connect := func(network, ifName string) error {
		_, err := w.Connect(t.Context(), network, "web", model.EndpointSpec{IfName: ifName})
		return err
	}
	if err := errors.Join(connect("b", ""), connect("c", "net.0")); err != nil {
		t.Fatal(err)
	}
	for network, want := range map[string]string{"a": "eth1", "b": "eth0", "c": "net.0"} {
		if got := w.endpoint(network, "web").IfName; got != want {
			t.Errorf("interface in %s = %q, want %q", network, got, want)
		}
	}
	w.restart()
	before := w.Snapshot()
	w.refused(before, connect("d", "eth1"), model.ErrConflict, `sandbox "web" has an interface eth1 already`)
	for _, name := range []string{"lo", "all", "..", "a/b", "a b", "sixteen-letters-"} {
		w.refused(before, connect("d", name), model.ErrInvalid, "invalid interface name")
	}
}
