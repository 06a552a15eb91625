// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// restartWith starts another daemon with other flags.
func (w *world) restartWith(d model.Defaults) {
	w.T.Helper()
	w.Change = func(cfg *verbtest.Configs) { cfg.Controller.Defaults = d }
	w.Restart()
	w.Check() // also that another start changes nothing
}

// fixedSubnet is what --bip says.
func fixedSubnet(bip string) model.SubnetSpec {
	p := verbtest.Prefix(bip)
	return model.SubnetSpec{Prefix: p.Masked(), Gateway: p.Addr(), Fixed: true}
}

// bridge describes the default network: its subnets, and what options change.
func (w *world) bridge() string {
	w.T.Helper()
	n, err := w.Network("bridge")
	if err != nil {
		w.T.Fatal(err)
	}
	var subnets []string
	for _, s := range n.Subnets {
		subnets = append(subnets, fmt.Sprint(s.Gateway, "/", s.Prefix.Bits()))
	}
	return fmt.Sprintf("%s icc=%t masq=%t mtu=%d ip=%v idle=%t", strings.Join(subnets, " "), n.ICC, n.Masquerade, n.MTU, n.HostBindingIPv4, n.Idle)
}

// The daemon's flags configure the default network when it starts, unless a sandbox is in it. Unused, the network
// claims nothing.
func TestDefaultNetworkIsConfigured(t *testing.T) {
	w := newWorld(t)
	first, _ := w.Network("bridge")
	six := fixedSubnet("fd00:5::1/64")
	six.Aux = map[string]netip.Addr{model.AuxDefaultGateway6: verbtest.Addr("fd00:5::99")}
	four := fixedSubnet("10.9.0.1/16")
	four.IPRange = model.RangeOf(verbtest.Prefix("10.9.7.0/24"))
	configured := model.Defaults{Bridge: model.NetworkSpec{EnableIPv6: true, Subnets: []model.SubnetSpec{four, six}, Options: map[string]string{
		model.OptICC: "false", model.OptMasquerade: "false", model.OptMTU: "1400", model.OptHostBinding: "127.0.0.1",
	}}}
	const own = "10.9.0.1/16 fd00:5::1/64 icc=false masq=false mtu=1400 ip=127.0.0.1"
	expect := func(when, want string) {
		t.Helper()
		if got := w.bridge(); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	expect("without flags", "172.28.0.1/16 icc=true masq=true mtu=1500 ip=invalid IP idle=true")
	w.restartWith(model.Defaults{Bridge: model.NetworkSpec{Options: map[string]string{model.OptMTU: "1400"}}})
	expect("with another MTU the subnet is the same", "172.28.0.1/16 icc=true masq=true mtu=1400 ip=invalid IP idle=true")
	w.restartWith(configured)
	expect("with all flags", own+" idle=true")
	if n, _ := w.Network("bridge"); n.ID != first.ID || n.Index != first.Index || n.GatewayMAC != first.GatewayMAC {
		t.Errorf("the network is another: %+v, was %+v", n, first)
	}
	w.MakeSandbox(model.SandboxSpec{Name: "anna"})
	expect("with a sandbox", own+" idle=false")
	n, _ := w.Network("bridge")
	ep := w.EndpointIn("bridge", "anna")
	if got := fmt.Sprint(ep.IPv4, ep.IPv6, n.DefaultGateway(ep, model.V4), n.DefaultGateway(ep, model.V6)); got != "10.9.7.0/16 fd00:5::2/64 10.9.0.1 fd00:5::99" {
		t.Errorf("the sandbox has %s", got)
	}

	w.Log.Reset()
	w.restartWith(model.Defaults{})
	expect("other flags while it is in use", own+" idle=false")
	if !strings.Contains(w.Log.String(), "the default network is in use") {
		t.Errorf("the log does not say so: %s", w.Log.String())
	}
	if err := w.RemoveSandbox(t.Context(), "anna", false); err != nil {
		t.Fatal(err)
	}
	expect("until the next start", own+" idle=true")
	w.restartWith(model.Defaults{})
	if got := w.bridge(); !strings.HasPrefix(got, "172.") || !strings.HasSuffix(got, " icc=true masq=true mtu=1500 ip=invalid IP idle=true") || strings.Contains(got, "fd00") {
		t.Errorf("without flags again: %s", got)
	}
	w.restartWith(model.Defaults{Bridge: model.NetworkSpec{EnableIPv6: true}})
	if n, _ := w.Network("bridge"); len(n.Subnets) != 2 || n.Subnets[1].Prefix.Bits() != 64 {
		t.Errorf("with --ipv6 the subnets are %+v", n.Subnets)
	}
	w.MakeSandbox(model.SandboxSpec{Name: "ben"})
	if ep := w.EndpointIn("bridge", "ben"); !ep.IPv4.IsValid() || !ep.IPv6.IsValid() {
		t.Errorf("with --ipv6 a sandbox has %v, %v", ep.IPv4, ep.IPv6)
	}
}

// A subnet that the flags name is claimed with the first sandbox, or the sandbox is refused. A wider route of the
// host does not matter, as for --subnet. The family that they do not name takes another.
func TestFixedDefaultNetworkIsClaimed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		others  func(w *world)
		refused string
	}{
		{"nothing", func(*world) {}, ""},
		{"a route around", func(w *world) {
			w.Kernel.Prefixes = []netip.Prefix{verbtest.Prefix("10.0.0.0/8"), verbtest.Prefix("fd00::/8")}
		}, ""},
		{"a network", func(w *world) {
			w.MakeNetwork(model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{verbtest.Subnet("10.9.5.0/24")}})
		}, `Pool overlaps with other one on this address space: 10.9.0.0/16 and network "n" (10.9.5.0/24)`},
		{"the host", func(w *world) {
			w.Kernel.Prefixes, w.Kernel.HostAddress = []netip.Prefix{verbtest.Prefix("10.9.1.0/24")}, verbtest.Addr("10.9.1.7")
		}, "subnet 10.9.0.0/16 contains 10.9.1.7, an address of this host's device eth0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			d := model.Defaults{Bridge: model.NetworkSpec{EnableIPv6: true, Subnets: []model.SubnetSpec{fixedSubnet("10.9.0.1/16")}}}
			w.restartWith(d)
			had, _ := w.Network("bridge")
			tt.others(w)
			w.restartWith(d) // it starts in any case
			_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "anna"})
			switch {
			case tt.refused == "" && err != nil:
				t.Error(err)
			case tt.refused != "" && (!errors.Is(err, model.ErrConflict) || !strings.Contains(err.Error(), tt.refused) || !strings.Contains(err.Error(), "--bip")):
				t.Errorf("got %v, want %q", err, tt.refused)
			}
			n, _ := w.Network("bridge")
			if !n.Subnets[0].Fixed || n.Subnets[0].Prefix != had.Subnets[0].Prefix || n.Subnets[0].Gateway != verbtest.Addr("10.9.0.1") || n.Idle != (tt.refused != "") {
				t.Errorf("the network is %+v, was %+v", n, had)
			}
			w.Check()
		})
	}
}

