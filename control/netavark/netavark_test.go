// SPDX-License-Identifier: Apache-2.0

package netavark

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/attachtest"
	"github.com/fairlead-net/fairlead/test/machine"
)

var update = flag.Bool("update", false, "update the golden files")

// world is a plugin and its daemon.
type world struct {
	*testing.T
	Plugin
	*attachtest.Daemon
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t, Plugin{Dial: attachtest.Dial, Stderr: io.Discard}, attachtest.New(t)}
}

// keys are parts of a request.
type keys map[string]any

func (k keys) with(more keys) keys {
	all := maps.Clone(k)
	maps.Copy(all, more)
	return all
}

func (w *world) json(k keys) []byte {
	w.Helper()
	b, err := json.Marshal(k)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

const networkID = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9"

// network returns podman's request to create network "pods".
func (w *world) network(more keys) keys {
	return keys{
		"name": "pods", "id": networkID, "driver": "fairlead", "ipv6_enabled": false, "internal": false, "dns_enabled": true,
		"created": "2026-11-25T06:46:14.173Z", "options": keys{optHost: "unix://" + w.Socket},
	}.with(more)
}

// options returns options of a network.
func (w *world) options(more keys) keys {
	return keys{"options": keys{optHost: "unix://" + w.Socket}.with(more)}
}

// create must succeed. It returns the network that podman keeps.
func (w *world) create(n keys) keys {
	w.Helper()
	out, err := w.Create(w.Context(), w.json(n))
	if err != nil {
		w.Fatalf("create: %v", err)
	}
	var kept keys
	if err := json.Unmarshal(out, &kept); err != nil {
		w.Fatal(err)
	}
	return kept
}

// attachment returns netavark's request for container "web", ID 0123456789ab…, as eth0.
func (w *world) attachment(network, more, options keys) []byte {
	w.Helper()
	id := strings.Repeat("0123456789abcdef", 4)
	return w.json(keys{
		"container_id": id, "container_name": "web", "port_mappings": nil, "network": network,
		"network_options": keys{"aliases": []string{id[:12]}, "interface_name": "eth0", "static_ips": nil, "static_mac": nil}.with(options),
	}.with(more))
}

func (w *world) setup(netns string, request []byte) string {
	w.Helper()
	out, err := w.Setup(w.Context(), netns, request)
	if err != nil {
		w.Fatalf("setup: %v", err)
	}
	return string(out)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// refused expects an error with a text, in the form for netavark.
func (w *world) refused(err error, text string) {
	w.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		w.Errorf("error %v\nwant %q", err, text)
		return
	}
	var failure struct{ Error string }
	out := Failure(err)
	if json.Unmarshal(out, &failure) != nil || !strings.Contains(failure.Error, text) || bytes.Count(out, []byte("\n")) != 1 || strings.Contains(failure.Error, "\n") {
		w.Errorf("failure %q, want one line", out)
	}
}

func (w *world) namespace(name string) string {
	w.Helper()
	return attachtest.Namespace(w.T, name)
}

// TestAnswers checks what podman keeps of a network, and shows of a container.
func TestAnswers(t *testing.T) {
	var out strings.Builder
	for _, n := range []keys{
		{},
		{"ipv6_enabled": true, "labels": keys{"a": "b"}},
		{"internal": true, "subnets": []keys{{"subnet": "10.1.0.0/16"}}},
		{"subnets": []keys{
			{"subnet": "10.1.0.0/16", "gateway": "10.1.255.254", "lease_range": keys{"start_ip": "10.1.9.1", "end_ip": "10.1.9.255"}},
			{"subnet": "2001:db8:1::/64"},
		}},
	} {
		w := newWorld(t)
		given := w.json(n)
		kept := w.create(w.network(n))
		answer := w.setup("/proc/self/ns/net", w.attachment(kept, keys{}, keys{}))
		delete(kept, "options") // the socket's path differs in every test
		if n["ipv6_enabled"] == true {
			answer, kept["subnets"] = "random", len(kept["subnets"].([]any))
		}
		fmt.Fprintf(&out, "%s\n%s\n%s\n\n", given, w.json(kept), answer)
	}
	const golden = "testdata/answers.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != out.String() {
		t.Errorf("answers (%v):\n%s", err, out.String())
	}
}

