// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/model"
)

func mac(s string) model.MAC {
	m, err := model.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func TestCreateSandbox(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "n", EnableIPv6: true, Subnets: []model.SubnetSpec{verbtest.Subnet("10.0.0.0/24"), verbtest.Subnet("2001:db8::/64")}})
	spec := model.SandboxSpec{Name: "web", NetworkMode: "n", Endpoint: model.EndpointSpec{
		IPv4: verbtest.Addr("10.0.0.77"), IPv6: verbtest.Addr("2001:db8::77"), MAC: mac("02:00:00:00:00:77"), Aliases: []string{"www"}}}
	sb := w.MakeSandbox(spec)
	spec.Endpoint.Aliases[0] = "changed by the caller"
	ep := w.EndpointIn("n", "web")
	if ep.IPv4.String() != "10.0.0.77/24" || ep.IPv6.String() != "2001:db8::77/64" || ep.MAC.String() != "02:00:00:00:00:77" ||
		!ep.FixedIPv4 || !ep.FixedIPv6 || !ep.FixedMAC || !ep.DefaultRoute4 || !ep.DefaultRoute6 || ep.IfName != "eth0" || ep.Aliases[0] != "www" {
		t.Errorf("endpoint = %+v", ep)
	}
	if !sb.OwnsNetNS() || sb.NetNS != "/run/fl/netns/"+sb.ID[:12] || sb.NetworkMode != "n" {
		t.Errorf("sandbox = %+v", sb)
	}
	for mode, want := range map[string]string{"": "bridge", "default": "bridge", "bridge": "bridge", "none": "none", "host": "host"} {
		sb := w.MakeSandbox(model.SandboxSpec{NetworkMode: mode})
		if !model.ValidName(sb.Name) || sb.NetworkMode != want || (sb.NetNS == "") != (want == "host") {
			t.Errorf("sandbox with network %q = %+v", mode, sb)
		}
	}
	own := w.MakeSandbox(model.SandboxSpec{Name: "own", NetNS: "/var/run/netns/x"})
	if own.ManagedBy != model.ByUser || own.OwnsNetNS() || own.NetNS != "/var/run/netns/x" {
		t.Errorf("sandbox with a namespace = %+v", own)
	}
	join := w.MakeSandbox(model.SandboxSpec{Name: "join", NetworkMode: "container:web"})
	again := w.MakeSandbox(model.SandboxSpec{Name: "again", NetworkMode: "container:join"})
	for _, sb := range []*model.Sandbox{join, again} {
		if sb.OwnsNetNS() || sb.NetNS != w.Snapshot().Sandbox(strings.TrimPrefix(sb.NetworkMode, "container:")).NetNS || w.EndpointIn("n", sb.Name) != nil {
			t.Errorf("joined sandbox = %+v", sb)
		}
	}
	w.Check()
}

