// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/model"
)

func TestEngineEndpoint(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.MakeNetwork(verbtest.EngineNetwork("f", "10.8.0.0/24"))
	spec := model.EndpointSpec{EngineID: verbtest.EngineID("ep"), IPv4: verbtest.Addr("10.8.0.20")}
	ep, err := w.ReserveEndpoint(ctx, verbtest.EngineID("f"), spec)
	if err != nil || ep.ID != spec.EngineID || ep.MAC.String() != "02:42:0a:08:00:14" || ep.FixedMAC || ep.IPv4 != verbtest.Prefix("10.8.0.20/24") {
		t.Fatalf("reserved %+v, %v", ep, err)
	}
	applies := w.Kernel.Applies
	again, err := w.ReserveEndpoint(ctx, verbtest.EngineID("f"), spec)
	if err != nil || again != ep || w.Kernel.Applies != applies {
		t.Errorf("reserved again: %+v, %v", again, err)
	}
	before := w.Snapshot()
	_, err = w.ReserveEndpoint(ctx, verbtest.EngineID("f"), model.EndpointSpec{EngineID: verbtest.EngineID("other"), IPv4: verbtest.Addr("10.8.0.1")})
	w.Refused(before, err, model.ErrConflict, "Address already in use")
	w.Refused(before, w.PublishEndpoint(ctx, ep.ID, nil, false), model.ErrInvalid, "join first")

	joined, err := w.JoinEndpoint(ctx, ep.ID, "docker-box", "/run/x/box")
	if err != nil {
		t.Fatal(err)
	}
	sb, err := w.Sandbox("docker-box")
	if err != nil || sb.ManagedBy != model.ByEngine || sb.OwnsNetNS() || sb.NetNS != "/run/x/box" || joined.SandboxID != sb.ID || joined.IfName != "fls"+ep.ID[:11] {
		t.Errorf("joined %+v of %+v, %v", joined, sb, err)
	}
	if again, err := w.JoinEndpoint(ctx, ep.ID, "docker-box", "/run/x/box"); err != nil || again.SandboxID != sb.ID {
		t.Errorf("joined again: %+v, %v", again, err)
	}
	w.Check()

	ports := []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1), verbtest.TCP("", 0, 0, 81, 1)}
	for range 2 {
		if err := w.PublishEndpoint(ctx, ep.ID, ports, false); err != nil {
			t.Fatal(err)
		}
	}
	sb, _ = w.Sandbox("docker-box")
	if w.Snapshot().Counts().Publishes != 2 || sb.Ports[0].HostPort != 80 || sb.Ports[1].HostPort != 32768 {
		t.Errorf("published: %+v", sb.Ports)
	}
	w.Check()
	for range 2 {
		if err := w.UnpublishEndpoint(ctx, ep.ID); err != nil {
			t.Fatal(err)
		}
	}
	if sb, _ = w.Sandbox("docker-box"); w.Snapshot().Counts().Publishes+len(sb.Ports) != 0 {
		t.Errorf("still published: %+v", sb.Ports)
	}
	for range 2 {
		if err := w.ReleaseEndpoint(ctx, ep.ID); err != nil {
			t.Fatal(err)
		}
	}
	if s := w.Snapshot(); s.Counts().Endpoints+s.Counts().Sandboxes != 0 {
		t.Errorf("left: %+v", s)
	}
	w.Check()
}