func TestOptionsOfANetwork(t *testing.T) {
	w := newWorld(t)
	kept := w.create(w.network(w.options(keys{"mtu": "9000", "isolate": "strict", "com.docker.network.bridge.enable_icc": "false"})))
	n, err := w.Network("pods")
	w.must(err)
	if n.MTU != 9000 || n.ICC || !n.Masquerade || n.Labels[labelNetwork] != networkID {
		t.Errorf("network = %+v", n)
	}
	w.must(w.RemoveNetwork(t.Context(), "pods")) // it is created again with the same settings
	w.setup("/proc/self/ns/net", w.attachment(kept, keys{}, keys{}))
	if again, err := w.Network("pods"); err != nil || again.MTU != 9000 || again.ICC || again.Subnets[0].Prefix != n.Subnets[0].Prefix {
		t.Errorf("network = %+v, %v", again, err)
	}
}

// A network with only IPv6 subnets has no IPv4, unless --ipv6 requests both. Created again from
// what podman keeps, it is the same.
func TestNetworkOfIPv6Alone(t *testing.T) {
	for _, both := range []bool{false, true} {
		w := newWorld(t)
		kept := w.create(w.network(keys{"ipv6_enabled": both, "subnets": []keys{{"subnet": "2001:db8:1::/64"}}}))
		for range 2 {
			n, err := w.Network("pods")
			w.must(err)
			if n.EnableIPv4 != both || !n.EnableIPv6 || (len(n.Subnets) == 2) != both {
				t.Errorf("--ipv6 %t: network = %+v", both, n)
			}
			w.must(w.RemoveNetwork(t.Context(), "pods"))
			answer := w.setup("/proc/self/ns/net", w.attachment(kept, keys{}, keys{}))
			if got := strings.Count(answer, `"ipnet"`); got != len(n.Subnets) || !strings.Contains(answer, "2001:db8:1::") {
				t.Errorf("--ipv6 %t: answer to podman %s", both, answer)
			}
			w.must(w.Teardown(t.Context(), w.attachment(kept, keys{}, keys{})))
		}
	}
}

// An existing network of the same name is used if it matches, and replaced if podman has removed
// it.
func TestNetworkThatIsThere(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "pods"})
	w.must(err)
	first := w.create(w.network(nil))
	_, err = w.Create(t.Context(), w.json(w.network(keys{"internal": true})))
	w.refused(err, `network pods has internal "false", the configuration says "true"`)
	_, err = w.Create(t.Context(), w.json(w.network(keys{"ipv6_enabled": true})))
	w.refused(err, `network pods has IPv6 "false", the configuration says "true"`)
	w.create(w.network(keys{"name": "mine", "subnets": []keys{{"subnet": "10.1.0.0/16"}}}))
	w.create(w.network(keys{"name": "mine", "id": "another", "internal": true, "subnets": []keys{{"subnet": "10.2.0.0/16"}}}))
	if n, err := w.Network("mine"); err != nil || !n.Internal || n.Subnets[0].Prefix.String() != "10.2.0.0/16" {
		t.Errorf("network = %+v, %v", n, err)
	}
	_, err = w.Create(t.Context(), w.json(w.network(keys{"name": "theirs", "subnets": []keys{{"subnet": "10.2.0.0/16"}}})))
	w.refused(err, "Pool overlaps")
	w.setup("/proc/self/ns/net", w.attachment(first, keys{}, keys{}))
}

// A network has DNS even if another program's use of the port prevents serving it. Its containers
// are only given name servers that answer.
func TestNamesUnserved(t *testing.T) {
	w := newWorld(t)
	w.Silent = []netip.Addr{netip.MustParseAddr("10.1.0.1")}
	kept := w.create(w.network(keys{"subnets": []keys{{"subnet": "10.1.0.0/16"}, {"subnet": "2001:db8::/64"}}}))
	if kept["dns_enabled"] != true {
		t.Errorf("network = %v, want names", kept)
	}
	if got := w.setup("/proc/self/ns/net", w.attachment(kept, keys{}, keys{})); !strings.Contains(got, `"dns_server_ips":["2001:db8::1"]`) {
		t.Errorf("answer %s, want one server", got)
	}
}

