// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// A service holds its addresses, its ports and its network, also after a restart, and gives them
// back.
func TestService(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	n := w.MakeNetwork(model.NetworkSpec{Name: "shop", EnableIPv6: true, Subnets: []model.SubnetSpec{{Prefix: verbtest.Prefix("10.9.0.0/24")}}})
	w.MakeNetwork(model.NetworkSpec{Name: "inner", Internal: true})
	w.MakeNetwork(model.NetworkSpec{Name: "apart", Options: map[string]string{model.OptICC: "false"}})
	vip := netip.MustParseAddr("10.9.0.99")
	spec := model.ServiceSpec{Name: "web", Network: "shop", IPv4: vip, Affinity: time.Minute, Ports: []model.PortSpec{verbtest.TCP("", 8080, 1, 80, 1)}}
	svc, err := w.CreateService(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if svc.IPv4 != vip || !svc.IPv6.IsValid() || svc.MAC.IsZero() || svc.Number == 0 || len(svc.Ports) != 1 {
		t.Errorf("created %+v", svc)
	}
	alias := model.EndpointSpec{Network: "shop", Aliases: []string{"WEB"}}
	w.MakeSandbox(model.SandboxSpec{Name: "b1", NetworkMode: "shop", Endpoint: alias})
	w.MakeSandbox(model.SandboxSpec{Name: "other", NetworkMode: "shop"})
	if err := w.DrainBackend(ctx, "web", "b1", true); err != nil {
		t.Error(err)
	}
	w.Restart()
	again, err := w.Service("web.shop")
	if err != nil || again.ID != svc.ID || again.IPv6 != svc.IPv6 || again.Number != svc.Number || len(again.Drained) != 1 {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	for text, refused := range map[string]struct {
		kind error
		do   func() error
	}{
		"already exists": {model.ErrConflict, func() error {
			_, err := w.CreateService(ctx, model.ServiceSpec{Name: "Web", Network: "shop"})
			return err
		}},
		"invalid service name": {model.ErrInvalid, func() error {
			_, err := w.CreateService(ctx, model.ServiceSpec{Name: "a b", Network: "shop"})
			return err
		}},
		"invalid affinity": {model.ErrInvalid, func() error {
			_, err := w.CreateService(ctx, model.ServiceSpec{Name: "x", Network: "shop", Affinity: time.Millisecond})
			return err
		}},
		`by service "web"`: {model.ErrConflict, func() error {
			_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "xx", NetworkMode: "shop", Ports: spec.Ports})
			return err
		}},
		`belongs to service "web"`: {model.ErrConflict, func() error {
			_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "xx", NetworkMode: "shop", Endpoint: model.EndpointSpec{Network: "shop", IPv4: vip}})
			return err
		}},
		"in use on network shop by service web": {model.ErrConflict, func() error {
			_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "xx", NetworkMode: "shop", Endpoint: model.EndpointSpec{Network: "shop", MAC: svc.MAC}})
			return err
		}},
		"is not a backend": {model.ErrInvalid, func() error { return w.DrainBackend(ctx, "web", "other", true) }},
		"no such service":  {model.ErrNotFound, func() error { return w.RemoveService(ctx, "nothing") }},
		"inner is internal": {model.ErrInvalid, func() error {
			s := spec
			s.Network, s.IPv4 = "inner", netip.Addr{}
			_, err := w.CreateService(ctx, s)
			return err
		}},
		"may not reach each other": {model.ErrForbidden, func() error {
			_, err := w.CreateService(ctx, model.ServiceSpec{Name: "x", Network: "apart"})
			return err
		}},
		"has no aliases": {model.ErrInvalid, func() error {
			_, err := w.CreateService(ctx, model.ServiceSpec{Name: "x", Network: model.NetworkBridge})
			return err
		}},
	} {
		before := w.Snapshot()
		w.Refused(before, refused.do(), refused.kind, text)
	}
	if err := w.RemoveSandbox(ctx, "b1", true); err != nil {
		t.Fatal(err)
	}
	if err := w.RemoveSandbox(ctx, "other", true); err != nil {
		t.Fatal(err)
	}
	before := w.Snapshot()
	w.Refused(before, w.RemoveNetwork(ctx, "shop"), model.ErrForbidden, "has services (web)")
	if err := w.RemoveService(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateService(ctx, spec); err != nil {
		t.Errorf("the same service again: %v", err)
	}
	if err := w.RemoveService(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if err := w.RemoveNetwork(ctx, n.ID); err != nil {
		t.Error(err)
	}
	w.Check()
}
