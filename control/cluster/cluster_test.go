// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster"
	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/memory"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/engine"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/verbtest"
)

// host is a host of a cluster with fakes of its kernel, and a client of its own of the store.
type host struct {
	*verbtest.World
	cluster *cluster.Cluster
	conn    *memory.Conn
	name    string
	server  *memory.Server
	stop    func() // the cluster's part
	mtu     int
	vtep    atomic.Pointer[netip.Addr] // nil: the default
	encryption
	others []string      // see [cluster.Config.Alive]
	grace  time.Duration // of requests of engines; 0: the default
}

// encryption is a host's device that encrypts.
type encryption struct {
	mu      sync.Mutex
	key     model.PublicKey // zero until there was a device
	refused error
}

func (e *encryption) Key() (model.PublicKey, uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.key, 61820
}

func (e *encryption) Ensure() (model.EncryptingDevice, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refused != nil {
		return model.EncryptingDevice{}, e.refused
	}
	if e.key.IsZero() {
		_, _ = rand.Read(e.key[:])
	}
	return model.EncryptingDevice{Key: e.key}, nil
}

// quick are time limits for tests.
func quick(name string) kv.Config {
	return kv.Config{
		Name: name, CallTimeout: 2 * time.Second, ListTimeout: 5 * time.Second, PingEvery: 50 * time.Millisecond,
		PingTimeout: time.Second, MaxBackoff: 50 * time.Millisecond,
	}
}

func newHost(t *testing.T, s *memory.Server, name string) *host {
	t.Helper()
	h := &host{name: name, server: s, stop: func() {}, mtu: 1450}
	change := func(cfg *verbtest.Configs) {
		cfg.Controller.Cluster = func() controller.Cluster {
			if h.cluster == nil {
				return nil
			}
			return h.cluster
		}
		cfg.Engine.Cluster = func() engine.Cluster {
			if h.cluster == nil {
				return nil
			}
			return h.cluster
		}
		cfg.Engine.StartGrace = h.grace
		cfg.State.Now = time.Now
	}
	h.World = verbtest.NewWorldWith(t, filepath.Join(t.TempDir(), "state.db"), change)
	h.join()
	t.Cleanup(func() { h.stop() })
	return h
}

// join starts the host's part in the cluster.
func (h *host) join() {
	h.T.Helper()
	h.conn = h.server.Dial()
	store := kv.New(h.conn, quick("memory://"))
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	var out io.Writer = io.Discard
	if testing.Verbose() {
		out = &prefixed{h.T, h.name}
	}
	h.cluster, err = cluster.Open(ctx, cluster.Config{
		Store: store, Local: h.Store, State: h.Controller, Name: h.name, Version: "test", Port: 4789,
		VTEPs: func() (v4, v6 netip.Addr, err error) {
			if a := h.vtep.Load(); a != nil {
				return *a, netip.Addr{}, nil
			}
			return netip.AddrFrom4([4]byte{10, 99, 0, h.name[len(h.name)-1]}), netip.Addr{}, nil
		},
		MTU: func(encrypted bool) (int, error) {
			if encrypted {
				return h.mtu - 80, nil
			}
			return h.mtu, nil
		},
		Alive:      func(string) []string { return h.others },
		Encryption: &h.encryption, Log: slog.New(slog.NewTextHandler(out, nil)),
		Grace: 100 * time.Millisecond,
	})
	if err != nil {
		h.T.Fatal(err)
	}
	h.State.Subscribe(h.cluster.Update)
	h.cluster.Update(h.Snapshot())
	ended := make(chan error, 1)
	go func() { ended <- h.cluster.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			h.T.Errorf("cluster ended: %v", err)
		}
		_ = store.Close()
		h.stop = func() {}
	}
}

type prefixed struct {
	t    testing.TB
	name string
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.t.Logf("%s: %s", p.name, strings.TrimSpace(string(b)))
	return len(b), nil
}

// restart kills the daemon and starts another.
func (h *host) restart() {
	h.T.Helper()
	h.stop()
	h.Restart()
	h.join()
}

// registered waits until the host may use shared networks.
func (h *host) registered() *host {
	h.T.Helper()
	eventually(h.T, h.name+" is registered", func() error {
		if h.cluster.Self().Number == 0 {
			return errors.New("no number")
		}
		_, err := h.cluster.CreateNetwork(context.Background(), false, func([]netip.Prefix, int) (*model.Network, error) { return nil, errStop })
		if !errors.Is(err, errStop) {
			return err
		}
		return nil
	})
	return h
}

var errStop = errors.New("stop")

func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (h *host) overlay(name string, subnets ...string) *model.Network {
	h.T.Helper()
	spec := model.NetworkSpec{Name: name, Driver: model.DriverOverlay}
	for _, s := range subnets {
		spec.Subnets = append(spec.Subnets, verbtest.Subnet(s))
		spec.EnableIPv6 = spec.EnableIPv6 || strings.Contains(s, ":")
	}
	return h.MakeNetwork(spec)
}

