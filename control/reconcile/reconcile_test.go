// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
	dp "github.com/fairlead-net/fairlead/maps"
)

// equal compares the types of netip.
var equal = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestApplyMakesItReal(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n, b := p.network("net", 7), p.sandbox("box")
	e := p.endpoint(b, n)
	p.publish(3, e, netip.Addr{}, 8080, 2)
	p.publish(4, e, netip.MustParseAddr("192.0.2.1"), 90, 1)
	w.apply(p)

	gw, hp, host := w.link(rtnl.GatewayAlias(n.ID)), w.link(rtnl.HostPortAlias(n.ID)), w.link(rtnl.EndpointAlias(e.ID))
	if !gw.Running || !hp.Running || !host.Running {
		t.Error("devices are not ready for the first packet")
	}
	flags := dp.ICC | dp.Masquerade | dp.AntiSpoof
	gw4, gw6 := n.Subnets[0].Gateway, n.Subnets[1].Gateway
	wantEndpoints := map[uint32]dp.Endpoint{
		hp.Index: {
			IfIndex: hp.Index, Net: 7, MAC: n.GatewayMAC, GatewayMAC: n.GatewayMAC, IPv4: gw4, IPv6: gw6,
			Gateway4: gw4, Gateway6: gw6, Flags: flags | dp.HostPort, HostPortIf: hp.Index, GatewayIf: gw.Index,
		},
		host.Index: {
			IfIndex: host.Index, Net: 7, MAC: e.MAC, GatewayMAC: n.GatewayMAC, IPv4: e.IPv4.Addr(), IPv6: e.IPv6.Addr(),
			Gateway4: gw4, Gateway6: gw6, Flags: flags | dp.Published, HostPortIf: hp.Index, GatewayIf: gw.Index,
			MTU: model.DefaultMTU,
		},
	}
	if diff := cmp.Diff(wantEndpoints, w.endpoints.m, equal); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	for _, a := range []netip.Addr{e.IPv4.Addr(), e.IPv6.Addr(), e.MAC.LinkLocal()} {
		want := dp.Neighbour{Net: 7, Addr: a, MAC: e.MAC, IfIndex: host.Index, Flags: flags | dp.Published}
		if got := w.neighbours.m[neighbourKey{7, a}]; got != want {
			t.Errorf("neighbour %v is %+v, want %+v", a, got, want)
		}
	}
	if len(w.neighbours.m) != 6 || len(w.fdb.m) != 2 || len(w.subnets.m) != 2 {
		t.Errorf("%d neighbours, %d MACs, %d subnets, want 6, 2, 2", len(w.neighbours.m), len(w.fdb.m), len(w.subnets.m))
	}
	var published []string
	for _, pub := range w.publishes.m {
		published = append(published, pub.String())
	}
	slices.Sort(published)
	wantPublished := []string{
		"publish 3: 0.0.0.0:8080 proto 6 to 10.7.0.2:80", "publish 3: 0.0.0.0:8081 proto 6 to 10.7.0.2:81",
		"publish 3: [::]:8080 proto 6 to [fd00:0:0:7::2]:80", "publish 3: [::]:8081 proto 6 to [fd00:0:0:7::2]:81",
		"publish 4: 192.0.2.1:90 proto 6 to 10.7.0.2:80",
	}
	if diff := cmp.Diff(wantPublished, published); diff != "" {
		t.Errorf("publishes (-want +got):\n%s", diff)
	}
	wantAddrs := []netip.Addr{gw4, n.GatewayMAC.LinkLocal(), gw6}
	gotAddrs := slices.SortedFunc(maps.Keys(w.hostAddrs.m), netip.Addr.Compare)
	slices.SortFunc(wantAddrs, netip.Addr.Compare)
	if diff := cmp.Diff(wantAddrs, gotAddrs, equal); diff != "" {
		t.Errorf("host addresses (-want +got):\n%s", diff)
	}
	wantAttached := map[device.Place]bool{
		{IfIndex: int(hp.Index), Hook: loader.FromEndpoint}: true, {IfIndex: int(host.Index), Hook: loader.FromEndpoint}: true,
	}
	if diff := cmp.Diff(wantAttached, w.attached); diff != "" {
		t.Errorf("attached (-want +got):\n%s", diff)
	}
	if !w.cgroup || w.commits != 1 {
		t.Errorf("cgroup attached: %v, commits: %d", w.cgroup, w.commits)
	}
	if repairs := w.resync(); repairs.Total() != 0 {
		t.Errorf("repairs just after Apply: %v", repairs)
	}
}

