// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/turns"
	"github.com/fairlead-net/fairlead/maps"
)

// scene is a plan of one network with two sandboxes, and what was created of it.
type scene struct {
	t      *testing.T
	o      *Objects
	plan   desiredtest.Plain
	before *desired.Snapshot
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, o: New(device.NewKinds(nil, nil, nil)), plan: desiredtest.New(), before: new(desired.Snapshot)}
	s.plan.Networks["net"] = &model.Network{
		ID: "net", Local: model.Local{Index: 7}, Driver: model.DriverBridge, EnableIPv4: true,
		Subnets: []model.Subnet{{Prefix: netip.MustParsePrefix("10.7.0.0/24"), Gateway: netip.MustParseAddr("10.7.0.1")}},
	}
	for i, name := range []string{"a", "b"} {
		s.plan.Sandboxes[name] = &model.Sandbox{ID: name, NetNS: "/run/" + name}
		s.plan.Endpoints[name] = &model.Endpoint{
			ID: name, NetworkID: "net", SandboxID: name,
			IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, 0, byte(2 + i)}), 24),
		}
	}
	return s
}

// pass finds what the plan changes, and creates the devices that are missing.
func (s *scene) pass() *Work {
	s.plan.Rev++
	now := s.plan.Snapshot()
	w := s.o.NewWork(now)
	w.Diff(s.before)
	s.before = now
	for _, n := range w.Networks {
		n.Ends = device.Ends{Host: 11, Peer: 12}
	}
	for i, e := range w.SortedEndpoints() {
		if e.Ends.Host == 0 {
			e.Ends, e.Finished = device.Ends{Host: uint32(21 + i), Peer: uint32(31 + i)}, true
		}
	}
	w.Collect(w.s)
	return w
}

// wantWork expects a pass to work on these numbers of networks, sandboxes, endpoints and publishes.
func (s *scene) wantWork(w *Work, want ...int) {
	s.t.Helper()
	if got := []int{len(w.Networks), len(w.Sandboxes), len(w.Endpoints), len(w.Publishes)}; !slices.Equal(got, want) {
		s.t.Errorf("works on %v networks, sandboxes, endpoints, publishes; want %v", got, want)
	}
}

// A pass works on what changed and on what depends on it, and on nothing else.
func TestDiff(t *testing.T) {
	s := newScene(t)
	w := s.pass()
	s.wantWork(w, 1, 2, 2, 0)
	if !w.Fresh["net"] || !w.Fresh["a"] || len(w.Put.Endpoints) != 3 || len(w.Old.Endpoints) != 0 {
		t.Errorf("first: fresh are %v, entries %+v", w.Fresh, w.Put)
	}
	s.wantWork(s.pass(), 0, 0, 0, 0)

	s.plan.Publishes[1] = &model.Publish{ID: 1, EndpointID: "a", PortBinding: model.PortBinding{HostPort: 80, Port: 80, Count: 2, Proto: model.TCP, From: "192.0.2.0/24,::1/128"}}
	w = s.pass()
	s.wantWork(w, 0, 0, 1, 1)
	if !s.o.Endpoints["a"].Published || len(w.Put.Publishes) != 4 || len(w.Put.Sources) != 2 || len(s.o.All().Sources) != 2 || w.Put.Endpoints[0].Flags&maps.Published == 0 {
		t.Errorf("published: %+v", w.Put)
	}

	moved := *s.plan.Endpoints["a"]
	moved.IPv4 = netip.MustParsePrefix("10.7.0.9/24")
	s.plan.Endpoints["a"] = &moved
	w = s.pass()
	s.wantWork(w, 0, 0, 1, 1) // the publish has another backend address
	stale := w.Old.Without(&w.Put)
	if len(stale.Neighbours) != 1 || stale.Neighbours[0].Addr != netip.MustParseAddr("10.7.0.2") || len(stale.Endpoints)+len(stale.Sources) != 0 {
		t.Errorf("stale after the address changed: %+v", stale)
	}

	changed := *s.plan.Networks["net"]
	changed.Internal = true
	s.plan.Networks["net"] = &changed
	w = s.pass()
	s.wantWork(w, 1, 0, 2, 1)
	if !w.NetworksTouched || len(w.Put.Publishes)+len(w.Put.Sources) != 0 || len(w.Old.Publishes) != 4 || len(w.Old.Sources) != 2 {
		t.Errorf("internal: %+v", w.Put)
	}

	clear(s.plan.Networks)
	clear(s.plan.Endpoints)
	clear(s.plan.Sandboxes)
	clear(s.plan.Publishes)
	w = s.pass()
	s.wantWork(w, 0, 0, 0, 0)
	if len(w.RemovedNetworks) != 1 || len(w.RemovedSandboxes) != 2 || len(w.RemovedEndpoints) != 2 || len(w.Put.Endpoints) != 0 || len(w.Old.Endpoints) != 3 {
		t.Errorf("removed: %+v", w)
	}
	if all := s.o.All(); len(all.Endpoints)+len(all.Publishes)+len(all.Sources)+len(all.Subnets) != 0 {
		t.Errorf("entries of removed objects: %+v", all)
	}
}