// has waits until a network exists on the host.
func (h *host) has(name string) *model.Network {
	h.T.Helper()
	var n *model.Network
	eventually(h.T, h.name+" has network "+name, func() (err error) {
		n, err = h.Network(name)
		return err
	})
	return n
}

func (h *host) run(name, network string) *model.Endpoint {
	h.T.Helper()
	h.MakeSandbox(model.SandboxSpec{Name: name, NetworkMode: network})
	return h.EndpointIn(network, name)
}

// published returns the members of a network in the store, by node name and member name.
func published(t testing.TB, s kv.Store, network string) map[string]model.Member {
	t.Helper()
	members := map[string]model.Member{}
	entries := list(t, s, layout.EndpointsOf(network))
	for _, e := range entries {
		var c layout.Chunk
		_, id, _, _ := layout.ParseChunkKey(e.Key)
		var node model.Node
		_, err := layout.Load(context.Background(), s, layout.NodeKey(id), &node)
		if err := errors.Join(err, layout.Decode(e.Key, e.Value, &c)); err != nil {
			t.Fatal(err)
		}
		for _, m := range c.Members {
			name := node.Name + "/" + m.Name
			switch {
			case m.ID == id:
				name = node.Name
			case m.Name == "": // no sandbox has joined it yet
				name += model.ShortID(m.ID)
			}
			if _, twice := members[name]; twice {
				t.Errorf("%s is published twice", name)
			}
			members[name] = m
		}
	}
	return members
}

// list lists what is under a prefix, as soon as the store answers.
func list(t testing.TB, s kv.Store, prefix string) (entries []kv.Entry) {
	t.Helper()
	eventually(t, "the store answers", func() (err error) {
		entries, err = s.List(context.Background(), prefix)
		return err
	})
	return entries
}

// holders returns the holders of the addresses of a network.
func holders(t testing.TB, s kv.Store, network string) map[netip.Addr]model.AddressHolder {
	t.Helper()
	entries := list(t, s, layout.ShardsOf(network))
	held := map[netip.Addr]model.AddressHolder{}
	for _, e := range entries {
		var sh layout.Shard
		if err := layout.Decode(e.Key, e.Value, &sh); err != nil {
			t.Fatal(err)
		}
		for a, by := range sh.Held {
			held[a] = by
		}
	}
	return held
}

// settled waits until the store has exactly what the hosts have: their members, with their addresses.
func settled(t testing.TB, s kv.Store, network string, hosts ...*host) {
	t.Helper()
	eventually(t, "the store has what the hosts have", func() error {
		want := map[netip.Addr]string{}
		names := 0
		for _, h := range hosts {
			n := h.Snapshot().Network(network)
			if n == nil {
				return fmt.Errorf("%s lacks the network", h.name)
			}
			for ep := range h.Snapshot().Members(network) {
				names++
				for _, f := range model.Families {
					if a := ep.Addr(f); a.IsValid() {
						if other, twice := want[a]; twice {
							t.Fatalf("%v belongs to %s and %s", a, other, ep.ID)
						}
						want[a] = ep.ID
					}
				}
			}
			for _, p := range n.NodePrefixes() {
				want[p.Addr()] = h.cluster.Self().ID
			}
			if len(n.NodePrefixes()) > 0 {
				names++
			}
		}
		held := holders(t, s, network)
		for a, id := range want {
			if held[a].Endpoint != id {
				return fmt.Errorf("%v is held by %q, want %q", a, held[a].Endpoint, id)
			}
		}
		if len(held) != len(want) {
			return fmt.Errorf("%d addresses are held, want %d: %v", len(held), len(want), held)
		}
		if members := published(t, s, network); len(members) != names {
			return fmt.Errorf("%d members are published, want %d", len(members), names)
		}
		return nil
	})
}