func TestApplyCostsWhatChanges(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	first := p.endpoint(p.sandbox("first"), n)
	w.apply(p)
	before := w.endpoints.m[w.link(rtnl.EndpointAlias(first.ID)).Index]
	w.writes = 0
	w.apply(p)
	if w.writes != 0 {
		t.Errorf("%d writes though nothing changed", w.writes)
	}
	p.endpoint(p.sandbox("second"), n)
	w.apply(p)
	// One endpoint, one MAC, three addresses, one name server, one attachment.
	if w.writes != 7 {
		t.Errorf("%d writes for an endpoint, want 7", w.writes)
	}
	p.publish(1, first, netip.Addr{}, 80, 1)
	w.writes = 0
	w.apply(p)
	// Two families, and the flag in the endpoint's five entries.
	if w.writes != 7 {
		t.Errorf("%d writes for a publish, want 7", w.writes)
	}
	if after := w.endpoints.m[before.IfIndex]; after.Flags != before.Flags|dp.Published {
		t.Errorf("flags of the published endpoint are %#x", after.Flags)
	}
}

// Only traffic to an endpoint with a limit is queued at its host end.
func TestLimits(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n, b := p.network("net", 7), p.sandbox("box")
	limited, sends := p.endpoint(b, n), p.endpoint(p.sandbox("sends"), n)
	limited.Bandwidth = limits()
	sends.Bandwidth.Egress = limits().Egress
	w.apply(p)
	for _, tt := range []struct {
		e             *model.Endpoint
		shaped        bool
		host, sandbox string // the rates of the qdiscs; "" if there is none
	}{{limited, true, "rate 20Mbit", "rate 10Gbit"}, {sends, false, "", "rate 10Gbit"}} {
		l := w.link(rtnl.EndpointAlias(tt.e.ID))
		if got := w.endpoints.m[l.Index].Flags&dp.Shaped != 0; got != tt.shaped {
			t.Errorf("%s: the flag of its entry is %t, want %t", l.Name, got, tt.shaped)
		}
		if got := w.fdb.m[fdbKey{7, tt.e.MAC}].Flags&dp.Shaped != 0; got != tt.shaped {
			t.Errorf("%s: the flag of its MAC is %t, want %t", l.Name, got, tt.shaped)
		}
		w.wantQdisc(l.Name, tt.host)
		w.inNetNS(p.s.Sandboxes[tt.e.SandboxID], func(*rtnl.Handle) error {
			w.wantQdisc("eth0", tt.sandbox)
			return nil
		})
	}
}

// wantQdisc expects a device of the calling thread's namespace to have a tbf qdisc with this
// text, or no qdisc if want is "".
func (w *world) wantQdisc(device, want string) {
	w.tb.Helper()
	out, err := exec.Command("tc", "qdisc", "show", "dev", device, "root").CombinedOutput()
	if err != nil {
		w.tb.Fatalf("%v: %s", err, out)
	}
	is := string(out)
	if strings.Contains(is, "tbf 666c: root") != (want != "") || !strings.Contains(is, want) {
		w.tb.Errorf("%s has %q, want %q", device, is, want)
	}
}

