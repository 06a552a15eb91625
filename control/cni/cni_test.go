// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/model"
)

func TestResultsByVersion(t *testing.T) {
	var out strings.Builder
	for _, v := range version.All.SupportedVersions() {
		w := newWorld(t)
		got := w.add(at("c1", "/proc/self/ns/net"), w.conf(keys{
			"cniVersion": v, "mtu": 1400, "dns": keys{"nameservers": []string{"192.0.2.53"}},
			"subnets": []keys{{"subnet": "10.1.0.0/16", "gateway": "10.1.255.254"}, {"subnet": "2001:db8:1::/64"}},
		}))
		fmt.Fprintf(&out, "%s\n%s\n", v, got)
	}
	const golden = "testdata/results.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != out.String() {
		t.Errorf("results (%v):\n%s", err, out.String())
	}
}

// A configuration with only IPv6 subnets creates a network without IPv4. If the network exists
// and has IPv4, there is a warning.
func TestNetworkOfIPv6Alone(t *testing.T) {
	w := newWorld(t)
	w.add(at("c1", "/proc/self/ns/net"), w.conf(keys{"subnets": []keys{{"subnet": "2001:db8:1::/64"}}}))
	n, err := w.Network("pods")
	w.must(err)
	for ep := range w.Snapshot().Endpoints() {
		if n.EnableIPv4 || ep.IPv4.IsValid() || !ep.IPv6.IsValid() {
			t.Errorf("network = %+v, endpoint = %+v", n, ep)
		}
	}
	w.add(at("c2", w.namespace("c2")), w.conf(keys{"name": "both", "subnets": []keys{{"subnet": "10.2.0.0/16"}, {"subnet": "2001:db8:2::/64"}}}))
	var warned strings.Builder
	w.Stderr = &warned
	w.add(at("c3", w.namespace("c3")), w.conf(keys{"name": "both", "subnets": []keys{{"subnet": "2001:db8:2::/64"}}}))
	if want := "network both has IPv4, which the configuration does not request"; !strings.Contains(warned.String(), want) {
		t.Errorf("warned %q, want %q", warned.String(), want)
	}
}

func TestNetworkFromConfiguration(t *testing.T) {
	w := newWorld(t)
	no := false
	conf := keys{
		"subnets": []keys{{"subnet": "10.1.0.0/16", "ipRange": "10.1.9.0/24"}}, "ipv6": true, "mtu": 9000, "ipMasq": no,
		"isolated": true, "options": keys{"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"},
	}
	w.add(at("c1", "/proc/self/ns/net"), w.conf(conf))
	n, err := w.Network("pods")
	w.must(err)
	if n.Subnets[0].IPRange.String() != "10.1.9.0/24" || !n.EnableIPv6 || n.MTU != 9000 || n.Masquerade || n.ICC || n.Internal ||
		n.HostBindingIPv4.String() != "127.0.0.1" || n.Labels[labelNetwork] != "true" {
		t.Errorf("network = %+v", n)
	}
	w.add(at("c2", "/proc/thread-self/ns/net"), w.conf(nil)) // does not mention these settings, so it matches
	third := w.namespace("third")
	for _, tt := range []struct {
		key  string
		v    any
		text string
	}{
		{"mtu", 1500, `"9000", the configuration says "1500"`},
		{"internal", true, `internal "false"`},
		{"ipMasq", true, `"false", the configuration says "true"`},
		{"subnets", []keys{{"subnet": "10.2.0.0/16"}}, `subnets "10.1.0.0/16, `},
		{"subnets", []keys{{"subnet": "10.1.0.0/16", "gateway": "10.1.0.9"}}, `gateway "10.1.0.1"`},
		{"subnets", []keys{{"subnet": "10.1.0.0/16", "ipRange": "10.1.8.0/24"}}, `ipRange "10.1.9.0/24"`},
	} {
		_, err := w.Add(t.Context(), at("c3", third), w.conf(keys{tt.key: tt.v}))
		w.refused(err, errConflict, tt.text)
	}
	w.add(at("c4", w.namespace("c4")), w.conf(keys{"name": "plain"}))
	_, err = w.Add(t.Context(), at("c5", third), w.conf(keys{"name": "plain", "mtu": 1500, "ipMasq": true, "options": keys{"fairlead.antispoof": "true"}}))
	w.must(err) // the defaults, explicitly
	w.add(at("c6", w.namespace("c6")), w.conf(keys{"name": "six", "subnets": []keys{{"subnet": "2001:0db8:0::/64", "gateway": "2001:db8:0::0009"}}}))
	w.add(at("c7", w.namespace("c7")), w.conf(keys{"name": "six", "subnets": []keys{{"subnet": "2001:0db8:0::/64", "gateway": "2001:db8:0::0009"}}}))
	w.add(at("c8", w.namespace("c8")), w.conf(keys{"name": "sized", "subnets": []keys{{"subnet": "0.0.0.0/28"}}}))
}

