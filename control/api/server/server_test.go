// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/apitest"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/api/server"
	"github.com/fairlead-net/fairlead/control/model"
)

// serve runs a server for the backend on its own socket, and returns a client.
func serve(t *testing.T, b server.Backend) *client.Client {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Config{
		Backend: b, Log: slog.New(slog.DiscardHandler), RunDir: dir, Version: api.Version{Version: "v1"},
		Alive: func(pid int, start uint64) bool { return pid == 42 && start == 7 },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := client.New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// raw sends a request unchanged.
func raw(t *testing.T, c *client.Client, method, path, body string) (int, string) {
	t.Helper()
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", c.Socket())
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://fairlead"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestRefusals(t *testing.T) {
	c := serve(t, apitest.New())
	for _, tc := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"unknown-path", "GET", "/nothing", "", 404, "no such operation: GET /nothing"},
		{"unknown-method", "PUT", "/networks", "", 404, "no such operation: PUT /networks"},
		{"unknown-field", "POST", "/networks/create", `{"Name":"a","Colour":"red"}`, 400, `unknown field "Colour" in the request`},
		{"unknown-nested-field", "POST", "/sandboxes/create", `{"HostConfig":{"Privileged":true}}`, 400, `unknown field "Privileged" in the request`},
		{"wrong-type", "POST", "/networks/create", `{"Name":1}`, 400, `field "Name" of the request must be a string, not number`},
		{"no-object", "POST", "/networks/create", `[]`, 400, `the request body must be an object, not array`},
		{"no-inner-object", "POST", "/sandboxes/create", `{"HostConfig":true}`, 400, `field "HostConfig" of the request must be an object, not bool`},
		{"no-binding", "POST", "/sandboxes/x/publish", `{"PortBindings":{"80/tcp":["8080"]}}`, 400, `must be an object, not string`},
		{"no-array", "POST", "/sandboxes/create", `{"HostConfig":{"Dns":"x"}}`, 400, `must be an array, not string`},
		{"no-whole-number", "POST", "/sandboxes/x/started", `{"Pid":1.5}`, 400, `field "Pid" of the request must be a whole number, not number 1.5`},
		{"negative", "POST", "/sandboxes/x/started", `{"Pid":1,"PidStart":-1}`, 400, `must be a whole number from 0 on, not number -1`},
		{"no-body", "POST", "/networks/create", "", 400, "the request body is empty; send a JSON object"},
		{"half-body", "POST", "/networks/create", `{"Name":`, 400, "not valid JSON"},
		{"two-objects", "POST", "/networks/create", `{"Name":"a"}{"Name":"b"}`, 400, "has data after its JSON object"},
		{"garbage-after", "POST", "/networks/create", `{"Name":"a"} x`, 400, "not valid JSON"},
		{"too-large", "POST", "/networks/create", `{"Name":"` + strings.Repeat("a", api.MaxBody) + `"}`, 400, "larger than 1048576 bytes"},
		{"ingress", "POST", "/networks/create", `{"Name":"a","Ingress":true}`, 501, "not available"},
		{"no-ipv4", "POST", "/networks/create", `{"Name":"a","EnableIPv4":0}`, 400, `field "EnableIPv4" of the request must be true or false, not number`},
		{"config-only-attachable", "POST", "/networks/create", `{"Name":"a","Attachable":true,"ConfigOnly":true}`, 403, "neither attachable"},
		{"ipam-driver", "POST", "/networks/create", `{"Name":"a","IPAM":{"Driver":"magic"}}`, 400, `unknown IPAM driver "magic" (want default, null or dhcp)`},
		{"ipam-option", "POST", "/networks/create", `{"Name":"a","IPAM":{"Options":{"k":"v"}}}`, 400, `unknown IPAM option "k"`},
		{"host-bits", "POST", "/networks/create", `{"Name":"a","IPAM":{"Config":[{"Subnet":"10.0.0.5/24"}]}}`, 400, "invalid subnet 10.0.0.5/24: it should be 10.0.0.0/24"},
		{"bad-gateway", "POST", "/networks/create", `{"Name":"a","IPAM":{"Config":[{"Subnet":"10.0.0.0/24","Gateway":"x"}]}}`, 400, `invalid gateway "x"`},
		{"bad-mac", "POST", "/networks/bridge/connect", `{"Container":"x","EndpointConfig":{"MacAddress":"01:00:00:00:00:00"}}`, 400, "multicast"},
		{"v6-as-v4", "POST", "/networks/bridge/connect", `{"Container":"x","EndpointConfig":{"IPAMConfig":{"IPv4Address":"::1"}}}`, 400, "that is IPv6"},
		{"no-sandbox", "POST", "/networks/bridge/connect", `{"Container":"nobody"}`, 404, "no such sandbox: nobody (see: fairlead ps)"},
		{"no-network", "GET", "/networks/nothing", "", 404, "network nothing not found (see: fairlead network ls)"},
		{"bad-port", "POST", "/sandboxes/create", `{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"x"}]}}}`, 400, `published port "80/tcp": host port: "x" is not a port number`},
		{"two-networks", "POST", "/sandboxes/create", `{"NetworkingConfig":{"EndpointsConfig":{"a":{},"b":{}}}}`, 400, "one entry only"},
		{"no-pid", "POST", "/sandboxes/x/started", `{"Pid":0}`, 400, "Pid must be a process ID"},
		{"bad-gateway-address", "POST", "/sandboxes/x/check?gateway=y", "", 400, `gateway "y" is not an IP address`},
		{"bad-force", "DELETE", "/sandboxes/x?force=maybe", "", 400, "force must be true or false"},
		{"bad-filter", "GET", `/networks?filters={"color":["red"]}`, "", 400, `unknown filter "color"`},
		{"bad-filter-value", "GET", `/networks?filters={"type":["odd"]}`, "", 400, "one of builtin, custom"},
		{"bad-dangling", "GET", `/networks?filters={"dangling":["x"]}`, "", 400, "must be true or false"},
		{"bad-until", "POST", `/networks/prune?filters={"until":["x"]}`, "", 400, "must be a duration"},
		{"bad-flow-port", "GET", "/conntrack?port=x", "", 400, `"x" is not a port number`},
		{"bad-flow-query", "GET", "/conntrack?colour=red", "", 400, `unknown query parameter "colour"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, body := raw(t, c, tc.method, strings.ReplaceAll(tc.path, `"`, "%22"), tc.body)
			var answer struct {
				Message string `json:"message"`
			}
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				t.Fatalf("%q: %v", body, err)
			}
			if code != tc.code || !strings.Contains(answer.Message, tc.want) {
				t.Errorf("got %d %q, want %d %q", code, answer.Message, tc.code, tc.want)
			}
		})
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	for kind, code := range map[error]int{
		model.ErrNotFound: 404, model.ErrConflict: 409, model.ErrInvalid: 400, model.ErrForbidden: 403,
		model.ErrExhausted: 409, model.ErrVanished: 410, model.ErrNotSupported: 501,
	} {
		f := apitest.New()
		f.Err = fmt.Errorf("wrapped: %w", &model.Refusal{Kind: kind, Text: "no, because"})
		_, err := serve(t, f).CreateNetwork(t.Context(), api.NetworkCreate{Name: "a"})
		var answer *api.Error
		if !errors.As(err, &answer) || answer.StatusCode != code || err.Error() != "wrapped: no, because" {
			t.Errorf("%v: got %#v, want status %d", kind, err, code)
		}
		if kind != model.ErrExhausted && !errors.Is(err, kind) {
			t.Errorf("%v: %v does not have this kind", kind, err)
		}
	}
	f := apitest.New()
	f.Err = errors.Join(errors.New("disk on fire"), errors.New("no water"))
	if _, err := serve(t, f).Status(t.Context()); err == nil || err.Error() != "disk on fire; no water" {
		t.Errorf("internal error: got %v", err)
	}
}