func TestCreateSandboxRefuses(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{verbtest.Subnet("10.0.0.0/29")}})
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "n", NetNS: "/ns", Endpoint: model.EndpointSpec{MAC: mac("02:00:00:00:00:77")}})
	gw, _ := w.Network("n")
	in := func(ep model.EndpointSpec) model.SandboxSpec {
		return model.SandboxSpec{NetworkMode: "n", Endpoint: ep}
	}
	join := model.SandboxSpec{NetworkMode: "container:web"}
	joinWith := func(f func(*model.SandboxSpec)) model.SandboxSpec {
		s := join
		f(&s)
		return s
	}
	tests := []struct {
		name string
		spec model.SandboxSpec
		kind error
		text string
	}{
		{"name", model.SandboxSpec{Name: "-x"}, model.ErrInvalid, "Invalid sandbox name (-x)"},
		{"name-short", model.SandboxSpec{Name: "x"}, model.ErrInvalid, "Invalid sandbox name (x)"},
		{"name-taken", model.SandboxSpec{Name: "web"}, model.ErrConflict, `Conflict. The sandbox name "web" is already in use`},
		{"no-network", model.SandboxSpec{NetworkMode: "nope"}, model.ErrNotFound, "network nope not found"},
		{"no-sandbox", model.SandboxSpec{NetworkMode: "container:nope"}, model.ErrNotFound, "no such sandbox: nope"},
		{"join-itself", model.SandboxSpec{Name: "self", NetworkMode: "container:self"}, model.ErrNotFound, "no such sandbox: self"},
		{"netns-relative", model.SandboxSpec{NetNS: "x"}, model.ErrInvalid, "absolute"},
		{"netns-dots", model.SandboxSpec{NetNS: "/run/../x"}, model.ErrInvalid, "absolute"},
		{"netns-taken", model.SandboxSpec{NetNS: "/ns"}, model.ErrConflict, "--network container:web"},
		{"netns-host", model.SandboxSpec{NetNS: "/other", NetworkMode: "host"}, model.ErrInvalid, "conflicting options"},
		{"hostname", model.SandboxSpec{Hostname: "a b"}, model.ErrInvalid, "invalid hostname format"},
		{"ip-outside", in(model.EndpointSpec{IPv4: verbtest.Addr("10.9.9.9")}), model.ErrInvalid, "no configured subnet contains IP address 10.9.9.9 (network n has 10.0.0.0/29, choose one of it)"},
		{"ip6-none", in(model.EndpointSpec{IPv6: verbtest.Addr("2001:db8::1")}), model.ErrInvalid, "no configured subnet contains IP address 2001:db8::1 (network n has no IPv6, leave it out)"},
		{"ip-taken", in(model.EndpointSpec{IPv4: verbtest.Addr("10.0.0.2")}), model.ErrConflict, `Address already in use: 10.0.0.2 belongs to sandbox "web"`},
		{"ip-gateway", in(model.EndpointSpec{IPv4: verbtest.Addr("10.0.0.1")}), model.ErrConflict, "Address already in use: 10.0.0.1 belongs to the gateway"},
		{"ip-broadcast", in(model.EndpointSpec{IPv4: verbtest.Addr("10.0.0.7")}), model.ErrInvalid, "broadcast"},
		{"mac-taken", in(model.EndpointSpec{MAC: mac("02:00:00:00:00:77")}), model.ErrConflict, "is already in use on network n by web"},
		{"mac-gateway", in(model.EndpointSpec{MAC: gw.GatewayMAC}), model.ErrConflict, "the gateway"},
		{"mac-multicast", in(model.EndpointSpec{MAC: model.MAC{1}}), model.ErrInvalid, "multicast"},
		{"alias-bridge", model.SandboxSpec{Endpoint: model.EndpointSpec{Aliases: []string{"a"}}}, model.ErrInvalid, "only supported for user-defined networks"},
		{"ip-host", model.SandboxSpec{NetworkMode: "host", Endpoint: model.EndpointSpec{IPv4: verbtest.Addr("10.0.0.5")}}, model.ErrInvalid, "user specified IP address is supported on user defined networks only"},
		{"mac-none", model.SandboxSpec{NetworkMode: "none", Endpoint: model.EndpointSpec{MAC: mac("02:00:00:00:00:01")}}, model.ErrInvalid, "conflicting options: mac-address"},
		{"ifname-host", model.SandboxSpec{NetworkMode: "host", Endpoint: model.EndpointSpec{IfName: "eth5"}}, model.ErrInvalid, "conflicting options: interface name"},
		{"sysctls-host", model.SandboxSpec{NetworkMode: "host", Endpoint: model.EndpointSpec{Sysctls: []model.Sysctl{{Family: "ipv4", Table: "conf", Key: "a", Value: "1"}}}}, model.ErrInvalid, "conflicting options: sysctls of an interface"},
		{"join-ports", joinWith(func(s *model.SandboxSpec) { s.Ports = []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)} }), model.ErrInvalid, "conflicting options: port publishing and the container type network mode"},
		{"join-publish-all", joinWith(func(s *model.SandboxSpec) { s.PublishAll = true }), model.ErrInvalid, "conflicting options: port publishing"},
		{"join-expose", joinWith(func(s *model.SandboxSpec) { s.Expose = []model.PortProto{{Port: 1, Count: 1, Proto: model.TCP}} }), model.ErrInvalid, "conflicting options: port exposing"},
		{"join-hostname", joinWith(func(s *model.SandboxSpec) { s.Hostname = "h" }), model.ErrInvalid, "conflicting options: hostname"},
		{"join-mac", joinWith(func(s *model.SandboxSpec) { s.Endpoint.MAC = mac("02:00:00:00:00:01") }), model.ErrInvalid, "conflicting options: mac-address"},
		{"sysctl-name", model.SandboxSpec{Sysctls: map[string]string{"kernel.shmmax": "1"}}, model.ErrInvalid, "sysctl 'kernel.shmmax' is not allowed"},
		{"sysctl-path", model.SandboxSpec{Sysctls: map[string]string{"net/../kernel": "1"}}, model.ErrInvalid, "sysctl 'net/../kernel' is not allowed"},
		{"sysctl-dots", model.SandboxSpec{Sysctls: map[string]string{"net..ipv4": "1"}}, model.ErrInvalid, "sysctl 'net..ipv4' is not allowed"},
		{"sysctl-no-value", model.SandboxSpec{Sysctls: map[string]string{"net.ipv4.ip_forward": ""}}, model.ErrInvalid, "give one: NAME=VALUE"},
		{"sysctl-interface", model.SandboxSpec{Sysctls: map[string]string{"net.ipv4.conf.eth0.forwarding": "1"}}, model.ErrInvalid, "sysctls=net.ipv4.conf.IFNAME.forwarding=…)"},
		{"sysctl-neighbour", model.SandboxSpec{Sysctls: map[string]string{"net.ipv6.neigh.eth0.gc_stale_time": "1"}}, model.ErrInvalid, "interface specific sysctl setting"},
		{"sysctl-host", model.SandboxSpec{NetworkMode: "host", Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}, model.ErrInvalid, `sysctl "net.ipv4.ip_forward" not allowed in host network namespace`},
		{"sysctl-netns", model.SandboxSpec{NetNS: "/other", Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}, model.ErrInvalid, "conflicting options: sysctl and a network namespace path"},
		{"join-sysctl", joinWith(func(s *model.SandboxSpec) { s.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"} }), model.ErrInvalid, "conflicting options: sysctl and the container type network mode"},
		{"join-netns", joinWith(func(s *model.SandboxSpec) { s.NetNS = "/other" }), model.ErrInvalid, "conflicting options"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.T = t
			before := w.Snapshot()
			_, err := w.CreateSandbox(t.Context(), tt.spec)
			w.Refused(before, err, tt.kind, tt.text)
		})
	}
}

