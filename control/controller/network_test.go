// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

func TestPredefinedNetworks(t *testing.T) {
	w := newWorld(t)
	got := map[string]string{}
	for n := range w.Snapshot().Networks() {
		got[n.Name] = n.Driver
	}
	if diff := cmp.Diff(map[string]string{"bridge": "bridge", "host": "host", "none": "null"}, got); diff != "" {
		t.Error(diff)
	}
	bridge, _ := w.Network("bridge")
	if s, _ := bridge.Subnet(model.V4); s.Prefix.String() != "172.28.0.0/16" || s.Gateway.String() != "172.28.0.1" {
		t.Errorf("subnet of bridge = %+v", s)
	}
	before := w.Snapshot()
	w.Refused(before, w.RemoveNetwork(t.Context(), "bridge"), model.ErrForbidden, "bridge is a pre-defined network and cannot be removed")
	w.Restart()
	if again, _ := w.Network("bridge"); again.ID != bridge.ID || w.Snapshot().Counts().Networks != 3 {
		t.Error("a restart recreated the predefined networks")
	}
	if names, err := w.PruneNetworks(t.Context(), nil); err != nil || len(names) != 0 {
		t.Errorf("prune = %v, %v", names, err)
	}
}

// The default network claims a subnet only while it has endpoints. Meanwhile others may take it,
// and the network then gets another.
func TestDefaultNetworkClaimsNothing(t *testing.T) {
	had := "172.28.0.0/16"
	for _, tt := range []struct {
		name   string
		others func(w *world)
		want   string
	}{
		{"nothing", func(*world) {}, had},
		{"a network", func(w *world) {
			w.MakeNetwork(model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{verbtest.Subnet("172.28.5.0/24")}})
		}, "172.29.0.0/16"},
		{"a network of any subnet", func(w *world) { w.MakeNetwork(model.NetworkSpec{Name: "n"}) }, had},
		{"an engine's network", func(w *world) { w.MakeNetwork(verbtest.EngineNetwork("f", had)) }, "172.29.0.0/16"},
		{"an engine's pool", func(w *world) {
			if _, err := w.RequestPool(t.Context(), "", model.V4, verbtest.Prefix(had), model.AddrRange{}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.RequestAddress(t.Context(), had, netip.Addr{}, true); err != nil {
				t.Fatal(err)
			}
		}, "172.29.0.0/16"},
		{"the host", func(w *world) { w.Kernel.Prefixes = []netip.Prefix{verbtest.Prefix("172.28.0.0/24")} }, "172.29.0.0/16"},
		{"a route around", func(w *world) { w.Kernel.Prefixes = []netip.Prefix{verbtest.Prefix("172.28.0.0/15")} }, "172.30.0.0/16"},
		{"routes around all", func(w *world) {
			w.Kernel.Prefixes = []netip.Prefix{verbtest.Prefix("172.16.0.0/12"), verbtest.Prefix("192.168.0.0/16")}
		}, had},
		{"routes around all, and the host", func(w *world) {
			w.Kernel.Prefixes = []netip.Prefix{verbtest.Prefix("172.16.0.0/13"), verbtest.Prefix("172.24.0.0/14"), verbtest.Prefix("172.30.0.0/15"), verbtest.Prefix("192.168.0.0/16"), verbtest.Prefix("172.28.0.1/32")}
		}, "172.29.0.0/16"},
		{"a tunnel for everything", func(w *world) { w.Kernel.Prefixes = []netip.Prefix{verbtest.Prefix("128.0.0.0/1")} }, had},
	} {
		for _, used := range []bool{false, true} { // by a sandbox that has been removed
			t.Run(fmt.Sprint(tt.name, "/used=", used), func(t *testing.T) {
				w := newWorld(t)
				if used {
					w.MakeSandbox(model.SandboxSpec{Name: "first"})
					if err := w.RemoveSandbox(t.Context(), "first", false); err != nil {
						t.Fatal(err)
					}
				}
				idle := func() {
					t.Helper()
					n, err := w.Network("bridge")
					if err != nil || !n.Idle || len(n.Claimed()) != 0 {
						t.Errorf("unused, the network is %+v, %v", n, err)
					}
					w.Check()
				}
				idle()
				w.Restart()
				tt.others(w)
				idle()
				w.MakeSandbox(model.SandboxSpec{Name: "sb"})
				n, _ := w.Network("bridge")
				if n.Idle || len(n.Subnets) != 1 || n.Subnets[0].Prefix.String() != tt.want {
					t.Errorf("used, the network is %+v, want %s", n, tt.want)
				}
				first := w.EndpointIn("bridge", "sb").IPv4
				w.Restart()
				if again, _ := w.Network("bridge"); again.Idle || again.Subnets[0].Prefix != n.Subnets[0].Prefix || w.EndpointIn("bridge", "sb").IPv4 != first {
					t.Errorf("after a restart the network is %+v", again)
				}
				if err := w.Disconnect(t.Context(), "bridge", "sb", false); err != nil {
					t.Fatal(err)
				}
				idle()
				if _, err := w.Connect(t.Context(), "bridge", "sb", model.EndpointSpec{}); err != nil {
					t.Fatal(err)
				}
				if second := w.EndpointIn("bridge", "sb").IPv4; second == first || second.Masked() != first.Masked() {
					t.Errorf("connected again it has %v, had %v", second, first)
				}
				w.Check()
			})
		}
	}
	t.Run("state of an older version", func(t *testing.T) {
		w := newWorld(t)
		n, _ := w.Network("bridge")
		was := *n
		was.Idle = false
		b, err := json.Marshal(&was)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Store.Commit(t.Context(), store.Put("network/"+n.ID, b)); err != nil {
			t.Fatal(err)
		}
		w.Restart()
		if n, _ := w.Network("bridge"); !n.Idle || len(n.Subnets) != 1 {
			t.Errorf("the network is %+v", n)
		}
		w.Check()
	})
	t.Run("no subnet left at the first start", func(t *testing.T) {
		w := newWorld(t)
		w.Kernel.Prefixes = []netip.Prefix{verbtest.Prefix("172.16.0.0/12"), verbtest.Prefix("192.168.0.0/16")}
		empty, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(t.TempDir(), "state.db"), NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		defer empty.Close()
		c := w.Open(empty, w.Kernel)
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CreateSandbox(t.Context(), model.SandboxSpec{}); !errors.Is(err, model.ErrExhausted) {
			t.Errorf("a sandbox was created, or: %v", err)
		}
		w.Kernel.Prefixes = nil
		if _, err := c.CreateSandbox(t.Context(), model.SandboxSpec{}); err != nil {
			t.Error(err)
		}
	})
}

