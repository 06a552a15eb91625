// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"cmp"
	"errors"
	"math"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/model"
)

// An address keeps its MAC when its owner changes, unless another endpoint has that MAC.
func TestMACBelongsToTheAddress(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{verbtest.Subnet("10.0.0.0/24")}})
	at := func(s string, m model.MAC) model.SandboxSpec {
		return model.SandboxSpec{Name: "at" + s, NetworkMode: "n", Endpoint: model.EndpointSpec{IPv4: verbtest.Addr(s), MAC: m}}
	}
	w.MakeSandbox(at("10.0.0.9", model.MAC{}))
	if got := w.EndpointIn("n", "at10.0.0.9").MAC.String(); got != "02:42:0a:00:00:09" {
		t.Errorf("MAC = %s, want the one derived from the address", got)
	}
	w.MakeSandbox(at("10.0.0.8", mac("02:42:0a:00:00:07")))
	w.MakeSandbox(at("10.0.0.7", model.MAC{}))
	if got := w.EndpointIn("n", "at10.0.0.7").MAC; got.IsZero() || got == mac("02:42:0a:00:00:07") {
		t.Errorf("MAC = %s, want one that is not in use", got)
	}
	w.Check()
}

// No address is allocated in a family without a leased address.
func TestLeasedFamilies(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{verbtest.Subnet("10.0.0.0/24"), verbtest.Subnet("fd00::/64")}})
	for name, spec := range map[string]model.EndpointSpec{
		"four": {IPv4: verbtest.Addr("10.0.0.9")}, "six": {IPv6: verbtest.Addr("fd00::9")}, "both": {IPv4: verbtest.Addr("10.0.0.8"), IPv6: verbtest.Addr("fd00::8")},
	} {
		spec.Leased = true
		w.MakeSandbox(model.SandboxSpec{Name: name, NetworkMode: "n", Endpoint: spec})
		if ep := w.EndpointIn("n", name); ep.IPv4.Addr() != spec.IPv4 || ep.IPv6.Addr() != spec.IPv6 || ep.MAC != macOf(cmp.Or(spec.IPv4, spec.IPv6)) {
			t.Errorf("%s: %+v", name, ep)
		}
	}
	w.Restart()
	w.Check()
}

// The limits of an interface are stored, and refused if no packet could pass.
func TestBandwidth(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "a"})
	w.MakeNetwork(model.NetworkSpec{Name: "jumbo", Options: map[string]string{"com.docker.network.driver.mtu": "9000"}})
	want := model.Bandwidth{Ingress: model.Limit{Rate: 3036, Burst: 12144}, Egress: model.Limit{Rate: 1e15, Burst: 8 * math.MaxUint32}}
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "a", Endpoint: model.EndpointSpec{Bandwidth: want}})
	w.Restart()
	if got := w.EndpointIn("a", "web").Bandwidth; got != want {
		t.Errorf("limits are %+v, want %+v", got, want)
	}
	before := w.Snapshot()
	for _, tt := range []struct {
		limit model.Limit
		text  string
	}{
		{model.Limit{Rate: 1e6}, "egress rate of 1000000 bit/s without a burst (give both, or neither)"},
		{model.Limit{Burst: 1e6}, "egress burst of 1000000 bits without a rate (give both, or neither)"},
		{model.Limit{Rate: 18035, Burst: 1e6}, "egress rate of 18035 bit/s is out of range (18036 to 1000000000000000)"},
		{model.Limit{Rate: 1e15 + 1, Burst: 1e6}, "egress rate of 1000000000000001 bit/s is out of range"},
		{model.Limit{Rate: 1e6, Burst: 72143}, "egress burst of 72143 bits is out of range (72144, one packet of this network, to 34359738360)"},
		{model.Limit{Rate: 1e6, Burst: 8*math.MaxUint32 + 1}, "egress burst of 34359738361 bits is out of range"},
	} {
		_, err := w.Connect(t.Context(), "jumbo", "web", model.EndpointSpec{Bandwidth: model.Bandwidth{Egress: tt.limit}})
		w.Refused(before, err, model.ErrInvalid, tt.text)
	}
	_, err := w.Connect(t.Context(), "jumbo", "web", model.EndpointSpec{Bandwidth: model.Bandwidth{Ingress: model.Limit{Rate: 1}}})
	w.Refused(before, err, model.ErrInvalid, "ingress rate of 1 bit/s")
	for _, mode := range []string{"host", "none", "container:web"} {
		_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "other", NetworkMode: mode, Endpoint: model.EndpointSpec{Bandwidth: want}})
		w.Refused(before, err, model.ErrInvalid, "bandwidth limits")
	}
}