// An unused network has neither devices nor entries, and leftovers of it are removed. When it is
// used, it has all, and its traffic counters are kept.
func TestIdleNetwork(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	b := p.sandbox("box")
	e := p.endpoint(b, n)
	w.apply(p)
	used := w.ours()
	idle := func() {
		t.Helper()
		if got := w.ours(); len(got) > 0 {
			t.Errorf("devices stay: %v", got)
		}
		if len(w.endpoints.m)+len(w.fdb.m)+len(w.neighbours.m)+len(w.subnets.m)+len(w.hostAddrs.m)+len(w.attached) > 0 {
			t.Error("entries or attachments stay")
		}
		w.wantNoRepairs("idle")
	}
	without := *n
	without.Idle = true
	for range 2 {
		p.s.Networks[n.ID] = &without
		delete(p.s.Endpoints, e.ID)
		w.apply(p)
		idle()
		p.s.Networks[n.ID], p.s.Endpoints[e.ID] = n, e
		w.apply(p)
		if got := w.ours(); !slices.Equal(got, used) || len(w.subnets.m) != 2 || len(w.endpoints.m) != 2 {
			t.Errorf("used again it has devices %v, %d subnets and %d endpoints; at first it had %v", got, len(w.subnets.m), len(w.endpoints.m), used)
		}
		w.wantNoRepairs("used again")
	}
	w.restart()
	p.s.Networks[n.ID] = &without
	delete(p.s.Endpoints, e.ID)
	w.apply(p)
	idle()
	p.s.Networks[n.ID], p.s.Endpoints[e.ID] = n, e
	w.apply(p)
	if len(w.reset) > 0 {
		t.Errorf("counters of %v were reset", w.reset)
	}
}

func TestApplyRemoves(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	w.apply(p)
	n, b := p.network("net", 7), p.sandbox("box")
	e := p.endpoint(b, n)
	p.publish(3, e, netip.Addr{}, 8080, 2)
	w.apply(p)
	host := w.link(rtnl.EndpointAlias(e.ID)).Index
	keep := dp.Flow{InIf: 999}
	w.flows = []dp.Flow{{InIf: host}, {OutIf: host}, {Publish: 3}, keep}

	delete(p.s.Publishes, 3)
	w.apply(p)
	if len(w.flows) != 3 || len(w.publishes.m) != 0 {
		t.Errorf("after unpublishing: %d flows, %d publishes", len(w.flows), len(w.publishes.m))
	}
	clear(p.s.Endpoints)
	clear(p.s.Sandboxes)
	clear(p.s.Networks)
	w.apply(p)
	if got := w.ours(); len(got) > 0 {
		t.Errorf("devices stay: %v", got)
	}
	if len(w.endpoints.m)+len(w.fdb.m)+len(w.neighbours.m)+len(w.publishes.m)+len(w.subnets.m)+len(w.hostAddrs.m) > 0 {
		t.Error("entries stay")
	}
	if len(w.attached) > 0 {
		t.Errorf("attachments stay: %v", w.attached)
	}
	if _, err := os.Stat(b.NetNS); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace stays: %v", err)
	}
	if len(w.flows) != 1 || w.flows[0] != keep {
		t.Errorf("flows that stay: %v, want %v", w.flows, keep)
	}
}

func TestRestartAdoptsUntouched(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	for _, name := range []string{"a", "b"} {
		n := p.network("net"+name, name[0])
		e := p.endpoint(p.sandbox("box"+name), n)
		e.Bandwidth = limits()
		p.publish(uint32(name[0]), e, netip.Addr{}, uint16(name[0]), 1)
	}
	w.apply(p)
	before, _ := w.nl.Links()
	w.writes = 0
	w.restart()
	w.apply(p)
	after, _ := w.nl.Links()
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("devices changed (-before +after):\n%s", diff)
	}
	if w.writes != 0 {
		t.Errorf("%d entries or attachments were written again", w.writes)
	}
	if r := w.resync(); r.Total() != 0 {
		t.Errorf("repairs after a restart: %v", r)
	}
}