func TestCreateNetworkSubnets(t *testing.T) {
	full := verbtest.Subnet("10.1.0.0/16")
	full.Gateway, full.IPRange = verbtest.Addr("10.1.9.9"), model.RangeOf(netip.MustParsePrefix("10.1.5.0/24"))
	full.Aux = map[string]netip.Addr{"printer": verbtest.Addr("10.1.5.0"), "router": verbtest.Addr("10.1.0.1")}
	auxFirst := verbtest.Subnet("10.2.0.0/24")
	auxFirst.Aux = map[string]netip.Addr{"a": verbtest.Addr("10.2.0.1")}
	tests := []struct {
		name string
		spec model.NetworkSpec
		want string // prefix gateway, …
		next string // the first sandbox's addresses
	}{
		{"default", model.NetworkSpec{}, "172.31.0.0/16 172.31.0.1", "172.31.0.2"},
		{"ula", model.NetworkSpec{EnableIPv6: true}, "172.31.0.0/16 172.31.0.1, ULA ULA::1", "172.31.0.2 ULA::2"},
		{"full", model.NetworkSpec{Subnets: []model.SubnetSpec{full}}, "10.1.0.0/16 10.1.9.9", "10.1.5.1"},
		{"aux-takes-first", model.NetworkSpec{Subnets: []model.SubnetSpec{auxFirst}}, "10.2.0.0/24 10.2.0.2", "10.2.0.3"},
		{"dual", model.NetworkSpec{EnableIPv6: true, Subnets: []model.SubnetSpec{verbtest.Subnet("2001:db8::/64"), verbtest.Subnet("10.3.0.0/24")}},
			"10.3.0.0/24 10.3.0.1, 2001:db8::/64 2001:db8::1", "10.3.0.2 2001:db8::2"},
		{"IPv6 alone", model.NetworkSpec{NoIPv4: true, EnableIPv6: true}, "ULA ULA::1", "ULA::2"},
		{"IPv6 alone by subnet", model.NetworkSpec{NoIPv4: true, Subnets: []model.SubnetSpec{verbtest.Subnet("2001:db8::/64")}}, "2001:db8::/64 2001:db8::1", "2001:db8::2"},
		{"IPv6 alone by options", model.NetworkSpec{Options: map[string]string{model.OptIPv4: "false", model.OptIPv6: "true"}}, "ULA ULA::1", "ULA::2"},
		{"dual by option", model.NetworkSpec{Options: map[string]string{model.OptIPv4: "true", model.OptIPv6: "true"}}, "172.31.0.0/16 172.31.0.1, ULA ULA::1", "172.31.0.2 ULA::2"},
		{"IPv4 by option", model.NetworkSpec{Options: map[string]string{model.OptIPv6: "false"}}, "172.31.0.0/16 172.31.0.1", "172.31.0.2"},
		{"option and flag", model.NetworkSpec{EnableIPv6: true, Options: map[string]string{model.OptIPv6: "false"}}, "172.31.0.0/16 172.31.0.1, ULA ULA::1", "172.31.0.2 ULA::2"},
		{"IPv4 link-local", model.NetworkSpec{Subnets: []model.SubnetSpec{verbtest.Subnet("169.254.170.0/24")}}, "169.254.170.0/24 169.254.170.1", "169.254.170.2"},
		{"sized-pool", model.NetworkSpec{Subnets: []model.SubnetSpec{verbtest.Subnet("0.0.0.0/26")}}, "172.29.1.0/26 172.29.1.1", "172.29.1.2"},
		{"dual-by-subnet", model.NetworkSpec{Subnets: []model.SubnetSpec{verbtest.Subnet("2001:db8::/64"), verbtest.Subnet("10.3.0.0/24")}},
			"10.3.0.0/24 10.3.0.1, 2001:db8::/64 2001:db8::1", "10.3.0.2 2001:db8::2"},
		{"sized-pool", model.NetworkSpec{Subnets: []model.SubnetSpec{verbtest.Subnet("0.0.0.0/26")}}, "172.29.1.0/26 172.29.1.1", "172.29.1.2"},
		{"pair", model.NetworkSpec{EnableIPv6: true, Subnets: []model.SubnetSpec{verbtest.Subnet("10.4.0.0/31"), verbtest.Subnet("2001:db8::/127")}},
			"10.4.0.0/31 10.4.0.0, 2001:db8::/127 2001:db8::", "10.4.0.1 2001:db8::1"},
		{"isolated", model.NetworkSpec{Internal: true, EnableIPv6: true, Options: map[string]string{model.OptGateMode4: "isolated", model.OptGateMode6: "isolated"}}, "172.31.0.0/16 none, ULA none", "172.31.0.1 ULA::1"},
		{"isolated IPv4", model.NetworkSpec{Internal: true, EnableIPv6: true, Options: map[string]string{model.OptGateMode4: "isolated"}}, "172.31.0.0/16 none, ULA ULA::1", "172.31.0.1 ULA::2"},
		{"pair-internal", model.NetworkSpec{Internal: true, Subnets: []model.SubnetSpec{verbtest.Subnet("10.4.0.0/31")}}, "10.4.0.0/31 none", "10.4.0.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.Kernel.Prefixes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("172.29.0.0/24"), netip.MustParsePrefix("172.30.128.0/17")}
			tt.spec.Name = "n"
			n := w.MakeNetwork(tt.spec)
			ula := ""
			var subs []string
			for _, s := range n.Subnets {
				gw := "none"
				if s.Gateway.IsValid() {
					gw = s.Gateway.String()
				}
				subs = append(subs, s.Prefix.String()+" "+gw)
				if strings.HasPrefix(s.Prefix.String(), "fd") {
					ula = strings.TrimSuffix(s.Prefix.String(), "::/64")
				}
			}
			normal := func(s string) string {
				if ula != "" {
					s = strings.ReplaceAll(strings.ReplaceAll(s, ula+"::/64", "ULA"), ula, "ULA")
				}
				return s
			}
			if got := normal(strings.Join(subs, ", ")); got != tt.want {
				t.Errorf("subnets = %q, want %q", got, tt.want)
			}
			w.MakeSandbox(model.SandboxSpec{Name: "sb", NetworkMode: "n"})
			ep := w.EndpointIn("n", "sb")
			if got := normal(strings.TrimSpace(model.AddrText(ep.IPv4.Addr()) + " " + model.AddrText(ep.IPv6.Addr()))); got != tt.next {
				t.Errorf("addresses = %q, want %q", got, tt.next)
			}
			w.Check()
		})
	}
}

