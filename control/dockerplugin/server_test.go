// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/controller/controllertest"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/engine"
	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

var update = flag.Bool("update", false, "update the golden files")

// world is a server with a real controller.
type world struct {
	*Server
	verbtest.Parts
	t testing.TB
}

func newWorld(t testing.TB) *world {
	t.Helper()
	s, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(t.TempDir(), "state.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	// The pools of the daemon whose requests were recorded.
	pools := []ipam.DefaultPool{{Base: netip.MustParsePrefix("172.17.0.0/16"), Size: 16}, {Base: netip.MustParsePrefix("172.18.0.0/15"), Size: 16}}
	c := verbtest.Open(t, verbtest.Configs{
		State:      txn.Config{Store: s, Realizer: controllertest.Kernel{}, Host: controllertest.Host{Busy: 90}, DefaultPools: pools},
		Controller: controller.Config{Namespaces: controllertest.Kernel{}, Alive: host.ProcessAlive, RunDir: "/run/fl"},
		Engine:     engine.Config{Inner: controllertest.Kernel{}},
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &world{NewServer(Config{Controller: c.Engine, Log: slog.New(slog.DiscardHandler)}), c, t}
}

// ask sends a request, and returns the status and body of the answer.
func (w *world) ask(method, body string) (int, string) {
	r := httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(body))
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	if got := rec.Header().Get("Content-Type"); got != contentType {
		w.t.Errorf("%s: content type %q", method, got)
	}
	return rec.Code, strings.TrimSpace(rec.Body.String())
}

// must sends a request that must succeed.
func (w *world) must(method, body string) string {
	w.t.Helper()
	code, out := w.ask(method, body)
	if code != http.StatusOK {
		w.t.Fatalf("%s %s: %d %s", method, body, code, out)
	}
	return out
}

// refused sends a request that must fail, with a text that the engine shows.
func (w *world) refused(method, body, text string) {
	w.t.Helper()
	code, out := w.ask(method, body)
	var r refusal
	if err := json.Unmarshal([]byte(out), &r); err != nil || code == http.StatusOK || r.Err != r.Error || !strings.Contains(r.Err, text) {
		w.t.Errorf("%s %s: %d %s, want an error with %q", method, body, code, out, text)
	}
}

// TestReplay replays recorded requests of engines (except for the names of their test plugin),
// and compares the answers. Each request is also sent twice, since the answer to the first may
// have been lost.
func TestReplay(t *testing.T) {
	for _, engine := range []string{"engine20", "engine29"} {
		for _, twice := range []bool{false, true} {
			t.Run(fmt.Sprint(engine, "/twice=", twice), func(t *testing.T) {
				w := newWorld(t)
				golden := filepath.Join("testdata", engine+".txt")
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				got := w.replay(string(want), twice)
				if *update && !twice {
					if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("answers (-want +got):\n%s", diff)
				}
				if s := w.Snapshot(); s.Counts().Networks != 3 || s.Counts().Sandboxes+s.Counts().Endpoints+s.Counts().Publishes+s.Counts().Pools != 0 {
					t.Errorf("left behind: %+v", s)
				}
			})
		}
	}
}

// replay returns requests with their answers.
func (w *world) replay(transcript string, twice bool) string {
	var out strings.Builder
	for line := range strings.Lines(transcript) {
		if strings.HasPrefix(line, "< ") {
			continue
		}
		out.WriteString(line)
		request, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		method, body, _ := strings.Cut(strings.TrimSpace(request), " ")
		// Two requests for any address or subnet get two.
		if twice && !strings.HasPrefix(method, "IpamDriver.Request") {
			w.ask(method, body)
		}
		code, answer := w.ask(method, body)
		fmt.Fprintf(&out, "< %d %s\n", code, answer)
	}
	return out.String()
}

// hexID returns an ID that begins with these digits.
func hexID(head string) string { return head + strings.Repeat("0", 64-len(head)) }

func createNetwork(id, more string) string {
	return fmt.Sprintf(`{"NetworkID":%q,"Options":{"com.docker.network.generic":{}%s},"IPv4Data":[{"Pool":"10.77.0.0/24","Gateway":"10.77.0.1/24"}],"IPv6Data":[]}`, id, more)
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	net, ep := hexID("aa"), hexID("bb")
	w.must("NetworkDriver.CreateNetwork", createNetwork(net, ""))
	w.must("NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":"10.77.0.2/24"}}`, net, ep))
	program := func(ports string) string {
		return fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Options":{"com.docker.network.portmap":[%s]}}`, net, ep, ports)
	}
	w.refused("NetworkDriver.DeleteNetwork", fmt.Sprintf(`{"NetworkID":%q}`, net), `active endpoints (endpoint:"`+ep[:12]+`", which its engine reserved)`)
	w.refused("NetworkDriver.ProgramExternalConnectivity", program(""), "join first")
	w.must("NetworkDriver.Join", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"SandboxKey":"/run/docker/netns/12"}`, net, ep))
	before := w.Snapshot()
	for _, tt := range []struct{ method, body, text string }{
		{"NetworkDriver.Inspect", "{}", "does not serve"},
		{"NetworkDriver.AllocateNetwork", "{}", "no subnet"},
		{"NetworkDriver.AllocateNetwork", fmt.Sprintf(`{"NetworkID":%q,"IPv4Data":[{"Pool":"10.78.0.0/24"}]}`, hexID("cc")), "invalid ID"},
		{"NetworkDriver.AllocateNetwork", `{"NetworkID":"6u5lzw0ojc5jhi641ccc0use3","IPv4Data":[{"Pool":"10.78.0.0/24"}]}`, "--store"},
		{"NetworkDriver.CreateNetwork", createNetwork("6u5lzw0ojc5jhi641ccc0use3", ""), "--store"},
		{"NetworkDriver.CreateNetwork", "", "invalid request body"},
		{"NetworkDriver.CreateNetwork", "[]", "invalid request body"},
		{"NetworkDriver.CreateNetwork", "{}{}", "trailing data"},
		{"NetworkDriver.CreateNetwork", createNetwork("", ""), "no ID"},
		{"NetworkDriver.CreateNetwork", createNetwork("../../x", ""), "64 hexadecimal digits"},
		{"NetworkDriver.CreateNetwork", createNetwork(hexID("aa000000000b"), ""), "begins like another ID"},
		{"NetworkDriver.CreateNetwork", createNetwork(hexID("cc"), ""), "overlaps"},
		{"NetworkDriver.CreateNetwork", strings.Replace(createNetwork(hexID("cc"), ""), "generic\":{", "generic\":{\"foo\":\"bar\"", 1), "unknown option foo"},
		{"NetworkDriver.CreateNetwork", strings.Replace(createNetwork(hexID("cc"), ""), "10.77.0.0/24", "0.0.0.0/0", 1), "larger than /8"},
		{"NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID":%q}`, hexID("cc")), "no subnet"},
		{"NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q}`, net), "no ID"},
		{"NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q}`, hexID("dd"), hexID("ee")), "not known to Fairlead"},
		{"NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":"10.77.0.1/24"}}`, net, hexID("ee")), "already in use"},
		{"NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":"10.78.0.2/24"}}`, net, hexID("ee")), "no configured subnet contains"},
		{"NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":"10.77.0.99/24"}}`, net, ep), "exists already, with other settings"},
		{"NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"MacAddress":"x"}}`, net, hexID("ee")), "not a MAC address"},
		{"NetworkDriver.Join", fmt.Sprintf(`{"EndpointID":%q,"SandboxKey":"netns/12"}`, ep), "absolute path"},
		{"NetworkDriver.Join", fmt.Sprintf(`{"EndpointID":%q,"SandboxKey":"/x"}`, hexID("ee")), "not known to Fairlead"},
		{"NetworkDriver.EndpointOperInfo", fmt.Sprintf(`{"EndpointID":%q}`, hexID("ee")), "not known to Fairlead"},
		{"NetworkDriver.ProgramExternalConnectivity", program(`{"Proto":6,"Port":80,"HostPort":90,"HostPortEnd":90}`), "already in use"},
		{"NetworkDriver.ProgramExternalConnectivity", program(`{"Proto":6,"Port":80,"HostIP":"x"}`), "invalid host address"},
		{"NetworkDriver.ProgramExternalConnectivity", program(`{"Proto":6,"Port":0}`), "invalid port"},
		{"NetworkDriver.ProgramExternalConnectivity", program(`{"Proto":132,"Port":80}`), "sctp"},
		{"NetworkDriver.ProgramExternalConnectivity", program(`{"Proto":6,"Port":70000}`), "invalid request body"},
		{"NetworkDriver.DeleteNetwork", fmt.Sprintf(`{"NetworkID":%q}`, net), "active endpoints"},
		{"IpamDriver.RequestPool", `{"Pool":"x"}`, "invalid subnet"},
		{"IpamDriver.RequestPool", `{"Options":{"k":"v"}}`, "unknown --ipam-opt k"},
		{"IpamDriver.RequestPool", `{"SubPool":"10.1.0.0/16"}`, "must have a corresponding subnet"},
		{"IpamDriver.RequestPool", `{"Pool":"10.77.0.0/24"}`, "overlaps"},
		{"IpamDriver.RequestAddress", `{"PoolID":"x"}`, "not known to Fairlead"},
		{"IpamDriver.ReleaseAddress", `{"PoolID":"x","Address":"y"}`, "invalid address"},
	} {
		w.refused(tt.method, tt.body, tt.text)
	}
	if diff := cmp.Diff(before.Counts().Endpoints+before.Counts().Networks+before.Counts().Publishes+before.Counts().Pools,
		w.Snapshot().Counts().Endpoints+w.Snapshot().Counts().Networks+w.Snapshot().Counts().Publishes+w.Snapshot().Counts().Pools); diff != "" {
		t.Errorf("a refusal left something: %s", diff)
	}
}

