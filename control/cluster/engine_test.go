// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv/memory"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// engineCreate does what docker network create does, with the option that names a shared network.
func (h *host) engineCreate(network, name string, change func(*model.NetworkSpec)) error {
	h.T.Helper()
	n, err := h.Network(network)
	if err != nil {
		return err
	}
	spec := model.NetworkSpec{Name: "docker-" + name, EngineID: verbtest.EngineID(name)}
	for _, s := range n.Subnets {
		f := model.FamilyOf(s.Prefix.Addr())
		pool, gateway, err := h.RequestSharedPool(h.T.Context(), "", network, f, netip.Prefix{}, model.AddrRange{})
		if err != nil {
			return err
		}
		spec.Subnets = append(spec.Subnets, model.SubnetSpec{Prefix: pool.Prefix, Gateway: gateway.Addr()})
	}
	if change != nil {
		change(&spec)
	}
	if _, err = h.CreateNetwork(h.T.Context(), spec); err == nil {
		return nil
	}
	for _, s := range n.Subnets {
		if err := h.ReleasePool(h.T.Context(), s.Prefix.String()); err != nil {
			h.T.Error(err)
		}
	}
	return err
}

// engineRemove does what docker network rm does.
func (h *host) engineRemove(name string) error {
	n := h.Snapshot().EngineNetwork(verbtest.EngineID(name))
	if err := h.RemoveEngineNetwork(h.T.Context(), verbtest.EngineID(name)); err != nil || n == nil {
		return err
	}
	for _, s := range n.Subnets {
		if err := h.ReleasePool(h.T.Context(), s.Prefix.String()); err != nil {
			return err
		}
	}
	return nil
}

// request requests an address of each family for an endpoint, wanted ones if there are any.
func (h *host) request(n *model.Network, want ...string) (spec model.EndpointSpec, err error) {
	for i, s := range n.Subnets {
		var a netip.Addr
		if i < len(want) {
			a = verbtest.Addr(want[i])
		}
		got, err := h.RequestAddress(h.T.Context(), s.Prefix.String(), a, false)
		if err != nil {
			return spec, err
		}
		if got.Addr().Is4() {
			spec.IPv4 = got.Addr()
		} else {
			spec.IPv6 = got.Addr()
		}
	}
	return spec, nil
}

// engineRun does what docker run does.
func (h *host) engineRun(network, name string, mac model.MAC, want ...string) (*model.Endpoint, error) {
	h.T.Helper()
	n := h.has(network)
	spec, err := h.request(n, want...)
	if err != nil {
		return nil, err
	}
	spec.EngineID, spec.MAC = verbtest.EngineID(name), mac
	if _, err := h.ReserveEndpoint(h.T.Context(), n.EngineNetwork, spec); err != nil {
		return nil, err
	}
	return h.JoinEndpoint(h.T.Context(), spec.EngineID, "docker-"+name, "/run/x/"+name)
}

// engineStop does what docker rm does.
func (h *host) engineStop(ep *model.Endpoint) {
	h.T.Helper()
	err := h.ReleaseEndpoint(h.T.Context(), ep.ID)
	for _, p := range []netip.Prefix{ep.IPv4, ep.IPv6} {
		if p.IsValid() {
			err = errors.Join(err, h.ReleaseAddress(h.T.Context(), p.Masked().String(), p.Addr()))
		}
	}
	if err != nil {
		h.T.Error(err)
	}
}