func TestSubnetRunsFull(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{verbtest.Subnet("10.0.0.0/29")}})
	for range 5 { // .2 to .6
		w.MakeSandbox(model.SandboxSpec{NetworkMode: "n"})
	}
	before := w.Snapshot()
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "n"})
	w.Refused(before, err, model.ErrExhausted, "no available IPv4 addresses on this network's address pools: n (")
}

func TestConnectDisconnect(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "in", Internal: true})
	w.MakeNetwork(model.NetworkSpec{Name: "a"})
	w.MakeNetwork(model.NetworkSpec{Name: "b", EnableIPv6: true})
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "in"})

	gateway := func(want string) {
		t.Helper()
		got := ""
		for ep := range w.Snapshot().Endpoints() {
			if ep.IsGateway() {
				got += w.Snapshot().Network(ep.NetworkID).Name
			}
		}
		if got != want {
			t.Errorf("gateway = %q, want %q", got, want)
		}
		w.Check()
	}
	connect := func(net string) *model.Endpoint {
		t.Helper()
		ep, err := w.Connect(t.Context(), net, "web", model.EndpointSpec{})
		if err != nil {
			t.Fatal(err)
		}
		return ep
	}
	disconnect := func(net string) {
		t.Helper()
		if err := w.Disconnect(t.Context(), net, "web", false); err != nil {
			t.Fatal(err)
		}
	}
	gateway("")
	if ep := connect("b"); !ep.DefaultRoute4 || !ep.DefaultRoute6 || ep.IfName != "eth1" {
		t.Errorf("endpoint = %+v", ep)
	}
	gateway("b")
	if ep := connect("a"); ep.IfName != "eth2" || ep.IsGateway() {
		t.Errorf("endpoint = %+v", ep)
	}
	gateway("b")
	disconnect("b")
	gateway("a")
	if ep := connect("b"); ep.IfName != "eth1" || ep.Order != 3 {
		t.Errorf("endpoint = %+v", ep)
	}
	gateway("b") // it has a default route of both families
	disconnect("in")
	disconnect("b")
	gateway("a")
}