// The engine asks whether a network needs gateways.
func TestGatewayCheck(t *testing.T) {
	w := newWorld(t)
	for options, want := range map[string]string{
		``: `{"SkipIPv4":false,"SkipIPv6":false}`,
		`"` + model.OptGateMode4 + `":"isolated"`: `{"SkipIPv4":true,"SkipIPv6":false}`,
		`"` + model.OptGateMode6 + `":"isolated"`: `{"SkipIPv4":false,"SkipIPv6":true}`,
	} {
		if got := w.must("NetworkDriver.GwAllocCheck", `{"Options":{"com.docker.network.generic":{`+options+`}}}`); got != want {
			t.Errorf("with options {%s}: %s, want %s", options, got, want)
		}
	}
}

// In a swarm the engine asks for more, of a driver with global scope.
func TestGlobalScope(t *testing.T) {
	w := newWorld(t)
	w.Server = NewServer(Config{Controller: w.cfg.Controller, Log: w.cfg.Log, Scope: ScopeGlobal})
	if got := w.must("NetworkDriver.GetCapabilities", ""); got != `{"Scope":"global","ConnectivityScope":"global","GwAllocChecker":true}` {
		t.Errorf("capabilities are %s", got)
	}
	for _, method := range []string{"DiscoverNew", "DiscoverDelete"} {
		w.must("NetworkDriver."+method, `{"DiscoveryType":1,"DiscoveryData":{"Address":"10.9.0.1","BindAddress":"10.9.0.1","Self":true}}`)
	}
	w.must("NetworkDriver.FreeNetwork", `{"NetworkID":"6u5lzw0ojc5jhi641ccc0use3"}`) // of an earlier leader
}