// Engines of two hosts share a network of the cluster with sandboxes of the command line.
func TestEnginesShareANetwork(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	n := a.overlay("web", "10.5.0.0/24", "fd00:5::/64")
	b.has("web")
	store := s.Open()
	defer store.Close()
	for _, h := range []*host{a, b} {
		if err := h.engineCreate("web", "web-on-"+h.name, nil); err != nil {
			t.Fatal(err)
		}
	}
	one, err1 := a.engineRun("web", "one", model.MAC{})
	two, err2 := b.engineRun("web", "two", model.MAC{2, 0, 0, 0, 0, 7})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	three := b.run("three", "web")
	if one.IPv4 == two.IPv4 || one.IPv6 == two.IPv6 || three.IPv4 == one.IPv4 || one.MAC != model.MACOf(one.IPv4.Addr()) {
		t.Errorf("one %+v, two %+v, three %+v", one, two, three)
	}
	settled(t, store, n.ID, a, b)
	eventually(t, "the engine's sandbox is published", func() error { // its address is, from the engine's request on
		members := published(t, store, n.ID)
		if m := members["b/docker-two"]; m.IPv4 != two.IPv4.Addr() || m.IPv6 != two.IPv6.Addr() || m.MAC != two.MAC || m.SandboxID == "" {
			return fmt.Errorf("published %+v", members)
		}
		return nil
	})
	// Names follow the engine's, on the other host too.
	if err := b.SyncEngineNames(t.Context(), verbtest.EngineNames("web", "two", "shop")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the name is published", func() error {
		if members := published(t, store, n.ID); members["b/shop"].IPv4 != two.IPv4.Addr() {
			return fmt.Errorf("published %+v", members)
		}
		return nil
	})
	// An address that any host has is refused.
	for _, taken := range []*model.Endpoint{one, two, three} {
		_, err := a.engineRun("web", "four", model.MAC{}, taken.IPv4.Addr().String())
		if !errors.Is(err, model.ErrConflict) || !strings.Contains(err.Error(), "Address already in use") {
			t.Errorf("run with %v: %v", taken.IPv4, err)
		}
	}
	if _, err := a.engineRun("web", "four", model.MAC{2, 0, 0, 0, 0, 7}); !errors.Is(err, model.ErrConflict) || !strings.Contains(err.Error(), "MAC") {
		t.Errorf("run with a MAC of the other host: %v", err)
	}
	// The network is not removed from under the engine, and not with it.
	if err := a.RemoveNetwork(t.Context(), "web"); !errors.Is(err, model.ErrForbidden) || !strings.Contains(err.Error(), "docker network rm") {
		t.Errorf("remove a network that an engine uses: %v", err)
	}
	if err := a.engineRemove("web-on-a"); !errors.Is(err, model.ErrForbidden) {
		t.Errorf("remove the engine's network with a container: %v", err)
	}
	a.Check()
	b.Check()
	a.engineStop(one)
	b.engineStop(two)
	for _, h := range []*host{a, b} {
		if err := h.engineRemove("web-on-" + h.name); err != nil {
			t.Error(err)
		}
		h.Check()
		if c := h.Snapshot().Counts(); c.Pools != 0 {
			t.Errorf("%s still has %+v", h.name, c)
		}
	}
	settled(t, store, n.ID, a, b)
	if err := b.RemoveSandbox(t.Context(), "three", false); err != nil {
		t.Fatal(err)
	}
	settled(t, store, n.ID, a, b)
	if err := a.RemoveNetwork(t.Context(), "web"); err != nil {
		t.Errorf("remove a network that no engine uses any more: %v", err)
	}
}

// An engine is refused in one line that names the remedy, and nothing is left of what it requested.
func TestEngineIsRefusedSharedNetworks(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	a.overlay("web", "10.5.0.0/24")
	a.MakeNetwork(model.NetworkSpec{Name: "local"})
	pool := func(network string, f model.Family, subnet string) error {
		var p netip.Prefix
		if subnet != "" {
			p = verbtest.Prefix(subnet)
		}
		_, _, err := a.RequestSharedPool(t.Context(), "", network, f, p, model.AddrRange{})
		return err
	}
	before := a.Snapshot()
	a.Refused(before, pool("nowhere", model.V4, ""), model.ErrNotFound, "network nowhere does not exist in the cluster")
	a.Refused(before, pool("local", model.V4, ""), model.ErrInvalid, "driver bridge")
	a.Refused(before, pool("web", model.V6, ""), model.ErrInvalid, "no IPv6 subnet")
	a.Refused(before, pool("web", model.V4, "10.6.0.0/24"), model.ErrInvalid, "has subnet 10.5.0.0/24")
	for text, change := range map[string]func(*model.NetworkSpec){
		"--internal":           func(spec *model.NetworkSpec) { spec.Internal = true },
		"has gateway 10.5.0.1": func(spec *model.NetworkSpec) { spec.Subnets[0].Gateway = verbtest.Addr("10.5.0.9") },
		"auxiliary": func(spec *model.NetworkSpec) {
			spec.Subnets[0].Aux = map[string]netip.Addr{"r": verbtest.Addr("10.5.0.9")}
		},
		"without option " + model.OptMTU: func(spec *model.NetworkSpec) { spec.Options = map[string]string{model.OptMTU: "1400"} },
		"without option encrypted":       func(spec *model.NetworkSpec) { spec.Options = map[string]string{model.OptEncrypted: ""} },
		"unknown option foo":             func(spec *model.NetworkSpec) { spec.Options = map[string]string{"foo": "bar"} },
		"contradicts --ipam-opt":         func(spec *model.NetworkSpec) { spec.Options = map[string]string{model.OptNetwork: "local"} },
		"add: --ipam-driver fairlead": func(spec *model.NetworkSpec) {
			spec.Subnets[0] = verbtest.Subnet("10.7.0.0/24")
			spec.Options = map[string]string{model.OptNetwork: "web"}
		},
	} {
		if err := a.engineCreate("web", "x", change); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error %v, want %q", err, text)
		}
	}
	if c := a.Snapshot().Counts(); c.Pools != 0 || a.has("web").EngineNetwork != "" {
		t.Errorf("left: %+v", c)
	}
	// Without a network of the driver, there are no addresses: --aux-address, or another driver.
	if err := pool("web", model.V4, ""); err != nil {
		t.Fatal(err)
	}
	_, err := a.RequestAddress(t.Context(), "10.5.0.0/24", verbtest.Addr("10.5.0.9"), false)
	if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), "-d fairlead") {
		t.Errorf("an address without a network of the driver: %v", err)
	}
	if err := a.engineCreate("web", "first", func(spec *model.NetworkSpec) {
		spec.Options = map[string]string{model.OptNetwork: "web", model.OptMTU: "1450"}
	}); err != nil {
		t.Fatal(err)
	}
	before = a.Snapshot()
	a.Refused(before, a.engineCreate("web", "second", nil), model.ErrConflict, "already")
	// Two at once: the pool stays that of the first when the second is refused.
	if err := a.ReleasePool(t.Context(), "10.5.0.0/24"); err != nil || a.Snapshot().Pool("10.5.0.0/24") == nil {
		t.Errorf("the pool of a network of the engine was released, %v", err)
	}
	_, err = a.ReserveEndpoint(t.Context(), verbtest.EngineID("first"), model.EndpointSpec{EngineID: verbtest.EngineID("ep"), IPv4: verbtest.Addr("10.5.0.77")})
	a.Refused(before, err, model.ErrConflict, "not reserved")
	a.stop()
	a.cluster = nil
	a.Refused(before, pool("web", model.V4, ""), model.ErrForbidden, "not part of one")
}