// The published ports move to the endpoint that has the default route, and are removed
// with it.
func TestEnginePortsMove(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.MakeNetwork(verbtest.EngineNetwork("f", "10.8.0.0/24"))
	w.MakeNetwork(verbtest.EngineNetwork("g", "10.9.0.0/24"))
	first := w.Reserve("first", "/run/x/1")
	second, err := w.ReserveEndpoint(ctx, verbtest.EngineID("g"), model.EndpointSpec{EngineID: verbtest.EngineID("second")})
	if err != nil {
		t.Fatal(err)
	}
	if second, err = w.JoinEndpoint(ctx, second.ID, "docker-1", "/run/x/1"); err != nil || second.SandboxID != first.SandboxID || second.Order != 1 {
		t.Fatalf("joined %+v, %v", second, err)
	}
	ports := []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}
	for _, id := range []string{first.ID, second.ID, first.ID} {
		if err := w.PublishEndpoint(ctx, id, ports, false); err != nil {
			t.Fatal(err)
		}
		for p := range w.Snapshot().Publishes() {
			if p.EndpointID != id {
				t.Errorf("served by %s, want %s", model.ShortID(p.EndpointID), model.ShortID(id))
			}
		}
		w.Check()
	}
	if err := w.UnpublishEndpoint(ctx, second.ID); err != nil || w.Snapshot().Counts().Publishes != 1 {
		t.Errorf("unpublish of an endpoint without ports: %v", err)
	}
	if err := w.ReleaseEndpoint(ctx, first.ID); err != nil || w.Snapshot().Counts().Publishes != 0 || w.Snapshot().Counts().Sandboxes != 1 {
		t.Errorf("after the removal of the first: %+v, %v", w.Snapshot(), err)
	}
	w.Check()
}

// A host port that is in use is refused, and no other port is published then.
func TestEnginePortConflict(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(verbtest.EngineNetwork("f", "10.8.0.0/24"))
	w.MakeSandbox(model.SandboxSpec{Name: "mine", Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}})
	w.Kernel.Busy["tcp 90"] = true
	ep := w.Reserve("ep", "/run/x/1")
	before := w.Snapshot()
	for port, text := range map[uint16]string{80: "port is already allocated", 90: "address already in use"} {
		err := w.PublishEndpoint(t.Context(), ep.ID, []model.PortSpec{verbtest.TCP("", 70, 1, 70, 1), verbtest.TCP("", port, 1, 80, 1)}, false)
		w.Refused(before, err, model.ErrConflict, text)
	}
}

// Only the engine may change its objects, except for those that it has orphaned.
func TestEngineManagedIsLeftToTheEngine(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	verbtest.PopulateEngine(w.World)
	w.MakeSandbox(model.SandboxSpec{Name: "mine"})
	own := w.MakeNetwork(model.NetworkSpec{Name: "own"})
	before := w.Snapshot()
	create := func(mode string) error {
		_, err := w.CreateSandbox(ctx, model.SandboxSpec{NetworkMode: mode})
		return err
	}
	connect := func(network, sandbox string) error {
		_, err := w.Connect(ctx, network, sandbox, model.EndpointSpec{})
		return err
	}
	for what, err := range map[string]error{
		"run":        create("f"),
		"join":       create("container:docker-1"),
		"connect":    connect("f", "mine"),
		"connect it": connect("own", "docker-1"),
		"disconnect": w.Disconnect(ctx, "f", "docker-1", true),
		"remove":     w.RemoveSandbox(ctx, "docker-1", false),
		"rm":         w.RemoveNetwork(ctx, "f"),
		"network":    w.RemoveEngineNetwork(ctx, own.ID),
	} {
		t.Log(what)
		text := "managed by a container engine"
		if what == "network" {
			text = "managed by Fairlead"
		}
		w.Refused(before, err, model.ErrForbidden, text)
	}
	if names, err := w.PruneNetworks(ctx, nil); err != nil || len(names) != 1 || names[0] != "own" {
		t.Errorf("pruned %v, %v", names, err)
	}
	if err := w.RemoveSandbox(ctx, "docker-1", true); err != nil {
		t.Error(err)
	}
	w.Check()
}

// Endpoints that an engine did not complete are removed after StartGrace. Those in use stay.
func TestForgottenEndpointsGo(t *testing.T) {
	w := newWorld(t)
	verbtest.PopulateEngine(w.World)
	w.Kernel.Inner[verbtest.EngineID("serves")] = model.InnerOnHost
	reap := func() {
		if err := w.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Check()
	}
	if reap(); w.Snapshot().Counts().Endpoints != 3 {
		t.Error("endpoints were removed before StartGrace")
	}
	w.Time = w.Time.Add(2 * time.Minute)
	reap()
	if s := w.Snapshot(); s.Counts().Endpoints != 1 || s.Endpoint(verbtest.EngineID("joined")) == nil || s.Counts().Sandboxes != 1 || s.Counts().Publishes != 0 {
		t.Errorf("left: %+v", s)
	}
	w.Restart()
	w.Kernel.Inner[verbtest.EngineID("joined")] = model.InnerDeleted
	if reap(); w.Snapshot().Counts().Endpoints != 0 {
		t.Error("an endpoint without its namespace remains")
	}
}

