// SPDX-License-Identifier: Apache-2.0

package rtnl_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// gateway creates a device that is up and has an address of each family.
func gateway(t *testing.T, h *rtnl.Handle) rtnl.Link {
	t.Helper()
	gw, err := h.CreateVeth(rtnl.Veth{Name: "fl0", PeerName: "fl1", MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		if err := h.AddAddr(gw.Index, netip.MustParsePrefix(p)); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []uint32{gw.Index, gw.PeerIndex} {
		if err := h.SetUp(end); err != nil {
			t.Fatal(err)
		}
	}
	return gw
}

func TestRoutes(t *testing.T) {
	h := rtnltest.New(t)
	gw := gateway(t, h)
	if err := h.Conn().ReplaceDefault(netip.MustParseAddr("192.0.2.7"), gw.Index); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	err := h.Routes(func(r rtnl.Route) bool {
		if len(r.Devices) == 1 && r.Devices[0] == gw.Index && !r.Dst.Addr().IsLinkLocalUnicast() {
			got[r.Dst.String()] = true
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"192.0.2.0/24": true, "0.0.0.0/0": true, "2001:db8::/64": true}, got); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestDefaultDevices(t *testing.T) {
	h := rtnltest.New(t)
	list := func() []uint32 {
		t.Helper()
		devices, err := h.DefaultDevices()
		if err != nil {
			t.Fatal(err)
		}
		return devices
	}
	gw := gateway(t, h)
	if got := list(); len(got) > 0 {
		t.Errorf("default routes through %v, want none", got)
	}
	for _, via := range []string{"192.0.2.7", "2001:db8::7"} {
		if err := h.Conn().ReplaceDefault(netip.MustParseAddr(via), gw.Index); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]uint32{gw.Index, gw.Index}, list()); diff != "" {
		t.Errorf("default routes of both families (-want +got):\n%s", diff)
	}
}
