// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/model"
)

// served formats the publishes, sorted.
func (w *world) served() string {
	var out []string
	for p := range w.Snapshot().Publishes() {
		n := w.Snapshot().Network(w.Snapshot().Endpoint(p.EndpointID).NetworkID).Name
		ip := "*"
		if p.HostIP.IsValid() {
			ip = p.HostIP.String()
		}
		out = append(out, fmt.Sprintf("%s:%s->%s/%v@%s", ip, rangeText(p.HostPort, p.Count), rangeText(p.Port, p.Count), p.Proto, n))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestPublish(t *testing.T) {
	udp := verbtest.TCP("", 53, 1, 53, 1)
	udp.Proto = model.UDP
	expose := []model.PortProto{{Port: 80, Count: 1, Proto: model.TCP}, {Port: 90, Count: 3, Proto: model.TCP}, {Port: 80, Count: 1, Proto: model.UDP}}
	tests := []struct {
		name string
		spec model.SandboxSpec
		want string
	}{
		{"exact", model.SandboxSpec{Ports: []model.PortSpec{verbtest.TCP("", 8080, 1, 80, 1), udp}}, "*:53->53/udp@a *:8080->80/tcp@a"},
		{"same-port-two-addresses", model.SandboxSpec{Ports: []model.PortSpec{verbtest.TCP("127.0.0.2", 80, 1, 80, 1), verbtest.TCP("127.0.0.3", 80, 1, 80, 1)}},
			"127.0.0.2:80->80/tcp@a 127.0.0.3:80->80/tcp@a"},
		{"mapped-address", model.SandboxSpec{Ports: []model.PortSpec{verbtest.TCP("::ffff:127.0.0.1", 80, 1, 80, 1)}}, "127.0.0.1:80->80/tcp@a"},
		{"range", model.SandboxSpec{Ports: []model.PortSpec{verbtest.TCP("", 9000, 11, 7000, 11)}}, "*:9000-9010->7000-7010/tcp@a"},
		{"one-by-one", model.SandboxSpec{Ports: []model.PortSpec{
			verbtest.TCP("", 8082, 1, 82, 1), verbtest.TCP("", 8080, 1, 80, 1), udp, verbtest.TCP("127.0.0.1", 9090, 1, 83, 1), verbtest.TCP("", 8081, 1, 81, 1), verbtest.TCP("", 8083, 2, 83, 2), verbtest.TCP("", 8085, 1, 80, 1)}},
			"*:53->53/udp@a *:8080-8084->80-84/tcp@a *:8085->80/tcp@a 127.0.0.1:9090->83/tcp@a"},
		{"last-port", model.SandboxSpec{Ports: []model.PortSpec{verbtest.TCP("", 65535, 1, 65535, 1)}}, "*:65535->65535/tcp@a"},
		{"all-ports", model.SandboxSpec{Ports: []model.PortSpec{verbtest.TCP("", 1, 65535, 1, 65535)}}, "*:1-65535->1-65535/tcp@a"},
		{"one-of-range", model.SandboxSpec{Ports: []model.PortSpec{verbtest.TCP("", 7000, 5, 80, 1), verbtest.TCP("", 7000, 5, 80, 1), verbtest.TCP("", 7000, 1, 81, 1)}},
			"*:7000->81/tcp@a *:7002->80/tcp@a *:7003->80/tcp@a"}, // 7001 is busy
		{"automatic", model.SandboxSpec{Ports: []model.PortSpec{verbtest.TCP("", 0, 0, 80, 1), verbtest.TCP("127.0.0.1", 0, 0, 80, 1), verbtest.TCP("", 0, 0, 70, 2)}},
			"*:50001->80/tcp@a *:50003-50004->70-71/tcp@a 127.0.0.1:50002->80/tcp@a"}, // 50000 is busy
		{"publish-all", model.SandboxSpec{PublishAll: true, Expose: expose, Ports: []model.PortSpec{verbtest.TCP("", 8080, 1, 91, 1)}},
			"*:50001->80/tcp@a *:50002->90/tcp@a *:50003->92/tcp@a *:50004->80/udp@a *:8080->91/tcp@a"},
		{"publish-all-run", model.SandboxSpec{PublishAll: true, Expose: expose[1:2]}, "*:50001-50003->90-92/tcp@a"},
		{"expose-only", model.SandboxSpec{Expose: expose}, ""},
		{"host-discards", model.SandboxSpec{NetworkMode: "host", Ports: []model.PortSpec{udp}}, ""},
		{"none-discards", model.SandboxSpec{NetworkMode: "none", Ports: []model.PortSpec{udp}}, ""},
		{"internal-serves-not", model.SandboxSpec{NetworkMode: "in", Ports: []model.PortSpec{udp}}, ""},
		{"host-binding", model.SandboxSpec{NetworkMode: "bound", Ports: []model.PortSpec{udp, verbtest.TCP("0.0.0.0", 80, 1, 80, 1)}},
			"0.0.0.0:80->80/tcp@bound 127.0.0.1:53->53/udp@bound"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.Kernel.Lo, w.Kernel.Hi = 50000, 50010
			if tt.name != "all-ports" {
				w.Kernel.Busy = map[string]bool{"tcp 7001": true, "tcp 50000": true}
			}
			w.MakeNetwork(model.NetworkSpec{Name: "a"})
			w.MakeNetwork(model.NetworkSpec{Name: "in", Internal: true})
			w.MakeNetwork(model.NetworkSpec{Name: "bound", Options: map[string]string{model.OptHostBinding: "127.0.0.1"}})
			if tt.spec.NetworkMode == "" {
				tt.spec.NetworkMode = "a"
			}
			warn := w.Warnings(tt.spec)
			if discards := tt.want == "" && len(tt.spec.Ports) > 0; discards != (len(warn) == 1) {
				t.Errorf("warnings = %q", warn)
			}
			w.MakeSandbox(tt.spec)
			if got := w.served(); got != tt.want {
				t.Errorf("served = %q, want %q", got, tt.want)
			}
			w.Check()
		})
	}
}

// Ports of a routed family claim none of the host: a program of the host, and other sandboxes, may have the same.
func TestPublishRouted(t *testing.T) {
	w := newWorld(t)
	w.Kernel.Busy = map[string]bool{"tcp 81": true}
	routed := func(name, v4, v6 string) {
		w.MakeNetwork(model.NetworkSpec{Name: name, EnableIPv6: true, Options: map[string]string{model.OptGateMode4: v4, model.OptGateMode6: v6}})
	}
	routed("nat", "", "")
	routed("six", "nat", "routed")
	routed("both", "routed", "routed")
	port := func(name, network string, p model.PortSpec) error {
		_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: name, NetworkMode: network, Ports: []model.PortSpec{p}})
		return err
	}
	taken := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("the error is %v, want %q", err, text)
		}
	}
	for _, name := range []string{"b1", "b2"} {
		if err := port(name, "both", verbtest.TCP("", 80, 2, 80, 2)); err != nil { // of the host, 81 is busy
			t.Error(err)
		}
	}
	if err := port("b3", "both", verbtest.TCP("", 0, 0, 90, 1)); err != nil {
		t.Error(err)
	}
	if err := port("b4", "both", verbtest.TCP("198.51.100.9", 90, 1, 90, 1)); err != nil {
		t.Error(err)
	}
	if err := port("s1", "six", verbtest.TCP("", 80, 1, 80, 1)); err != nil {
		t.Error(err)
	}
	taken(port("s2", "six", verbtest.TCP("", 80, 1, 80, 1)), `0.0.0.0:80 failed: port is already allocated (by sandbox "s1"`)
	taken(port("s2", "six", verbtest.TCP("", 81, 1, 81, 1)), "0.0.0.0:81")
	taken(port("n1", "nat", verbtest.TCP("0.0.0.0", 80, 1, 80, 1)), "already allocated")
	if err := port("n1", "nat", verbtest.TCP("::", 80, 1, 80, 1)); err != nil { // s1 has it for IPv4 only
		t.Error(err)
	}
	_, err := w.CreateService(t.Context(), model.ServiceSpec{Name: "svc", Network: "both", Ports: []model.PortSpec{verbtest.TCP("", 70, 1, 70, 1)}})
	taken(err, "network both routes its family")
	svc, err := w.CreateService(t.Context(), model.ServiceSpec{Name: "svc", Network: "six", Ports: []model.PortSpec{verbtest.TCP("", 70, 1, 70, 1)}})
	if err != nil || svc.Ports[0].HostIP != netip.IPv4Unspecified() {
		t.Errorf("the service is %+v: %v", svc, err)
	}
	w.Check()

	// The next default route may need them.
	_, err = w.Connect(t.Context(), "nat", "b1", model.EndpointSpec{GwPriority: 1})
	taken(err, "already allocated")
	for _, name := range []string{"s1", "n1"} {
		if err := w.RemoveSandbox(t.Context(), name, false); err != nil {
			t.Fatal(err)
		}
	}
	w.Kernel.Busy = nil
	if _, err := w.Connect(t.Context(), "nat", "b1", model.EndpointSpec{GwPriority: 1}); err != nil {
		t.Fatal(err)
	}
	taken(port("n2", "nat", verbtest.TCP("", 80, 1, 80, 1)), `already allocated (by sandbox "b1"`)
	w.Check()
	if err := w.Disconnect(t.Context(), "nat", "b1", false); err != nil {
		t.Fatal(err)
	}
	if err := port("n2", "nat", verbtest.TCP("", 80, 1, 80, 1)); err != nil {
		t.Error(err)
	}
	w.Check()
}