func TestNetworkExistsOnEveryHost(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	n := a.overlay("web", "10.5.0.0/24", "fd00:5::/64")
	if !n.Idle || n.VNI == 0 || n.MTU != 1450 {
		t.Errorf("created: %+v", n)
	}
	on := b.has("web")
	if on.ID != n.ID || on.VNI != n.VNI || on.GatewayMAC != n.GatewayMAC || on.Subnets[0].Gateway != n.Subnets[0].Gateway || !on.Idle {
		t.Errorf("on b: %+v, want %+v", on, n)
	}
	one, two := a.run("one", "web"), b.run("two", "web")
	if one.IPv4 == two.IPv4 || one.IPv6 == two.IPv6 || one.MAC == two.MAC {
		t.Errorf("one %+v, two %+v", one, two)
	}
	store := s.Open()
	defer store.Close()
	settled(t, store, n.ID, a, b)
	members := published(t, store, n.ID)
	if m := members["b/two"]; m.IPv4 != two.IPv4.Addr() || m.MAC != two.MAC {
		t.Errorf("published %+v", members)
	}
	if an, bn := a.has("web"), b.has("web"); an.NodeIPv4 == bn.NodeIPv4 || !an.NodeIPv6.IsValid() || an.Idle {
		t.Errorf("nodes' own addresses: %+v %+v", an.Local, bn.Local)
	}
	// It cannot be removed while another host uses it, nor while this one does.
	if err := a.RemoveNetwork(t.Context(), "web"); !errors.Is(err, model.ErrForbidden) {
		t.Errorf("remove a network that is in use here: %v", err)
	}
	if err := a.RemoveSandbox(t.Context(), "one", false); err != nil {
		t.Fatal(err)
	}
	settled(t, store, n.ID, a, b)
	if err := a.RemoveNetwork(t.Context(), "web"); !errors.Is(err, model.ErrForbidden) || !strings.Contains(err.Error(), "(b)") {
		t.Errorf("remove a network that is in use on b: %v", err)
	}
	if err := b.RemoveSandbox(t.Context(), "two", false); err != nil {
		t.Fatal(err)
	}
	settled(t, store, n.ID, a, b)
	if err := b.RemoveNetwork(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a forgets the network", func() error {
		if a.Snapshot().Network(n.ID) != nil {
			return errors.New("it exists")
		}
		return nil
	})
	left, err := store.List(t.Context(), "fairlead/v1/")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.Contains(e.Key, n.ID) || strings.Contains(string(e.Value), n.ID) {
			t.Errorf("left behind: %s = %s", e.Key, e.Value)
		}
	}
	a.Check()
	b.Check()
}

// A network can be removed as soon as the last sandbox was removed, on whichever host. A network in use is
// refused after a moment, and not pruned.
func TestNetworkIsRemovedAtOnce(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	for range 20 {
		a.overlay("web", "10.5.0.0/24")
		b.has("web")
		b.run("two", "web")
		if err := b.RemoveSandbox(t.Context(), "two", false); err != nil {
			t.Fatal(err)
		}
		if err := a.RemoveNetwork(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "b forgets the network", func() error {
			if _, err := b.Network("web"); err == nil {
				return errors.New("it exists")
			}
			return nil
		})
	}
	a.overlay("web", "10.5.0.0/24")
	b.has("web")
	b.run("two", "web")
	began := time.Now()
	if err := a.RemoveNetwork(t.Context(), "web"); !errors.Is(err, model.ErrForbidden) || time.Since(began) > 5*time.Second {
		t.Errorf("a network in use on b: %v after %v", err, time.Since(began))
	}
	if names, err := a.PruneNetworks(t.Context(), nil); err != nil || len(names) > 0 {
		t.Errorf("pruned %q, %v", names, err)
	}
	a.Check()
	b.Check()
}

// The store is down when the daemon starts, during verbs, and comes back.
func TestStoreIsDown(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	n := a.overlay("web", "10.5.0.0/24")
	b.has("web")
	a.run("one", "web")
	b.run("two", "web")
	store := s.Open()
	defer store.Close()
	settled(t, store, n.ID, a, b)

	s.Stop()
	a.restart()
	eventually(t, "the store is known to be down", func() error {
		if h := a.conn; h == nil {
			return errors.New("no connection")
		}
		_, err := a.CreateSandbox(t.Context(), model.SandboxSpec{Name: "three", NetworkMode: "web"})
		if !errors.Is(err, model.ErrUnavailable) {
			return fmt.Errorf("create in a shared network: %w", err)
		}
		return nil
	})
	quickly := func(what string, want error, verb func() error) {
		t.Helper()
		began := time.Now()
		err := verb()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s took %v while the store was down", what, took)
		}
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s while the store was down: %v, want %v", what, err, want)
		}
	}
	create := func(name, network string) func() error {
		return func() error {
			_, err := a.CreateSandbox(t.Context(), model.SandboxSpec{Name: name, NetworkMode: network})
			return err
		}
	}
	quickly("a local sandbox", nil, create("local", "bridge"))
	quickly("a sandbox in a shared network", model.ErrUnavailable, create("three", "web"))
	quickly("connect", model.ErrUnavailable, func() error { _, err := a.Connect(t.Context(), "web", "local", model.EndpointSpec{}); return err })
	quickly("a shared network", model.ErrUnavailable, func() error {
		_, err := a.CreateNetwork(t.Context(), model.NetworkSpec{Name: "other", Driver: model.DriverOverlay})
		return err
	})
	quickly("a local network", nil, func() error {
		_, err := a.CreateNetwork(t.Context(), model.NetworkSpec{Name: "home"})
		return err
	})
	quickly("remove a local network", nil, func() error { return a.RemoveNetwork(t.Context(), "home") })
	quickly("remove a sandbox", nil, func() error { return a.RemoveSandbox(t.Context(), "one", false) })
	a.Check()
	if len(a.Snapshot().Network(n.ID).NodePrefixes()) != 0 || !a.Snapshot().Network(n.ID).Idle {
		t.Error("the network is in use without endpoints")
	}
	s.Start()
	settled(t, store, n.ID, a, b)
	eventually(t, "creates work again", create("three", "web"))
	settled(t, store, n.ID, a, b)
}