// Limits change while the sandbox exists, each by itself; those of a network apply to endpoints that have no own.
func TestSetBandwidth(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "a", Options: map[string]string{model.OptIngress: "20mbit", model.OptEgress: "3gbit"}})
	w.MakeNetwork(model.NetworkSpec{Name: "b"})
	fast, slow := model.Limit{Rate: 3e9, Burst: 6e7}, model.Limit{Rate: 20e6, Burst: 1 << 20}
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "a", Endpoint: model.EndpointSpec{Bandwidth: model.Bandwidth{Ingress: fast}}})
	is := func(network string, want model.Bandwidth) {
		t.Helper()
		w.Restart()
		if got := w.EndpointIn(network, "web").Bandwidth; got != want {
			t.Errorf("limits in %s are %+v, want %+v", network, got, want)
		}
	}
	is("a", model.Bandwidth{Ingress: fast, Egress: fast})
	for _, s := range []struct {
		network string
		in, out *model.Limit
		wantA   model.Bandwidth
	}{
		{"", &slow, nil, model.Bandwidth{Ingress: slow, Egress: fast}},
		{"a", nil, &model.Limit{}, model.Bandwidth{Ingress: slow}},
		{"", &model.Limit{}, &slow, model.Bandwidth{Egress: slow}},
	} {
		if err := w.SetBandwidth(t.Context(), "web", s.network, s.in, s.out); err != nil {
			t.Fatal(err)
		}
		is("a", s.wantA)
	}
	before := w.Snapshot()
	w.Refused(before, w.SetBandwidth(t.Context(), "nobody", "", &slow, nil), model.ErrNotFound, "no such sandbox: nobody")
	w.Refused(before, w.SetBandwidth(t.Context(), "web", "b", &slow, nil), model.ErrForbidden, "not connected to network b")
	w.Refused(before, w.SetBandwidth(t.Context(), "web", "", &model.Limit{Rate: 1, Burst: 1e6}, nil), model.ErrInvalid, "ingress rate of 1 bit/s is out of range")
	w.MakeSandbox(model.SandboxSpec{Name: "joined", NetworkMode: "container:web"})
	before = w.Snapshot()
	w.Refused(before, w.SetBandwidth(t.Context(), "joined", "", &slow, nil), model.ErrInvalid, "no interface of its own")
	if _, err := w.Connect(t.Context(), "b", "web", model.EndpointSpec{}); err != nil {
		t.Fatal(err)
	}
	is("b", model.Bandwidth{})
	before = w.Snapshot()
	w.Refused(before, w.SetBandwidth(t.Context(), "web", "", &slow, nil), model.ErrInvalid, "several networks (name one of them: a, b)")
	for k, v := range map[string]string{model.OptIngress: "fast", model.OptEgress: "1kbit"} {
		_, err := w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "c", Options: map[string]string{k: v}})
		w.Refused(before, err, model.ErrInvalid, "rate")
	}
}

func TestInterfaceNames(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		w.MakeNetwork(model.NetworkSpec{Name: name})
	}
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "a", Endpoint: model.EndpointSpec{IfName: "eth1"}})
	connect := func(network, ifName string) error {
		_, err := w.Connect(t.Context(), network, "web", model.EndpointSpec{IfName: ifName})
		return err
	}
	if err := errors.Join(connect("b", ""), connect("c", "net.0")); err != nil {
		t.Fatal(err)
	}
	for network, want := range map[string]string{"a": "eth1", "b": "eth0", "c": "net.0"} {
		if got := w.EndpointIn(network, "web").IfName; got != want {
			t.Errorf("interface in %s = %q, want %q", network, got, want)
		}
	}
	w.Restart()
	before := w.Snapshot()
	w.Refused(before, connect("d", "eth1"), model.ErrConflict, `sandbox "web" already has an interface eth1`)
	for _, name := range []string{"lo", "all", "..", "a/b", "a b", "sixteen-letters-"} {
		w.Refused(before, connect("d", name), model.ErrInvalid, "invalid interface name")
	}
}

// macOf derives a MAC from the last 4 bytes of an address.
func macOf(ip netip.Addr) model.MAC {
	a := ip.AsSlice()
	return model.MAC(append([]byte{0x02, 0x42}, a[len(a)-4:]...))
}