// The engine reports that another endpoint is the IPv6 gateway.
func TestPublishIPv4Only(t *testing.T) {
	w := newWorld(t)
	ids := fmt.Sprintf(`"NetworkID":%q,"EndpointID":%q`, hexID("aa"), hexID("bb"))
	w.must("NetworkDriver.CreateNetwork", createNetwork(hexID("aa"), ""))
	w.must("NetworkDriver.CreateEndpoint", `{`+ids+`,"Interface":{}}`)
	w.must("NetworkDriver.Join", `{`+ids+`,"SandboxKey":"/run/docker/netns/12"}`)
	for option, want := range map[string]netip.Addr{
		"": {}, `"com.docker.network.driver.private.no_proxy_6to4":true,`: netip.IPv4Unspecified(),
	} {
		w.must("NetworkDriver.ProgramExternalConnectivity", `{`+ids+`,"Options":{`+option+`"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":8080}]}}`)
		for p := range w.Snapshot().Publishes() {
			if p.HostIP != want {
				t.Errorf("option %q: published at %v, want %v", option, p.HostIP, want)
			}
		}
	}
}

func TestPortSpecs(t *testing.T) {
	got, err := portSpecs([]portBinding{
		{Proto: 17, Port: 9001, HostPort: 9001, HostPortEnd: 9001}, {Proto: 6, Port: 443},
		{Proto: 17, Port: 9000, HostPort: 9000, HostPortEnd: 9000}, {Proto: 6, Port: 80, HostIP: "127.0.0.1", HostPort: 8080, HostPortEnd: 8080},
		{Proto: 6, Port: 81, HostPort: 8000, HostPortEnd: 8009}, {Proto: 6, Port: 82, HostPort: 8001, HostPortEnd: 8001},
	})
	want := []model.PortSpec{
		{Proto: model.TCP, Port: 81, Count: 1, HostPort: 8000, HostCount: 10},
		{Proto: model.TCP, Port: 82, Count: 1, HostPort: 8001, HostCount: 1},
		{Proto: model.TCP, Port: 443, Count: 1},
		{Proto: model.TCP, Port: 80, Count: 1, HostPort: 8080, HostCount: 1, HostIP: netip.MustParseAddr("127.0.0.1")},
		{Proto: model.UDP, Port: 9000, Count: 1, HostPort: 9000, HostCount: 1},
		{Proto: model.UDP, Port: 9001, Count: 1, HostPort: 9001, HostCount: 1},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// Requests of many containers arrive concurrently. All are served, and nothing is left behind.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	net := hexID("aa")
	w.must("NetworkDriver.CreateNetwork", createNetwork(net, ""))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			w.life(net, hexID(fmt.Sprintf("b%02d", i)), fmt.Sprint(10+i))
		})
	}
	wg.Wait()
	w.must("NetworkDriver.DeleteNetwork", fmt.Sprintf(`{"NetworkID":%q}`, net))
}

