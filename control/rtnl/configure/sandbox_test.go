// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

const endpointID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// testEndpoint creates a pair with its peer in ns, as reconcile does, and returns the peer's
// wanted configuration.
func testEndpoint(t *testing.T, h *rtnl.Handle, ns *rtnl.NetNS, id, ifName string, host byte) (rtnl.Link, Device) {
	t.Helper()
	mac := model.MAC{2, 0x42, 0, 0, 0, host}
	l, err := h.CreateVeth(rtnl.Veth{Name: rtnl.EndpointDevice(id), PeerName: ifName, PeerMAC: mac, PeerNS: ns, MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetUp(l.Index); err != nil {
		t.Fatal(err)
	}
	a4 := netip.AddrFrom4([4]byte{192, 0, 2, host})
	a6 := netip.MustParseAddr("2001:db8::").As16()
	a6[15] = host
	return l, Device{
		HostIndex: l.Index, PeerIndex: l.PeerIndex, Alias: rtnl.SandboxAlias(id), Fresh: true, MAC: mac, MTU: 1400,
		Addrs:    []netip.Prefix{netip.PrefixFrom(a4, 24), netip.PrefixFrom(netip.AddrFrom16(a6), 64)},
		Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	}
}

func TestSandbox(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	l, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)

	start := time.Now()
	if _, err := Sandbox(ns, []Device{d}); err != nil {
		t.Fatal(err)
	}
	t.Logf("first configuration took %v", time.Since(start))
	links, addrs, routes := rtnltest.Read(t, ns)
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
		if r.Protocol != rtnl.RouteProtocol || r.Gateway != d.Gateways[i] {
			t.Errorf("default route %d is %+v", i, r)
		}
	}
	if host, err := h.Link(l.Index); err != nil || !host.Running {
		t.Errorf("host end %+v, %v; want it running immediately", host, err)
	}
	again, err := Sandbox(ns, []Device{d})
	if err != nil || again.Any() {
		t.Errorf("second configuration changed %+v, %v", again, err)
	}
}

// Packets to an address are for the sandbox, or for the host, once its configuration returns: the kernel adds the local route of an
// IPv6 address later than the address.
func TestAddressesAreLocal(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	port := testHostPort(t, h, true)
	local := func(where string, a netip.Addr, in func(func() error) error) {
		t.Helper()
		err := in(func() error {
			h, err := rtnl.New()
			if err != nil {
				return err
			}
			defer h.Close()
			hop, err := h.HopTo(a)
			if err == nil && hop.Device != 0 {
				err = fmt.Errorf("packets to %v leave by device %d", a, hop.Device)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	for i := range byte(20) {
		a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: 16 + i})
		d.Addrs = append(d.Addrs, netip.PrefixFrom(a, 64))
		if _, err := Sandbox(ns, []Device{d}); err != nil {
			t.Fatal(err)
		}
		local("in the sandbox", a, ns.Do)
		g := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 5: 1, 15: 16 + i})
		port.Addrs = append(port.Addrs, netip.PrefixFrom(g, 64))
		configureHostPort(t, h, port)
		local("on the host", g, h.Do)
	}
}

func TestSandboxWithoutIPv6(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	d.Addrs, d.Gateways = d.Addrs[:1], d.Gateways[:1]
	if _, err := Sandbox(ns, []Device{d}); err != nil {
		t.Fatal(err)
	}
	links, _, _ := rtnltest.Read(t, ns)
	if links["eth0"].Conf.DisableIPv6 != 1 {
		t.Error("a device without IPv6 address has IPv6")
	}
	again, err := Sandbox(ns, []Device{d})
	if err != nil || again.Any() {
		t.Errorf("second configuration changed %+v, %v", again, err)
	}
}