// While the store is down, engines are refused at once, and removals work.
func TestEngineWithoutTheStore(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	n := a.overlay("web", "10.5.0.0/24")
	if err := a.engineCreate("web", "web", nil); err != nil {
		t.Fatal(err)
	}
	one, err := a.engineRun("web", "one", model.MAC{})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := a.request(a.has("web"))
	if err != nil {
		t.Fatal(err)
	}
	spec.EngineID = verbtest.EngineID("late")
	store := s.Open()
	defer store.Close()
	settled(t, store, n.ID, a)
	s.Stop()
	refused := func(what string, do func() error) {
		t.Helper()
		began := time.Now()
		if err := do(); !errors.Is(err, model.ErrUnavailable) || strings.Contains(err.Error(), "\n") || time.Since(began) > 3*time.Second {
			t.Errorf("%s without the store: %v after %v", what, err, time.Since(began))
		}
	}
	refused("an address", func() error { _, err := a.request(n); return err })
	refused("an endpoint", func() error { _, err := a.ReserveEndpoint(t.Context(), verbtest.EngineID("web"), spec); return err })
	a.engineStop(one)
	a.Check()
	s.Start()
	settled(t, store, n.ID, a)
	if _, err := a.ReserveEndpoint(t.Context(), verbtest.EngineID("web"), spec); err != nil {
		t.Errorf("the address is lost: %v", err)
	}
	settled(t, store, n.ID, a)
	a.Check()
}

// The daemon is killed between any two requests of an engine, and an engine does not use an address.
func TestEngineRequestsAreInterrupted(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	a.grace = 300 * time.Millisecond
	n := a.overlay("web", "10.5.0.0/24", "fd00:5::/64")
	store := s.Open()
	defer store.Close()
	if err := a.engineCreate("web", "web", nil); err != nil {
		t.Fatal(err)
	}
	a.restart()
	a.registered()
	spec, err := a.request(a.has("web"))
	if err != nil {
		t.Fatal(err)
	}
	a.restart()
	a.registered()
	spec.EngineID = verbtest.EngineID("one")
	for range 2 { // the second time the engine did not get the answer
		if _, err := a.ReserveEndpoint(t.Context(), verbtest.EngineID("web"), spec); err != nil {
			t.Fatal(err)
		}
		settled(t, store, n.ID, a)
	}
	ep, err := a.JoinEndpoint(t.Context(), spec.EngineID, "docker-one", "/run/x/one")
	if err != nil {
		t.Fatal(err)
	}
	a.restart()
	a.registered()
	if got := a.Snapshot().Endpoint(ep.ID); got == nil || got.IPv4 != ep.IPv4 || got.IPv6 != ep.IPv6 {
		t.Errorf("after a restart: %+v", got)
	}
	// IPv6 is off in the container: the engine takes that address back.
	if err := a.ReleaseAddress(t.Context(), ep.IPv6.Masked().String(), ep.IPv6.Addr()); err != nil {
		t.Fatal(err)
	}
	settled(t, store, n.ID, a)
	// A late release does not take the address of a running container.
	if err := a.ReleaseAddress(t.Context(), ep.IPv4.Masked().String(), ep.IPv4.Addr()); err != nil || a.Snapshot().Endpoint(ep.ID).IPv4 != ep.IPv4 {
		t.Errorf("a late release: %v", err)
	}
	if err := a.ReleaseEndpoint(t.Context(), ep.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := a.request(a.has("web")); err != nil {
		t.Fatal(err)
	}
	a.restart()
	a.registered()
	eventually(t, "what the engine did not use is released", func() error {
		if err := a.Reap(t.Context()); err != nil {
			return err
		}
		if a.Snapshot().HasMembers(n.ID) {
			return errors.New("there are endpoints")
		}
		return nil
	})
	settled(t, store, n.ID, a)
	a.Check()
	// Another host removes the network: the engine is refused until it removes its own.
	b := newHost(t, s, "b").registered()
	b.has("web")
	if err := b.RemoveNetwork(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a forgets the network", func() error {
		if a.Snapshot().Network(n.ID) != nil {
			return errors.New("it exists")
		}
		return nil
	})
	if _, err := a.RequestAddress(t.Context(), "10.5.0.0/24", netip.Addr{}, false); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("an address of a network that is gone: %v", err)
	}
	if err := a.engineRemove("web"); err != nil {
		t.Error(err)
	}
	a.Check()
}