func TestPublishConflicts(t *testing.T) {
	tests := []struct {
		a, b model.PortSpec
		ok   bool
	}{
		{verbtest.TCP("", 80, 1, 80, 1), verbtest.TCP("", 80, 1, 81, 1), false},
		{verbtest.TCP("", 80, 1, 80, 1), verbtest.TCP("127.0.0.1", 80, 1, 80, 1), false},
		{verbtest.TCP("", 80, 1, 80, 1), verbtest.TCP("::1", 80, 1, 80, 1), false},
		{verbtest.TCP("127.0.0.1", 80, 1, 80, 1), verbtest.TCP("", 80, 1, 80, 1), false},
		{verbtest.TCP("127.0.0.1", 80, 1, 80, 1), verbtest.TCP("127.0.0.1", 80, 1, 80, 1), false},
		{verbtest.TCP("127.0.0.1", 80, 1, 80, 1), verbtest.TCP("127.0.0.2", 80, 1, 80, 1), true},
		{verbtest.TCP("127.0.0.1", 80, 1, 80, 1), verbtest.TCP("0.0.0.0", 80, 1, 80, 1), false},
		{verbtest.TCP("127.0.0.1", 80, 1, 80, 1), verbtest.TCP("::", 80, 1, 80, 1), true},
		{verbtest.TCP("::1", 80, 1, 80, 1), verbtest.TCP("::", 80, 1, 80, 1), false},
		{verbtest.TCP("::1", 80, 1, 80, 1), verbtest.TCP("0.0.0.0", 80, 1, 80, 1), true},
		{verbtest.TCP("0.0.0.0", 80, 1, 80, 1), verbtest.TCP("::", 80, 1, 80, 1), true},
		{verbtest.TCP("0.0.0.0", 80, 1, 80, 1), verbtest.TCP("", 80, 1, 80, 1), false},
		{verbtest.TCP("", 80, 10, 80, 10), verbtest.TCP("", 89, 1, 80, 1), false},
		{verbtest.TCP("", 80, 10, 80, 10), verbtest.TCP("", 90, 1, 80, 1), true},
		{verbtest.TCP("", 85, 1, 80, 1), verbtest.TCP("", 80, 10, 80, 10), false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%v:%d+%d,%v:%d+%d", tt.a.HostIP, tt.a.HostPort, tt.a.HostCount, tt.b.HostIP, tt.b.HostPort, tt.b.HostCount), func(t *testing.T) {
			w := newWorld(t)
			w.MakeNetwork(model.NetworkSpec{Name: "n", EnableIPv6: true})
			mk := func(name string, ps ...model.PortSpec) error {
				_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: name, NetworkMode: "n", Ports: ps})
				return err
			}
			if err := mk("first", tt.a); err != nil {
				t.Fatal(err)
			}
			before := w.Snapshot()
			err := mk("second", tt.b)
			if tt.ok && err != nil {
				t.Error(err)
			}
			if !tt.ok {
				w.Refused(before, err, model.ErrConflict, `failed: port is already allocated (by sandbox "first"`)
			}
			// The same conflict in one sandbox, and none after the port is released.
			for name := range maps.Values(map[int]string{0: "first", 1: "second"}) {
				if _, err := w.Sandbox(name); err == nil {
					if err := w.RemoveSandbox(t.Context(), name, false); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := mk("both", tt.a, tt.b); (err == nil) != tt.ok {
				t.Errorf("both in one: %v", err)
			}
			if !tt.ok {
				if err := mk("alone", tt.b); err != nil {
					t.Errorf("when free: %v", err)
				}
			}
			w.Check()
		})
	}
}