// A repair of one object works on all of it, and on what is left of it.
func TestTouchAll(t *testing.T) {
	s := newScene(t)
	s.pass()
	touch := func(id string) *Work {
		w := s.o.NewWork(s.before)
		w.TouchAll(id)
		return w
	}
	wantRemoved := func(w *Work, networks, sandboxes, endpoints int) {
		t.Helper()
		if n, b, e := len(w.RemovedNetworks), len(w.RemovedSandboxes), len(w.RemovedEndpoints); n != networks || b != sandboxes || e != endpoints {
			t.Errorf("removes %d networks, %d sandboxes, %d endpoints; want %d, %d, %d", n, b, e, networks, sandboxes, endpoints)
		}
	}
	s.wantWork(touch("a"), 0, 1, 1, 0)
	s.wantWork(touch("net"), 1, 0, 0, 0)
	s.wantWork(touch("unknown"), 0, 0, 0, 0)
	wantRemoved(touch("a"), 0, 0, 0)

	delete(s.plan.Endpoints, "b")
	s.pass() // which fails to remove the device
	wantRemoved(touch("a"), 0, 0, 0)
	wantRemoved(touch("b"), 0, 0, 1)
	s.wantWork(touch("b"), 0, 1, 0, 0)
	clear(s.plan.Networks)
	clear(s.plan.Endpoints)
	clear(s.plan.Sandboxes)
	s.pass()
	for id, networks := range map[string]int{"a": 0, "b": 0, "net": 1} {
		wantRemoved(touch(id), networks, 1-networks, 1-networks)
		s.wantWork(touch(id), 0, 0, 0, 0)
	}
}

// diff begins a pass from one snapshot to another.
func (s *scene) diff(from, to *desired.Snapshot) *Work {
	w := s.o.NewWork(to)
	w.Diff(from)
	return w
}