// A network that is removed while the store is down is removed from it later, unless another host uses
// it.
func TestRemoveNetworkWhileStoreIsDown(t *testing.T) {
	for _, used := range []bool{false, true} {
		t.Run(fmt.Sprint("used=", used), func(t *testing.T) {
			s := memory.New()
			a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
			n := a.overlay("web", "10.5.0.0/24")
			b.has("web")
			if used {
				b.run("two", "web")
			}
			s.Stop()
			a.restart() // so that the removal is not known to fail at once
			if err := a.RemoveNetwork(t.Context(), "web"); err != nil {
				t.Fatal(err)
			}
			if a.Snapshot().Network(n.ID) != nil {
				t.Error("the network was not removed")
			}
			a.restart()
			s.Start()
			if used {
				a.has("web")
				b.has("web")
				return
			}
			for _, h := range []*host{a, b} {
				eventually(t, h.name+" has no network", func() error {
					if h.Snapshot().Network(n.ID) != nil {
						return errors.New("it exists")
					}
					return nil
				})
			}
		})
	}
}

// An emptied store gets everything back from the nodes, networks without endpoints too.
func TestStoreIsEmptied(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	n, unused := a.overlay("web", "10.5.0.0/24", "fd00:5::/64"), b.overlay("unused", "10.6.0.0/24")
	b.has("web")
	a.has("unused")
	for i := range 40 { // more than a chunk
		a.run(fmt.Sprint("a", i), "web")
	}
	b.MakeSandbox(model.SandboxSpec{Name: "two", NetworkMode: "web", Endpoint: model.EndpointSpec{MAC: model.MAC{2, 1, 2, 3, 4, 5}}})
	store := s.Open()
	defer store.Close()
	settled(t, store, n.ID, a, b)
	before := holders(t, store, n.ID)
	for round := range 3 {
		s.Stop()
		s.Wipe()
		if round == 1 {
			b.restart()
		}
		s.Start()
		settled(t, store, n.ID, a, b)
		for _, h := range []*host{a, b} {
			h.has("web")
			h.has("unused")
		}
		eventually(t, "the store has both networks, subnets and VNIs", func() error {
			for _, n := range []*model.Network{n, unused} {
				var id string
				rev, err := layout.Load(t.Context(), store, layout.VNIKey(n.VNI), &id)
				if err != nil || rev == layout.Absent || id != n.ID {
					return fmt.Errorf("VNI %d belongs to %q, %v", n.VNI, id, err)
				}
			}
			return nil
		})
	}
	after := holders(t, store, n.ID)
	for a, by := range before {
		if after[a].Endpoint != by.Endpoint {
			t.Errorf("%v is held by %q, before by %q", a, after[a].Endpoint, by.Endpoint)
		}
	}
}

// A daemon that is killed at any moment leaks no address: the next one releases what no endpoint has.
func TestKilledDaemonLeaksNothing(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	n := a.overlay("web", "10.5.0.0/24")
	a.run("stays", "web")
	store := s.Open()
	defer store.Close()
	for range 20 {
		// A claim whose verb never ends: the daemon is killed between the two.
		member := model.Member{ID: strings.Repeat("ab", 32), Name: "lost"}
		if _, err := a.cluster.Claim(t.Context(), a.Snapshot().Network(n.ID), model.EndpointSpec{}, member); err != nil {
			t.Fatal(err)
		}
		a.restart()
	}
	settled(t, store, n.ID, a)
	// Nor does a verb that fails after its claim.
	a.Kernel.OnApply = func(*desired.Snapshot) error { return errors.New("refused") }
	for range 5 {
		if _, err := a.CreateSandbox(t.Context(), model.SandboxSpec{Name: "fails", NetworkMode: "web"}); err == nil {
			t.Fatal("the kernel refused, and the verb succeeded")
		}
	}
	a.Kernel.OnApply = nil
	settled(t, store, n.ID, a)
	// A network that this host no longer has.
	other := newHost(t, s, "b").registered()
	other.has("web")
	if err := a.RemoveSandbox(t.Context(), "stays", false); err != nil {
		t.Fatal(err)
	}
	settled(t, store, n.ID, a, other)
}