// Address ranges and DNS may come from the runtime.
func TestRuntimesRangesAndDNS(t *testing.T) {
	w := newWorld(t)
	conf := keys{"dns": keys{"nameservers": []string{"192.0.2.1"}, "domain": "conf.test", "search": []string{"conf.test"}}, "runtimeConfig": keys{
		"ipRanges": [][]keys{{{"subnet": "10.1.0.0/16", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.10"}}, {{"subnet": "2001:db8::/64", "rangeStart": "2001:db8::7"}}},
		"dns":      keys{"servers": []string{"192.0.2.53"}, "options": []string{"ndots:2"}},
	}}
	var res current.Result
	w.must(json.Unmarshal([]byte(w.add(at("c1", "/proc/self/ns/net"), w.conf(conf))), &res))
	if a, b := res.IPs[0].Address.String(), res.IPs[1].Address.String(); a != "10.1.0.9/16" || b != "2001:db8::7/64" {
		t.Errorf("addresses %s and %s, want the first of the ranges", a, b)
	}
	want := types.DNS{Nameservers: []string{"192.0.2.53"}, Domain: "conf.test", Search: []string{"conf.test"}, Options: []string{"ndots:2"}}
	if diff := cmp.Diff(want, res.DNS); diff != "" {
		t.Errorf("DNS (-want +got):\n%s", diff)
	}
	conf["subnets"], conf["runtimeConfig"] = []keys{{"subnet": "10.1.0.0/16", "ipRange": "10.1.0.9-10.1.0.10"}}, keys{}
	w.add(at("c2", w.namespace("c2")), w.conf(conf))
	_, err := w.Add(t.Context(), at("c3", w.namespace("c3")), w.conf(nil))
	w.refused(err, errConflict, "no available")
}

// DNS is served at the gateways, unless configured otherwise.
func TestNamesAreServed(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "mute"})
	w.must(err)
	off := keys{"options": keys{"fairlead.dns": "false"}}
	nameservers := func(more keys) []string {
		t.Helper()
		var res current.Result
		id := fmt.Sprintf("c%d", w.Snapshot().Counts().Sandboxes)
		w.must(json.Unmarshal([]byte(w.add(at(id, w.namespace(id)), w.conf(more))), &res))
		return res.DNS.Nameservers
	}
	for _, tt := range []struct {
		conf keys
		want []string
	}{
		{keys{"subnets": []keys{{"subnet": "10.1.0.0/16"}, {"subnet": "2001:db8::/64"}}}, []string{"10.1.0.1", "2001:db8::1"}},
		{keys{"dns": keys{"nameservers": []string{"192.0.2.1"}}}, []string{"192.0.2.1"}},
		{keys{"runtimeConfig": keys{"dns": keys{"servers": []string{"192.0.2.2"}}}}, []string{"192.0.2.2"}},
		{keys{"name": "mute"}, nil},
		{keys{"name": "mute", "options": off["options"]}, nil}, // unchanged
		{keys{"name": "off", "options": off["options"]}, nil},
		{keys{"name": "off"}, nil}, // consistent
	} {
		if diff := cmp.Diff(tt.want, nameservers(tt.conf)); diff != "" {
			t.Errorf("%v: nameservers (-want +got):\n%s", tt.conf, diff)
		}
	}
	w.Silent = []netip.Addr{netip.MustParseAddr("10.1.0.1")} // another program uses the port
	if diff := cmp.Diff([]string{"2001:db8::1"}, nameservers(nil)); diff != "" {
		t.Errorf("beside another server: nameservers (-want +got):\n%s", diff)
	}
	for _, conf := range []keys{{"name": "mute", "options": keys{"fairlead.dns": "true"}}, off} {
		_, err := w.Add(t.Context(), at("odd", w.namespace("odd"+fmt.Sprint(len(conf)))), w.conf(conf))
		w.refused(err, errConflict, "option fairlead.dns")
	}
}

// A name that is also a prefix of another network's ID means the name.
func TestNameLikeAnID(t *testing.T) {
	w := newWorld(t)
	other, err := w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "other"})
	w.must(err)
	a, b := at("c1", w.namespace("c1")), at("c2", w.namespace("c2"))
	w.add(b, w.conf(nil))
	b.IfName = "eth1"
	w.add(b, w.conf(keys{"name": other.ID[:3]}))
	w.add(a, w.conf(keys{"name": other.ID[:4]}))
	for ep := range w.Snapshot().Endpoints() {
		if ep.NetworkID == other.ID {
			t.Errorf("endpoint = %+v", ep)
		}
	}
	_, err = w.Add(t.Context(), at("c3", w.namespace("c3")), w.conf(keys{"name": "default"}))
	w.refused(err, types.ErrInvalidNetworkConfig, `invalid network name "default"`)
	if got := w.Names(); got != "cni-c1 cni-c2" {
		t.Errorf("sandboxes %s", got)
	}
}