// A pass computes entries from what others have made of the objects since it began.
func TestEntriesAreOfTheLatestSnapshot(t *testing.T) {
	s := newScene(t)
	n := *s.plan.Networks["net"]
	n.Driver, n.VNI, n.ICC = model.DriverOverlay, 70000, true
	s.plan.Networks["net"] = &n
	a, b, c := strings.Repeat("a", 16), strings.Repeat("b", 16), strings.Repeat("c", 16)
	clear(s.plan.Endpoints)
	for i, id := range []string{a, b, c} {
		s.plan.Sandboxes[id] = &model.Sandbox{ID: id, NetNS: "/run/" + id}
		s.plan.Endpoints[id] = &model.Endpoint{
			ID: id, NetworkID: "net", SandboxID: id, Aliases: []string{"shop"},
			IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, 0, byte(2 + i)}), 24),
		}
	}
	last := s.plan.Endpoints[c]
	delete(s.plan.Endpoints, c)
	s.pass()
	s0 := s.before
	s.plan.Services["svc"] = &model.Service{ID: "svc", Name: "shop", NetworkID: "net", Number: 5, IPv4: netip.MustParseAddr("10.7.0.50")}
	s1 := s.plan.Snapshot()
	delete(s.plan.Endpoints, a)
	s.plan.Endpoints[c] = last
	s2 := s.plan.Snapshot()
	create, others := s.diff(s0, s1), s.diff(s1, s2)
	s.o.Endpoints[c].Ends = device.Ends{Host: 41, Peer: 51}
	others.Collect(s2)
	create.Collect(s2)
	if got := create.Put.Pools[0].Members; len(got) != 1 || got[0].IfIndex != s.o.Endpoints[b].Ends.Host {
		t.Errorf("members are %+v, want b, since the device of c is not configured", got)
	}
	others.Finish(s.o.Endpoints[c])
	if !others.CollectFinished(s2) || others.CollectFinished(s2) {
		t.Error("c does not change the service, or twice")
	}
	others.Finish(s.o.Endpoints[c])
	others.CollectFinished(s2)
	if len(create.Endpoints)+len(create.Networks) > 0 {
		t.Errorf("the service works on the devices of %v %v", create.Networks, create.Endpoints)
	}
	if got := others.Put.Pools[0].Members; len(got) != 2 || got[0].IfIndex != s.o.Endpoints[b].Ends.Host || got[1].IfIndex != 41 {
		t.Errorf("members are %+v, want b and c", got)
	}
	for _, id := range []string{b, c} {
		if got := s.o.Endpoints[id].Entries.Endpoints[0]; got.Flags&(maps.Pooled|maps.RemotePool) != maps.Pooled|maps.RemotePool {
			t.Errorf("endpoint %s lacks a flag: %+v", id, got)
		}
	}
}

// A change that the kernel does not need to know takes no turn. It may arrive after a later one of the same object,
// which stands.
func TestNamesBringNothingBack(t *testing.T) {
	s := newScene(t)
	s.pass()
	s0 := s.before
	net, box, kept := *s.plan.Networks["net"], *s.plan.Sandboxes["a"], *s.plan.Sandboxes["b"]
	net.Name, box.PID, kept.PID = "other", 7, 8
	s.plan.Networks["net"], s.plan.Sandboxes["a"], s.plan.Sandboxes["b"] = &net, &box, &kept
	idle, reserved := net, *s.plan.Endpoints["b"]
	idle.ID, idle.Idle, reserved.ID, reserved.SandboxID = "idle", true, "reserved", ""
	s.plan.Networks["idle"], s.plan.Endpoints["reserved"] = &idle, &reserved
	s1 := s.plan.Snapshot()
	if got := turns.Changed(s0, s1); len(got) > 0 {
		t.Errorf("takes the turns of %v", got)
	}
	delete(s.plan.Sandboxes, "a")
	now := net
	now.MTU = 1300
	s.plan.Networks["net"] = &now
	active, joined := idle, reserved
	active.Idle, joined.SandboxID = false, "b"
	s.plan.Networks["idle"], s.plan.Endpoints["reserved"] = &active, &joined
	s2 := s.plan.Snapshot()
	if got := turns.Changed(s1, s2); len(got) != 4 {
		t.Errorf("another MTU takes the turns of %v, want also those of the members", got)
	}
	s.wantWork(s.diff(s1, s2), 2, 0, 3, 0)
	delete(s.o.Sandboxes, "a") // its namespace was removed
	late := s.diff(s0, s1)
	s.wantWork(late, 0, 0, 0, 0)
	if len(late.RemovedNetworks)+len(late.RemovedEndpoints) > 0 {
		t.Errorf("removed again: %+v %+v", late.RemovedNetworks, late.RemovedEndpoints)
	}
	if s.o.Sandboxes["a"] != nil || s.o.Networks["net"].Want != &now || s.o.Sandboxes["b"].Want != &kept {
		t.Errorf("brought back: %+v, %+v", s.o.Sandboxes["a"], s.o.Networks["net"].Want)
	}
}

