// SPDX-License-Identifier: Apache-2.0

package verbtest

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/model"
)

// EngineID returns the ID that an engine gives to an object with this name.
func EngineID(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name))) }

// Prefix returns a prefix.
func Prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// EngineNetwork returns the spec of a network that an engine manages.
func EngineNetwork(name, subnet string) model.NetworkSpec {
	return model.NetworkSpec{Name: name, EngineID: EngineID(name), Subnets: []model.SubnetSpec{{
		Prefix: Prefix(subnet), Gateway: Prefix(subnet).Addr().Next(),
	}}}
}

// EngineNames returns an engine's names of the network f and of the containers of endpoints,
// given as endpoint, name, endpoint, name …
func EngineNames(network string, containers ...string) model.EngineNames {
	names := model.EngineNames{Networks: map[string]string{EngineID("f"): network}, Containers: map[string]model.EngineName{}}
	for i := 0; i < len(containers); i += 2 {
		names.Containers[EngineID(containers[i])] = model.EngineName{Name: containers[i+1], ID: EngineID("container " + containers[i])}
	}
	return names
}

// Reserve creates an endpoint in network f, and joins it unless netns is "".
func (w *World) Reserve(name, netns string) *model.Endpoint {
	w.T.Helper()
	ep, err := w.ReserveEndpoint(w.T.Context(), EngineID("f"), model.EndpointSpec{EngineID: EngineID(name)})
	if err == nil && netns != "" {
		ep, err = w.JoinEndpoint(w.T.Context(), ep.ID, "docker-"+netns[len(netns)-1:], netns)
	}
	if err != nil {
		w.T.Fatal(err)
	}
	return ep
}

// Populate adds networks, sandboxes and the objects of an engine.
func Populate(w *World) {
	w.MakeNetwork(model.NetworkSpec{Name: "a", Subnets: []model.SubnetSpec{Subnet("10.0.0.0/28")}})
	w.MakeNetwork(model.NetworkSpec{Name: "b", EnableIPv6: true, Options: map[string]string{model.OptHostBinding: "127.0.0.1"}})
	w.MakeNetwork(model.NetworkSpec{Name: "idle"})
	w.MakeSandbox(model.SandboxSpec{Name: "old", NetworkMode: "a", Ports: []model.PortSpec{TCP("", 80, 1, 80, 1)},
		NetNS: "/run/netns/old", Labels: map[string]string{"fairlead.cni.container": "c1"}})
	w.MakeSandbox(model.SandboxSpec{Name: "both", NetworkMode: "a", Ports: []model.PortSpec{TCP("", 90, 1, 80, 1)}})
	w.MakeSandbox(model.SandboxSpec{Name: "auto", NetworkMode: "b", AutoRemove: true, Ports: []model.PortSpec{TCP("", 91, 1, 80, 1)}})
	if _, err := w.Connect(w.T.Context(), "b", "both", model.EndpointSpec{}); err != nil {
		w.T.Fatal(err)
	}
	w.Alive[50] = true
	if err := w.SandboxStarted(w.T.Context(), "auto", 50, 1); err != nil {
		w.T.Fatal(err)
	}
	PopulateEngine(w)
}

// PopulateEngine adds the objects of an engine: a network with one endpoint that is reserved,
// one that has joined, and one that publishes ports, and a pool.
func PopulateEngine(w *World) {
	w.T.Helper()
	w.MakeNetwork(EngineNetwork("f", "10.8.0.0/24"))
	w.MakeNetwork(EngineNetwork("idle-f", "10.10.0.0/24"))
	w.Reserve("waits", "")
	w.Reserve("joined", "/run/x/1")
	w.Reserve("serves", "/run/x/3")
	ctx := w.T.Context()
	if err := w.PublishEndpoint(ctx, EngineID("serves"), []model.PortSpec{TCP("", 600, 1, 80, 1), TCP("", 0, 0, 81, 1)}, false); err != nil {
		w.T.Fatal(err)
	}
	if _, err := w.RequestPool(ctx, "", model.V4, Prefix("10.6.0.0/24"), model.AddrRange{}); err != nil {
		w.T.Fatal(err)
	}
	if _, err := w.RequestAddress(ctx, "10.6.0.0/24", netip.Addr{}, true); err != nil {
		w.T.Fatal(err)
	}
}