func TestConnectDisconnectRefuse(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "a"})
	w.MakeNetwork(model.NetworkSpec{Name: "b"})
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "b"})
	w.MakeSandbox(model.SandboxSpec{Name: "join", NetworkMode: "container:web"})
	w.MakeSandbox(model.SandboxSpec{Name: "alone", NetworkMode: "none"})
	w.MakeSandbox(model.SandboxSpec{Name: "onhost", NetworkMode: "host"})
	before := w.Snapshot()
	for _, tt := range []struct {
		net, sb string
		kind    error
		text    string
	}{
		{"b", "web", model.ErrForbidden, "endpoint with name web already exists in network b"},
		{"nope", "web", model.ErrNotFound, "network nope not found"},
		{"b", "nope", model.ErrNotFound, "no such sandbox: nope"},
		{"b", "join", model.ErrForbidden, "shares the network namespace"},
		{"b", "onhost", model.ErrForbidden, "shares the network namespace"},
		{"b", "alone", model.ErrForbidden, "private (none) mode"},
		{"none", "web", model.ErrForbidden, "private (none) mode"},
		{"host", "web", model.ErrForbidden, "cannot connect sandbox \"web\" to host network"},
	} {
		_, err := w.Connect(t.Context(), tt.net, tt.sb, model.EndpointSpec{})
		w.Refused(before, err, tt.kind, tt.text)
	}
	w.Refused(before, w.Disconnect(t.Context(), "a", "web", false), model.ErrForbidden, "is not connected to network a")
	w.Refused(before, w.Disconnect(t.Context(), "host", "onhost", true), model.ErrForbidden, "cannot be disconnected from host network")
	if err := w.Disconnect(t.Context(), "a", "web", true); err != nil {
		t.Errorf("disconnect by force: %v", err)
	}
}

func TestAddressIsNotReusedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "n", Subnets: []model.SubnetSpec{verbtest.Subnet("10.0.0.0/24")}})
	for i, want := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"} {
		sb := w.MakeSandbox(model.SandboxSpec{NetworkMode: "n"})
		if got := w.EndpointIn("n", sb.Name).IPv4.Addr().String(); got != want {
			t.Errorf("address = %s, want %s", got, want)
		}
		if i == 2 {
			w.Restart()
		} else if err := w.RemoveSandbox(t.Context(), sb.Name, false); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemoveSandbox(t *testing.T) {
	w := newWorld(t)
	w.MakeSandbox(model.SandboxSpec{Name: "web", Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}})
	w.MakeSandbox(model.SandboxSpec{Name: "join", NetworkMode: "container:web"})
	w.Alive[42] = true
	if err := w.SandboxStarted(t.Context(), "web", 42, 7); err != nil {
		t.Fatal(err)
	}
	before := w.Snapshot()
	w.Refused(before, w.SandboxStarted(t.Context(), "web", 43, 8), model.ErrConflict, "already runs a program")
	w.Refused(before, w.SandboxStarted(t.Context(), "web", 0, 0), model.ErrInvalid, "invalid process ID")
	w.Refused(before, w.RemoveSandbox(t.Context(), "web", false), model.ErrConflict, "stop it before removing or force remove (fairlead rm -f web)")
	w.Refused(before, w.RemoveSandbox(t.Context(), "web", true), model.ErrConflict, `sandbox "join" shares its network namespace`)
	w.Refused(before, w.Withdraw(t.Context(), "web"), model.ErrConflict, `sandbox "join" shares its network namespace`)
	w.Refused(before, w.RemoveSandbox(t.Context(), "nope", true), model.ErrNotFound, "no such sandbox")
	for _, name := range []string{"join", "web"} {
		if err := w.RemoveSandbox(t.Context(), name, true); err != nil {
			t.Error(err)
		}
	}
	if s := w.Snapshot(); s.Counts().Sandboxes+s.Counts().Endpoints+s.Counts().Publishes != 0 {
		t.Errorf("left over: %+v", s)
	}
	w.Check()
}

// program creates a sandbox without a network, with a program unless pid is 0.
func (w *world) program(name string, pid int, auto bool) {
	w.T.Helper()
	w.MakeSandbox(model.SandboxSpec{Name: name, AutoRemove: auto, NetworkMode: "none"})
	if pid == 0 {
		return
	}
	w.Alive[pid] = true
	if err := w.SandboxStarted(w.T.Context(), name, pid, 1); err != nil {
		w.T.Fatal(err)
	}
}