// Sandboxes that share a namespace have each other's devices in it.
func TestMembers(t *testing.T) {
	s := newScene(t)
	s.plan.Sandboxes["b"].NetNS = s.plan.Sandboxes["a"].NetNS
	s.pass()
	if got := s.o.Members(s.before, s.o.Sandboxes["a"]); len(got) != 2 {
		t.Errorf("%d members, want 2", len(got))
	}
	s.o.Endpoints["b"].Ends = device.Ends{}
	if got := s.o.Members(s.before, s.o.Sandboxes["a"]); len(got) != 1 || got[0].ID != "a" {
		t.Errorf("%d members, want the one that has a device", len(got))
	}
}

// Backends on other nodes are in the pool of a service while they serve; the flows of those that are gone
// end, and those of drained ones do not.
func TestRemoteBackends(t *testing.T) {
	s := newScene(t)
	n := *s.plan.Networks["net"]
	n.Driver, n.VNI, n.ICC = model.DriverOverlay, 70000, true
	s.plan.Networks["net"] = &n
	a := *s.plan.Endpoints["a"]
	a.ID = "a000000000000000"
	a.Aliases = []string{"shop"}
	delete(s.plan.Endpoints, "a")
	s.plan.Endpoints[a.ID] = &a
	remote := []RemoteBackend{{Member: &model.Member{ID: "b000000000000000", SandboxID: "x", IPv4: netip.MustParseAddr("10.7.0.9")}}}
	s.o.Remote = func(*model.Service) []RemoteBackend { return remote }
	if w := s.pass(); w.Put.VNIs[0].Services || w.Put.Endpoints[0].Flags&maps.RemotePool != 0 {
		t.Errorf("without a service: %+v", w.Put)
	}
	svc := &model.Service{ID: "svc", Name: "shop", NetworkID: "net", Number: 5, IPv4: netip.MustParseAddr("10.7.0.50")}
	s.plan.Services["svc"] = svc
	w := s.pass()
	if len(w.Put.VNIs) != 1 || !w.Put.VNIs[0].Services {
		t.Errorf("VNIs: %+v", w.Put.VNIs)
	}
	for _, e := range w.Put.Endpoints {
		if e.Flags&maps.RemotePool == 0 {
			t.Errorf("endpoint without the flag: %+v", e)
		}
	}
	members := func(w *Work) (devices []uint32) {
		for _, m := range w.Put.Pools[0].Members {
			devices = append(devices, m.IfIndex)
		}
		slices.Sort(devices)
		return devices
	}
	if got := members(w); len(got) != 2 || got[1] != maps.ViaNode(7) {
		t.Errorf("members at devices %v", got)
	}
	touch := func() *Work {
		w := s.o.NewWork(s.before)
		w.TouchServices("net")
		w.Collect(w.s)
		return w
	}
	flow := maps.Flow{OutIf: maps.ViaNode(7), Reply: maps.Tuple{Src: netip.AddrPortFrom(remote[0].IPv4, 80)}}
	for _, b := range []RemoteBackend{
		{Member: &model.Member{ID: remote[0].ID, IPv4: remote[0].IPv4, Stopped: true}}, {Member: remote[0].Member, Down: true},
	} {
		remote = []RemoteBackend{b}
		if w := touch(); len(members(w)) != 1 || w.Flows.Match(flow) {
			t.Errorf("%+v: members at devices %v, or its flows end", b, members(w))
		}
	}
	remote = nil
	if w := touch(); len(members(w)) != 1 || !w.Flows.Match(flow) {
		t.Errorf("gone: members at devices %v, or its flows do not end", members(w))
	}
}