// networkRefusal is a request that must be refused.
type networkRefusal struct {
	name string
	spec model.NetworkSpec
	kind error
	text string
}

func networkRefusals() []networkRefusal {
	with := func(s string, f func(*model.SubnetSpec)) []model.SubnetSpec {
		sp := verbtest.Subnet(s)
		f(&sp)
		return []model.SubnetSpec{sp}
	}
	opt := func(k, v string) model.NetworkSpec {
		return model.NetworkSpec{Name: "n", Options: map[string]string{k: v}}
	}
	sub := func(ss ...model.SubnetSpec) model.NetworkSpec {
		return model.NetworkSpec{Name: "n", EnableIPv6: true, Subnets: ss}
	}
	return []networkRefusal{
		{"name dot", model.NetworkSpec{Name: "."}, model.ErrInvalid, "is a directory"},
		{"name dots", model.NetworkSpec{Name: ".."}, model.ErrInvalid, "is a directory"},
		{"IPv6 link-local", sub(verbtest.Subnet("fe80:1::/64")), model.ErrInvalid, "IPv6 link-local addresses cannot be used"},
		{"no family", model.NetworkSpec{Name: "n", NoIPv4: true}, model.ErrInvalid, "neither IPv4 nor IPv6 (add --ipv6)"},
		{"no family by option", opt(model.OptIPv4, "false"), model.ErrInvalid, "neither IPv4 nor IPv6"},
		{"no IPv4 and its subnet", model.NetworkSpec{Name: "n", NoIPv4: true, EnableIPv6: true, Subnets: []model.SubnetSpec{verbtest.Subnet("10.9.0.0/24")}}, model.ErrInvalid, "has an IPv4 subnet although IPv4 is disabled"},
		{"no IPv4 and any subnet", model.NetworkSpec{Name: "n", NoIPv4: true, EnableIPv6: true, Subnets: []model.SubnetSpec{{}}}, model.ErrInvalid, "IPv4 is disabled in network n"},
		{"family by a bad option", opt(model.OptIPv6, "maybe"), model.ErrInvalid, "want true or false"},
		{"no-name", model.NetworkSpec{}, model.ErrInvalid, "no name"},
		{"predefined", model.NetworkSpec{Name: "host"}, model.ErrForbidden, "operation is not permitted on predefined host network"},
		{"taken", model.NetworkSpec{Name: "taken"}, model.ErrConflict, "network with name taken already exists"},
		{"mode-name", model.NetworkSpec{Name: "container:x"}, model.ErrInvalid, "invalid network name"},
		{"overlay", model.NetworkSpec{Name: "n", Driver: "overlay"}, model.ErrForbidden, "this daemon is not part of one"},
		{"host", model.NetworkSpec{Name: "n", Driver: "host"}, model.ErrForbidden, "only one instance"},
		{"unknown-driver", model.NetworkSpec{Name: "n", Driver: "x"}, model.ErrInvalid, `unknown network driver "x"`},
		{"overlap", sub(verbtest.Subnet("10.9.128.0/17")), model.ErrConflict, `Pool overlaps with other one on this address space: 10.9.128.0/17 and network "taken" (10.9.0.0/16)`},
		{"host-address", sub(verbtest.Subnet("10.8.0.0/16")), model.ErrConflict, "subnet 10.8.0.0/16 contains 10.8.7.6, an address of this host's device eth0 (choose another --subnet)"},
		{"host-bits", sub(verbtest.Subnet("10.0.0.5/24")), model.ErrInvalid, "invalid subnet 10.0.0.5/24: it should be 10.0.0.0/24"},
		{"two-v4", sub(verbtest.Subnet("10.0.0.0/24"), verbtest.Subnet("10.0.1.0/24")), model.ErrInvalid, "one subnet per address family"},
		{"single", sub(verbtest.Subnet("10.0.0.0/32")), model.ErrInvalid, "no room"},
		{"huge", sub(verbtest.Subnet("0.0.0.0/0")), model.ErrInvalid, "larger than /8"},
		{"loopback", sub(verbtest.Subnet("127.0.0.0/24")), model.ErrInvalid, "loopback"},
		{"multicast", sub(verbtest.Subnet("ff02::/64")), model.ErrInvalid, "multicast"},
		{"gateway-outside", sub(with("10.0.0.0/24", func(s *model.SubnetSpec) { s.Gateway = verbtest.Addr("10.0.1.1") })...), model.ErrInvalid, "invalid gateway 10.0.1.1: parent subnet 10.0.0.0/24 doesn't contain this address (choose one of it)"},
		{"gateway-network", sub(with("10.0.0.0/24", func(s *model.SubnetSpec) { s.Gateway = verbtest.Addr("10.0.0.0") })...), model.ErrInvalid, "gateway 10.0.0.0"},
		{"gateway-broadcast", sub(with("10.0.0.0/24", func(s *model.SubnetSpec) { s.Gateway = verbtest.Addr("10.0.0.255") })...), model.ErrInvalid, "gateway 10.0.0.255"},
		{"gateway-without-subnet", sub(model.SubnetSpec{Gateway: verbtest.Addr("10.0.0.1")}), model.ErrInvalid, "must have a corresponding subnet"},
		{"gateway-is-aux", sub(with("10.0.0.0/24", func(s *model.SubnetSpec) {
			s.Gateway, s.Aux = verbtest.Addr("10.0.0.9"), map[string]netip.Addr{"x": verbtest.Addr("10.0.0.9")}
		})...), model.ErrInvalid, "Address already in use"},
		{"range-outside", sub(with("10.0.0.0/24", func(s *model.SubnetSpec) { s.IPRange = model.RangeOf(netip.MustParsePrefix("10.0.1.0/25")) })...), model.ErrInvalid, "doesn't contain ip-range (give a part of that)"},
		{"range-bigger", sub(with("10.0.0.0/24", func(s *model.SubnetSpec) { s.IPRange = model.RangeOf(netip.MustParsePrefix("10.0.0.0/23")) })...), model.ErrInvalid, "CIDR block is bigger than its parent subnet 10.0.0.0/24 (give a part of that)"},
		{"range-family", sub(with("10.0.0.0/24", func(s *model.SubnetSpec) { s.IPRange = model.RangeOf(netip.MustParsePrefix("2001:db8::/80")) })...), model.ErrInvalid, "parent subnet is an IPv4 block (give a part of 10.0.0.0/24)"},
		{"aux-outside", sub(with("10.0.0.0/24", func(s *model.SubnetSpec) { s.Aux = map[string]netip.Addr{"x": verbtest.Addr("10.1.0.1")} })...), model.ErrInvalid, "invalid auxiliary address 10.1.0.1: parent subnet 10.0.0.0/24 doesn't contain this address (choose one of it)"},
		{"null-ipam", model.NetworkSpec{Name: "x", IPAM: model.IPAMNull}, model.ErrInvalid, "IPAM driver null is for networks of drivers macvlan and ipvlan"},
		{"null-ipam-subnet", model.NetworkSpec{Name: "x", Driver: model.DriverMacvlan, IPAM: model.IPAMNull, Subnets: []model.SubnetSpec{verbtest.Subnet("10.1.0.0/24")}}, model.ErrInvalid, "IPAM driver null has no subnets"},
		{"null-ipam-l3", model.NetworkSpec{Name: "x", Driver: model.DriverIPvlan, IPAM: model.IPAMNull, Options: map[string]string{model.OptIPvlanMode: "l3"}}, model.ErrInvalid, "IPAM driver null is not for ipvlan mode l3"},
		{"null-ipam-host", model.NetworkSpec{Name: "x", Driver: model.DriverMacvlan, IPAM: model.IPAMNull, Options: map[string]string{model.OptHostAccess: "true"}}, model.ErrInvalid, "needs the addresses of members"},
		{"dhcp-bridge", model.NetworkSpec{Name: "x", IPAM: model.IPAMDHCP}, model.ErrInvalid, "IPAM driver dhcp is for networks of drivers macvlan and ipvlan"},
		{"dhcp-subnet", model.NetworkSpec{Name: "x", Driver: model.DriverMacvlan, IPAM: model.IPAMDHCP, Subnets: []model.SubnetSpec{verbtest.Subnet("10.1.0.0/24")}}, model.ErrInvalid, "IPAM driver dhcp has no subnets"},
		{"dhcp-l3", model.NetworkSpec{Name: "x", Driver: model.DriverIPvlan, IPAM: model.IPAMDHCP, Options: map[string]string{model.OptIPvlanMode: "l3"}}, model.ErrInvalid, "IPAM driver dhcp is not for ipvlan mode l3"},
		{"dhcp-no-parent", model.NetworkSpec{Name: "x", Driver: model.DriverMacvlan, IPAM: model.IPAMDHCP}, model.ErrInvalid, "needs a parent, on whose link a DHCP server answers (give one: -o parent=)"},
		{"dhcp-no-ipv4", model.NetworkSpec{Name: "x", Driver: model.DriverMacvlan, IPAM: model.IPAMDHCP, NoIPv4: true, EnableIPv6: true, Options: map[string]string{model.OptParent: "eth0"}}, model.ErrInvalid, "IPAM driver dhcp is for IPv4"},
		{"option-publish", opt(model.OptPublish, "true"), model.ErrInvalid, "fairlead.publish is for internal networks: others publish ports in any case"},
		{"option-publish-value", opt(model.OptPublish, "some"), model.ErrInvalid, "invalid value \"some\" of option fairlead.publish (want true or false)"},
		{"option-publish-mode", model.NetworkSpec{Name: "x", Internal: true, EnableIPv6: true, Options: map[string]string{model.OptPublish: "true", model.OptGateMode6: "routed"}}, model.ErrInvalid, "but IPv6 is in gateway mode routed"},
		{"option-publish-engine", model.NetworkSpec{Name: "x", Internal: true, EngineID: strings.Repeat("e", 64), Options: map[string]string{model.OptPublish: "true"}}, model.ErrNotSupported, "a container engine does not pass on the ports of an internal network"},
		{"option-unknown", opt("com.example.x", "1"), model.ErrInvalid, "unknown option com.example.x"},
		{"option-refused", opt("com.docker.network.bridge.name", "br0"), model.ErrNotSupported, "com.docker.network.bridge.name is not supported (there is no bridge, and Fairlead chooses"},
		{"option-set", opt(model.OptInhibit4, "true"), model.ErrNotSupported, model.OptInhibit4 + " is not supported (the host always has"},
		{"option-mode", opt(model.OptGateMode6, "router"), model.ErrInvalid, "invalid value \"router\" of option " + model.OptGateMode6 + " (want nat, nat-unprotected, routed or isolated)"},
		{"option-mode-isolated", opt(model.OptGateMode4, "isolated"), model.ErrInvalid, "gateway mode 'isolated' can only be used for an internal network (add --internal)"},
		{"option-mode-gateway", model.NetworkSpec{Name: "x", Internal: true, Subnets: []model.SubnetSpec{{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Gateway: verbtest.Addr("10.1.0.1")}}, Options: map[string]string{model.OptGateMode4: "isolated"}},
			model.ErrInvalid, "has no IPv4 gateway in gateway mode isolated (leave out gateway 10.1.0.1, or the mode)"},
		{"option-host-address", opt(model.OptHostIPv4, "fd00::1"), model.ErrInvalid, "want an IPv4 address at which others reach this host"},
		{"option-host-address-own", opt(model.OptHostIPv4, "127.0.0.1"), model.ErrInvalid, `invalid value "127.0.0.1"`},
		{"option-host-address-any", opt(model.OptHostIPv4, "0.0.0.0"), model.ErrInvalid, `invalid value "0.0.0.0"`},
		{"option-host-address-name", opt(model.OptHostIPv6, "host"), model.ErrInvalid, "want an IPv6 address"},
		{"option-host-address-mapped", opt(model.OptHostIPv6, "::ffff:192.0.2.1"), model.ErrInvalid, "want an IPv6 address"},
		{"option-host-address-scope", opt(model.OptHostIPv6, "fe80::1"), model.ErrInvalid, "want an IPv6 address"},
		{"option-host-address-family", opt(model.OptHostIPv6, "2001:db8::1"), model.ErrInvalid, "a family that the network does not have"},
		{"option-host-address-internal", model.NetworkSpec{Name: "x", Internal: true, Options: map[string]string{model.OptHostIPv4: "192.0.2.1"}},
			model.ErrInvalid, "no effect in an internal network"},
		{"option-host-address-unmasked", model.NetworkSpec{Name: "x", Options: map[string]string{model.OptHostIPv4: "192.0.2.1", model.OptMasquerade: "false"}},
			model.ErrInvalid, "no effect without masquerading"},
		{"option-host-address-routed", model.NetworkSpec{Name: "x", Options: map[string]string{model.OptHostIPv4: "192.0.2.1", model.OptGateMode4: "routed"}},
			model.ErrInvalid, "no effect in gateway mode routed"},
		{"option-gateway-empty", opt(model.OptGateway, ""), model.ErrInvalid, `invalid value "" of option fairlead.gateway (want the name of a sandbox`},
		{"option-gateway-name", opt(model.OptGateway, "10.0.0.1/8"), model.ErrInvalid, `invalid value "10.0.0.1/8" of option fairlead.gateway`},
		{"option-gateway-internal", model.NetworkSpec{Name: "x", Internal: true, Options: map[string]string{model.OptGateway: "vpn"}}, model.ErrInvalid, "fairlead.gateway=vpn has no effect in an internal network"},
		{"option-gateway-icc", model.NetworkSpec{Name: "x", Options: map[string]string{model.OptGateway: "vpn", model.OptICC: "false"}}, model.ErrInvalid, "needs members that reach each other"},
		{"option-gateway-untracked", model.NetworkSpec{Name: "x", Options: map[string]string{model.OptGateway: "vpn", model.OptUntracked: "true"}}, model.ErrInvalid, "needs connections to be tracked in the gateway"},
		{"option-gateway-routed", model.NetworkSpec{Name: "x", Options: map[string]string{model.OptGateway: "vpn", model.OptGateMode4: "routed"}}, model.ErrInvalid, "no effect in gateway mode routed"},
		{"option-gateway-routed6", model.NetworkSpec{Name: "x", EnableIPv6: true, Options: map[string]string{model.OptGateway: "vpn", model.OptGateMode6: "routed"}}, model.ErrInvalid, "no effect in gateway mode routed"},
		{"option-gateway-macvlan", model.NetworkSpec{Name: "x", Driver: model.DriverMacvlan, Options: map[string]string{model.OptGateway: "vpn"}}, model.ErrInvalid, "option fairlead.gateway has no effect in a network of driver"},
		{"option-gateway-ipvlan", model.NetworkSpec{Name: "x", Driver: model.DriverIPvlan, Options: map[string]string{model.OptGateway: "vpn"}}, model.ErrInvalid, "option fairlead.gateway has no effect in a network of driver"},
		{"option-gateway-lan", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, Options: map[string]string{model.OptGateway: "vpn"}}, model.ErrInvalid, "fairlead.gateway"},
		{"option-gateway-engine", model.NetworkSpec{Name: "x", EngineID: strings.Repeat("e", 64), Options: map[string]string{model.OptGateway: "vpn"}}, model.ErrNotSupported, "a container engine resolves names outside of the network"},
		{"lan-no-parent", model.NetworkSpec{Name: "x", Driver: model.DriverLAN}, model.ErrInvalid, "a network of driver lan needs a parent"},
		{"lan-vlan", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, Options: map[string]string{model.OptParent: "eth0.50"}}, model.ErrNotSupported, "would be a VLAN"},
		{"lan-internal", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, Internal: true, Options: map[string]string{model.OptParent: "eth0"}}, model.ErrInvalid, "is not internal"},
		{"lan-null-ipam", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, IPAM: model.IPAMNull, Options: map[string]string{model.OptParent: "eth0"}}, model.ErrInvalid, "IPAM driver null is for networks of drivers macvlan and ipvlan"},
		{"lan-dhcp", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, IPAM: model.IPAMDHCP, Options: map[string]string{model.OptParent: "eth0"}}, model.ErrInvalid, "IPAM driver dhcp is for networks of drivers macvlan and ipvlan"},
		{"lan-unchecked", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, Options: map[string]string{model.OptParent: "eth0", model.OptAntiSpoof: "false"}}, model.ErrInvalid, "option fairlead.antispoof of a network of driver lan is always true"},
		{"lan-unchecked-value", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, Options: map[string]string{model.OptParent: "eth0", model.OptAntiSpoof: "x"}}, model.ErrInvalid, "invalid value"},
		{"lan-masquerade", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, Options: map[string]string{model.OptParent: "eth0", model.OptMasquerade: "false"}}, model.ErrInvalid, "its members are on the link of the parent"},
		{"lan-gateway", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, Options: map[string]string{model.OptParent: "eth0", model.OptGateway: "vpn"}}, model.ErrInvalid, "its members are on the link of the parent"},
		{"lan-mode", model.NetworkSpec{Name: "x", Driver: model.DriverLAN, Options: map[string]string{model.OptParent: "eth0", model.OptMacvlanMode: "bridge"}}, model.ErrInvalid, "unknown option macvlan_mode of driver lan"},
		{"option-no-mode", opt(model.OptGateMode4, "nut"), model.ErrInvalid, "want nat"},
		{"option-prefix", opt(model.OptIfPrefix, "a/b"), model.ErrInvalid, model.OptIfPrefix},
		{"option-prefix-long", opt(model.OptIfPrefix, "abcdefghijkl"), model.ErrInvalid, "up to 11"},
		{"option-bool", opt(model.OptICC, "maybe"), model.ErrInvalid, model.OptICC},
		{"option-mtu", opt(model.OptMTU, "67"), model.ErrInvalid, "68 to 65535"},
		{"option-addr", opt(model.OptHostBinding, "localhost"), model.ErrInvalid, model.OptHostBinding},
	}
}