// Two nodes race for one address: one of them gets it, and never both. Those that a node has already are left out.
func TestRaces(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 50
	}
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	n := a.overlay("web", "10.5.0.0/16")
	b.has("web")
	store := s.Open()
	defer store.Close()
	both := func(verb func(h *host) error) (won int) {
		t.Helper()
		results := make(chan error, 2)
		for _, h := range []*host{a, b} {
			go func() { results <- verb(h) }()
		}
		for range 2 {
			switch err := <-results; {
			case err == nil:
				won++
			case !errors.Is(err, model.ErrConflict):
				t.Fatal(err)
			}
		}
		return won
	}
	for i := range rounds {
		addr := netip.AddrFrom4([4]byte{10, 5, byte(2 + i%200), byte(1 + i%250)})
		for held := holders(t, store, n.ID); ; addr = addr.Next() {
			if _, ok := held[addr]; !ok {
				break
			}
		}
		won := both(func(h *host) error {
			_, err := h.CreateSandbox(t.Context(), model.SandboxSpec{Name: fmt.Sprint("s", i), NetworkMode: "web", Endpoint: model.EndpointSpec{IPv4: addr}})
			return err
		})
		if won != 1 {
			t.Fatalf("address %v: %d nodes got it", addr, won)
		}
		for _, h := range []*host{a, b} {
			if sb, err := h.Sandbox(fmt.Sprint("s", i)); err == nil {
				if err := h.RemoveSandbox(t.Context(), sb.ID, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		// Automatic addresses, in the same shards.
		if won := both(func(h *host) error {
			_, err := h.CreateSandbox(t.Context(), model.SandboxSpec{Name: "auto", NetworkMode: "web"})
			return err
		}); won != 2 {
			t.Fatalf("automatic addresses: %d nodes got one", won)
		}
		if x, y := a.EndpointIn("web", "auto"), b.EndpointIn("web", "auto"); x.IPv4 == y.IPv4 {
			t.Fatalf("both have %v", x.IPv4)
		}
		for _, h := range []*host{a, b} {
			if err := h.RemoveSandbox(t.Context(), "auto", false); err != nil {
				t.Fatal(err)
			}
		}
	}
	settled(t, store, n.ID, a, b)
	a.Check()
	b.Check()
}

func TestNetworkRaces(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 50
	}
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	for i := range rounds {
		specs := [2]model.NetworkSpec{}
		for j := range specs {
			specs[j] = model.NetworkSpec{Name: fmt.Sprint("n", i, j), Driver: model.DriverOverlay, Subnets: []model.SubnetSpec{verbtest.Subnet(fmt.Sprintf("10.%d.0.0/24", 10+j))}, Options: map[string]string{}}
		}
		switch i % 3 { // what they compete for
		case 0:
			specs[1].Name = specs[0].Name
		case 1:
			specs[1].Subnets = specs[0].Subnets
		case 2:
			specs[0].Options[model.OptVNI], specs[1].Options[model.OptVNI] = "77", "77"
		}
		results := make(chan error, 2)
		for j, h := range []*host{a, b} {
			go func() { _, err := h.CreateNetwork(t.Context(), specs[j]); results <- err }()
		}
		won, refusals := 0, []error{}
		for range 2 {
			if err := <-results; err == nil {
				won++
			} else if refusals = append(refusals, err); !errors.Is(err, model.ErrConflict) {
				t.Fatal(err)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d nodes created it: %v", i, won, refusals)
		}
		name := specs[0].Name
		if _, err := a.Network(name); err != nil {
			name = specs[1].Name
		}
		a.has(name)
		b.has(name)
		if err := a.RemoveNetwork(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		eventually(t, "b forgets it", func() error {
			if _, err := b.Network(name); err == nil {
				return errors.New("it exists")
			}
			return nil
		})
	}
	a.Check()
	b.Check()
}

// A node that is removed loses its members and addresses; it joins again by itself if it lives.
func TestRemoveNode(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	n := a.overlay("web", "10.5.0.0/24")
	b.has("web")
	a.run("one", "web")
	two := b.run("two", "web")
	store := s.Open()
	defer store.Close()
	settled(t, store, n.ID, a, b)
	if err := a.cluster.RemoveNode(t.Context(), a.cluster.Self()); !errors.Is(err, model.ErrForbidden) {
		t.Errorf("a node removes itself: %v", err)
	}
	b.stop()
	if err := a.cluster.RemoveNode(t.Context(), b.cluster.Self()); err != nil {
		t.Fatal(err)
	}
	settled(t, store, n.ID, a)
	if _, err := a.CreateSandbox(t.Context(), model.SandboxSpec{Name: "takes", NetworkMode: "web", Endpoint: model.EndpointSpec{IPv4: two.IPv4.Addr()}}); err != nil {
		t.Errorf("the address of a removed node: %v", err)
	}
	if err := a.RemoveSandbox(t.Context(), "takes", false); err != nil {
		t.Fatal(err)
	}
	b.join()
	settled(t, store, n.ID, a, b)
}

// TestEncryptedNetworks creates an encrypted network: every host knows that it is, its members' nodes have keys in
// the store, and a host that cannot encrypt is refused.
func TestEncryptedNetworks(t *testing.T) {
	s := memory.New()
	a, b, c := newHost(t, s, "a").registered(), newHost(t, s, "b").registered(), newHost(t, s, "c").registered()
	store := s.Open()
	defer store.Close()
	c.refused = model.Refuse(model.ErrNotSupported, "the kernel has no WireGuard")
	spec := model.NetworkSpec{Name: "secret", Driver: model.DriverOverlay, Options: map[string]string{model.OptEncrypted: ""}}
	if _, err := c.CreateNetwork(t.Context(), spec); !errors.Is(err, model.ErrNotSupported) {
		t.Errorf("a host that cannot encrypt creates an encrypted network: %v", err)
	}
	if got := list(t, store, layout.Networks); len(got) != 0 {
		t.Errorf("the refusal left %d networks", len(got))
	}
	n, err := a.CreateNetwork(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if !n.Encrypted || n.DeviceMTU() != a.mtu-80 || !b.has("secret").Encrypted {
		t.Errorf("network %+v", n)
	}
	a.overlay("open")
	b.run("two", "secret")
	for _, h := range []*host{a, b, c} {
		var node model.Node
		if _, err := layout.Load(t.Context(), store, layout.NodeKey(h.cluster.Self().ID), &node); err != nil {
			t.Fatal(err)
		}
		if key, _ := h.Key(); node.WireGuardKey != key || key.IsZero() != (h == c) {
			t.Errorf("the record of %s has key %v, the host %v", h.name, node.WireGuardKey, key)
		}
	}
	c.has("secret")
	c.has("open")
	c.run("three", "open")
	if _, err := c.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "secret"}); !errors.Is(err, model.ErrNotSupported) {
		t.Errorf("a host that cannot encrypt has a member: %v", err)
	}
	// The network may be one of an engine, which may repeat the option, or not.
	for id, options := range map[string]map[string]string{"plain": nil, "repeated": {model.OptEncrypted: "true"}} {
		if err := b.engineCreate("secret", id, func(spec *model.NetworkSpec) { spec.Options = options }); err != nil {
			t.Errorf("an engine's network: %v", err)
		}
		if err := b.engineRemove(id); err != nil {
			t.Error(err)
		}
	}
	// The record stays as it is over a restart.
	b.restart()
	b.registered()
	b.run("more", "secret")
}

func TestSharedNetworkRefusals(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	b.MakeNetwork(model.NetworkSpec{Name: "mine", Subnets: []model.SubnetSpec{verbtest.Subnet("10.7.0.0/24")}})
	a.overlay("web", "10.5.0.0/24")
	a.overlay("mine", "10.8.0.0/24") // b cannot adopt it
	a.overlay("clash", "10.7.0.0/24")
	b.has("web")
	b.has("clash")
	one := a.run("one", "web")
	for _, tt := range []struct {
		what string
		kind error
		text string
		verb func() error
	}{
		{"address of another node", model.ErrConflict, "held by node a", func() error {
			_, err := b.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "web", Endpoint: model.EndpointSpec{IPv4: one.IPv4.Addr()}})
			return err
		}},
		{"address outside", model.ErrInvalid, "no configured subnet contains", func() error {
			_, err := b.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "web", Endpoint: model.EndpointSpec{IPv4: verbtest.Addr("10.9.0.1")}})
			return err
		}},
		{"gateway's address", model.ErrConflict, "the gateway", func() error {
			_, err := b.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "web", Endpoint: model.EndpointSpec{IPv4: verbtest.Addr("10.5.0.1")}})
			return err
		}},
		{"MAC of another address", model.ErrInvalid, "02:42", func() error {
			_, err := b.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "web", Endpoint: model.EndpointSpec{MAC: one.MAC}})
			return err
		}},
		{"subnet in use here", model.ErrConflict, "cannot be used on this host", func() error {
			_, err := b.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "clash"})
			return err
		}},
		{"name of the cluster's network", model.ErrConflict, "already exists", func() error {
			_, err := b.CreateNetwork(t.Context(), model.NetworkSpec{Name: "web", Driver: model.DriverOverlay})
			return err
		}},
		{"subnet of the cluster's network", model.ErrConflict, "Pool overlaps", func() error {
			_, err := b.CreateNetwork(t.Context(), model.NetworkSpec{Name: "x", Driver: model.DriverOverlay, Subnets: []model.SubnetSpec{verbtest.Subnet("10.8.0.0/16")}})
			return err
		}},
		{"virtual address of another node", model.ErrConflict, "held by node a", func() error {
			_, err := b.CreateService(t.Context(), model.ServiceSpec{Name: "x", Network: "web", IPv4: one.IPv4.Addr()})
			return err
		}},
		{"MTU", model.ErrInvalid, "underlay carries 1400", func() error {
			b.mtu = 1400
			defer func() { b.mtu = 1450 }()
			_, err := b.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "web"})
			return err
		}},
	} {
		before := b.Snapshot()
		err := tt.verb()
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want a refusal of kind %v with %q", tt.what, err, tt.kind, tt.text)
		}
		if b.Snapshot() != before {
			t.Errorf("%s: the refused verb changed the state", tt.what)
		}
	}
	// A chosen MAC is unique in the cluster.
	mac := model.MAC{2, 1, 2, 3, 4, 5}
	a.MakeSandbox(model.SandboxSpec{Name: "mac", NetworkMode: "web", Endpoint: model.EndpointSpec{MAC: mac}})
	_, err := b.CreateSandbox(t.Context(), model.SandboxSpec{NetworkMode: "web", Endpoint: model.EndpointSpec{MAC: mac}})
	if !errors.Is(err, model.ErrConflict) {
		t.Errorf("a MAC that another node has: %v", err)
	}
	if err := a.RemoveSandbox(t.Context(), "mac", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the MAC is free again", func() error {
		_, err := b.CreateSandbox(t.Context(), model.SandboxSpec{Name: "mac", NetworkMode: "web", Endpoint: model.EndpointSpec{MAC: mac}})
		return err
	})
	store := s.Open()
	defer store.Close()
	web, _ := a.Network("web")
	settled(t, store, web.ID, a, b)
}