func TestPublishRefuses(t *testing.T) {
	w := newWorld(t)
	w.Kernel.Busy = map[string]bool{"tcp 80": true, "tcp 50000": true, "tcp 50001": true}
	w.Kernel.Lo, w.Kernel.Hi = 50000, 50001
	sctp := verbtest.TCP("", 80, 1, 80, 1)
	sctp.Proto = model.SCTP
	tests := []struct {
		name string
		port model.PortSpec
		kind error
		text string
	}{
		{"other-program", verbtest.TCP("", 80, 1, 8000, 1), model.ErrConflict, "failed to bind host port for 0.0.0.0:80:172.28.0.2:8000/tcp: bind 80: address already in use"},
		{"other-program-in-range", verbtest.TCP("127.0.0.1", 75, 10, 75, 10), model.ErrConflict, "failed to bind host port for 127.0.0.1:75"},
		{"range-full", verbtest.TCP("", 50000, 2, 80, 1), model.ErrExhausted, "no free host port of 50000-50001"},
		{"ephemeral-full", verbtest.TCP("", 0, 0, 80, 1), model.ErrExhausted, "no free host port of 50000-50001"},
		{"ephemeral-too-small", verbtest.TCP("", 0, 0, 80, 3), model.ErrExhausted, "no free host port of 50000-50001"},
		{"sctp", sctp, model.ErrNotSupported, "publishing sctp ports is not available yet"},
		{"proto", model.PortSpec{Port: 1, Count: 1, Proto: 1}, model.ErrInvalid, "invalid protocol"},
		{"port-0", verbtest.TCP("", 80, 1, 0, 1), model.ErrInvalid, "invalid port 0"},
		{"host-port-0", verbtest.TCP("", 0, 1, 80, 1), model.ErrInvalid, "invalid host port 0"},
		{"beyond", verbtest.TCP("", 65000, 1000, 1, 1000), model.ErrInvalid, "invalid host port 65000-65999"},
		{"unequal", verbtest.TCP("", 90, 2, 80, 3), model.ErrInvalid, "invalid ranges specified"},
		{"zone", model.PortSpec{HostIP: verbtest.Addr("fe80::1%eth0"), HostPort: 1, HostCount: 1, Port: 1, Count: 1, Proto: model.TCP}, model.ErrInvalid, "invalid host address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.T = t
			before := w.Snapshot()
			_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Ports: []model.PortSpec{tt.port}})
			w.Refused(before, err, tt.kind, tt.text)
		})
	}
}