func TestCreateNetworkRefuses(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "taken", Subnets: []model.SubnetSpec{verbtest.Subnet("10.9.0.0/16")}})
	w.Kernel.HostAddress = verbtest.Addr("10.8.7.6")
	for _, tt := range networkRefusals() {
		t.Run(tt.name, func(t *testing.T) {
			w.T = t
			before := w.Snapshot()
			_, err := w.CreateNetwork(t.Context(), tt.spec)
			w.Refused(before, err, tt.kind, tt.text)
		})
	}
}

func TestNetworkOptions(t *testing.T) {
	w := newWorld(t)
	n := w.MakeNetwork(model.NetworkSpec{Name: "plain"})
	if !n.ICC || !n.Masquerade || !n.AntiSpoof || n.MTU != 1500 || n.HostBindingIPv4.IsValid() || n.GatewayMAC.IsZero() {
		t.Errorf("defaults: %+v", n)
	}
	opts := map[string]string{model.OptICC: "false", model.OptMasquerade: "0", model.OptAntiSpoof: "false", model.OptMTU: "9000", model.OptHostBinding: "127.0.0.1", model.OptIfPrefix: "net", model.OptGateMode4: "nat",
		model.OptIngress: "20mbit", model.OptEgress: "none"}
	n = w.MakeNetwork(model.NetworkSpec{Name: "test@#$ %", Options: opts, Labels: map[string]string{"a": "b"}})
	if n.ICC || n.Masquerade || n.AntiSpoof || n.MTU != 9000 || n.HostBindingIPv4 != verbtest.Addr("127.0.0.1") || n.Labels["a"] != "b" || n.Bandwidth.Ingress.Rate != 20e6 || !n.Bandwidth.Egress.IsZero() {
		t.Errorf("options: %+v", n)
	}
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: n.Name})
	if ep := w.EndpointIn(n.Name, "web"); ep.IfName != "net0" {
		t.Errorf("the interface name is %s", ep.IfName)
	}
	defaults := w.MakeNetwork(model.NetworkSpec{Name: "defaults", Options: map[string]string{
		model.OptHostBinding: "0.0.0.0", model.OptInhibit4: "false", model.OptDefaultBridge: "false", model.OptUntracked: "1",
	}})
	if defaults.HostBindingIPv4.IsValid() || !defaults.Untracked {
		t.Errorf("default values of options, except for one: %+v", defaults)
	}
	published := w.MakeNetwork(model.NetworkSpec{Name: "published", Internal: true, Options: map[string]string{model.OptPublish: "true", model.OptGateMode4: "nat"}})
	if !published.PublishInternal || published.Closed() || defaults.PublishInternal {
		t.Errorf("an internal network that publishes: %+v", published)
	}
	gated := w.MakeNetwork(model.NetworkSpec{Name: "gated", Options: map[string]string{model.OptGateway: "vpn"}})
	if gated.Router != "vpn" || defaults.Router != "" {
		t.Errorf("a network with a gateway: %+v", gated)
	}
	opts[model.OptICC] = "changed by the caller"
	if n.Options[model.OptICC] != "false" {
		t.Error("the network shares the caller's map")
	}
	w.Check()
}