// service waits until the host has a service, and returns it.
func (h *host) service(name string, is func(*model.Service) bool) *model.Service {
	h.T.Helper()
	var svc *model.Service
	eventually(h.T, h.name+" has service "+name, func() (err error) {
		if svc, err = h.Service(name); err == nil && is != nil && !is(svc) {
			err = fmt.Errorf("it is %+v", svc)
		}
		return err
	})
	return svc
}

// TestServices: a service that one host creates exists on every host, with the same addresses, and any
// host changes and removes it.
func TestServices(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	n := a.overlay("web", "10.5.0.0/24")
	b.has("web")
	ctx := context.Background()
	svc, err := a.CreateService(ctx, model.ServiceSpec{Name: "shop", Network: "web", IPv4: netip.MustParseAddr("10.5.0.77")})
	if err != nil {
		t.Fatal(err)
	}
	if on := b.service("shop", nil); on.ID != svc.ID || on.IPv4 != svc.IPv4 || on.MAC != svc.MAC || on.Number == 0 || on.IPv4.String() != "10.5.0.77" {
		t.Errorf("on b: %+v, want %+v", on, svc)
	}
	for _, spec := range []model.ServiceSpec{
		{Name: "SHOP", Network: "web"}, {Name: "other", Network: "web", IPv4: svc.IPv4},
	} {
		if _, err := b.CreateService(ctx, spec); !errors.Is(err, model.ErrConflict) {
			t.Errorf("create %+v: %v", spec, err)
		}
	}
	if _, err := b.CreateSandbox(ctx, model.SandboxSpec{Name: "thief", NetworkMode: "web", Endpoint: model.EndpointSpec{IPv4: svc.IPv4}}); !errors.Is(err, model.ErrConflict) {
		t.Errorf("a sandbox with the virtual address: %v", err)
	}
	if err := b.RemoveNetwork(ctx, "web"); !errors.Is(err, model.ErrForbidden) {
		t.Errorf("remove the network: %v", err)
	}
	// A backend on b, drained there.
	sb, err := b.CreateSandbox(ctx, model.SandboxSpec{Name: "one", NetworkMode: "web", Endpoint: model.EndpointSpec{Aliases: []string{"shop"}}})
	if err != nil {
		t.Fatal(err)
	}
	ep := b.Snapshot().Connection(sb.ID, n.ID)
	if err := b.DrainBackend(ctx, "shop", "one", true); err != nil {
		t.Fatal(err)
	}
	a.service("shop", func(svc *model.Service) bool { return svc.IsDrained(ep.ID) })
	if err := a.DrainMember(ctx, svc, ep.ID, "one", false); err != nil {
		t.Fatal(err)
	}
	b.service("shop", func(svc *model.Service) bool { return !svc.IsDrained(ep.ID) })

	if err := b.RemoveService(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a lacks the service", func() error {
		if _, err := a.Service("shop"); err == nil {
			return errors.New("it has it")
		}
		return nil
	})
	store := s.Open()
	defer store.Close()
	if held := holders(t, store, n.ID); held[svc.IPv4].Service != "" {
		t.Errorf("the virtual address is held: %+v", held)
	}
}