func TestNetworkLife(t *testing.T) {
	f := apitest.New()
	c := serve(t, f)
	yes := true
	created, err := c.CreateNetwork(t.Context(), api.NetworkCreate{
		Name: "a/b@#$ c", Driver: "bridge", EnableIPv6: &yes, Internal: true, Labels: map[string]string{"l": "1"},
		Options: map[string]string{"com.docker.network.driver.mtu": "1400"},
		IPAM: &api.IPAM{Config: []api.IPAMConfig{
			{Subnet: "10.5.0.0/16", IPRange: "10.5.1.0/24", Gateway: "10.5.0.9", AuxiliaryAddresses: map[string]string{"r": "10.5.0.8"}},
			{Subnet: "fd00:5::/64"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := model.NetworkSpec{Name: "a/b@#$ c", Driver: "bridge", EnableIPv6: true, Internal: true,
		Labels: map[string]string{"l": "1"}, Options: map[string]string{"com.docker.network.driver.mtu": "1400"},
		Subnets: []model.SubnetSpec{
			{Prefix: netip.MustParsePrefix("10.5.0.0/16"), IPRange: model.RangeOf(netip.MustParsePrefix("10.5.1.0/24")), Gateway: netip.MustParseAddr("10.5.0.9"),
				Aux: map[string]netip.Addr{"r": netip.MustParseAddr("10.5.0.8")}},
			{Prefix: netip.MustParsePrefix("fd00:5::/64")},
		}}
	if diff := cmp.Diff([]model.NetworkSpec{want}, f.Networks, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("spec (-want +got)\n%s", diff)
	}
	sb := f.Add(model.Sandbox{Name: "web"})
	connect := api.NetworkConnect{Container: "web", EndpointConfig: &api.EndpointConfig{Aliases: []string{"www"}, MacAddress: "02:00:00:00:00:01",
		IPAMConfig: &api.EndpointIPAM{IPv4Address: "10.5.0.7"}, Bandwidth: &api.Bandwidth{IngressRate: 1, IngressBurst: 2, EgressRate: 3, EgressBurst: 4}}}
	if warnings, err := c.Connect(t.Context(), "a/b@#$ c", connect); err != nil || len(warnings) != 0 {
		t.Fatal(warnings, err)
	}
	limits := model.Bandwidth{Ingress: model.Limit{Rate: 1, Burst: 2}, Egress: model.Limit{Rate: 3, Burst: 4}}
	if got := f.Connects[0]; got.Bandwidth != limits || got.IPv4 != netip.MustParseAddr("10.5.0.7") || got.MAC != (model.MAC{2, 0, 0, 0, 0, 1}) || got.Aliases[0] != "www" {
		t.Errorf("endpoint spec: %+v", got)
	}
	n, err := c.Network(t.Context(), "a/b@#$ c")
	if err != nil {
		t.Fatal(err)
	}
	if n.ID != created.ID || n.Containers[sb.ID].Name != "web" || n.Containers[sb.ID].IPv4Address != "10.5.0.5/16" {
		t.Errorf("inspect: %+v", n)
	}
	if warnings, err := c.Connect(t.Context(), "a/b@#$ c", api.NetworkConnect{Container: "web", EndpointConfig: &api.EndpointConfig{Aliases: []string{"unserved"}}}); err != nil || len(warnings) != 1 {
		t.Errorf("warnings %q, %v; want that of the backend", warnings, err)
	}
	if err := c.Disconnect(t.Context(), n.Name, api.NetworkDisconnect{Container: "web", Force: true}); err != nil {
		t.Error(err)
	}
	if err := c.RemoveNetwork(t.Context(), n.Name); err != nil {
		t.Error(err)
	}
	if _, err := c.Network(t.Context(), n.Name); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
}

func TestFilters(t *testing.T) {
	f := apitest.New()
	c := serve(t, f)
	for _, n := range []api.NetworkCreate{{Name: "red", Labels: map[string]string{"env": "prod"}}, {Name: "blue", Labels: map[string]string{"env": "test", "x": ""}}} {
		if _, err := c.CreateNetwork(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	f.Add(model.Sandbox{Name: "one"}, "red")
	red, err := c.Network(t.Context(), "red")
	if err != nil {
		t.Fatal(err)
	}
	id := red.ID
	for _, tc := range []struct {
		filters api.Filters
		want    []string
	}{
		{nil, []string{"blue", "bridge", "host", "none", "red"}},
		{api.Filters{"type": {"custom"}}, []string{"blue", "red"}},
		{api.Filters{"type": {"builtin"}, "driver": {"null", "host"}}, []string{"host", "none"}},
		{api.Filters{"dangling": {"true"}}, []string{"blue"}},
		{api.Filters{"dangling": {"false"}}, []string{"bridge", "host", "none", "red"}},
		{api.Filters{"label": {"env"}}, []string{"blue", "red"}},
		{api.Filters{"label": {"env=test", "x"}}, []string{"blue"}},
		{api.Filters{"name": {"^b", "red"}}, []string{"blue", "bridge", "red"}},
		{api.Filters{"scope": {"swarm"}}, nil},
		{api.Filters{"scope": {"global", "local"}, "driver": {"null"}}, []string{"none"}},
		{api.Filters{"driver": {"bridge"}, "label": {"env"}, "name": {"e"}}, []string{"blue", "red"}},
		{api.Filters{"driver": {"bridge"}, "dangling": {"true"}, "name": {"red"}}, nil},
		{api.Filters{"driver": {"bri"}}, nil}, // a whole name, unlike name and id
		{api.Filters{"id": {id[2:20]}}, []string{"red"}},
		{api.Filters{"id": {"^" + id[:12], "^no"}, "type": {"custom"}}, []string{"red"}},
	} {
		list, err := c.Networks(t.Context(), tc.filters)
		var got []string
		for _, n := range list {
			got = append(got, n.Name)
		}
		if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("%v: %v (-want +got)\n%s", tc.filters, err, diff)
		}
	}
	if code, body := raw(t, c, "GET", "/networks?filters=%7B%22name%22:%7B%22blue%22:true%7D%7D", ""); code != 200 || !strings.Contains(body, `"blue"`) || strings.Contains(body, `"red"`) {
		t.Errorf("old form of filters: %d %s", code, body)
	}
	pruned, err := c.PruneNetworks(t.Context(), api.Filters{"label!": {"env=prod"}, "until": {"1h"}})
	if diff := cmp.Diff([]string{"blue"}, pruned); err != nil || diff != "" {
		t.Errorf("prune: %v %s", err, diff)
	}
	if pruned, err = c.PruneNetworks(t.Context(), api.Filters{"until": {"2020-01-01"}}); err != nil || len(pruned) != 0 {
		t.Errorf("prune of newer networks: %v %v", pruned, err)
	}
	if pruned, err = c.PruneNetworks(t.Context(), api.Filters{"label!": {"env=prod", "x"}}); err != nil || len(pruned) != 1 {
		t.Errorf("prune of a network with one of the labels that spare it together: %v %v", pruned, err)
	}
}

func TestSandboxLife(t *testing.T) {
	f := apitest.New()
	c := serve(t, f)
	publish, err := api.ParsePublish("9000-9002:80-82/udp")
	if err != nil {
		t.Fatal(err)
	}
	spec := model.SandboxSpec{NetworkMode: "bridge", Command: []string{"sleep", "1"}, AutoRemove: true, PublishAll: true, Hostname: "h",
		Expose: []model.PortProto{{Port: 80, Count: 1, Proto: model.TCP}}, Ports: []model.PortSpec{publish},
		Endpoint: model.EndpointSpec{IPv4: netip.MustParseAddr("172.17.0.9"), Aliases: []string{"w"}}}
	sb, err := c.CreateSandbox(t.Context(), "web", api.NewSandboxCreate(spec))
	if err != nil {
		t.Fatal(err)
	}
	spec.Name, spec.Endpoint.Network = "web", "bridge"
	if diff := cmp.Diff(spec, f.Specs[0], cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("spec (-want +got)\n%s", diff)
	}
	if p := sb.NetworkSettings.Ports["81/udp"]; len(p) != 2 || !reflect.DeepEqual(p[0], api.PortBinding{HostIP: "0.0.0.0", HostPort: "9001"}) || p[1].HostIP != "::" {
		t.Errorf("ports: %+v", sb.NetworkSettings.Ports)
	}
	status := func() string {
		sb, err := c.Sandbox(t.Context(), "web")
		if err != nil {
			return err.Error()
		}
		return sb.State.Status
	}
	if got := status(); got != api.StatusCreated {
		t.Errorf("status %q, want created", got)
	}
	want := api.Expected{EndpointID: "ep", Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
	for _, want := range []api.Expected{want, {}} {
		if err := c.CheckSandbox(t.Context(), "web", want); err != nil || f.Events[len(f.Events)-1] != fmt.Sprintf("check %s %v", sb.ID, want) {
			t.Errorf("check: %v, %v", err, f.Events)
		}
	}
	if err := c.SandboxStarted(t.Context(), "web", api.SandboxStarted{Pid: 42, PidStart: 7}); err != nil || status() != api.StatusRunning {
		t.Errorf("started: %v, %s", err, status())
	}
	if err := c.SandboxStarted(t.Context(), "web", api.SandboxStarted{Pid: 43, PidStart: 7}); err != nil || status() != api.StatusExited {
		t.Errorf("started and not alive: %v, %s", err, status())
	}
	if err := c.SandboxExited(t.Context(), "web", api.SandboxExited{ExitCode: 3}); err != nil || status() != api.StatusExited {
		t.Errorf("exited: %v, %s", err, status())
	}
	if err := os.MkdirAll(filepath.Dir(sb.LogPath), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sb.LogPath, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	logs := server.NewLogs(filepath.Dir(filepath.Dir(sb.LogPath)), slog.New(slog.DiscardHandler))
	logs.Update(f.Snapshot())
	if err := c.RemoveSandbox(t.Context(), "web", false); err != nil {
		t.Error(err)
	}
	logs.Update(f.Snapshot())
	if _, err := os.Stat(sb.LogPath); !os.IsNotExist(err) {
		t.Errorf("log of a removed sandbox: %v", err)
	}
	if got := status(); got != "no such sandbox: web (see: fairlead ps)" {
		t.Errorf("after removal: %q", got)
	}
}

// impatient is a backend whose client disconnects before a verb is done.
type impatient struct {
	*apitest.Fake
	entered chan struct{}
	removed chan string
}

func (b impatient) RemoveSandbox(ctx context.Context, ref string, force bool) error {
	err := b.Fake.RemoveSandbox(ctx, ref, force)
	b.removed <- ref
	return err
}

func (b impatient) CreateSandbox(ctx context.Context, spec model.SandboxSpec) (*model.Sandbox, error) {
	close(b.entered)
	<-ctx.Done()
	return b.Fake.CreateSandbox(ctx, spec)
}

func TestSandboxOfAClientThatLeftIsRemoved(t *testing.T) {
	b := impatient{apitest.New(), make(chan struct{}), make(chan string, 1)}
	c := serve(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-b.entered; cancel() }()
	if _, err := c.CreateSandbox(ctx, "web", api.SandboxCreate{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case <-b.removed:
	case <-time.After(5 * time.Second):
		t.Error("the sandbox was not removed")
	}
	if n := b.Snapshot().Counts().Sandboxes; n != 0 {
		t.Errorf("%d sandboxes remain", n)
	}
}

func TestFlows(t *testing.T) {
	f := apitest.New()
	f.FlowList = []api.Flow{{Protocol: "tcp", State: "established"}}
	c := serve(t, f)
	filter := api.FlowFilter{Protocol: "tcp", State: "established", Address: "fd00::1", Port: 80, Network: "bridge", Limit: 5}
	flows, err := c.Flows(t.Context(), filter)
	if err != nil || len(flows) != 1 || f.Filter != filter {
		t.Errorf("got %v, %v, filter %+v", flows, err, f.Filter)
	}
	if n, err := c.FlushFlows(t.Context(), api.FlowFilter{}); err != nil || n != 1 || f.Filter != (api.FlowFilter{}) {
		t.Errorf("flush: %d, %v", n, err)
	}
}
