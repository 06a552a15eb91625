// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

const endpointID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// testEndpoint creates a pair with its peer in ns, as reconcile does, and returns the peer's
// wanted configuration.
func testEndpoint(t *testing.T, h *Handle, ns *NetNS, id, ifName string, host byte) (Link, SandboxDevice) {
	t.Helper()
	mac := model.MAC{2, 0x42, 0, 0, 0, host}
	l, err := h.CreateVeth(Veth{Name: EndpointDevice(id), PeerName: ifName, PeerMAC: mac, PeerNS: ns, MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetUp(l.Index); err != nil {
		t.Fatal(err)
	}
	a4 := netip.AddrFrom4([4]byte{192, 0, 2, host})
	a6 := netip.MustParseAddr("2001:db8::").As16()
	a6[15] = host
	return l, SandboxDevice{
		HostIndex: l.Index, PeerIndex: l.PeerIndex, Alias: SandboxAlias(id), Fresh: true, MAC: mac, MTU: 1400,
		Addrs:    []netip.Prefix{netip.PrefixFrom(a4, 24), netip.PrefixFrom(netip.AddrFrom16(a6), 64)},
		Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	}
}

func TestCreateVeth(t *testing.T) {
	h := testHandle(t)
	_, ns := testNetNS(t)
	l, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	if l.Name != "fl0123456789ab" || !l.Ours() || l.Kind != "veth" || l.MTU != 1400 || l.Alias != "" {
		t.Errorf("unfinished device is %+v", l)
	}
	if _, err := h.CreateVeth(Veth{Name: l.Name, PeerName: "eth1", PeerNS: ns, MTU: 1500}); !errors.Is(err, ErrExists) {
		t.Errorf("same host name: %v, want ErrExists", err)
	}
	if _, err := h.CreateVeth(Veth{Name: "flother", PeerName: "eth0", PeerNS: ns, MTU: 1500}); !errors.Is(err, ErrExists) {
		t.Errorf("same name in the sandbox: %v, want ErrExists", err)
	}
	if _, err := ConfigureSandbox(ns, []SandboxDevice{d}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.DeleteLink(l.Index); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.LinkByName(l.Name); !errors.Is(err, ErrNoDevice) {
		t.Errorf("after deletion: %v, want ErrNoDevice", err)
	}
	if _, err := ConfigureSandbox(ns, []SandboxDevice{d}); !errors.Is(err, ErrNoDevice) {
		t.Errorf("configure a sandbox without its device: %v, want ErrNoDevice", err)
	}
}

func TestConfigureSandbox(t *testing.T) {
	h := testHandle(t)
	_, ns := testNetNS(t)
	l, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)

	start := time.Now()
	if _, err := ConfigureSandbox(ns, []SandboxDevice{d}); err != nil {
		t.Fatal(err)
	}
	t.Logf("first configuration took %v", time.Since(start))
	links, addrs, routes := readNetNS(t, ns)
	if lo := links["lo"]; !lo.Up {
		t.Error("lo is down")
	}
	wantAddrs := map[string][]string{
		"lo":   {"127.0.0.1/8", "::1/128"},
		"eth0": {"192.0.2.2/24", "2001:db8::2/64"},
	}
	if diff := cmp.Diff(wantAddrs, addrs); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	eth := links["eth0"]
	if !eth.Up || eth.MAC != d.MAC || eth.MTU != 1400 || eth.Alias != d.Alias {
		t.Errorf("device is %+v", eth)
	}
	if eth.Conf.AcceptDAD != 0 || eth.Conf.AcceptRA != 0 || eth.Conf.DisableIPv6 != 0 {
		t.Errorf("device has settings %+v", eth.Conf)
	}
	if len(routes) != 2 {
		t.Fatalf("default routes: %+v", routes)
	}
	for i, r := range routes {
		if r.Protocol != RouteProtocol || r.Gateway != d.Gateways[i] {
			t.Errorf("default route %d is %+v", i, r)
		}
	}
	if host, err := h.Link(l.Index); err != nil || !host.Running {
		t.Errorf("host end %+v, %v; want it running immediately", host, err)
	}
	again, err := ConfigureSandbox(ns, []SandboxDevice{d})
	if err != nil || again.Any() {
		t.Errorf("second configuration changed %+v, %v", again, err)
	}
}

func TestConfigureSandboxWithoutIPv6(t *testing.T) {
	h := testHandle(t)
	_, ns := testNetNS(t)
	_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	d.Addrs, d.Gateways = d.Addrs[:1], d.Gateways[:1]
	if _, err := ConfigureSandbox(ns, []SandboxDevice{d}); err != nil {
		t.Fatal(err)
	}
	links, _, _ := readNetNS(t, ns)
	if links["eth0"].Conf.DisableIPv6 != 1 {
		t.Error("a device without IPv6 address has IPv6")
	}
	again, err := ConfigureSandbox(ns, []SandboxDevice{d})
	if err != nil || again.Any() {
		t.Errorf("second configuration changed %+v, %v", again, err)
	}
}

// The namespace's owner decides whether there is IPv6: before the first configuration for all
// devices, later for each.
func TestIPv6IsTheOwners(t *testing.T) {
	without := func(d *SandboxDevice) { d.Addrs, d.Gateways = d.Addrs[:1], d.Gateways[:1] }
	dual := func(*SandboxDevice) {}
	for _, tt := range []struct {
		name          string
		network       func(*SandboxDevice)
		before, after map[string]string // settings of IPv6, by device
		has           bool              // eth0 has its IPv6 address and route
		off           int32
		again         *Changes // after IPv6 was enabled again; nil if it is not
	}{
		{"off for all before", dual, map[string]string{"all": "1"}, nil, false, 1, &Changes{Addresses: 1, Routes: 1}},
		{"off for new devices before", dual, map[string]string{"default": "1"}, nil, true, 0, nil},
		{"off for all", dual, nil, map[string]string{"all": "1"}, false, 1, &Changes{Addresses: 1, Routes: 1}},
		{"off at the device", dual, nil, map[string]string{"eth0": "1"}, false, 1, &Changes{Addresses: 1, Routes: 1}},
		{"network without IPv6", without, nil, nil, false, 1, nil},
		{"network without IPv6, on", without, nil, map[string]string{"eth0": "0"}, false, 0, nil},
		{"off, network without IPv6", without, map[string]string{"all": "1"}, nil, false, 1, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := testHandle(t)
			_, ns := testNetNS(t)
			set := func(settings map[string]string) {
				t.Helper()
				err := ns.Do(func() (err error) {
					for device, value := range settings {
						err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/"+device+"/disable_ipv6", []byte(value), 0))
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			set(tt.before)
			_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
			tt.network(&d)
			configure := func() Changes {
				t.Helper()
				ch, err := ConfigureSandbox(ns, []SandboxDevice{d})
				if err != nil {
					t.Fatal(err)
				}
				return ch
			}
			check := func(has bool, off int32) {
				t.Helper()
				links, addrs, routes := readNetNS(t, ns)
				want, wantRoutes := []string{"192.0.2.2/24"}, 1
				if has {
					want, wantRoutes = append(want, "2001:db8::2/64"), 2
				}
				if diff := cmp.Diff(want, addrs["eth0"]); diff != "" || len(routes) != wantRoutes || links["eth0"].Conf.DisableIPv6 != off {
					t.Errorf("addresses (-want +got):\n%s\nroutes %v, IPv6 off %d, want %d and %d", diff, routes, links["eth0"].Conf.DisableIPv6, wantRoutes, off)
				}
			}
			configure()
			d.Fresh = false
			set(tt.after)
			if ch := configure(); ch.Any() {
				t.Errorf("repaired %+v", ch)
			}
			check(tt.has, tt.off)
			if err := CompareSandbox(ns, d.PeerIndex, "eth0", d.Gateways); err != nil {
				t.Errorf("compare: %v", err)
			}
			if tt.again == nil {
				return
			}
			set(map[string]string{"all": "0", "eth0": "0"})
			if ch := configure(); ch != *tt.again {
				t.Errorf("enabled again: changed %+v, want %+v", ch, *tt.again)
			}
			check(true, 0)
		})
	}
}

func TestConfigureSandboxRepairs(t *testing.T) {
	type breakage func(c *conn, d SandboxDevice) error
	tests := map[string]struct {
		breakIt breakage
		want    Changes
	}{
		"device down": {func(c *conn, d SandboxDevice) error {
			up := false
			return c.setLink(d.PeerIndex, LinkChange{Up: &up})
		}, Changes{Devices: 1, Addresses: 1, Routes: 2}}, // down also removes IPv6 addresses and routes
		"address removed": {func(c *conn, d SandboxDevice) error {
			return c.do(unix.RTM_DELADDR, 0, addrMsg(d.PeerIndex, d.Addrs[1]), addr(unix.IFA_LOCAL, d.Addrs[1].Addr()))
		}, Changes{Addresses: 1}},
		"MAC changed": {func(c *conn, d SandboxDevice) error {
			return c.setLink(d.PeerIndex, LinkChange{MAC: &model.MAC{2, 1, 1, 1, 1, 1}})
		}, Changes{Devices: 1}},
		"alias missing, as after a crash": {func(c *conn, d SandboxDevice) error {
			empty := ""
			return c.setLink(d.PeerIndex, LinkChange{Alias: &empty})
		}, Changes{Devices: 1}},
		"router advertisements accepted": {func(_ *conn, _ SandboxDevice) error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_ra", []byte("1"), 0)
		}, Changes{Sysctls: 1}},
		"default route removed": {func(c *conn, d SandboxDevice) error {
			return c.deleteDefault(Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: d.Gateways[0]})
		}, Changes{Routes: 1}},
		"default route by another program is kept": {func(c *conn, d SandboxDevice) error {
			r := Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: d.Gateways[0]}
			if err := c.deleteDefault(r); err != nil {
				return err
			}
			msg := addDefaultMsg(d.Addrs[0].Addr().Next())
			return c.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, msg...)
		}, Changes{}},
		"loopback down": {func(c *conn, _ SandboxDevice) error {
			up := false
			return c.setLink(1, LinkChange{Up: &up})
		}, Changes{Devices: 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := testHandle(t)
			_, ns := testNetNS(t)
			_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
			if _, err := ConfigureSandbox(ns, []SandboxDevice{d}); err != nil {
				t.Fatal(err)
			}
			d.Fresh = false
			err := ns.Do(func() error {
				c, err := dial()
				if err != nil {
					return err
				}
				defer c.close()
				return tt.breakIt(c, d)
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := ConfigureSandbox(ns, []SandboxDevice{d})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("repairs (-want +got):\n%s", diff)
			}
			if again, err := ConfigureSandbox(ns, []SandboxDevice{d}); err != nil || again.Any() {
				t.Errorf("after the repair still %+v, %v", again, err)
			}
		})
	}
}

func TestGatewayMoves(t *testing.T) {
	h := testHandle(t)
	_, ns := testNetNS(t)
	_, a := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	_, b := testEndpoint(t, h, ns, "fedcba98765432100000", "eth1", 3)
	b.Addrs = prefixes("198.51.100.3/24", "2001:db8:1::3/64")
	gateways := []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")}
	b.Gateways = nil
	check := func(want uint32, gws []netip.Addr) {
		t.Helper()
		if _, err := ConfigureSandbox(ns, []SandboxDevice{a, b}); err != nil {
			t.Fatal(err)
		}
		_, _, routes := readNetNS(t, ns)
		if len(routes) != len(gws) {
			t.Fatalf("default routes %+v, want through %v", routes, gws)
		}
		for i, r := range routes {
			if r.Gateway != gws[i] || r.Devices[0] != want {
				t.Errorf("default route %+v, want via %v device %d", r, gws[i], want)
			}
		}
	}
	check(a.PeerIndex, a.Gateways)
	first := a.Gateways
	a.Gateways, b.Gateways = nil, gateways
	check(b.PeerIndex, gateways)
	a.Gateways, b.Gateways = first, nil
	check(a.PeerIndex, first)
	a.Gateways = nil
	check(0, nil)
}