func TestContainer(t *testing.T) {
	w := newWorld(t)
	kept := w.create(w.network(keys{"subnets": []keys{{"subnet": "10.1.0.0/16"}, {"subnet": "2001:db8::/64"}}}))
	ports := keys{"port_mappings": []keys{
		{"host_ip": "", "host_port": 8080, "container_port": 80, "protocol": "tcp", "range": 1},
		{"host_ip": "127.0.0.1", "host_port": 5300, "container_port": 53, "protocol": "udp,tcp", "range": 3},
		{"host_ip": "::1", "host_port": 8081, "container_port": 80, "protocol": "", "range": 0},
	}}
	options := keys{
		"interface_name": "net7", "static_ips": []string{"10.1.2.3", "2001:db8::9"}, "static_mac": "02:00:00:00:00:07", "aliases": []string{"www", "web"},
	}
	w.setup("/proc/self/ns/net", w.attachment(kept, ports, options))
	sb, err := w.Sandbox("web")
	w.must(err)
	if !strings.HasPrefix(sb.Labels[LabelContainer], "0123456789abcdef0123") || sb.Labels["io.kubernetes.pod.name"] != "web" || len(sb.Ports) != 4 || sb.Ports[1].Count != 3 {
		t.Errorf("sandbox = %+v", sb)
	}
	for ep := range w.Snapshot().Endpoints() {
		if ep.IfName != "net7" || ep.IPv4.String() != "10.1.2.3/16" || ep.IPv6.String() != "2001:db8::9/64" || ep.MAC.String() != "02:00:00:00:00:07" ||
			!slices.Equal(ep.Aliases, []string{"web", "www"}) {
			t.Errorf("endpoint = %+v", ep)
		}
	}
	second := w.create(w.network(keys{"name": "second"}))
	w.setup("/proc/self/ns/net", w.attachment(second, ports, keys{"interface_name": "net8"}))
	if n := w.Snapshot().Counts().Endpoints; n != 2 || w.Names() != "web" {
		t.Errorf("%d endpoints of %s, want two of web", n, w.Names())
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	kept := w.create(w.network(nil))
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "web"})
	w.must(err)
	ns := w.namespace("ns")
	w.setup(ns, w.attachment(kept, keys{}, keys{}))
	if got := w.Names(); got != "web web-0123456789ab" {
		t.Errorf("sandboxes %s", got)
	}
	w.must(w.Teardown(t.Context(), w.attachment(kept, keys{"container_name": "renamed"}, keys{})))
	if got := w.Names(); got != "web" {
		t.Errorf("sandboxes %s, want web", got)
	}
	w.setup(ns, w.attachment(kept, keys{"container_id": "short", "container_name": "w"}, keys{}))
	if got := w.Names(); got != "podman-w web" {
		t.Errorf("sandboxes %s", got)
	}
	// The error is not about the name that is taken.
	taken := keys{"port_mappings": []keys{{"host_port": 22, "container_port": 80}}}
	_, err = w.Setup(t.Context(), w.namespace("late"), w.attachment(kept, taken, keys{}))
	w.refused(err, "address already in use")
}