// The namespace's owner decides whether there is IPv6: before the first configuration for all
// devices, later for each.
func TestIPv6IsTheOwners(t *testing.T) {
	without := func(d *Device) { d.Addrs, d.Gateways = d.Addrs[:1], d.Gateways[:1] }
	dual := func(*Device) {}
	for _, tt := range []struct {
		name          string
		network       func(*Device)
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
			h := rtnltest.New(t)
			_, ns := rtnltest.NetNS(t)
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
				ch, err := Sandbox(ns, []Device{d})
				if err != nil {
					t.Fatal(err)
				}
				return ch
			}
			check := func(has bool, off int32) {
				t.Helper()
				links, addrs, routes := rtnltest.Read(t, ns)
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
			if err := Compare(ns, d.PeerIndex, "eth0", d.Gateways); err != nil {
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

// The owner may disable IPv6 at any moment of a check. The check does not treat that as damage, and does not fail.
func TestIPv6IsDisabledMeanwhile(t *testing.T) {
	h := rtnltest.New(t)
	path, ns := rtnltest.NetNS(t)
	_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	if _, err := Sandbox(ns, []Device{d}); err != nil {
		t.Fatal(err)
	}
	d.Fresh = false
	owner, err := rtnl.OpenNetNS(path)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	set := func(value string) error {
		return owner.Do(func() error {
			return rtnl.WriteSysctls([]rtnl.Sysctl{{Family: "ipv6", Device: "all", Key: disableIPv6, Value: value}})
		})
	}
	for range 200 {
		if err := set("0"); err != nil {
			t.Fatal(err)
		}
		disabled := make(chan error, 1)
		go func() { disabled <- set("1") }()
		if _, err := Sandbox(ns, []Device{d}); err != nil {
			t.Fatal(err)
		}
		if err := <-disabled; err != nil {
			t.Fatal(err)
		}
	}
	if ch, err := Sandbox(ns, []Device{d}); err != nil || ch != (Changes{}) {
		t.Errorf("with IPv6 disabled: %+v, %v", ch, err)
	}
}

func TestSandboxRepairs(t *testing.T) {
	type breakage func(c *rtnl.Conn, d Device) error
	tests := map[string]struct {
		breakIt breakage
		want    Changes
	}{
		"device down": {func(c *rtnl.Conn, d Device) error {
			up := false
			return c.SetLink(d.PeerIndex, rtnl.LinkChange{Up: &up})
		}, Changes{Devices: 1, Addresses: 1, Routes: 2}}, // down also removes IPv6 addresses and routes
		"address removed": {func(c *rtnl.Conn, d Device) error {
			return c.DeleteAddr(d.PeerIndex, d.Addrs[1])
		}, Changes{Addresses: 1}},
		"MAC changed": {func(c *rtnl.Conn, d Device) error {
			return c.SetLink(d.PeerIndex, rtnl.LinkChange{MAC: &model.MAC{2, 1, 1, 1, 1, 1}})
		}, Changes{Devices: 1}},
		"alias missing, as after a crash": {func(c *rtnl.Conn, d Device) error {
			empty := ""
			return c.SetLink(d.PeerIndex, rtnl.LinkChange{Alias: &empty})
		}, Changes{Devices: 1}},
		"router advertisements accepted": {func(_ *rtnl.Conn, _ Device) error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_ra", []byte("1"), 0)
		}, Changes{Sysctls: 1}},
		"default route removed": {func(c *rtnl.Conn, d Device) error {
			return c.DeleteDefault(rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: d.Gateways[0]})
		}, Changes{Routes: 1}},
		"default route by another program is kept": {func(c *rtnl.Conn, d Device) error {
			r := rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: d.Gateways[0]}
			if err := c.DeleteDefault(r); err != nil {
				return err
			}
			return rtnltest.IP("route add default via " + d.Addrs[0].Addr().Next().String())
		}, Changes{}},
		"loopback down": {func(c *rtnl.Conn, _ Device) error {
			up := false
			return c.SetLink(1, rtnl.LinkChange{Up: &up})
		}, Changes{Devices: 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := rtnltest.New(t)
			_, ns := rtnltest.NetNS(t)
			_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
			if _, err := Sandbox(ns, []Device{d}); err != nil {
				t.Fatal(err)
			}
			d.Fresh = false
			err := ns.Do(func() error {
				c, err := rtnl.Dial()
				if err != nil {
					return err
				}
				defer c.Close()
				return tt.breakIt(c, d)
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := Sandbox(ns, []Device{d})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("repairs (-want +got):\n%s", diff)
			}
			if again, err := Sandbox(ns, []Device{d}); err != nil || again.Any() {
				t.Errorf("after the repair still %+v, %v", again, err)
			}
		})
	}
}

func TestGatewayMoves(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	_, a := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	_, b := testEndpoint(t, h, ns, "fedcba98765432100000", "eth1", 3)
	b.Addrs = prefixes("198.51.100.3/24", "2001:db8:1::3/64")
	gateways := []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")}
	b.Gateways = nil
	check := func(want uint32, gws []netip.Addr) {
		t.Helper()
		if _, err := Sandbox(ns, []Device{a, b}); err != nil {
			t.Fatal(err)
		}
		_, _, routes := rtnltest.Read(t, ns)
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

func TestMissingDevice(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	l, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	if err := h.DeleteLink(l.Index); err != nil {
		t.Fatal(err)
	}
	if _, err := Sandbox(ns, []Device{d}); !errors.Is(err, rtnl.ErrNoDevice) {
		t.Errorf("configure a sandbox without its device: %v, want ErrNoDevice", err)
	}
}

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// A limit replaces another program's qdisc; without a limit the qdisc is kept.
func TestSandboxLimit(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	kind := func() (kind string) {
		rtnltest.In(t, ns, func(*rtnl.Conn) error {
			qs, err := netlink.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(d.PeerIndex)}})
			for _, q := range qs {
				kind = q.Type()
			}
			return err
		})
		return kind
	}
	configure := func(devices int) {
		t.Helper()
		ch, err := Sandbox(ns, []Device{d})
		if err != nil || ch.Devices != devices {
			t.Errorf("%d devices changed, %v, want %d", ch.Devices, err, devices)
		}
	}
	configure(2) // with the loopback
	rtnltest.In(t, ns, func(*rtnl.Conn) error {
		return rtnltest.Run("tc", strings.Fields("qdisc replace dev eth0 root handle 1: pfifo")...)
	})
	configure(0)
	if got := kind(); got != "pfifo" {
		t.Errorf("without a limit the qdisc is %s, want pfifo", got)
	}
	d.Limit = model.Limit{Rate: 1e6, Burst: 1e6}
	configure(1)
	if got := kind(); got != "tbf" {
		t.Errorf("with a limit the qdisc is %s, want tbf", got)
	}
	configure(0)
	d.Limit = model.Limit{}
	configure(1)
	if got := kind(); got == "tbf" {
		t.Error("the qdisc of a former limit is still there")
	}
	configure(0)
}