func TestDefaultPoolsRunOut(t *testing.T) {
	w := newWorld(t)
	for i := range 31 { // the last one gets the subnet of the idle default network
		w.MakeNetwork(model.NetworkSpec{Name: fmt.Sprint("n", i)})
	}
	before := w.Snapshot()
	_, err := w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "more"})
	w.Refused(before, err, model.ErrExhausted, "all predefined address pools have been fully subnetted")
	_, err = w.CreateSandbox(t.Context(), model.SandboxSpec{})
	w.Refused(before, err, model.ErrExhausted, "all predefined address pools have been fully subnetted")
	w.MakeNetwork(model.NetworkSpec{Name: "given", Subnets: []model.SubnetSpec{verbtest.Subnet("10.0.0.0/24")}})
}

func TestConfiguredPools(t *testing.T) {
	w := newWorld(t)
	c := w.Open(w.Store, w.Kernel, func(cfg *verbtest.Configs) {
		cfg.State.DefaultPools = []ipam.DefaultPool{{Base: netip.MustParsePrefix("10.10.0.0/16"), Size: 24}, {Base: netip.MustParsePrefix("2001:db8::/48"), Size: 64}}
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err := c.CreateNetwork(t.Context(), model.NetworkSpec{Name: "n", EnableIPv6: true})
	if err != nil || n.Subnets[0].Prefix.String() != "10.10.0.0/24" || n.Subnets[1].Prefix.String() != "2001:db8::/64" {
		t.Errorf("network = %+v, %v", n, err)
	}
}

// Networks of macvlan may have several subnets of a family: a sandbox has an address of the first one with a free one, or
// of the one that it chooses, and the gateway of that.
func TestSeveralSubnets(t *testing.T) {
	w := newWorld(t)
	small, big := verbtest.Subnet("10.1.0.0/30"), verbtest.Subnet("10.2.0.0/24")
	small.Gateway, big.Gateway = verbtest.Addr("10.1.0.1"), verbtest.Addr("10.2.0.1")
	spec := model.NetworkSpec{Name: "lan", Driver: model.DriverMacvlan, Options: map[string]string{model.OptParent: "eth0"}, Subnets: []model.SubnetSpec{small, big, verbtest.Subnet("2001:db8::/64")}}
	n := w.MakeNetwork(spec)
	for name, want := range map[string]netip.Addr{"anna": {}, "cleo": verbtest.Addr("10.2.0.77")} {
		w.MakeSandbox(model.SandboxSpec{Name: name, NetworkMode: "lan", Endpoint: model.EndpointSpec{IPv4: want}})
	}
	w.MakeSandbox(model.SandboxSpec{Name: "ben", NetworkMode: "lan"})
	for name, want := range map[string][2]string{"anna": {"10.1.0.2/30", "10.1.0.1"}, "ben": {"10.2.0.2/24", "10.2.0.1"}, "cleo": {"10.2.0.77/24", "10.2.0.1"}} {
		ep := w.EndpointIn("lan", name)
		if got := [2]string{ep.IPv4.String(), n.DefaultGateway(ep, model.V4).String()}; got != want {
			t.Errorf("%s has the address and gateway %v, want %v", name, got, want)
		}
	}
	before := w.Snapshot()
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "lan", Endpoint: model.EndpointSpec{IPv4: verbtest.Addr("10.3.0.1")}})
	w.Refused(before, err, model.ErrInvalid, "(network lan has 10.1.0.0/30, 10.2.0.0/24, choose one of it)")
	spec.Name, spec.Options = "x", nil
	spec.Subnets = []model.SubnetSpec{verbtest.Subnet("10.4.0.0/24"), verbtest.Subnet("10.4.0.0/25")}
	_, err = w.CreateNetwork(t.Context(), spec)
	w.Refused(before, err, model.ErrInvalid, "subnets 10.4.0.0/24 and 10.4.0.0/25 of network x overlap (leave one out)")
	if err := w.RemoveSandbox(t.Context(), "anna", false); err != nil {
		t.Fatal(err)
	}
	w.MakeSandbox(model.SandboxSpec{Name: "dora", NetworkMode: "lan"}) // the address was returned to the subnet it is of
	if ep := w.EndpointIn("lan", "dora"); ep.IPv4.String() != "10.1.0.2/30" {
		t.Errorf("dora has %v", ep.IPv4)
	}
	w.Check()
}

