// SPDX-License-Identifier: Apache-2.0

package entries

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl/uplink"
	"github.com/fairlead-net/fairlead/maps"
)

const refreshVar = "FAIRLEAD_REFRESH"

// golden compares text with a file of testdata, or writes the file if refreshVar is set.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if os.Getenv(refreshVar) != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (set %s=1 to write it)", err, refreshVar)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s (-want +got; set %s=1 to accept):\n%s", path, refreshVar, diff)
	}
}

// render prints one entry a line: its type, and its fields that are not zero.
func render(sections ...any) string {
	var out bytes.Buffer
	for _, s := range sections {
		for _, e := range reflect.ValueOf(s).Seq2() {
			fmt.Fprintln(&out, line(e))
		}
	}
	return out.String()
}

func renderSet(s Set) string {
	return render(s.Subnets, s.Egresses, s.Tunnels, s.VNIs, s.Endpoints, s.FDB, s.Neighbours, s.Publishes, s.Sources)
}

func line(v reflect.Value) string {
	if a, ok := v.Interface().(netip.Addr); ok {
		return a.String()
	}
	words := []string{v.Type().Name()}
	for i := range v.NumField() {
		if f := v.Field(i); !f.IsZero() {
			words = append(words, v.Type().Field(i).Name+"="+text(f.Interface()))
		}
	}
	return strings.Join(words, " ")
}

func text(v any) string {
	switch v := v.(type) {
	case maps.MAC:
		return net.HardwareAddr(v[:]).String()
	case maps.EndpointFlags:
		return flagNames("ep_flag", "EP_", uint64(v))
	case maps.SubnetFlags:
		return flagNames("subnet_flag", "SUBNET_", uint64(v))
	}
	return fmt.Sprint(v)
}

// flagNames returns the names of flags in an enum of the datapath: those of its values, without the prefix and in lower case.
func flagNames(enum, prefix string, f uint64) string {
	spec, err := datapath()
	if err != nil {
		return err.Error()
	}
	var e *btf.Enum
	if err := spec.Types.TypeByName(enum, &e); err != nil {
		return err.Error()
	}
	var names []string
	for _, v := range e.Values {
		if f&v.Value != 0 {
			names = append(names, strings.ToLower(strings.TrimPrefix(v.Name, prefix)))
			f &^= v.Value
		}
	}
	if f != 0 {
		names = append(names, fmt.Sprintf("%#x", f))
	}
	return strings.Join(names, "|")
}

var datapath = sync.OnceValues(bpf.LoadTC)

// network returns a dual-stack network with every default of a bridge.
func network() *model.Network {
	return &model.Network{
		ID: "net", Local: model.Local{Index: 7}, Driver: model.DriverBridge,
		EnableIPv4: true, EnableIPv6: true, ICC: true, Masquerade: true, AntiSpoof: true,
		GatewayMAC: model.MAC{2, 0x42, 10, 7, 0, 1},
		Subnets: []model.Subnet{
			{Prefix: netip.MustParsePrefix("10.7.0.0/16"), Gateway: netip.MustParseAddr("10.7.0.1")},
			{Prefix: netip.MustParsePrefix("fd00:7::/64"), Gateway: netip.MustParseAddr("fd00:7::1")},
		},
	}
}

func endpoint() *model.Endpoint {
	return &model.Endpoint{
		ID: "ep", NetworkID: "net", MAC: model.MAC{2, 0x42, 10, 7, 0, 2},
		IPv4: netip.MustParsePrefix("10.7.0.2/16"), IPv6: netip.MustParsePrefix("fd00:7::2/64"),
	}
}

func only4(n *model.Network, ep *model.Endpoint) {
	n.EnableIPv6, n.Subnets, ep.IPv6 = false, n.Subnets[:1], netip.Prefix{}
}

func only6(n *model.Network, ep *model.Endpoint) {
	n.EnableIPv4, n.Subnets, ep.IPv4 = false, n.Subnets[1:], netip.Prefix{}
}

func mode(n *model.Network, v4, v6 string) {
	n.Options = map[string]string{model.OptGateMode4: v4, model.OptGateMode6: v6}
}

