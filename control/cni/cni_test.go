// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

// world is a plugin and the daemon it talks to: a controller without a kernel,
// behind the real API and its socket.
type world struct {
	*testing.T
	Plugin
	*controller.Controller
	socket string
	stderr bytes.Buffer
	broken error // what a check of a sandbox finds
}

// kernel makes nothing.
type kernel struct{}

func (kernel) Apply(context.Context, *model.Snapshot) error         { return nil }
func (kernel) HostPrefixes(context.Context) ([]netip.Prefix, error) { return nil, nil }
func (kernel) EphemeralRange() (lo, hi uint16)                      { return 32768, 60999 }
func (kernel) PortFree(_ model.Proto, _ netip.Addr, port, count uint16) error {
	if port == 22 {
		return syscall.EADDRINUSE
	}
	return nil
}

func (w *world) Status(context.Context) (api.Status, error)                { return api.Status{}, nil }
func (w *world) CheckSandbox(context.Context, string) error                { return w.broken }
func (w *world) Flows(context.Context, api.FlowFilter) ([]api.Flow, error) { return nil, nil }

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "cni") // short, for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	st, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	w := &world{T: t, socket: filepath.Join(dir, "sock")}
	w.Plugin = Plugin{Dial: func(host string) (Daemon, error) { return api.NewClient(host) }, Stderr: &w.stderr}
	if w.Controller, err = controller.New(controller.Config{Store: st, Kernel: kernel{}, RunDir: dir}); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- api.NewServer(api.Config{Backend: w, RunDir: dir, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w
}

// keys are a part of a configuration.
type keys map[string]any

// conf is the configuration of network "pods".
func (w *world) conf(more keys) []byte {
	w.Helper()
	all := keys{"cniVersion": "1.1.0", "name": "pods", "type": "fairlead-cni", "host": "unix://" + w.socket}
	maps.Copy(all, more)
	b, err := json.Marshal(all)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// namespace is a path of one, which can be removed.
func (w *world) namespace(name string) string {
	w.Helper()
	path := filepath.Join(w.TempDir(), name)
	if err := os.Symlink("/proc/self/ns/net", path); err != nil {
		w.Fatal(err)
	}
	return path
}

// at is an attachment as eth0.
func at(id, netns string) Attachment {
	return Attachment{ContainerID: id, NetNS: netns, IfName: "eth0"}
}

// add must succeed; it returns the result as the runtime gets it.
func (w *world) add(a Attachment, conf []byte) string {
	w.Helper()
	res, err := w.Add(w.Context(), a, conf)
	if err != nil {
		w.Fatalf("ADD: %v", err)
	}
	var b bytes.Buffer
	if err := res.PrintTo(&b); err != nil {
		w.Fatal(err)
	}
	return b.String()
}

// refused wants an error with a code and a text.
func (w *world) refused(err error, code uint, text string) {
	w.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Msg, text) {
		w.Errorf("error %v (%+v)\nwant code %d and %q", err, e, code, text)
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// names are those of the sandboxes.
func (w *world) names() string {
	var names []string
	for _, sb := range w.Snapshot().Sandboxes {
		names = append(names, sb.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

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
	w.add(at("c2", "/proc/thread-self/ns/net"), w.conf(nil)) // says nothing of it, so it fits
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
	} {
		_, err := w.Add(t.Context(), at("c3", third), w.conf(keys{tt.key: tt.v}))
		w.refused(err, errConflict, tt.text)
	}
	w.add(at("c4", w.namespace("c4")), w.conf(keys{"name": "plain"}))
	_, err = w.Add(t.Context(), at("c5", third), w.conf(keys{"name": "plain", "mtu": 1500, "ipMasq": true}))
	w.must(err) // the defaults, spelt out
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
	}}))
	sb, err := w.Sandbox("cni-0123456789ab")
	w.must(err)
	if sb.Labels[LabelContainer] != id || sb.Labels["io.kubernetes.pod.name"] != "web" || sb.Labels["io.kubernetes.pod.namespace"] != "shop" || len(sb.Ports) != 3 {
		t.Errorf("sandbox = %+v", sb)
	}
	for _, ep := range w.Snapshot().Endpoints {
		if ep.IfName != "net7" || ep.IPv4.String() != "10.1.2.3/16" || ep.IPv6.String() != "2001:db8::9/64" || ep.MAC.String() != "02:00:00:00:00:07" ||
			fmt.Sprint(ep.Aliases) != "[www]" {
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
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "cni-mine"})
	w.must(err)
	other := "/proc/thread-self/ns/net"
	port := func(host int, proto string) keys {
		return keys{"runtimeConfig": keys{"portMappings": []keys{{"hostPort": host, "containerPort": 80, "protocol": proto}}}}
	}
	for _, tt := range []struct {
		name string
		a    Attachment
		conf keys
		code uint
		text string
	}{
		{"unknown-key", at("c1", other), keys{"subent": "10.0.0.0/8"}, 2, `"subent": "10.0.0.0/8" is not supported`},
		{"bandwidth", at("c1", other), keys{"runtimeConfig": keys{"bandwidth": keys{"ingressRate": 1}}}, 2, `capability "bandwidth": {"ingressRate":1}`},
		{"sctp", at("c1", other), port(99, "sctp"), 2, "sctp"},
		{"ranges-of-addresses", at("c1", other), keys{"runtimeConfig": keys{"ipRanges": [][]keys{{{"subnet": "10.1.0.0/16", "rangeStart": "10.1.0.9"}}}}}, 2, "10.1.0.9"},
		{"no-namespace", at("c1", "/nowhere"), nil, 4, "no network namespace at /nowhere"},
		{"args", Attachment{ContainerID: "c1", NetNS: other, IfName: "eth0", Args: "X=1"}, nil, 4, "X=1"},
		{"type-of-key", at("c1", other), keys{"mtu": "big"}, 6, "mtu"},
		{"not-first", at("c1", other), keys{"prevResult": keys{"cniVersion": "1.1.0"}}, 7, "must be the first plugin of network pods"},
		{"host", at("c1", other), keys{"host": "tcp://127.0.0.1"}, 7, "unix:///PATH"},
		{"port-zero", at("c1", other), port(0, "tcp"), 7, "ports are 1 to 65535"},
		{"port-protocol", at("c1", other), port(99, "icmp"), 7, `protocol "icmp" is unknown`},
		{"mac", at("c1", other), keys{"runtimeConfig": keys{"mac": "01:00:00:00:00:00"}}, 7, "multicast"},
		{"ip", at("c1", other), keys{"runtimeConfig": keys{"ips": []string{"10.1"}}}, 7, `"10.1" is not an IP address`},
		{"ips-of-one-family", at("c1", other), keys{"runtimeConfig": keys{"ips": []string{"10.1.0.7", "10.1.0.8"}}}, 7, "one of a family"},
		{"ip-outside", at("c1", other), keys{"runtimeConfig": keys{"ips": []string{"10.2.0.7"}}}, 7, "no configured subnet contains"},
		{"subnet", at("c1", other), keys{"name": "new", "subnets": []keys{{"subnet": "10.9.0.1/16"}}}, 7, "it should be 10.9.0.0/16"},
		{"interface-name", Attachment{ContainerID: "c1", NetNS: other, IfName: "all"}, nil, 7, "invalid interface name"},
		{"subnet-taken", at("c1", other), keys{"name": "new", "subnets": []keys{{"subnet": "10.1.0.0/16"}}}, 100, "Pool overlaps"},
		{"network-host", at("c1", other), keys{"name": "host"}, 100, `driver "host"`},
		{"port-taken", at("c1", other), port(22, "tcp"), 100, "address already in use"},
		{"ip-taken", at("c1", other), keys{"runtimeConfig": keys{"ips": []string{"10.1.0.2"}}}, 100, `belongs to sandbox "cni-first"`},
		{"namespace-taken", at("c1", "/proc/self/ns/net"), nil, 100, `is already sandbox "cni-first"`},
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
	if got := w.names(); got != "cni-first cni-mine" {
		t.Errorf("sandboxes after the refusals: %s", got)
	}
	_, err = w.Add(t.Context(), at("c1", other), []byte("{"))
	w.refused(err, types.ErrDecodingFailure, "network configuration")
}

func TestDaemonAbsent(t *testing.T) {
	w := newWorld(t)
	conf := w.conf(keys{"host": "unix:///nowhere/api.sock"})
	_, err := w.Add(t.Context(), at("c1", "/proc/self/ns/net"), conf)
	w.refused(err, types.ErrTryAgainLater, "no daemon listens at /nowhere/api.sock")
	w.refused(w.Del(t.Context(), at("c1", ""), conf), types.ErrTryAgainLater, "/nowhere/api.sock")
	w.refused(w.Plugin.Status(t.Context(), conf), types.ErrPluginNotAvailable, "/nowhere/api.sock")
	w.must(w.Plugin.Status(t.Context(), w.conf(nil)))
}

func TestDel(t *testing.T) {
	w := newWorld(t)
	ns := w.namespace("ns")
	conf, second := w.conf(nil), w.conf(keys{"name": "second"})
	a := at("c1", ns)
	w.add(a, conf)
	b := a
	b.IfName = "eth1"
	w.add(b, second)
	for _, other := range []Attachment{{ContainerID: "c1", IfName: "eth7"}, {ContainerID: "nobody", IfName: "eth0"}} {
		w.must(w.Del(t.Context(), other, conf))
	}
	w.must(w.Del(t.Context(), a, w.conf(keys{"name": "elsewhere", "misspelt": true}))) // DEL is not strict
	if n := len(w.Snapshot().Endpoints); n != 2 {
		t.Errorf("%d endpoints, want both", n)
	}
	w.must(w.Del(t.Context(), a, conf))
	w.must(w.Del(t.Context(), a, conf))
	if n := len(w.Snapshot().Endpoints); n != 1 || w.names() != "cni-c1" {
		t.Errorf("%d endpoints of %s, want one of cni-c1", n, w.names())
	}
	w.add(a, conf)
	w.must(os.Remove(ns)) // with the namespace all is gone
	b.NetNS = ""
	w.must(w.Del(t.Context(), b, second))
	if got := w.names(); got != "" {
		t.Errorf("sandboxes %s, want none", got)
	}
	// A sandbox of somebody else's is let be.
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "cni-mine", NetworkMode: "pods", Endpoint: model.EndpointSpec{Network: "pods"}})
	w.must(err)
	w.must(w.Del(t.Context(), at("mine", ""), conf))
	if got := w.names(); got != "cni-mine" {
		t.Errorf("sandboxes %q, want cni-mine", got)
	}
}