func TestPublishesFollowTheGateway(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "in", Internal: true})
	w.MakeNetwork(model.NetworkSpec{Name: "a"})
	w.MakeNetwork(model.NetworkSpec{Name: "b", EnableIPv6: true, Options: map[string]string{model.OptHostBinding: "127.0.0.1"}})
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "in", Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1), verbtest.TCP("::1", 81, 1, 81, 1)}})
	step := func(verb, net, want string) {
		t.Helper()
		var err error
		if verb == "connect" {
			_, err = w.Connect(t.Context(), net, "web", model.EndpointSpec{})
		} else {
			err = w.Disconnect(t.Context(), net, "web", false)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := w.served(); got != want {
			t.Errorf("after %s %s: served = %q, want %q", verb, net, got, want)
		}
		w.Check()
	}
	step("connect", "b", "127.0.0.1:80->80/tcp@b ::1:81->81/tcp@b")
	step("connect", "a", "127.0.0.1:80->80/tcp@b ::1:81->81/tcp@b")
	step("disconnect", "b", "*:80->80/tcp@a ::1:81->81/tcp@a")
	step("connect", "b", "127.0.0.1:80->80/tcp@b ::1:81->81/tcp@b") // it has default routes of both families
	step("disconnect", "a", "127.0.0.1:80->80/tcp@b ::1:81->81/tcp@b")
	step("disconnect", "b", "")

	// An internal network that publishes serves it, unless another could.
	w.MakeNetwork(model.NetworkSpec{Name: "Published", Internal: true, EnableIPv6: true, Options: map[string]string{model.OptPublish: "true"}})
	step("connect", "Published", "*:80->80/tcp@Published ::1:81->81/tcp@Published")
	step("connect", "b", "127.0.0.1:80->80/tcp@b ::1:81->81/tcp@b")
	step("disconnect", "b", "*:80->80/tcp@Published ::1:81->81/tcp@Published")
	step("disconnect", "Published", "")

	// While the port is not served, others may take it; then connecting is refused.
	other := w.MakeSandbox(model.SandboxSpec{NetworkMode: "a", Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}})
	before := w.Snapshot()
	_, err := w.Connect(t.Context(), "b", "web", model.EndpointSpec{})
	w.Refused(before, err, model.ErrConflict, fmt.Sprintf("port is already allocated (by sandbox %q", other.Name))
}