// variants are the networks and endpoints whose entries are recorded.
var variants = map[string]func(*model.Network, *model.Endpoint){
	"default":            func(*model.Network, *model.Endpoint) {},
	"ipv4":               only4,
	"ipv6":               only6,
	"plain":              func(n *model.Network, _ *model.Endpoint) { n.ICC, n.Masquerade, n.AntiSpoof = false, false, false },
	"internal":           func(n *model.Network, _ *model.Endpoint) { n.Internal = true },
	"internal-published": func(n *model.Network, _ *model.Endpoint) { n.Internal, n.PublishInternal = true, true },
	"egress6":            func(n *model.Network, _ *model.Endpoint) { n.EgressIPv6 = netip.MustParseAddr("2001:db8::7") },
	"isolated": func(n *model.Network, _ *model.Endpoint) {
		n.Subnets[0].Gateway, n.Subnets[1].Gateway = netip.Addr{}, netip.Addr{}
	},
	"routed":  func(n *model.Network, _ *model.Endpoint) { mode(n, model.GatewayRouted, model.GatewayRouted) },
	"routed6": func(n *model.Network, _ *model.Endpoint) { mode(n, model.GatewayNAT, model.GatewayRouted) },
	"routed4alone": func(n *model.Network, ep *model.Endpoint) {
		mode(n, model.GatewayRouted, "")
		only4(n, ep)
	},
	"unprotected4": func(n *model.Network, _ *model.Endpoint) { mode(n, model.GatewayUnprotected, "") },
	"routed-internal": func(n *model.Network, _ *model.Endpoint) {
		mode(n, model.GatewayRouted, model.GatewayUnprotected)
		n.Internal = true
	},
	"gated":  func(n *model.Network, _ *model.Endpoint) { n.Router = "vpn" },
	"dns":    func(n *model.Network, _ *model.Endpoint) { n.DNS = true },
	"mtu":    func(n *model.Network, _ *model.Endpoint) { n.MTU = 9000 },
	"shaped": func(_ *model.Network, ep *model.Endpoint) { ep.Bandwidth.Ingress.Rate = 1000 },
	"egress": func(_ *model.Network, ep *model.Endpoint) { ep.Bandwidth.Egress.Rate = 1000 },
	"overlay": func(n *model.Network, _ *model.Endpoint) {
		n.Driver, n.VNI, n.MTU = model.DriverOverlay, 70000, 1450
		n.NodeIPv4, n.NodeIPv6 = netip.MustParseAddr("10.7.0.9"), netip.MustParseAddr("fd00:7::9")
	},
	"lan": func(n *model.Network, _ *model.Endpoint) {
		n.Driver, n.Masquerade, n.GatewayMAC, n.Parent = model.DriverLAN, false, model.MAC{}, "eth0"
	},
}

// The entries of a network and of an endpoint, published and not, are as recorded.
func TestMembers(t *testing.T) {
	for name, change := range variants {
		n, ep, hp := network(), endpoint(), HostPort{Gateway: 11, Port: 12}
		change(n, ep)
		if n.OnLink() {
			hp = HostPort{Gateway: 11, MAC: maps.MAC{2, 0, 0, 0, 0, 11}}
		}
		text := "# network\n" + renderSet(OfNetwork(n, hp)) +
			"# endpoint\n" + renderSet(OfEndpoint(ep, n, hp, 21, Roles{})) +
			"# published endpoint\n" + renderSet(OfEndpoint(ep, n, hp, 21, Roles{Published: true}))
		if n.Router != "" {
			text += "# router\n" + renderSet(OfEndpoint(ep, n, hp, 21, Roles{Router: true, Serves: true})) +
				"# router whose program exited\n" + renderSet(OfEndpoint(ep, n, hp, 21, Roles{Router: true}))
		}
		golden(t, "members-"+name, text)
	}
}

// A port published at every address has an entry for clients of each family, whatever the family
// of the backend.
func TestPublishes(t *testing.T) {
	var out strings.Builder
	for _, variant := range []string{"default", "ipv4", "ipv6", "internal", "internal-published", "routed", "routed6", "routed4alone", "unprotected4", "routed-internal"} {
		for _, host := range []string{"", "0.0.0.0", "::", "192.0.2.1", "::1", "2001:db8::1"} {
			n, ep := network(), endpoint()
			variants[variant](n, ep)
			p := &model.Publish{ID: 3, PortBinding: model.PortBinding{HostPort: 8080, Port: 80, Count: 2, Proto: model.TCP}}
			if host != "" {
				p.HostIP = netip.MustParseAddr(host)
			}
			fmt.Fprintf(&out, "# %s at %q\n%s", variant, host, render(AppendRuns(nil, OfPublish(p, ep, n, 21))))
		}
	}
	// The two runs of the first publish share the prefixes of its clients.
	n, ep := network(), endpoint()
	p := &model.Publish{ID: 4, PortBinding: model.PortBinding{HostPort: 8080, Port: 80, Count: 2, Proto: model.TCP, From: "10.0.0.0/8,2001:db8::/32"}}
	var limited Set
	limited.AddRuns(OfPublish(p, ep, n, 21))
	limited.AddRuns(OfPublish(&model.Publish{ID: 5, PortBinding: model.PortBinding{HostPort: 90, Port: 90, Count: 1, Proto: model.UDP, From: "10.0.0.0/8"}}, ep, n, 21))
	fmt.Fprintf(&out, "# for some clients\n%s", renderSet(limited))
	golden(t, "publishes", out.String())
}