// TestServicePorts: where a service publishes ports, each host is a member of its network, with an address
// of its own; where a port is taken it is left out.
func TestServicePorts(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	a.overlay("web", "10.5.0.0/24")
	b.has("web")
	ctx := context.Background()
	if _, err := b.CreateSandbox(ctx, model.SandboxSpec{Name: "taker", Ports: []model.PortSpec{{HostPort: 8081, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP}}}); err != nil {
		t.Fatal(err)
	}
	ports := []model.PortSpec{
		{HostPort: 8080, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP}, {HostPort: 8081, HostCount: 1, Port: 90, Count: 1, Proto: model.TCP},
	}
	if _, err := a.CreateService(ctx, model.ServiceSpec{Name: "shop", Network: "web", Ports: ports}); err != nil {
		t.Fatal(err)
	}
	b.service("shop", func(svc *model.Service) bool { return len(svc.Ports) == 1 && svc.Ports[0].HostPort == 8080 })
	for _, h := range []*host{a, b} {
		eventually(t, h.name+" is a member", func() error {
			if n := h.has("web"); n.Idle || !n.NodeIPv4.IsValid() {
				return fmt.Errorf("%+v", n)
			}
			return nil
		})
	}
	if err := a.RemoveService(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*host{a, b} {
		eventually(t, h.name+" left", func() error {
			if n := h.has("web"); !n.Idle {
				return fmt.Errorf("%+v", n)
			}
			return nil
		})
	}
}

// A host whose address changes is registered with the new one at once.
func TestHostMoves(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	store := s.Open()
	defer store.Close()
	moved := netip.MustParseAddr("10.99.7.7")
	a.vtep.Store(&moved)
	began := time.Now()
	a.cluster.UnderlayChanged()
	eventually(t, "the record has the new address", func() error {
		var node model.Node
		if _, err := layout.Load(t.Context(), store, layout.NodeKey(a.cluster.Self().ID), &node); err != nil || node.VTEP4 != moved {
			return fmt.Errorf("%+v, %v", node, err)
		}
		return nil
	})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took) // the next check of the record
	}
}