// A container whose namespace went without a DEL, in a restart of the host, begins
// anew.
func TestAddAfterTheNamespaceWent(t *testing.T) {
	w := newWorld(t)
	old := w.namespace("old")
	w.add(at("c1", old), w.conf(nil))
	w.must(os.Remove(old))
	again := w.namespace("again")
	w.add(at("c1", again), w.conf(nil))
	sb, err := w.Sandbox("cni-c1")
	w.must(err)
	if sb.NetNS != again || len(w.Snapshot().Endpoints) != 1 {
		t.Errorf("sandbox = %+v, %d endpoints", sb, len(w.Snapshot().Endpoints))
	}
}

// What went without a DEL does not keep its port and address for ever.
func TestAddTakesFromTheDead(t *testing.T) {
	w := newWorld(t)
	old := w.namespace("old")
	conf := w.conf(keys{"subnets": []keys{{"subnet": "10.1.0.0/16"}}, "runtimeConfig": keys{
		"ips": []string{"10.1.0.9"}, "portMappings": []keys{{"hostPort": 8080, "containerPort": 80}},
	}})
	w.add(at("c1", old), conf)
	other := at("c2", w.namespace("other"))
	_, err := w.Add(t.Context(), other, conf)
	w.refused(err, errConflict, `"cni-c1"`)
	w.must(os.Remove(old))
	_, err = w.Add(t.Context(), other, conf)
	w.refused(err, errConflict, `"cni-c1"`) // the daemon sees it yet
	w.broken = &model.Refusal{Kind: model.ErrConflict, Text: "gone"}
	w.add(other, conf)
	if got := w.names(); got != "cni-c2" {
		t.Errorf("sandboxes %s, want cni-c2", got)
	}
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	a := at("c1", "/proc/self/ns/net")
	var prev keys
	w.must(json.Unmarshal([]byte(w.add(a, w.conf(nil))), &prev))
	conf := w.conf(keys{"prevResult": prev})
	w.must(w.Check(t.Context(), a, conf))
	w.refused(w.Check(t.Context(), a, w.conf(nil)), types.ErrInvalidNetworkConfig, "prevResult")
	b := a
	b.IfName = "eth1"
	w.refused(w.Check(t.Context(), b, conf), types.ErrUnknownContainer, "no interface eth1 in network pods")
	w.refused(w.Check(t.Context(), at("c2", a.NetNS), conf), types.ErrUnknownContainer, "container c2")
	w.refused(w.Check(t.Context(), at("c1", "/elsewhere"), conf), types.ErrInvalidEnvironmentVariables, "not /elsewhere")
	w.broken = &model.Refusal{Kind: model.ErrConflict, Text: "cracked"}
	w.refused(w.Check(t.Context(), a, conf), errConflict, "cracked")
	w.broken = nil
	prev["ips"].([]any)[0].(map[string]any)["address"] = "10.9.9.9/24"
	w.refused(w.Check(t.Context(), a, w.conf(keys{"prevResult": prev})), errConflict, "no address 10.9.9.9")
}