// A network that holds only configuration has no sandboxes and claims nothing; others have what it holds, and stay when it
// is needed no more.
func TestConfigurationNetworks(t *testing.T) {
	w := newWorld(t)
	full := verbtest.Subnet("10.1.0.0/16")
	full.IPRange = model.RangeOf(netip.MustParsePrefix("10.1.5.0/24"))
	options, labels := map[string]string{model.OptMTU: "1400"}, map[string]string{"env": "prod"}
	held := w.MakeNetwork(model.NetworkSpec{Name: "held", ConfigOnly: true, EnableIPv6: true, Subnets: []model.SubnetSpec{full}, Options: options, Labels: labels})
	w.MakeNetwork(model.NetworkSpec{Name: "other", Subnets: []model.SubnetSpec{verbtest.Subnet("10.2.0.0/16")}})
	before := w.Snapshot()
	create := func(spec model.NetworkSpec) error {
		spec.Name = "n"
		_, err := w.CreateNetwork(t.Context(), spec)
		return err
	}
	w.Refused(before, create(model.NetworkSpec{ConfigOnly: true, ConfigFrom: "held"}), model.ErrForbidden, "cannot depend on another configuration network")
	w.Refused(before, create(model.NetworkSpec{ConfigOnly: true, Internal: true}), model.ErrForbidden, "a configuration network cannot be internal")
	w.Refused(before, create(model.NetworkSpec{ConfigOnly: true, Subnets: []model.SubnetSpec{verbtest.Subnet("10.0.0.0/32")}}), model.ErrInvalid, "no room for a gateway")
	w.Refused(before, create(model.NetworkSpec{ConfigFrom: "held", EnableIPv6: true}), model.ErrForbidden, "user-specified configurations are not supported")
	w.Refused(before, create(model.NetworkSpec{ConfigFrom: "held", Labels: labels}), model.ErrForbidden, "user-specified configurations are not supported")
	w.Refused(before, create(model.NetworkSpec{ConfigFrom: "nope"}), model.ErrNotFound, "network nope not found")
	w.Refused(before, create(model.NetworkSpec{ConfigFrom: "other"}), model.ErrForbidden, "network other is not a configuration network (create one with --config-only)")
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "held"})
	w.Refused(before, err, model.ErrForbidden, "network held holds only configuration, and has no sandboxes (create another with it: fairlead network create --config-from held)")
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "other"})
	before = w.Snapshot()
	_, err = w.Connect(t.Context(), "held", "web", model.EndpointSpec{})
	w.Refused(before, err, model.ErrForbidden, "network held holds only configuration")

	n := w.MakeNetwork(model.NetworkSpec{Name: "n", ConfigFrom: held.ID[:12], Internal: true})
	if n.ConfigFrom != "held" || !n.EnableIPv6 || n.MTU != 1400 || n.Labels["env"] != "prod" || len(n.Subnets) != 2 || n.Subnets[0].IPRange != full.IPRange || !n.Internal {
		t.Errorf("the network is %+v", n)
	}
	w.Refused(w.Snapshot(), w.RemoveNetwork(t.Context(), "held"), model.ErrForbidden, `configuration network "held" is in use by network n`)
	if names, err := w.PruneNetworks(t.Context(), nil); err != nil || len(names) != 1 || names[0] != "n" {
		t.Errorf("pruned %v, %v; want n only", names, err)
	}
	if err := w.RemoveNetwork(t.Context(), "held"); err != nil {
		t.Error(err)
	}
	w.Check()
}

