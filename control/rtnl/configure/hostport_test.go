// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// testHostPort creates a host port and returns its wanted configuration.
func testHostPort(t *testing.T, h *rtnl.Handle, v6 bool) HostPortSpec {
	t.Helper()
	want := HostPortSpec{
		NetworkID: "abcdefabcdef0000", MAC: model.MAC{2, 0x42, 0xac, 0x11, 0, 1}, MTU: 1500,
		Addrs: prefixes("192.0.2.1/24"), IPv6: v6,
	}
	if v6 {
		want.Addrs = append(want.Addrs, netip.MustParsePrefix("2001:db8::1/64"))
	}
	_, err := h.CreateVeth(rtnl.Veth{
		Name: rtnl.GatewayDevice(want.NetworkID), MAC: want.MAC, PeerName: rtnl.HostPortDevice(want.NetworkID), MTU: want.MTU,
	})
	if err != nil {
		t.Fatal(err)
	}
	configureHostPort(t, h, want)
	return want
}

func configureHostPort(t *testing.T, h *rtnl.Handle, want HostPortSpec) Changes {
	t.Helper()
	gw, err := h.LinkByName(rtnl.GatewayDevice(want.NetworkID))
	if err != nil {
		t.Fatal(err)
	}
	dp, err := h.Link(gw.PeerIndex)
	if err != nil {
		t.Fatal(err)
	}
	have, err := h.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	ch, err := HostPort(h, gw, dp, have, want)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func TestHostPort(t *testing.T) {
	for name, v6 := range map[string]bool{"IPv4": false, "IPv4 and IPv6": true} {
		t.Run(name, func(t *testing.T) {
			h := rtnltest.New(t)
			want := testHostPort(t, h, v6)
			if ch := configureHostPort(t, h, want); ch.Any() {
				t.Errorf("second configuration changed %+v", ch)
			}
			here, err := rtnl.CurrentNetNS()
			if err != nil {
				t.Fatal(err)
			}
			defer here.Close()
			links, addrs, _ := rtnltest.Read(t, here)
			gw, dp := links["flgabcdefabcde"], links["flpabcdefabcde"]
			if gw.MAC != want.MAC || gw.Alias != "fairlead:gateway:"+want.NetworkID || dp.Alias != "fairlead:hostport:"+want.NetworkID {
				t.Errorf("host port is %+v and %+v", gw, dp)
			}
			var got []netip.Prefix
			for _, a := range addrs[gw.Name] {
				got = append(got, netip.MustParsePrefix(a))
			}
			if diff := cmp.Diff(want.Addrs, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("gateway addresses (-want +got):\n%s", diff)
			}
			if gw.Conf.Forwarding4 != 1 || dp.Conf.DisableIPv6 != 1 {
				t.Errorf("settings are %+v and %+v", gw.Conf, dp.Conf)
			}
			if v6 && (gw.Conf.Forwarding6 != 1 || gw.Conf.ForceForwarding6 == 0) {
				t.Errorf("the gateway does not forward IPv6: %+v", gw.Conf)
			}
		})
	}
}

func TestHostPortRepairs(t *testing.T) {
	h := rtnltest.New(t)
	want := testHostPort(t, h, true)
	gw, err := h.LinkByName(rtnl.GatewayDevice(want.NetworkID))
	if err != nil {
		t.Fatal(err)
	}
	setUp := func(up bool) error { return h.SetLink(gw.Index, rtnl.LinkChange{Up: &up}) }
	tests := map[string]struct {
		breakIt func() error
		want    Changes
	}{
		"address removed": {func() error { return h.DeleteAddr(gw.Index, want.Addrs[0]) }, Changes{Addresses: 1}},
		"address changed": {func() error {
			if err := h.DeleteAddr(gw.Index, want.Addrs[0]); err != nil {
				return err
			}
			return h.AddAddr(gw.Index, netip.MustParsePrefix("192.0.2.99/24"))
		}, Changes{Addresses: 2}},
		"length changed": {func() error {
			if err := h.DeleteAddr(gw.Index, want.Addrs[1]); err != nil {
				return err
			}
			return h.AddAddr(gw.Index, netip.MustParsePrefix("2001:db8::1/80"))
		}, Changes{Addresses: 2}},
		"address of another subnet is kept": {func() error {
			return h.AddAddr(gw.Index, netip.MustParsePrefix("198.51.100.1/24"))
		}, Changes{}},
		"down": {func() error { return setUp(false) }, Changes{Devices: 1, Addresses: 1}},
		"forwarding off": {func() error {
			return os.WriteFile("/proc/sys/net/ipv4/conf/"+gw.Name+"/forwarding", []byte("0"), 0)
		}, Changes{Sysctls: 1}},
		"IPv6 off": {func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/"+gw.Name+"/disable_ipv6", []byte("1"), 0)
		}, Changes{Sysctls: 1, Addresses: 1}},
	}
	for name, tt := range tests {
		if err := tt.breakIt(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, configureHostPort(t, h, want)); diff != "" {
			t.Errorf("%s: repairs (-want +got):\n%s", name, diff)
		}
		if ch := configureHostPort(t, h, want); ch.Any() {
			t.Errorf("%s: after the repair still %+v", name, ch)
		}
	}
}