// The addresses and ports of a killed engine do not block its next requests.
func TestForgottenEndpointYields(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.MakeNetwork(verbtest.EngineNetwork("f", "10.8.0.0/24"))
	ports := []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}
	old, other := w.Reserve("old", "/run/x/1"), w.Reserve("other", "/run/x/2")
	if err := w.PublishEndpoint(ctx, old.ID, ports, false); err != nil {
		t.Fatal(err)
	}
	again := model.EndpointSpec{EngineID: verbtest.EngineID("again"), IPv4: other.IPv4.Addr()}
	now, err := w.ReserveEndpoint(ctx, verbtest.EngineID("f"), again)
	if err != nil || now.MAC != other.MAC {
		t.Fatalf("the address's next owner is %+v, %v", now, err)
	}
	if left := w.Snapshot().Endpoint(other.ID); left == nil || left.IPv4.IsValid() || left.MAC == now.MAC {
		t.Fatalf("an endpoint in a live namespace was removed, or kept its address: %+v", left)
	}
	w.Check()
	if _, err := w.JoinEndpoint(ctx, again.EngineID, "docker-3", "/run/x/3"); err != nil {
		t.Fatal(err)
	}
	before := w.Snapshot()
	w.Refused(before, w.PublishEndpoint(ctx, again.EngineID, ports, false), model.ErrConflict, "already allocated")
	w.Kernel.Inner[old.ID] = model.InnerDeleted
	if err := w.PublishEndpoint(ctx, again.EngineID, ports, false); err != nil {
		t.Error(err)
	}
	w.Check()
}

// An engine takes back the IPv6 address of an interface that has no IPv6, and gives it to
// the next endpoint. The first one loses only that address, and serves its ports by the other.
// An endpoint without a namespace is removed.
func TestAddressGivenAnew(t *testing.T) {
	dual := verbtest.EngineNetwork("f", "10.8.0.0/24")
	dual.Subnets = append(dual.Subnets, model.SubnetSpec{Prefix: verbtest.Prefix("fd00:8::/64"), Gateway: verbtest.Addr("fd00:8::1")})
	reserve := func(w *world, name, v4, v6 string) *model.Endpoint {
		spec := model.EndpointSpec{EngineID: verbtest.EngineID(name), IPv4: verbtest.Addr(v4)}
		if v6 != "" {
			spec.IPv6 = verbtest.Addr(v6)
		}
		ep, err := w.ReserveEndpoint(t.Context(), verbtest.EngineID("f"), spec)
		if err != nil {
			t.Fatal(err)
		}
		return ep
	}
	for _, tt := range []struct {
		name     string
		inner    model.InnerEnd
		v4, v6   string // of the next endpoint
		left     string // addresses of the first; "": it is removed
		hostPort []uint16
	}{
		{"IPv6", model.InnerTaken, "10.8.0.3", "fd00:8::2", "10.8.0.2/24 -", []uint16{80, 81, 82}},
		{"IPv4", model.InnerTaken, "10.8.0.2", "fd00:8::3", "- fd00:8::2/64", nil},
		{"both", model.InnerTaken, "10.8.0.2", "fd00:8::2", "- -", nil},
		{"namespace gone", model.InnerDeleted, "10.8.0.3", "fd00:8::2", "", nil},
		{"given back", model.InnerOnHost, "10.8.0.3", "fd00:8::2", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.MakeNetwork(dual)
			first := reserve(w, "first", "10.8.0.2", "fd00:8::2")
			if _, err := w.JoinEndpoint(t.Context(), first.ID, "docker-1", "/run/x/1"); err != nil {
				t.Fatal(err)
			}
			ports := []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1), verbtest.TCP("0.0.0.0", 81, 1, 80, 1), verbtest.TCP("::", 82, 1, 80, 1)}
			if err := w.PublishEndpoint(t.Context(), first.ID, ports, false); err != nil {
				t.Fatal(err)
			}
			w.Kernel.Inner[first.ID] = tt.inner
			applies := w.Kernel.Applies
			next := reserve(w, "next", tt.v4, tt.v6)
			if w.Kernel.Applies == applies {
				t.Error("the change is not applied to the kernel")
			}
			w.Check()
			text := func(p netip.Prefix) string {
				if p.IsValid() {
					return p.String()
				}
				return "-"
			}
			left := ""
			if ep := w.Snapshot().Endpoint(first.ID); ep != nil {
				left = text(ep.IPv4) + " " + text(ep.IPv6)
				if keeps := tt.v4 != "10.8.0.2" || ep.IPv6.IsValid(); keeps != (ep.MAC == first.MAC) {
					t.Errorf("MAC is %v, was %v", ep.MAC, first.MAC)
				}
			}
			if left != tt.left {
				t.Errorf("the first has %q, want %q", left, tt.left)
			}
			var served []uint16
			for p := range w.Snapshot().Publishes() {
				served = append(served, p.HostPort)
			}
			slices.Sort(served)
			if !slices.Equal(served, tt.hostPort) {
				t.Errorf("served: %v, want %v", served, tt.hostPort)
			}
			w.Restart()
			if tt.hostPort == nil { // the next endpoint can publish the ports that the first lost
				ports[2].HostPort--
			} else {
				ports[2].HostPort++
			}
			if _, err := w.JoinEndpoint(t.Context(), next.ID, "docker-2", "/run/x/2"); err != nil {
				t.Fatal(err)
			}
			if err := w.PublishEndpoint(t.Context(), next.ID, ports[2:], false); err != nil {
				t.Error(err)
			}
			w.Check()
			for _, id := range []string{first.ID, next.ID} {
				if err := w.ReleaseEndpoint(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			if s := w.Snapshot(); s.Counts().Endpoints+s.Counts().Sandboxes+s.Counts().Publishes != 0 {
				t.Errorf("left: %+v", s)
			}
			w.Check()
		})
	}
}