func TestRemoveAndPruneNetworks(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"used", "idle", "kept", "gone"} {
		w.MakeNetwork(model.NetworkSpec{Name: name})
	}
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "used"})
	before := w.Snapshot()
	w.Refused(before, w.RemoveNetwork(t.Context(), "used"), model.ErrForbidden, `network used has active endpoints (name:"web"`)
	w.Refused(before, w.RemoveNetwork(t.Context(), "nope"), model.ErrNotFound, "network nope not found")
	if err := w.RemoveNetwork(t.Context(), "gone"); err != nil {
		t.Error(err)
	}
	names, err := w.PruneNetworks(t.Context(), func(n *model.Network) bool { return n.Name == "kept" })
	if diff := cmp.Diff([]string{"idle"}, names); diff != "" || err != nil {
		t.Error(diff, err)
	}
	w.Check()
}

func TestNetworkIndexIsNotReusedAtOnce(t *testing.T) {
	w := newWorld(t)
	a := w.MakeNetwork(model.NetworkSpec{Name: "a"})
	if err := w.RemoveNetwork(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if b := w.MakeNetwork(model.NetworkSpec{Name: "b"}); b.Index == a.Index {
		t.Errorf("index %d reused", a.Index)
	}
}

func TestLookupPrecedence(t *testing.T) {
	w := newWorld(t)
	a := w.MakeNetwork(model.NetworkSpec{Name: "a"})
	// Another network's name is a prefix of the first one's ID.
	b := w.MakeNetwork(model.NetworkSpec{Name: a.ID[:12]})
	c := w.MakeNetwork(model.NetworkSpec{Name: a.ID})
	for ref, want := range map[string]string{a.ID: a.ID, a.ID[:12]: b.ID, a.ID[:13]: a.ID, c.ID[:20]: c.ID, "a": a.ID} {
		if n, err := w.Network(ref); err != nil || n.ID != want {
			t.Errorf("network %q = %v, %v", ref, n, err)
		}
	}
	if _, err := w.Network(""); err == nil {
		t.Error("the empty reference finds a network")
	}
	sb := w.MakeSandbox(model.SandboxSpec{Name: "web"})
	if got, err := w.Sandbox(sb.ID[:5]); err != nil || got != sb {
		t.Errorf("sandbox = %v, %v", got, err)
	}
	for i := range 20 { // of 21 IDs at least two begin with the same digit
		w.MakeSandbox(model.SandboxSpec{Name: fmt.Sprint("sb", i)})
	}
	seen := map[byte]bool{}
	for sb := range w.Snapshot().Sandboxes() {
		id := sb.ID
		if seen[id[0]] {
			_, err := w.Sandbox(id[:1])
			w.Refused(w.Snapshot(), err, model.ErrInvalid, "is ambiguous")
			return
		}
		seen[id[0]] = true
	}
}