func TestSandboxOfAContainer(t *testing.T) {
	w := newWorld(t)
	id := strings.Repeat("0123456789abcdef", 4)
	a := at(id, "/proc/self/ns/net")
	a.IfName, a.Args = "net7", "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;K8S_POD_UID=7"
	w.add(a, w.conf(keys{"subnets": []keys{{"subnet": "10.1.0.0/16"}, {"subnet": "2001:db8::/64"}}, "runtimeConfig": keys{
		"ips": []string{"10.1.2.3/16", "2001:db8::9"}, "mac": "02:00:00:00:00:07", "aliases": keys{"pods": []string{"www"}, "other": []string{"no"}},
		"portMappings": []keys{
			{"hostPort": 8080, "containerPort": 80, "protocol": "TCP"}, {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
			{"hostPort": 8081, "containerPort": 80, "hostIP": "::1"},
		},
		"bandwidth": keys{"ingressRate": 1_000_000, "IngressBurst": 100_000, "egressRate": 0, "EgressBurst": 0},
	}}))
	sb, err := w.Sandbox("cni-0123456789ab")
	w.must(err)
	if sb.Labels[LabelContainer] != id || sb.Labels["io.kubernetes.pod.name"] != "web" || sb.Labels["io.kubernetes.pod.namespace"] != "shop" || len(sb.Ports) != 3 {
		t.Errorf("sandbox = %+v", sb)
	}
	for ep := range w.Snapshot().Endpoints() {
		if ep.IfName != "net7" || ep.IPv4.String() != "10.1.2.3/16" || ep.IPv6.String() != "2001:db8::9/64" || ep.MAC.String() != "02:00:00:00:00:07" ||
			fmt.Sprint(ep.Aliases) != "[www web 0123456789ab]" || ep.Bandwidth != (model.Bandwidth{Ingress: model.Limit{Rate: 1_000_000, Burst: 100_000}}) {
			t.Errorf("endpoint = %+v", ep)
		}
	}
	w.must(w.Del(t.Context(), a, w.conf(nil)))
	a.Args = "IP=10.1.2.4;MAC=02:00:00:00:00:08"
	if got := w.add(a, w.conf(nil)); !strings.Contains(got, "10.1.2.4/16") || !strings.Contains(got, "02:00:00:00:00:08") {
		t.Errorf("result of CNI_ARGS: %s", got)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.add(at("first", "/proc/self/ns/net"), w.conf(keys{"subnets": []keys{{"subnet": "10.1.0.0/16"}}}))
	var mac string
	for ep := range w.Snapshot().Endpoints() {
		mac = ep.MAC.String()
	}
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "cni-mine"})
	w.must(err)
	other := "/proc/thread-self/ns/net"
	port := func(host int, proto string) keys {
		return keys{"runtimeConfig": keys{"portMappings": []keys{{"hostPort": host, "containerPort": 80, "protocol": proto}}}}
	}
	limited := func(limits keys) keys { return keys{"runtimeConfig": keys{"bandwidth": limits}} }
	for _, tt := range []struct {
		name string
		a    Attachment
		conf keys
		code uint
		text string
	}{
		{"unknown-key", at("c1", other), keys{"subent": "10.0.0.0/8"}, 2, `"subent": "10.0.0.0/8" is not supported`},
		{"bandwidth", at("c1", other), limited(keys{"ingressRate": 1_000_000}), 7, "ingress rate of 1000000 bit/s without a burst"},
		{"bandwidth-key", at("c1", other), limited(keys{"ingresRate": 1}), 2, `bandwidth "ingresRate": 1 is not supported`},
		{"bandwidth-number", at("c1", other), limited(keys{"ingressRate": "1M"}), 7, "whole numbers"},
		{"bandwidth-form", at("c1", other), keys{"runtimeConfig": keys{"bandwidth": 7}}, 6, "runtimeConfig: bandwidth: "},
		{"sctp", at("c1", other), port(99, "sctp"), 2, "sctp"},
		{"range-backwards", at("c1", other), keys{"runtimeConfig": keys{"ipRanges": [][]keys{{{"subnet": "10.1.0.0/16", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}}}}}, 7, "ends before it begins"},
		{"range-of-no-subnet", at("c1", other), keys{"runtimeConfig": keys{"ipRanges": [][]keys{{{"subnet": "x", "rangeStart": "10.1.0.9"}}}}}, 7, `"x" is not a subnet`},
		{"range-outside", at("c1", other), keys{"runtimeConfig": keys{"ipRanges": [][]keys{{{"subnet": "10.1.0.0/16", "rangeEnd": "10.2.0.0"}}}}}, 100, `the configuration says "10.1.0.0-10.2.0.0"`},
		{"no-namespace", at("c1", "/nowhere"), nil, 4, "no network namespace at /nowhere"},
		{"args", Attachment{ContainerID: "c1", NetNS: other, IfName: "eth0", Args: "X=1"}, nil, 4, "X=1"},
		{"type-of-key", at("c1", other), keys{"mtu": "big"}, 6, "mtu"},
		{"not-first", at("c1", other), keys{"prevResult": keys{"cniVersion": "1.1.0"}}, 7, "must be the first plugin of network pods"},
		{"host", at("c1", other), keys{"host": "tcp://127.0.0.1"}, 7, "unix:///PATH"},
		{"port-zero", at("c1", other), port(0, "tcp"), 7, "ports are 1 to 65535"},
		{"port-protocol", at("c1", other), port(99, "icmp"), 7, `protocol "icmp" is unknown`},
		{"mac", at("c1", other), keys{"runtimeConfig": keys{"mac": "01:00:00:00:00:00"}}, 7, "multicast"},
		{"ip", at("c1", other), keys{"runtimeConfig": keys{"ips": []string{"10.1"}}}, 7, `"10.1" is not an IP address`},
		{"ips-of-one-family", at("c1", other), keys{"runtimeConfig": keys{"ips": []string{"10.1.0.7", "10.1.0.8"}}}, 7, "one address per family"},
		{"ip-outside", at("c1", other), keys{"runtimeConfig": keys{"ips": []string{"10.2.0.7"}}}, 7, "no configured subnet contains"},
		{"subnet", at("c1", other), keys{"name": "new", "subnets": []keys{{"subnet": "10.9.0.1/16"}}}, 7, "it should be 10.9.0.0/16"},
		{"interface-name", Attachment{ContainerID: "c1", NetNS: other, IfName: "all"}, nil, 7, "invalid interface name"},
		{"subnet-taken", at("c1", other), keys{"name": "new", "subnets": []keys{{"subnet": "10.1.0.0/16"}}}, 100, `choose another subnet in "subnets"`},
		{"network-host", at("c1", other), keys{"name": "host"}, 7, "network host"},
		{"network-none", at("c1", other), keys{"name": "none"}, 7, "and network none"},
		{"network-differs", at("c1", other), keys{"internal": true}, 100, `internal "false"`},
		{"network-without-ipv6", at("c1", other), keys{"ipv6": true}, 100, `IPv6 "false"`},
		{"mac-taken", at("c1", other), keys{"runtimeConfig": keys{"mac": mac}}, 100, `choose another MAC address with the capability "mac"`},
		{"alias", at("c1", other), keys{"runtimeConfig": keys{"aliases": keys{"pods": []string{"www", "bad name!"}}}}, 7, `alias "bad name!" is not a name`},
		{"alias-of-nothing", at("c1", other), keys{"runtimeConfig": keys{"aliases": keys{"pods": []string{""}}}}, 7, `alias "" is not a name`},
		{"dns", at("c1", other), keys{"dns": keys{"nameservers": []string{"192.0.2.1", "notanip"}}}, 7, `DNS server "notanip" is not an IP address`},
		{"dns-of-the-runtime", at("c1", other), keys{"runtimeConfig": keys{"dns": keys{"servers": []string{"::1", "notanip"}}}}, 7, `DNS server "notanip" is not an IP address`},
		{"port-taken", at("c1", other), port(22, "tcp"), 100, "address already in use"},
		{"ip-taken", at("c1", other), keys{"runtimeConfig": keys{"ips": []string{"10.1.0.2"}}}, 100, `belongs to sandbox "cni-first"`},
		{"namespace-taken", at("c1", "/proc/self/ns/net"), nil, 100, `is already in use by sandbox "cni-first"`},
		{"name-taken", at("mine", other), nil, 100, `"cni-mine" is already in use`},
		{"again", at("first", "/proc/self/ns/net"), nil, 100, "already exists in network pods"},
		{"another-namespace", at("first", other), keys{"name": "new"}, 4, "not " + other},
		{"ports-too-late", at("first", "/proc/self/ns/net"), keys{"name": "new", "runtimeConfig": keys{"portMappings": []keys{{"hostPort": 1, "containerPort": 1}}}}, 100, "to its first network"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := w.Add(t.Context(), tt.a, w.conf(tt.conf))
			w.T = t
			w.refused(err, tt.code, tt.text)
		})
	}
	w.T = t
	if got := w.Names(); got != "cni-first cni-mine" {
		t.Errorf("sandboxes after the refusals: %s", got)
	}
	_, err = w.Add(t.Context(), at("c1", other), []byte("{"))
	w.refused(err, types.ErrDecodingFailure, "network configuration")
}