// A service that the kernel does not have yet is the cluster's already: removing it removes it there.
func TestServiceRemovedWhileAdded(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	n := a.overlay("web", "10.5.0.0/24")
	ctx := context.Background()
	stuck, release := make(chan bool, 1), make(chan struct{})
	a.Kernel.OnApply = func(s *desired.Snapshot) error {
		if s.ServiceIn(n.ID, "shop") != nil {
			select {
			case stuck <- true:
			default:
			}
			<-release
		}
		return nil
	}
	created, removed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := a.CreateService(ctx, model.ServiceSpec{Name: "shop", Network: "web"})
		created <- err
	}()
	<-stuck
	go func() { removed <- a.RemoveService(ctx, "shop") }()
	store := s.Open()
	defer store.Close()
	eventually(t, "the cluster has no service", func() error {
		if entries, err := store.List(ctx, layout.Services); err != nil || len(entries) > 0 {
			return fmt.Errorf("%v, %v", entries, err)
		}
		return nil
	})
	close(release)
	if err := errors.Join(<-created, <-removed); err != nil {
		t.Error(err)
	}
	if _, err := a.Service("shop"); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("the service here: %v", err)
	}
	if err := a.RemoveService(ctx, "shop"); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("another removal: %v", err)
	}
}

// TestServicesAndTheStore: while the store is down, services go on and cannot be changed; an emptied store gets
// them again.
func TestServicesAndTheStore(t *testing.T) {
	s := memory.New()
	a := newHost(t, s, "a").registered()
	n := a.overlay("web", "10.5.0.0/24")
	ctx := context.Background()
	svc, err := a.CreateService(ctx, model.ServiceSpec{Name: "shop", Network: "web"})
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if _, err := a.CreateService(ctx, model.ServiceSpec{Name: "more", Network: "web"}); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("create without the store: %v", err)
	}
	if got, err := a.Service("shop"); err != nil || got.IPv4 != svc.IPv4 {
		t.Errorf("without the store: %+v, %v", got, err)
	}
	s.Wipe()
	s.Start()
	store := s.Open()
	defer store.Close()
	eventually(t, "the store has the service again", func() error {
		if held := holders(t, store, n.ID); held[svc.IPv4].Service != svc.ID {
			return fmt.Errorf("held: %+v", held)
		}
		return nil
	})
	if err := a.RemoveService(ctx, "shop"); err != nil {
		t.Error(err)
	}
}

// TestServiceRemovedWithoutTheStore: a service that is removed while the store is down is gone here at once, also after
// a restart, and everywhere as soon as the store answers. Its name and address are free then.
func TestServiceRemovedWithoutTheStore(t *testing.T) {
	s := memory.New()
	a, b := newHost(t, s, "a").registered(), newHost(t, s, "b").registered()
	n := a.overlay("web", "10.5.0.0/24")
	b.has("web")
	ctx := context.Background()
	spec := model.ServiceSpec{Name: "shop", Network: "web", IPv4: netip.MustParseAddr("10.5.0.77")}
	if _, err := a.CreateService(ctx, spec); err != nil {
		t.Fatal(err)
	}
	was := b.service("shop", nil)
	s.Stop()
	if err := a.RemoveService(ctx, "shop"); err != nil {
		t.Errorf("remove without the store: %v", err)
	}
	gone := func(when string) {
		t.Helper()
		if _, err := a.Service("shop"); !errors.Is(err, model.ErrNotFound) {
			t.Errorf("the service %s: %v", when, err)
		}
	}
	gone("without the store")
	a.restart()
	gone("after a restart")
	s.Start()
	eventually(t, "the service is gone everywhere", func() error {
		if svc, err := b.Service("shop"); err == nil {
			return fmt.Errorf("b has it: %+v", svc)
		}
		return nil
	})
	gone("with the store")
	store := s.Open()
	defer store.Close()
	if held := holders(t, store, n.ID); held[was.IPv4].Service != "" {
		t.Errorf("its address is held: %+v", held)
	}
	a.registered()
	again, err := a.CreateService(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.service("shop", nil); got.ID != again.ID {
		t.Errorf("another service of that name is %+v", got)
	}
}