// The network of the highest priority has the default routes and the published ports, in each family for which it has a
// gateway; among equals, the one with more gateways, and then the first by name. An endpoint whose packets the
// datapath does not carry serves no port, in no family whose default route it has.
func TestGatewayPriority(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "four"})
	w.MakeNetwork(model.NetworkSpec{Name: "both", EnableIPv6: true})
	w.MakeNetwork(model.NetworkSpec{Name: "equal", EnableIPv6: true})
	w.MakeNetwork(model.NetworkSpec{Name: "six", NoIPv4: true, EnableIPv6: true})
	lan := func(gateway string) []model.SubnetSpec {
		return []model.SubnetSpec{{Prefix: netip.MustParsePrefix("10.200.0.0/24"), Gateway: verbtest.Addr(gateway)}}
	}
	w.MakeNetwork(model.NetworkSpec{Name: "lan", Driver: model.DriverMacvlan, Subnets: lan("10.200.0.1"), Options: map[string]string{model.OptParent: "eth0"}})
	w.MakeSandbox(model.SandboxSpec{Name: "web", NetworkMode: "four", Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1), verbtest.TCP("127.0.0.1", 81, 1, 81, 1)}})
	routes := func() (text string) {
		for _, f := range model.Families {
			for ep := range w.Snapshot().Endpoints() {
				if ep.DefaultRoute(f) {
					text += w.Snapshot().Network(ep.NetworkID).Name + " "
				}
			}
		}
		return text
	}
	step := func(network string, priority int, wantRoutes, wantServed string) {
		t.Helper()
		if _, err := w.Connect(t.Context(), network, "web", model.EndpointSpec{GwPriority: priority}); err != nil {
			t.Fatal(err)
		}
		if got := routes(); got != wantRoutes {
			t.Errorf("after connect %s: default routes by %q, want %q", network, got, wantRoutes)
		}
		if got := w.served(); got != wantServed {
			t.Errorf("after connect %s: served = %q, want %q", network, got, wantServed)
		}
		w.Check()
	}
	drop := func(network string) {
		t.Helper()
		if err := w.Disconnect(t.Context(), network, "web", false); err != nil {
			t.Fatal(err)
		}
	}
	step("equal", 0, "equal equal ", "*:80->80/tcp@equal 127.0.0.1:81->81/tcp@equal")
	step("both", 0, "both both ", "*:80->80/tcp@both 127.0.0.1:81->81/tcp@both")
	step("six", 1, "both six ", "0.0.0.0:80->80/tcp@both 127.0.0.1:81->81/tcp@both :::80->80/tcp@six")
	step("lan", 2, "lan six ", ":::80->80/tcp@six")
	drop("lan")
	step("lan", -1, "both six ", "0.0.0.0:80->80/tcp@both 127.0.0.1:81->81/tcp@both :::80->80/tcp@six")
	drop("six")
	if got, want := w.served(), "*:80->80/tcp@both 127.0.0.1:81->81/tcp@both"; got != want {
		t.Errorf("without six: served = %q, want %q", got, want)
	}
}

func TestAPublishKeepsItsIDWhenItMoves(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "a"})
	w.MakeSandbox(model.SandboxSpec{Name: "web", Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}})
	if _, err := w.Connect(t.Context(), "a", "web", model.EndpointSpec{}); err != nil {
		t.Fatal(err)
	}
	before := slices.Collect(w.Snapshot().Publishes())
	if err := w.Disconnect(t.Context(), "bridge", "web", false); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	if p := w.Snapshot().Publish(before[0].ID); p == nil || p.EndpointID != w.EndpointIn("a", "web").ID {
		t.Errorf("publish = %+v", p)
	}
}

func rangeText(port, count uint16) string {
	if count == 1 {
		return fmt.Sprint(port)
	}
	return fmt.Sprintf("%d-%d", port, port+count-1)
}