func TestStartSweepsLeftovers(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	lost := p.endpoint(p.sandbox("lost"), n)
	kept := p.endpoint(p.sandbox("kept"), n)
	w.apply(p)

	// A daemon died while it created these: an endpoint and a host port that are not marked as
	// finished, and a namespace.
	half := p.endpoint(p.sandbox("half"), n)
	if err := rtnl.CreateNetNS(p.s.Sandboxes[half.SandboxID].NetNS); err != nil {
		t.Fatal(err)
	}
	ns, err := rtnl.OpenNetNS(p.s.Sandboxes[half.SandboxID].NetNS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.nl.CreateVeth(rtnl.Veth{Name: rtnl.EndpointDevice(half.ID), PeerName: "eth0", PeerNS: ns, MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	ns.Close()
	other := p.network("other", 8)
	if _, err := w.nl.CreateVeth(rtnl.Veth{Name: rtnl.GatewayDevice(other.ID), PeerName: rtnl.HostPortDevice(other.ID), MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(w.netnsDir(), "stray")
	if err := rtnl.CreateNetNS(stray); err != nil {
		t.Fatal(err)
	}
	// This sandbox was removed from the store.
	delete(p.s.Endpoints, lost.ID)
	delete(p.s.Sandboxes, lost.SandboxID)

	keptIf := w.link(rtnl.EndpointAlias(kept.ID)).Index
	w.restart()
	w.apply(p)
	var want []string
	for _, e := range []*model.Endpoint{kept, half} {
		want = append(want, rtnl.EndpointDevice(e.ID))
	}
	for _, n := range []*model.Network{n, other} {
		want = append(want, rtnl.GatewayDevice(n.ID), rtnl.HostPortDevice(n.ID))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, w.ours()); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if w.link(rtnl.EndpointAlias(kept.ID)).Index != keptIf {
		t.Error("a correct endpoint was recreated")
	}
	for _, name := range []string{stray, filepath.Join(w.netnsDir(), "lost")} {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("leftover namespace %s: %v", name, err)
		}
	}
	if len(w.endpoints.m) != 4 || len(w.attached) != 4 {
		t.Errorf("%d endpoints, %d attachments, want 4 of each", len(w.endpoints.m), len(w.attached))
	}
	if r := w.resync(); r.Total() != 0 {
		t.Errorf("repairs after a start: %v", r)
	}
}

// New TCP connections may be refused from the first program that is attached until Settle. So the first
// pass writes to the tables before, and configures devices after.
func TestFirstPassOnlyAttachesUntilSettled(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	p.endpoint(p.sandbox("box"), n)
	w.apply(p)
	added := p.endpoint(p.sandbox("added"), n)
	w.endpoints.m[9999] = dp.Endpoint{IfIndex: 9999}
	clear(w.hostAddrs.m)
	clear(w.attached)

	type state struct{ endpoints, hostAddrs, attached int }
	now := func() state {
		w.mu.Lock()
		defer w.mu.Unlock()
		return state{len(w.endpoints.m), len(w.hostAddrs.m), len(w.attached)}
	}
	var first, settled []state
	w.beforeAttach.Store(func(int) { first = append(first, now()) })
	w.onSettle = func() {
		settled = append(settled, now())
		if l, err := w.nl.LinkByName(rtnl.EndpointDevice(added.ID)); err != nil || l.Up {
			t.Errorf("the new device when connections are allowed: %+v, error %v, want it down", l, err)
		}
	}
	w.restart()
	w.apply(p)
	end := now()
	if end.hostAddrs == 0 || end.endpoints != 3 {
		t.Fatalf("after the pass: %+v", end)
	}
	if want := (state{end.endpoints, end.hostAddrs, 0}); len(first) == 0 || first[0] != want {
		t.Errorf("when the first program is attached: %+v, want %+v", first, want)
	}
	if !slices.Equal(settled, []state{end}) {
		t.Errorf("when connections are allowed: %+v, want once %+v", settled, end)
	}
	if l := w.link(rtnl.EndpointAlias(added.ID)); !l.Up {
		t.Errorf("the new device is down after the pass: %+v", l)
	}
}

func TestReboot(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	b := p.sandbox("box")
	p.endpoint(b, p.network("net", 7))
	w.apply(p)
	for _, name := range w.ours() {
		if l, err := w.nl.LinkByName(name); err == nil {
			w.nl.DeleteLink(l.Index)
		}
	}
	if err := rtnl.RemoveNetNS(b.NetNS); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.apply(p)
	if len(w.ours()) != 3 {
		t.Errorf("devices after a reboot: %v", w.ours())
	}
	if r := w.resync(); r.Total() != 0 {
		t.Errorf("repairs after a reboot: %v", r)
	}
}

func TestDeviceOfThatNameExists(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	w.apply(p)
	e := p.endpoint(p.sandbox("box"), n)
	if _, err := w.nl.CreateVeth(rtnl.Veth{Name: "tmp0", PeerName: "tmp1", MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	// A user's device, without an alias and in another group.
	rename(t, "tmp0", rtnl.EndpointDevice(e.ID))
	if err := w.applySnapshot(p.snapshot()); err == nil {
		t.Error("a user's device with the endpoint's name was taken over")
	}
	if _, err := w.nl.LinkByName(rtnl.EndpointDevice(e.ID)); err != nil {
		t.Errorf("the user's device was removed: %v", err)
	}
}

func TestGatewayMovesWithoutNewDevices(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	b := p.sandbox("box")
	first, second := p.endpoint(b, p.network("one", 1)), p.endpoint(b, p.network("two", 2))
	w.apply(p)
	index := w.link(rtnl.EndpointAlias(second.ID)).Index
	moved := *second
	moved.DefaultRoute4, moved.DefaultRoute6 = true, true
	p.s.Endpoints[second.ID] = &moved
	delete(p.s.Endpoints, first.ID)
	w.apply(p)
	if w.link(rtnl.EndpointAlias(second.ID)).Index != index {
		t.Error("the remaining endpoint was recreated")
	}
	var gateways []netip.Addr
	w.inNetNS(b, func(h *rtnl.Handle) error {
		return h.Routes(func(r rtnl.Route) bool {
			if r.Dst.Bits() == 0 {
				gateways = append(gateways, r.Gateway)
			}
			return true
		})
	})
	want := []netip.Addr{netip.MustParseAddr("10.2.0.1"), addr6(2, 1)}
	if diff := cmp.Diff(want, gateways, equal); diff != "" {
		t.Errorf("default routes (-want +got):\n%s", diff)
	}
}

// A path to the host's own namespace, such as that of a process that exited and whose PID was
// reused, does not name a sandbox: nothing is created or changed on the host.
func TestHostIsNoSandbox(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	b := p.sandbox("box")
	b.ManagedBy, b.NetNS = model.ByUser, filepath.Join(w.dir, "external")
	e := p.endpoint(b, n)
	w.apply(w.plan())
	toHost := func() {
		t.Helper()
		w.must(os.WriteFile(b.NetNS, nil, 0o600))
		w.must(w.nl.Do(func() error { return unix.Mount("/proc/thread-self/ns/net", b.NetNS, "", unix.MS_BIND, "") }))
	}
	untouched := func(when string) {
		t.Helper()
		if l, err := w.nl.LinkByName("eth0"); err == nil {
			t.Errorf("%s: the host has %+v", when, l)
		}
		if lo, err := w.nl.LinkByName("lo"); err != nil || lo.Up {
			t.Errorf("%s: the host's loopback was brought up, or %v", when, err)
		}
	}
	toHost()
	if err := w.applySnapshot(p.snapshot()); !errors.Is(err, rtnl.ErrHost) {
		t.Errorf("attaching the host: %v, want ErrHost", err)
	}
	untouched("attached")
	w.must(rtnl.RemoveNetNS(b.NetNS))
	w.must(rtnl.CreateNetNS(b.NetNS))
	w.resync()
	index := w.link(rtnl.EndpointAlias(e.ID)).Index
	w.must(rtnl.RemoveNetNS(b.NetNS))
	w.must(w.nl.DeleteLink(index))
	toHost()
	w.resync()
	untouched("taken for the sandbox that ended")
	if err := w.r.Check(t.Context(), b.ID); !errors.Is(err, model.ErrVanished) {
		t.Errorf("check: %v, want ErrVanished", err)
	}
	if err := w.r.Compare(e.ID, nil); !errors.Is(err, rtnl.ErrHost) {
		t.Errorf("compare: %v, want ErrHost", err)
	}
	if got := w.r.VanishedSandboxes(0); !slices.Equal(got, []string{b.ID}) {
		t.Errorf("%v vanished, want %s", got, b.ID)
	}
	w.must(rtnl.RemoveNetNS(b.NetNS))
}

func TestExternalNamespace(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	other := p.sandbox("other")
	p.endpoint(other, n)
	b := p.sandbox("box")
	b.ManagedBy, b.NetNS = model.ByUser, filepath.Join(w.dir, "external")
	e := p.endpoint(b, n)
	w.applySnapshot(w.plan().snapshot())
	if err := w.applySnapshot(p.snapshot()); !errors.Is(err, rtnl.ErrNoNetNS) {
		t.Errorf("attaching a namespace that does not exist: %v, want ErrVanished", err)
	}
	if err := rtnl.CreateNetNS(b.NetNS); err != nil {
		t.Fatal(err)
	}
	defer rtnl.RemoveNetNS(b.NetNS)
	w.resync()
	index := w.link(rtnl.EndpointAlias(e.ID)).Index

	// The namespace is removed; others are not affected.
	if err := rtnl.RemoveNetNS(b.NetNS); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := w.nl.Link(index); errors.Is(err, rtnl.ErrNoDevice) || time.Now().After(deadline) {
			break
		}
	}
	w.resync()
	if got := w.r.Stats().GoneSandboxes; got != 1 {
		t.Errorf("%d sandboxes are counted as gone, want 1", got)
	}
	if at, later := w.r.VanishedSandboxes(0), w.r.VanishedSandboxes(time.Hour); !slices.Equal(at, []string{b.ID}) || len(later) != 0 {
		t.Errorf("%v vanished, and %v for an hour; want %s and none", at, later, b.ID)
	}
	p.endpoint(other, p.network("second", 8))
	w.apply(p)
	w.restart()
	w.apply(p)
	if _, ok := w.endpoints.m[index]; ok {
		t.Error("the entry of the removed endpoint stays")
	}
	if got := w.r.VanishedSandboxes(0); !slices.Equal(got, []string{b.ID}) {
		t.Errorf("%v vanished after a restart, want %s", got, b.ID)
	}
	// It comes back.
	if err := rtnl.CreateNetNS(b.NetNS); err != nil {
		t.Fatal(err)
	}
	if r := w.resync(); r[report.Device] != 1 {
		t.Errorf("repairs when the namespace is back: %v", r)
	}
	if got := w.r.Stats().GoneSandboxes; got != 0 {
		t.Errorf("%d sandboxes are counted as gone, want 0", got)
	}
	// It continues to exist without a path.
	ns, err := rtnl.OpenNetNS(b.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := rtnl.RemoveNetNS(b.NetNS); err != nil {
		t.Fatal(err)
	}
	w.resync()
	if n, got := w.r.Stats().GoneSandboxes, w.r.VanishedSandboxes(0); n != 1 || len(got) != 0 {
		t.Errorf("%d sandboxes are disconnected, want 1; %v vanished, want none", n, got)
	}
}
