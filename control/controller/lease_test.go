// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// An endpoint of a DHCP server has no address before it has a lease, then that one and the server's router, also after a restart.
func TestLease(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "lan", Driver: model.DriverMacvlan, IPAM: model.IPAMDHCP, Options: map[string]string{model.OptParent: "eth0"}})
	w.MakeNetwork(model.NetworkSpec{Name: "inner", Driver: model.DriverMacvlan, IPAM: model.IPAMDHCP, Internal: true, Options: map[string]string{model.OptParent: "eth0"}})
	w.MakeNetwork(model.NetworkSpec{Name: "web"})
	w.MakeSandbox(model.SandboxSpec{Name: "anna", NetworkMode: "lan"})
	w.MakeSandbox(model.SandboxSpec{Name: "ben", NetworkMode: "lan", Endpoint: model.EndpointSpec{IPv4: verbtest.Addr("192.0.2.9")}})
	w.MakeSandbox(model.SandboxSpec{Name: "cleo", NetworkMode: "inner"})
	if _, err := w.Connect(t.Context(), "lan", "anna", model.EndpointSpec{}); err == nil {
		t.Error("anna is in the network twice")
	}
	if _, err := w.Connect(t.Context(), "web", "anna", model.EndpointSpec{}); err != nil {
		t.Fatal(err)
	}
	anna, ben := w.EndpointIn("lan", "anna"), w.EndpointIn("lan", "ben")
	if anna.Lease == nil || anna.IPv4.IsValid() || anna.DefaultRoute4 || !ben.FixedIPv4 || ben.IPv4.IsValid() || ben.Lease.Address.String() != "192.0.2.9/32" {
		t.Errorf("before a lease: %+v, %+v", anna, ben)
	}
	addr, end := netip.MustParsePrefix("192.0.2.7/24"), time.Unix(2e9, 0).UTC()
	lease := &model.Lease{Address: addr, Server: verbtest.Addr("192.0.2.1"), Router: verbtest.Addr("192.0.2.254"), Expires: end}
	for sandbox, network := range map[string]string{"anna": "lan", "cleo": "inner"} {
		if err := w.SetLease(t.Context(), w.EndpointIn(network, sandbox).ID, addr, lease); err != nil {
			t.Fatal(err)
		}
	}
	for _, what := range []string{"a lease", "a restart"} {
		anna, cleo := w.EndpointIn("lan", "anna"), w.EndpointIn("inner", "cleo")
		lan, inner := w.Snapshot().Network(anna.NetworkID), w.Snapshot().Network(cleo.NetworkID)
		if anna.IPv4 != addr || !anna.Lease.Expires.Equal(end) || lan.DefaultGateway(anna, model.V4) != lease.Router || inner.DefaultGateway(cleo, model.V4).IsValid() || cleo.DefaultRoute4 {
			t.Errorf("after %s: %+v and %+v", what, anna, cleo)
		}
		w.Check()
		w.Restart()
	}
	before := w.Snapshot()
	w.Refused(before, w.SetLease(t.Context(), ben.ID, addr, lease), model.ErrConflict, `the DHCP server gave out 192.0.2.7, which sandbox "anna" has`)
	if err := w.SetLease(t.Context(), "none", addr, lease); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("the lease of no endpoint: %v", err)
	}
	// The default route is the server's with a priority, and is elsewhere without an address.
	if err := w.Disconnect(t.Context(), "lan", "anna", false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Connect(t.Context(), "lan", "anna", model.EndpointSpec{GwPriority: 1}); err != nil {
		t.Fatal(err)
	}
	id := w.EndpointIn("lan", "anna").ID
	for _, a := range []netip.Prefix{addr, {}} {
		if err := w.SetLease(t.Context(), id, a, lease); err != nil {
			t.Fatal(err)
		}
		if got, other := w.EndpointIn("lan", "anna").DefaultRoute4, w.EndpointIn("web", "anna").DefaultRoute4; got != a.IsValid() || other == got {
			t.Errorf("with address %v the default route is in lan: %t, in web: %t", a, got, other)
		}
		w.Check()
	}
}