// An endpoint that was to take an address over, and does not, gives it back to the one that held it; also if
// the daemon is killed in between.
func TestTakeoverFails(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	n := a.overlay("web", "10.5.0.0/24")
	store := s.Open()
	defer store.Close()
	if err := a.engineCreate("web", "web", nil); err != nil {
		t.Fatal(err)
	}
	spec, err := a.request(a.has("web"))
	if err != nil {
		t.Fatal(err)
	}
	holder := a.Snapshot().MemberWithAddr(n.ID, spec.IPv4)
	claim := func(from ...string) (*model.Claim, error) {
		spec := spec
		spec.Exact, spec.TakesOver = true, from
		return a.cluster.Claim(t.Context(), a.has("web"), spec, model.Member{ID: verbtest.EngineID("one")})
	}
	if _, err := claim(); !errors.Is(err, model.ErrConflict) {
		t.Errorf("claim an address that another endpoint holds: %v", err)
	}
	for _, kill := range []bool{false, true} {
		c, err := claim(holder.ID)
		if err != nil {
			t.Fatal(err)
		}
		if by := holdersIn(t, a, n.ID)[spec.IPv4]; by != c.Member.ID {
			t.Errorf("held by %s, want the new endpoint", by)
		}
		if kill {
			a.restart()
			a.registered()
		} else {
			a.cluster.Done(c)
		}
		settled(t, store, n.ID, a)
	}
	spec.EngineID = verbtest.EngineID("one")
	if _, err := a.ReserveEndpoint(t.Context(), verbtest.EngineID("web"), spec); err != nil {
		t.Error(err)
	}
	settled(t, store, n.ID, a)
	a.Check()
}

// holdersIn returns the IDs of the endpoints that hold the addresses of a network.
func holdersIn(t *testing.T, h *host, network string) map[netip.Addr]string {
	t.Helper()
	held, err := h.cluster.Holders(t.Context(), network)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[netip.Addr]string{}
	for a, by := range held {
		ids[a] = by.Endpoint
	}
	return ids
}

// What an engine no longer has is removed, except the cluster's network and what is in use.
func TestEngineLosesASharedNetwork(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	n := a.overlay("web", "10.5.0.0/24")
	if err := a.engineCreate("web", "web", nil); err != nil {
		t.Fatal(err)
	}
	// Its engine is recorded once it has listed the network.
	names := model.EngineNames{Engine: "me", Networks: map[string]string{verbtest.EngineID("web"): "shop"}, Subnets: map[netip.Prefix]bool{n.Subnets[0].Prefix: true}}
	if err := a.SyncEngineNames(t.Context(), names); err != nil {
		t.Fatal(err)
	}
	if now := a.has("web"); now.Engine != "me" || a.Snapshot().Pool("10.5.0.0/24").Engine != "me" {
		t.Errorf("the engine is not recorded: %+v", now.Local)
	}
	one, err := a.engineRun("web", "one", model.MAC{})
	if err != nil {
		t.Fatal(err)
	}
	lost := []string{verbtest.EngineID("web"), "10.5.0.0/24"}
	before := a.Snapshot()
	if err := a.RemoveOrphaned(t.Context(), lost); err != nil || a.Snapshot() != before {
		t.Errorf("removed while a container is in it, %v", err)
	}
	a.engineStop(one)
	a.run("mine", "web") // does not matter
	if err := a.RemoveOrphaned(t.Context(), lost); err != nil {
		t.Error(err)
	}
	if now := a.has("web"); now.EngineNetwork != "" || now.Engine != "" || a.Snapshot().Pool("10.5.0.0/24") != nil {
		t.Errorf("left: %+v", now.Local)
	}
	a.Check()
}
