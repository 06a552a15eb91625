// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// from returns a port for some clients.
func from(p model.PortSpec, sources ...string) model.PortSpec {
	var err error
	if p.From, err = model.ParseSources(sources); err != nil {
		panic(err)
	}
	return p
}

// clients formats the publishes with their clients, sorted.
func (w *world) clients() string {
	var out []string
	for p := range w.Snapshot().Publishes() {
		out = append(out, fmt.Sprintf("%s:%s<%s", w.Snapshot().Network(w.Snapshot().Endpoint(p.EndpointID).NetworkID).Name, rangeText(p.HostPort, p.Count), p.From))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Ports keep their clients when the daemon is restarted, and in whatever network they are. Ranges of different clients are
// not joined.
func TestPublishLimited(t *testing.T) {
	w := newWorld(t)
	w.MakeNetwork(model.NetworkSpec{Name: "a", EnableIPv6: true})
	w.MakeNetwork(model.NetworkSpec{Name: "b", EnableIPv6: true})
	port := func(host uint16) model.PortSpec { return verbtest.TCP("", host, 1, host-8000, 1) }
	w.MakeSandbox(model.SandboxSpec{Name: "anna", NetworkMode: "a", Ports: []model.PortSpec{
		port(8080), from(port(8081), "10.0.0.0/8", "::/0"), from(port(8082), "::/0", "10.0.0.0/8"), from(port(8083), "10.0.0.0/8")}})
	step := func(err error, want string) {
		t.Helper()
		if err != nil || w.clients() != want {
			t.Errorf("published is %s, want %s: %v", w.clients(), want, err)
		}
		w.Check()
	}
	all := "a:8080< a:8081-8082<10.0.0.0/8,::/0 a:8083<10.0.0.0/8"
	step(nil, all)
	w.Restart()
	step(nil, all)
	_, err := w.Connect(t.Context(), "b", "anna", model.EndpointSpec{GwPriority: 1})
	step(err, strings.ReplaceAll(all, "a:", "b:"))
	step(w.Disconnect(t.Context(), "b", "anna", false), all)
	step(w.PublishPorts(t.Context(), "anna", []model.PortSpec{from(port(8090), "192.0.2.1")}), all+" a:8090<192.0.2.1/32")
	if err := w.UnpublishPorts(t.Context(), "anna", []model.PortSpec{from(port(8090), "192.0.2.2")}); err == nil || !strings.Contains(err.Error(), "for clients from 192.0.2.2/32") {
		t.Errorf("unpublished for other clients: %v", err)
	}
	step(w.UnpublishPorts(t.Context(), "anna", []model.PortSpec{from(port(8090), "192.0.2.1")}), all)
	step(w.UnpublishPorts(t.Context(), "anna", []model.PortSpec{port(8083)}), strings.TrimSuffix(all, " a:8083<10.0.0.0/8"))
}

// Two ports of the host that are one of the sandbox's own address have the same clients, also in a network that it joins later.
func TestPublishLimitedRouted(t *testing.T) {
	w := newWorld(t)
	routed := map[string]string{model.OptGateMode4: model.GatewayRouted, model.OptGateMode6: model.GatewayRouted}
	w.MakeNetwork(model.NetworkSpec{Name: "nat", EnableIPv6: true})
	w.MakeNetwork(model.NetworkSpec{Name: "routed", EnableIPv6: true, Options: routed})
	ports := []model.PortSpec{from(verbtest.TCP("", 8080, 1, 80, 1), "10.0.0.0/8"), verbtest.TCP("", 8081, 1, 80, 1)}
	refused := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "for other clients already") {
			t.Errorf("one port of two kinds of clients: %v", err)
		}
		w.Check()
	}
	_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "rosa", NetworkMode: "routed", Ports: ports})
	refused(err)
	w.MakeSandbox(model.SandboxSpec{Name: "rosa", NetworkMode: "routed", Ports: ports[:1]})
	refused(w.PublishPorts(t.Context(), "rosa", ports[1:]))
	if err := w.PublishPorts(t.Context(), "rosa", []model.PortSpec{from(ports[1], "10.0.0.0/8"), verbtest.TCP("", 8082, 1, 81, 1)}); err != nil {
		t.Error(err)
	}
	w.MakeSandbox(model.SandboxSpec{Name: "nina", NetworkMode: "nat", Ports: ports})
	_, err = w.Connect(t.Context(), "routed", "nina", model.EndpointSpec{GwPriority: 1})
	refused(err)
	if got, want := w.clients(), "nat:8080<10.0.0.0/8 nat:8081< routed:8080<10.0.0.0/8 routed:8081<10.0.0.0/8 routed:8082<"; got != want {
		t.Errorf("published is %s, want %s", got, want)
	}
}