// The families of an engine's network are those of its subnets, whatever its options say: the
// engine has already applied the options.
func TestEngineFamilies(t *testing.T) {
	w := newWorld(t)
	for i, tt := range []struct{ subnets []string }{
		{[]string{"10.7.0.0/24"}}, {[]string{"fd00:7::/64"}}, {[]string{"10.7.1.0/24", "fd00:7:1::/64"}},
	} {
		for _, value := range []string{"true", "false"} {
			name := fmt.Sprint("f", i, value)
			spec := model.NetworkSpec{Name: name, EngineID: verbtest.EngineID(name), Options: map[string]string{model.OptIPv4: value, model.OptIPv6: value}}
			for _, s := range tt.subnets {
				spec.Subnets = append(spec.Subnets, model.SubnetSpec{Prefix: verbtest.Prefix(s), Gateway: verbtest.Prefix(s).Addr().Next()})
			}
			n := w.MakeNetwork(spec)
			has4, has6 := spec.Subnets[0].Prefix.Addr().Is4(), spec.Subnets[len(spec.Subnets)-1].Prefix.Addr().Is6()
			if n.EnableIPv4 != has4 || n.EnableIPv6 != has6 || len(n.Subnets) != len(tt.subnets) {
				t.Errorf("%v with options %s: %+v", tt.subnets, value, n)
			}
			w.Check()
			if err := w.RemoveEngineNetwork(t.Context(), n.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	// No address is chosen if the engine requests none, as in a network without IPv4 for a
	// container without IPv6.
	spec := model.NetworkSpec{Name: "six", EngineID: verbtest.EngineID("f"), Subnets: []model.SubnetSpec{{Prefix: verbtest.Prefix("fd00:8::/64"), Gateway: verbtest.Addr("fd00:8::1")}}}
	w.MakeNetwork(spec)
	ep := w.Reserve("bare", "/run/x/1")
	if ep.IPv4.IsValid() || ep.IPv6.IsValid() {
		t.Errorf("reserved %+v", ep)
	}
	w.Check()
}

// An engine gets only the addresses that it requests: the container may have no IPv6.
func TestEngineAddressesAreTheEngines(t *testing.T) {
	w := newWorld(t)
	dual := verbtest.EngineNetwork("f", "10.8.0.0/24")
	dual.Subnets = append(dual.Subnets, model.SubnetSpec{Prefix: verbtest.Prefix("fd00:8::/64"), Gateway: verbtest.Addr("fd00:8::1")})
	w.MakeNetwork(dual)
	for name, spec := range map[string]model.EndpointSpec{
		"IPv4 only": {IPv4: verbtest.Addr("10.8.0.2")}, "IPv6 only": {IPv6: verbtest.Addr("fd00:8::2")},
	} {
		spec.EngineID = verbtest.EngineID(name)
		ep, err := w.ReserveEndpoint(t.Context(), verbtest.EngineID("f"), spec)
		if err != nil || ep.IPv4.Addr() != spec.IPv4 || ep.IPv6.Addr() != spec.IPv6 {
			t.Errorf("%s: reserved %+v, %v", name, ep, err)
		}
	}
	w.Check()
}

func TestEnginePools(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	request := func(f model.Family, p, within string) (*model.AddressPool, error) {
		var a netip.Prefix
		if p != "" {
			a = verbtest.Prefix(p)
		}
		b, err := model.ParseAddrRange(within)
		if err != nil {
			t.Fatal(err)
		}
		return w.RequestPool(ctx, "", f, a, b)
	}
	chosen, err := request(model.V4, "", "")
	if err != nil {
		t.Fatal(err)
	}
	p6, err := request(model.V6, "", "")
	if err != nil || !p6.Prefix.Addr().Is6() {
		t.Fatalf("IPv6 pool %+v, %v", p6, err)
	}
	if w.Restart(); w.Snapshot().Counts().Pools != 0 {
		t.Error("pools whose engine did not receive the response remain")
	}
	p, err := request(model.V4, "10.6.0.0/24", "10.6.0.128/25")
	if err != nil {
		t.Fatal(err)
	}
	take := func(want string, gateway bool) (string, error) {
		var a netip.Addr
		if want != "" {
			a = verbtest.Addr(want)
		}
		got, err := w.RequestAddress(ctx, p.ID, a, gateway)
		return got.String(), err
	}
	for _, tt := range []struct {
		want    string
		gateway bool
		got     string
	}{{"", true, "10.6.0.1/24"}, {"", false, "10.6.0.128/24"}, {"10.6.0.9", false, "10.6.0.9/24"}, {"", false, "10.6.0.129/24"}} {
		if got, err := take(tt.want, tt.gateway); err != nil || got != tt.got {
			t.Errorf("address %q, gateway %v: got %s, %v; want %s", tt.want, tt.gateway, got, err, tt.got)
		}
	}
	before := w.Snapshot()
	_, err = take("10.6.0.9", false)
	w.Refused(before, err, model.ErrConflict, "already in use")
	_, err = request(model.V4, "10.6.0.0/16", "")
	w.Refused(before, err, model.ErrConflict, "overlaps")
	_, err = w.CreateNetwork(ctx, model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{verbtest.Subnet("10.6.0.0/24")}})
	w.Refused(before, err, model.ErrConflict, "overlaps")
	_, err = w.RequestAddress(ctx, "10.1.0.0/24", netip.Addr{}, false)
	w.Refused(before, err, model.ErrNotFound, "not known to Fairlead")
	// A network of the engine itself may use exactly this pool.
	w.MakeNetwork(verbtest.EngineNetwork("f", "10.6.0.0/24"))
	w.Restart()
	for range 2 {
		if err := w.ReleaseAddress(ctx, p.ID, verbtest.Addr("10.6.0.129")); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := take("", false); err != nil || got != "10.6.0.130/24" {
		t.Errorf("an address is reused immediately: %s, %v", got, err)
	}
	for _, id := range []string{p.ID, p.ID, chosen.ID, p6.ID} {
		if err := w.ReleasePool(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if w.Snapshot().Counts().Pools != 0 {
		t.Errorf("pools left: %v", slices.Collect(w.Snapshot().Pools()))
	}
	w.Check()
}