// held is a controller whose verbs for one endpoint block until they are released, each once.
type held struct {
	Controller
	id      string
	entered chan string
	release chan struct{}
}

func (h *held) wait(id, verb string) {
	if id == h.id {
		h.entered <- verb
		<-h.release
	}
}

func (h *held) ReserveEndpoint(ctx context.Context, networkID string, spec model.EndpointSpec) (*model.Endpoint, error) {
	h.wait(spec.EngineID, "reserve")
	return h.Controller.ReserveEndpoint(ctx, networkID, spec)
}

func (h *held) JoinEndpoint(ctx context.Context, id, name, netns string) (*model.Endpoint, error) {
	h.wait(id, "join")
	return h.Controller.JoinEndpoint(ctx, id, name, netns)
}

func (h *held) PublishEndpoint(ctx context.Context, id string, ports []model.PortSpec, ipv4Only bool) error {
	h.wait(id, "publish")
	return h.Controller.PublishEndpoint(ctx, id, ports, ipv4Only)
}

func (h *held) UnpublishEndpoint(ctx context.Context, id string) error {
	h.wait(id, "unpublish")
	return h.Controller.UnpublishEndpoint(ctx, id)
}

func (h *held) ReleaseEndpoint(ctx context.Context, id string) error {
	h.wait(id, "release")
	return h.Controller.ReleaseEndpoint(ctx, id)
}