// The options of new networks are those of their driver, except for what users, runtimes and configuration networks say.
func TestDefaultOptions(t *testing.T) {
	w := newWorld(t)
	w.restartWith(model.Defaults{Options: map[string]map[string]string{
		"bridge":  {model.OptMTU: "1400", model.OptICC: "false"},
		"macvlan": {model.OptMacvlanMode: "private"},
	}})
	for _, tt := range []struct {
		name string
		spec model.NetworkSpec
		want map[string]string
	}{
		{"bridge", model.NetworkSpec{}, map[string]string{model.OptMTU: "1400", model.OptICC: "false"}},
		{"own", model.NetworkSpec{Driver: "bridge", Options: map[string]string{model.OptMTU: "1300"}}, map[string]string{model.OptMTU: "1300", model.OptICC: "false"}},
		{"lan", model.NetworkSpec{Driver: "macvlan", Options: map[string]string{model.OptParent: "eth0"}}, map[string]string{model.OptMacvlanMode: "private", model.OptParent: "eth0"}},
		{"cni", model.NetworkSpec{Labels: map[string]string{"fairlead.cni": "true"}}, nil},
		{"config", model.NetworkSpec{ConfigOnly: true, Options: map[string]string{model.OptMTU: "1200"}}, map[string]string{model.OptMTU: "1200", model.OptICC: "false"}},
		{"from", model.NetworkSpec{ConfigFrom: "net-config"}, map[string]string{model.OptMTU: "1200", model.OptICC: "false"}},
	} {
		tt.spec.Name = "net-" + tt.name
		if n := w.MakeNetwork(tt.spec); !maps.Equal(n.Options, tt.want) {
			t.Errorf("%s: options %v, want %v", tt.name, n.Options, tt.want)
		}
	}
	if got := w.bridge(); !strings.Contains(got, "icc=true masq=true mtu=1500") {
		t.Errorf("the default network took them too: %s", got)
	}
	w.Check()
}

// Sandboxes look names up as the daemon's flags say, except where their own do. Those that exist stay as they are.
func TestDefaultLookup(t *testing.T) {
	w := newWorld(t)
	w.MakeSandbox(model.SandboxSpec{Name: "before"})
	gateway := []netip.Addr{verbtest.Addr("192.0.2.9"), verbtest.Addr("2001:db8::9")}
	w.restartWith(model.Defaults{HostGateway: gateway, Lookup: model.Lookup{
		Servers: []netip.Addr{verbtest.Addr("192.0.2.53")}, Search: []string{"example.com"}, Options: []string{"ndots:2"},
	}})
	own := model.Lookup{Servers: []netip.Addr{verbtest.Addr("192.0.2.1")}, Search: []string{"."}, Options: []string{"rotate"}}
	hosts := model.Lookup{Hosts: []model.HostLine{{Name: "host"}, {Name: "box", Addr: verbtest.Addr("192.0.2.7")}}}
	const defaults = "[192.0.2.53] [example.com] [ndots:2]"
	for _, tt := range []struct {
		name, want string
		spec       model.SandboxSpec
	}{
		{"plain", defaults + " []", model.SandboxSpec{}},
		{"on-host", defaults + " []", model.SandboxSpec{NetworkMode: "host"}},
		{"own", "[192.0.2.1] [.] [rotate] []", model.SandboxSpec{Lookup: own}},
		{"lines", defaults + " [{host 192.0.2.9} {host 2001:db8::9} {box 192.0.2.7}]", model.SandboxSpec{Lookup: hosts}},
		{"joined", "[] [] [] []", model.SandboxSpec{NetworkMode: "container:plain"}},
		{"runtime", "[] [] [] []", model.SandboxSpec{NetNS: "/run/ns/a", Labels: map[string]string{"fairlead.cni.container": "c"}}},
	} {
		tt.spec.Name = tt.name
		l := w.MakeSandbox(tt.spec).Lookup
		if got := fmt.Sprint(l.Servers, l.Search, l.Options, l.Hosts); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if sb, _ := w.Sandbox("before"); !sb.Lookup.IsZero() {
		t.Errorf("a sandbox from before has %+v", sb.Lookup)
	}
	if !slices.Equal(hosts.Hosts, []model.HostLine{{Name: "host"}, {Name: "box", Addr: verbtest.Addr("192.0.2.7")}}) {
		t.Error("the request was changed")
	}
}