func TestGC(t *testing.T) {
	w := newWorld(t)
	conf, second := w.conf(nil), w.conf(keys{"name": "second"})
	for i, id := range []string{"keep", "drop", "half"} {
		a := at(id, w.namespace(fmt.Sprint(i)))
		w.add(a, conf)
		if id == "half" {
			a.IfName = "eth1"
			w.add(a, second)
		}
	}
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "lodger", NetworkMode: "pods", Endpoint: model.EndpointSpec{Network: "pods"}})
	w.must(err)
	w.refused(w.GC(t.Context(), conf), types.ErrInvalidNetworkConfig, "would remove everything")
	valid := []keys{{"containerID": "keep", "ifname": "eth0"}, {"containerID": "half", "ifname": "eth9"}}
	w.must(w.GC(t.Context(), w.conf(keys{keyValid: valid})))
	if got := w.names(); got != "cni-half cni-keep lodger" {
		t.Errorf("sandboxes after GC: %s", got)
	}
	w.must(w.GC(t.Context(), w.conf(keys{keyValid: []keys{}})))
	w.must(w.GC(t.Context(), w.conf(keys{keyValid: []keys{}, "name": "second"})))
	w.must(w.GC(t.Context(), w.conf(keys{keyValid: nil, "name": "nowhere"})))
	if got := w.names(); got != "lodger" {
		t.Errorf("sandboxes after GC of all: %s", got)
	}
}

// What the runtime sends is no reason to panic.
func FuzzAdd(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"pods","type":"x","runtimeConfig":{"portMappings":[{"hostPort":1}]}}`))
	f.Add([]byte(`{"name":"pods","prevResult":{"ips":[{"interface":7}]},"runtimeConfig":null,"subnets":[null]}`))
	p := Plugin{Stderr: new(bytes.Buffer), Dial: func(string) (Daemon, error) { return api.NewClient("unix:///nowhere") }}
	f.Fuzz(func(t *testing.T, conf []byte) {
		a := at("c1", "/proc/self/ns/net")
		_, err := p.Add(t.Context(), a, conf)
		for _, err := range []error{err, p.Check(t.Context(), a, conf), p.GC(t.Context(), conf)} {
			var e *types.Error
			if err != nil && !errors.As(err, &e) {
				t.Errorf("error without a code: %v", err)
			}
		}
	})
}