// life sends an endpoint's requests, from the first to the last.
func (w *world) life(network, endpoint, key string) {
	both := fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q`, network, endpoint)
	for _, r := range []struct{ method, more string }{
		{"CreateEndpoint", `,"Interface":{}}`},
		{"Join", fmt.Sprintf(`,"SandboxKey":"/run/docker/netns/%s"}`, key)},
		{"ProgramExternalConnectivity", `,"Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80}]}}`},
		{"EndpointOperInfo", "}"},
		{"RevokeExternalConnectivity", "}"}, {"Leave", "}"}, {"DeleteEndpoint", "}"},
	} {
		if code, out := w.ask("NetworkDriver."+r.method, both+r.more); code != http.StatusOK {
			w.t.Errorf("%s: %d %s", r.method, code, out)
		}
	}
}

// While an endpoint's request is blocked, another endpoint's requests are answered.
func TestRequestsOverlap(t *testing.T) {
	w := newWorld(t)
	slow := &held{Controller: w.cfg.Controller, id: hexID("b1"), entered: make(chan string), release: make(chan struct{})}
	w.cfg.Controller = slow
	net := hexID("aa")
	w.must("NetworkDriver.CreateNetwork", createNetwork(net, ""))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.life(net, slow.id, "slow")
	}()
	times := 0
	for {
		select {
		case verb := <-slow.entered:
			other := make(chan struct{})
			go func() {
				defer close(other)
				w.life(net, hexID(fmt.Sprint("c", times)), fmt.Sprint("other", times))
			}()
			select {
			case <-other:
			case <-time.After(10 * time.Second):
				t.Fatalf("while one endpoint waits in %s, another's requests are not answered", verb)
			}
			times++
			slow.release <- struct{}{}
		case <-ended:
			if times != 6 {
				t.Errorf("blocked %d times, want 6", times)
			}
			return
		}
	}
}

// panicking is a controller whose verbs panic.
type panicking struct{ Controller }

func TestPanicIsAnError(t *testing.T) {
	w := newWorld(t)
	w.cfg.Controller = panicking{}
	w.refused("NetworkDriver.DeleteNetwork", "{}", "internal error")
}

func TestServeEnds(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Serve(ctx, l) }()
	c := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", l.Addr().String())
	}}}
	r, err := c.Post("http://plugin/Plugin.Activate", "", nil)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%+v, %v", r, err)
	}
	r.Body.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Serve does not return")
	}
}

// FuzzBodies checks that for any body the answer is JSON, and nothing is half-made.
func FuzzBodies(f *testing.F) {
	for _, engine := range []string{"engine20", "engine29"} {
		b, err := os.ReadFile(filepath.Join("testdata", engine+".txt"))
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if request, ok := strings.CutPrefix(line, "> "); ok {
				method, body, _ := strings.Cut(strings.TrimSpace(request), " ")
				f.Add(method, body)
			}
		}
	}
	f.Add("NetworkDriver.Join", `{"EndpointID":null,"SandboxKey":"/"}`)
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, method, body string) {
		for _, c := range method {
			if c <= ' ' || c > '~' || strings.ContainsRune("%?#", c) {
				t.Skip("not a path")
			}
		}
		code, out := w.ask(method, body)
		if !json.Valid([]byte(out)) && code != http.StatusMovedPermanently && code != http.StatusTemporaryRedirect {
			t.Errorf("%s %s: %d %q", method, body, code, out)
		}
		for ep := range w.Snapshot().Endpoints() {
			if w.Snapshot().Network(ep.NetworkID) == nil || len(ep.ID) != 64 {
				t.Errorf("half-made: %+v", ep)
			}
		}
	})
}