// What the host has of its own, beside the networks, is as recorded.
func TestHost(t *testing.T) {
	ups := []uplink.Uplink{
		{IfIndex: 2, Name: "eth0", IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1")},
		{IfIndex: 3, Name: "br0", IPv4: netip.MustParseAddr("192.0.2.2"), Stack: true, Below: 1},
		{IfIndex: 4, Name: "eth1", LAN: 7},
	}
	own := map[netip.Addr]uint32{netip.MustParseAddr("192.0.2.1"): 2, netip.MustParseAddr("2001:db8::1"): 2, netip.MustParseAddr("10.7.0.1"): 3}
	four := network()
	only4(four, endpoint())
	local := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	golden(t, "host", "# uplinks\n"+render(OfUplinks(ups))+
		"# addresses\n"+render(HostAddrs(own, []*model.Network{network(), four}, nil))+
		"# addresses without networks\n"+render(HostAddrs(own, nil, []netip.Addr{netip.MustParseAddr("192.0.2.80")}))+
		"# prefixes\n"+render(OfHostNets(local)))
}

// What is replaced under the same key is not deleted; what lost its key is.
func TestWithout(t *testing.T) {
	n, before, hp := network(), endpoint(), HostPort{Gateway: 11, Port: 12}
	after := endpoint()
	after.IPv4 = netip.MustParsePrefix("10.7.0.3/16")
	old, now := OfEndpoint(before, n, hp, 21, Roles{}), OfEndpoint(after, n, hp, 21, Roles{Published: true})
	old.Add(OfNetwork(n, hp))
	run := Run{Count: 3, First: maps.Publish{HostIP: netip.IPv4Unspecified(), Port: 8080, Proto: 6, ID: 1}}
	old.Publishes = AppendRuns(nil, []Run{run})
	run.Count = 2
	now.Publishes = AppendRuns(nil, []Run{run})
	golden(t, "without", "# endpoint has another address, network is removed, range is shorter\n"+renderSet(old.Without(&now))+
		"# nothing has a successor\n"+renderSet(old.Without(&Set{})))
}

// A sandbox queries the first of its networks that has names in a family, and none if there is none. Only if no network has them at a
// gateway, they are served in the sandbox.
func TestResolvers(t *testing.T) {
	four, six, bridge, apart, lan, wlan, link := network(), network(), network(), network(), network(), network(), network()
	only4(four, endpoint())
	only6(six, endpoint())
	bridge.Name, apart.ManagedBy = model.NetworkBridge, model.ByEngine
	lan.Driver, wlan.Driver, link.Driver = model.DriverMacvlan, model.DriverIPvlan, model.DriverLAN // whose gateways are routers
	for _, tc := range []struct {
		in     []*model.Network
		want   string
		cookie uint64
	}{
		{nil, "", 1},
		{[]*model.Network{bridge, apart}, "", 1},
		{[]*model.Network{lan}, "Resolver Cookie=1 IPv4=127.0.0.11\n", 1},
		{[]*model.Network{link}, "Resolver Cookie=1 IPv4=127.0.0.11\n", 1},
		{[]*model.Network{link, six}, "Resolver Cookie=1 IPv6=fd00:7::1\n", 1},
		{[]*model.Network{bridge, apart, wlan}, "Resolver Cookie=1 IPv4=127.0.0.11\n", 1},
		{[]*model.Network{lan, six}, "Resolver Cookie=1 IPv6=fd00:7::1\n", 1},
		{[]*model.Network{lan}, "", 0},
		{[]*model.Network{lan, bridge, four}, "Resolver Cookie=1 IPv4=10.7.0.1\n", 1},
		{[]*model.Network{four}, "", 0},
		{[]*model.Network{six, four}, "Resolver Cookie=2 IPv4=10.7.0.1 IPv6=fd00:7::1\n", 2},
	} {
		if got := render(OfSandbox(&model.Sandbox{}, tc.cookie, tc.in).Resolvers); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
	// Runtimes and engines configure the name servers of their containers, which are not in the sandbox.
	for _, by := range []model.Manager{model.ByRuntime, model.ByEngine} {
		sb := &model.Sandbox{ManagedBy: by}
		if got := render(OfSandbox(sb, 1, []*model.Network{lan}).Resolvers); got != "" {
			t.Errorf("managed by the %v: %q", by, got)
		}
		if got, want := render(OfSandbox(sb, 1, []*model.Network{lan, four}).Resolvers), "Resolver Cookie=1 IPv4=10.7.0.1\n"; got != want {
			t.Errorf("managed by the %v, at a gateway: %q, want %q", by, got, want)
		}
	}
}