// A container joins a network of the cluster, if the configuration says so and the network exists.
func TestOverlay(t *testing.T) {
	w := newWorld(t)
	conf := func(more keys) []byte {
		more["driver"], more["name"] = "overlay", "web"
		return w.conf(more)
	}
	_, err := w.Add(t.Context(), at("c1", "/proc/self/ns/net"), conf(keys{}))
	w.refused(err, types.ErrTryAgainLater, "create it first, on any host")
	if _, err := w.Network("web"); err == nil {
		t.Error("ADD made the network")
	}
	_, err = w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "web", Driver: model.DriverOverlay})
	w.must(err)
	_, err = w.Add(t.Context(), at("c1", "/proc/self/ns/net"), w.conf(keys{"name": "web"}))
	w.refused(err, errConflict, `has driver "overlay"`)
	for text, more := range map[string]keys{
		`driver "macvlan"`: {"driver": "macvlan"},
		"by the cluster":   {"driver": "overlay", "ipam": keys{"type": "host-local"}},
		`"1450"`:           {"driver": "overlay", "name": "web", "mtu": 1400},
		`"false"`:          {"driver": "overlay", "name": "web", "options": keys{"encrypted": ""}},
		"subnets":          {"driver": "overlay", "name": "web", "subnets": []keys{{"subnet": "10.1.0.0/16"}}},
	} {
		if _, err := w.Add(t.Context(), at("c1", "/proc/self/ns/net"), w.conf(more)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error %v, want %q", err, text)
		}
	}
	var res current.Result
	w.must(json.Unmarshal([]byte(w.add(at("c1", "/proc/self/ns/net"), conf(keys{"mtu": 1450}))), &res))
	if got := res.IPs[0].Address.IP.String(); !strings.HasSuffix(got, ".100") || res.Interfaces[0].Mtu != 1450 {
		t.Errorf("result: %+v, %+v", res.IPs[0], res.Interfaces[0])
	}
	w.must(w.Del(t.Context(), at("c1", "/proc/self/ns/net"), conf(keys{})))
	if w.Names() != "" {
		t.Errorf("left: %s", w.Names())
	}
	_, err = w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "secret", Driver: model.DriverOverlay, Options: map[string]string{model.OptEncrypted: ""}})
	w.must(err)
	secret := w.conf(keys{"driver": "overlay", "name": "secret", "options": keys{"encrypted": "true"}})
	w.add(at("c1", "/proc/self/ns/net"), secret)
	w.must(w.Del(t.Context(), at("c1", "/proc/self/ns/net"), secret))
}