func TestTeardown(t *testing.T) {
	w := newWorld(t)
	ns := w.namespace("ns")
	kept, second := w.create(w.network(nil)), w.create(w.network(keys{"name": "second"}))
	one, two := w.attachment(kept, keys{}, keys{}), w.attachment(second, keys{}, keys{"interface_name": "eth1"})
	for range 2 {
		w.must(w.Teardown(t.Context(), one))
	}
	w.setup(ns, one)
	w.setup(ns, two)
	w.must(w.Teardown(t.Context(), w.attachment(kept, keys{}, keys{"interface_name": "eth7"})))
	w.must(w.Teardown(t.Context(), w.attachment(w.network(keys{"name": "elsewhere"}), keys{}, keys{})))
	if n := w.Snapshot().Counts().Endpoints; n != 2 {
		t.Errorf("%d endpoints, want both", n)
	}
	w.must(w.Teardown(t.Context(), one))
	w.must(w.Teardown(t.Context(), one))
	if n := w.Snapshot().Counts().Endpoints; n != 1 || w.Names() != "web" {
		t.Errorf("%d endpoints of %s, want one of web", n, w.Names())
	}
	w.setup(ns, one)
	w.must(os.Remove(ns)) // the namespace and everything in it no longer exist
	w.must(w.Teardown(t.Context(), two))
	if got := w.Names(); got != "" {
		t.Errorf("sandboxes %s, want none", got)
	}
	// A container whose namespace ended at a reboot can be set up again.
	old, again := w.namespace("old"), w.namespace("again")
	w.setup(old, one)
	w.must(os.Remove(old))
	w.setup(again, one)
	if sb, err := w.Sandbox("web"); err != nil || sb.NetNS != again || w.Names() != "web" {
		t.Errorf("sandbox = %+v, %v, of %s", sb, err, w.Names())
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	kept := w.create(w.network(keys{"subnets": []keys{{"subnet": "10.1.0.0/16"}}}))
	w.setup("/proc/self/ns/net", w.attachment(kept, keys{"container_id": "first", "container_name": "first", "port_mappings": []keys{{"host_port": 8080, "container_port": 80}}}, keys{}))
	const here = "/proc/thread-self/ns/net"
	port := func(m keys) keys { return keys{"port_mappings": []keys{m}} }
	for _, tt := range []struct {
		netns         string
		more, options keys
		text          string
	}{
		{"/nowhere", nil, nil, `no network namespace at "/nowhere"`},
		{here, port(keys{"host_port": 99, "container_port": 80, "protocol": "sctp"}), nil, "sctp"},
		{here, port(keys{"host_port": 0, "container_port": 80}), nil, "ports are 1 to 65535"},
		{here, port(keys{"host_port": 65535, "container_port": 80, "range": 2}), nil, "65536"},
		{here, port(keys{"host_port": 22, "container_port": 80}), nil, "enable_port_reservation = false"},
		{here, port(keys{"host_port": 8080, "container_port": 80}), nil, `already allocated (by sandbox "first"`},
		{here, port(keys{"host_port": "x"}), nil, "request: json"},
		{here, nil, keys{"static_ips": []string{"10.1"}}, `"10.1" is not an IP address`},
		{here, nil, keys{"static_ips": []string{"10.1.0.7", "10.1.0.8"}}, "one address per family"},
		{here, nil, keys{"static_ips": []string{"10.2.0.7"}}, "no configured subnet contains"},
		{here, nil, keys{"aliases": []string{"www", "bad name!"}}, `alias "bad name!" is not a name`},
		{here, nil, keys{"static_mac": "01:00:00:00:00:00"}, "multicast"},
		{here, nil, keys{"interface_name": "all"}, "invalid interface name"},
		{here, nil, keys{"interface_name": ""}, "without network_options.interface_name"},
		{here, nil, keys{"options": keys{"vrf": "red"}}, "option vrf=red of a container is not supported"},
		{here, keys{"container_id": ""}, nil, "without container_id"},
		{here, keys{"network": kept.with(keys{"subnets": []keys{{"subnet": "10.9.0.0/16"}}})}, nil, `subnets "10.1.0.0/16"`},
	} {
		_, err := w.Setup(t.Context(), tt.netns, w.attachment(kept, tt.more, tt.options))
		w.refused(err, tt.text)
	}
	for text, more := range map[string]keys{
		"unknown option nonsense":                    w.options(keys{"nonsense": "1"}),
		"isolate=false is not supported":             w.options(keys{"isolate": "false"}),
		"want unix:///PATH":                          {"options": keys{optHost: "tcp://127.0.0.1"}},
		`interface name "br7" is not supported`:      {"network_interface": "br7"},
		"routes are not supported":                   {"routes": []keys{{"destination": "10.9.0.0/16", "gateway": "10.1.0.7"}}},
		"DNS servers of a network are not supported": {"network_dns_servers": []string{"192.0.2.53"}},
		`IPAM driver "dhcp" is not supported`:        {"ipam_options": keys{"driver": "dhcp"}},
		`"10.1" is not a subnet`:                     {"subnets": []keys{{"subnet": "10.1"}}},
		"it should be 10.9.0.0/16":                   {"subnets": []keys{{"subnet": "10.9.0.1/16"}}},
		"name \"\" and id":                           {"name": ""},
		"predefined host network":                    {"name": "host"},
	} {
		_, err := w.Create(t.Context(), w.json(w.network(keys{"name": "new"}).with(more)))
		w.refused(err, text)
	}
	if got := w.Names(); got != "first" || w.Snapshot().Counts().Endpoints != 1 {
		t.Errorf("sandboxes %s, %d endpoints, want only first's", got, w.Snapshot().Counts().Endpoints)
	}
	if _, err := w.Network("new"); err == nil {
		t.Error("a network that was refused exists")
	}
}

func TestDaemonAbsent(t *testing.T) {
	w := newWorld(t)
	n := w.network(keys{"options": keys{optHost: "unix:///nowhere/api.sock"}})
	watch := machine.Start()
	defer watch.Stop()
	_, err := w.Create(t.Context(), w.json(n))
	w.refused(err, "no daemon listens at /nowhere/api.sock")
	if out := Failure(err); !bytes.Contains(out, []byte("name its socket with the network's option fairlead.host")) {
		t.Errorf("failure %q, want podman's option for another socket", out)
	}
	_, err = w.Setup(t.Context(), "/proc/self/ns/net", w.attachment(n, keys{}, keys{}))
	w.refused(err, "no daemon listens at /nowhere/api.sock")
	w.refused(w.Teardown(t.Context(), w.attachment(n, keys{}, keys{})), "/nowhere/api.sock")
	if watch.Over(3 * time.Second) {
		t.Errorf("three refusals took %v, want one within a second", watch.Took())
	}
}

// cut is a daemon that completes requests, but whose first answer is lost.
type cut struct {
	attach.Daemon
	lost *bool
}

func (c cut) CreateSandbox(ctx context.Context, name string, s api.SandboxCreate) (api.SandboxCreated, error) {
	created, err := c.Daemon.CreateSandbox(ctx, name, s)
	if err == nil && !*c.lost {
		*c.lost = true
		return api.SandboxCreated{}, fmt.Errorf("%w: connection lost", client.ErrUnreachable)
	}
	return created, err
}

// A failed setup leaves nothing behind, even if the daemon had completed it.
func TestAnswerLost(t *testing.T) {
	w := newWorld(t)
	kept, lost := w.create(w.network(nil)), false
	w.Dial = func(host string) (attach.Daemon, error) {
		d, err := client.New(host)
		return cut{d, &lost}, err
	}
	request := w.attachment(kept, keys{}, keys{})
	_, err := w.Setup(t.Context(), "/proc/self/ns/net", request)
	w.refused(err, "connection lost")
	if got := w.Names(); got != "" || w.Snapshot().Counts().Endpoints != 0 {
		t.Errorf("sandboxes %s, want none", got)
	}
	w.setup("/proc/self/ns/net", request)
}

// No input of podman causes a panic, and a refused request creates nothing.
func FuzzSetup(f *testing.F) {
	f.Add([]byte(`{"container_id":"c","container_name":"c","port_mappings":[{"host_port":1,"container_port":1,"range":70000}],"network":{"name":"pods","id":"1"},"network_options":{"interface_name":"eth0"}}`))
	f.Add([]byte(`{"name":"pods","id":"1","subnets":[null,{"subnet":"::/0"}],"options":null,"ipam_options":{"driver":"host-local"}}`))
	p := Plugin{Stderr: io.Discard, Dial: func(string) (attach.Daemon, error) { return client.New("unix:///nowhere") }}
	f.Fuzz(func(t *testing.T, request []byte) {
		_, created := p.Create(t.Context(), request)
		if n, err := parseNetwork(request); err == nil {
			if _, err := n.completed(&api.Network{}); err != nil {
				t.Errorf("completed: %v", err)
			}
		}
		if a, err := parseAttachment(request); err == nil {
			_, _ = a.sandboxSpec("/nowhere")
			_, _ = a.Network.create(true)
		}
		if created == nil {
			t.Error("a network was created without a daemon")
		}
	})
}

// A network of podman's is one of the cluster, if an option says so and that exists.
func TestOverlay(t *testing.T) {
	w := newWorld(t)
	overlay := w.network(w.options(keys{optDriver: "overlay"}))
	_, err := w.Create(t.Context(), w.json(overlay))
	w.refused(err, "create it first, on any host")
	_, err = w.Create(t.Context(), w.json(w.network(w.options(keys{optDriver: "macvlan"}))))
	w.refused(err, "use bridge or overlay")
	_, err = w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "pods", Driver: model.DriverOverlay, Options: map[string]string{model.OptDNS: "true"}})
	w.must(err)
	_, err = w.Create(t.Context(), w.json(w.network(nil)))
	w.refused(err, `has driver "overlay"`)
	_, err = w.Create(t.Context(), w.json(w.network(w.options(keys{optDriver: "overlay", "mtu": "1400"}))))
	w.refused(err, `"1450"`)
	kept := w.create(overlay)
	if ipam, ok := kept["ipam_options"].(map[string]any); !ok || ipam["driver"] != "none" || len(kept["subnets"].([]any)) != 0 {
		t.Errorf("podman would allocate the addresses: %v", kept)
	}
	kept["dns_enabled"] = false // podman's own change, because of the IPAM driver
	netns := w.namespace("web")
	status := w.setup(netns, w.attachment(kept, nil, nil))
	if !strings.Contains(status, ".100/24") || !strings.Contains(status, `"dns_server_ips":["10.`) {
		t.Errorf("status: %s", status)
	}
	w.must(w.Teardown(t.Context(), w.attachment(kept, nil, nil)))
	if w.Names() != "" {
		t.Errorf("left: %s", w.Names())
	}
}