// names lists the sandboxes, and marks those whose program exited with "!".
func (w *world) names() string {
	var out []string
	for sb := range w.Snapshot().Sandboxes() {
		name := sb.Name
		if sb.Exited {
			name += "!"
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestReap(t *testing.T) {
	w := newWorld(t)
	w.program("never", 0, true)
	w.program("stays", 0, false)
	w.program("auto", 10, true)
	w.program("plain", 11, false)
	w.program("shared", 12, true)
	w.program("exits", 13, true)
	w.MakeSandbox(model.SandboxSpec{Name: "join", NetworkMode: "container:shared"})
	w.MakeSandbox(model.SandboxSpec{Name: "join2", NetworkMode: "container:exits"})
	reap := func(want string) {
		t.Helper()
		if err := w.Reap(t.Context()); err != nil {
			t.Error(err)
		}
		if got := w.names(); got != want {
			t.Errorf("after reap: %q, want %q", got, want)
		}
		w.Check()
	}
	reap("auto exits join join2 never plain shared stays")
	w.Alive = map[int]bool{13: true}
	if err := w.SandboxExited(t.Context(), "exits", 3); err != nil { // shared: only marked
		t.Error(err)
	}
	reap("exits! join join2 never plain! shared stays")
	w.Time = w.Time.Add(2 * time.Minute)
	for _, name := range []string{"join", "join2"} {
		if err := w.RemoveSandbox(t.Context(), name, false); err != nil {
			t.Error(err)
		}
	}
	reap("plain! stays")
}

// A runtime's sandbox is removed when its namespace no longer exists. A sandbox that a user attached
// is kept.
func TestReapOfNamespacesThatEnded(t *testing.T) {
	w := newWorld(t)
	for name, labels := range map[string]map[string]string{
		"runtimes": {"fairlead.cni.container": "c1"}, "shared": {"fairlead.cni.container": "c2"}, "lives": {"fairlead.cni.container": "c3"}, "mine": {"a": "b"},
	} {
		sb := w.MakeSandbox(model.SandboxSpec{Name: name, NetworkMode: "bridge", NetNS: "/run/netns/" + name, Labels: labels,
			Ports: []model.PortSpec{verbtest.TCP("", 0, 0, 80, 1)}})
		if name != "lives" {
			w.Kernel.Vanished = append(w.Kernel.Vanished, sb.ID)
		}
	}
	leased := w.MakeSandbox(model.SandboxSpec{Name: "leased", NetworkMode: "bridge", NetNS: "/run/netns/leased",
		Labels: map[string]string{"fairlead.cni.container": "c4"}, Endpoint: model.EndpointSpec{Leased: true}})
	w.Kernel.Vanished = append(w.Kernel.Vanished, leased.ID, "nobody")
	join := w.MakeSandbox(model.SandboxSpec{Name: "join", NetworkMode: "container:shared"})
	w.Restart()
	log := w.logged()
	for _, want := range []string{"join leased lives mine shared", "leased lives mine", "leased lives mine"} {
		if err := w.Reap(t.Context()); err != nil {
			t.Error(err)
		}
		if got := w.names(); got != want {
			t.Errorf("after reap: %q, want %q", got, want)
		}
		w.Check()
		if w.Snapshot().Sandbox(join.ID) != nil {
			if err := w.RemoveSandbox(t.Context(), "join", false); err != nil {
				t.Error(err)
			}
		}
	}
	if got := strings.Count(log.String(), "its network namespace no longer exists"); got != 2 {
		t.Errorf("the log reports %d removals, want 2:\n%s", got, log)
	}
	if got := w.Kernel.Applied.Counts().Publishes; got != 2 {
		t.Errorf("the kernel has %d publishes, want 2", got)
	}
}

func TestSandboxExited(t *testing.T) {
	w := newWorld(t)
	w.program("auto", 20, true)
	w.program("plain", 21, false)
	for name, code := range map[string]int{"auto": 0, "plain": 5} {
		if err := w.SandboxExited(t.Context(), name, code); err != nil {
			t.Error(err)
		}
	}
	if sb, _ := w.Sandbox("plain"); sb.ExitCode != 5 || w.names() != "plain!" {
		t.Errorf("plain = %+v, all = %q", sb, w.names())
	}
}

func TestRestartSweepsTheDead(t *testing.T) {
	w := newWorld(t)
	w.program("auto", 20, true)
	w.program("plain", 21, false)
	w.program("lives", 22, true)
	w.Alive = map[int]bool{22: true}
	w.Restart()
	if got := w.names(); got != "lives plain!" {
		t.Errorf("after restart: %q", got)
	}
	w.Check()
}
