// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/loop"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
	dp "github.com/fairlead-net/fairlead/maps"
	"github.com/fairlead-net/fairlead/test/machine"
)

// ip runs iproute2 in the test's namespace.
func ip(t testing.TB, args ...string) {
	t.Helper()
	run(t, "ip", args...)
}

// run runs a program in the calling thread's namespace.
func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", program, args, err, out)
	}
}

// limits returns some limits.
func limits() model.Bandwidth {
	return model.Bandwidth{Ingress: model.Limit{Rate: 20e6, Burst: 1e6}, Egress: model.Limit{Rate: 10e9, Burst: math.MaxUint32}}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	ip(t, "link", "set", from, "name", to, "group", "default")
}

func TestResyncRepairs(t *testing.T) {
	type parts struct {
		w           *world
		b           *model.Sandbox
		gw, hp, dev rtnl.Link
	}
	write := func(path, v string) error { return os.WriteFile("/proc/sys/net/"+path, []byte(v), 0) }
	tests := map[string]struct {
		breakIt func(t *testing.T, x parts)
		want    report.Repairs
	}{
		"host end deleted":  {func(t *testing.T, x parts) { ip(t, "link", "del", x.dev.Name) }, report.Repairs{report.Device: 1}},
		"host port deleted": {func(t *testing.T, x parts) { ip(t, "link", "del", x.hp.Name) }, report.Repairs{report.Device: 1}},
		"host end down":     {func(t *testing.T, x parts) { ip(t, "link", "set", x.dev.Name, "down") }, report.Repairs{report.Device: 1}},
		"gateway down": {func(t *testing.T, x parts) { ip(t, "link", "set", x.gw.Name, "down") },
			report.Repairs{report.Device: 1, report.Address: 1}},
		"gateway MTU":             {func(t *testing.T, x parts) { ip(t, "link", "set", x.gw.Name, "mtu", "1400") }, report.Repairs{report.Device: 1}},
		"gateway MAC":             {func(t *testing.T, x parts) { ip(t, "link", "set", x.gw.Name, "address", "02:00:00:00:00:01") }, report.Repairs{report.Device: 1}},
		"gateway address removed": {func(t *testing.T, x parts) { ip(t, "addr", "del", "10.7.0.1/16", "dev", x.gw.Name) }, report.Repairs{report.Address: 1}},
		"gateway address changed": {func(t *testing.T, x parts) {
			ip(t, "addr", "del", "10.7.0.1/16", "dev", x.gw.Name)
			ip(t, "addr", "add", "10.7.0.9/16", "dev", x.gw.Name)
		}, report.Repairs{report.Address: 2}},
		"forwarding off": {func(t *testing.T, x parts) {
			if err := write("ipv4/conf/"+x.gw.Name+"/forwarding", "0"); err != nil {
				t.Fatal(err)
			}
		}, report.Repairs{report.Sysctl: 1}},
		"entry removed":   {func(_ *testing.T, x parts) { delete(x.w.endpoints.m, x.dev.Index) }, report.Repairs{report.Entry: 1}},
		"entry added":     {func(_ *testing.T, x parts) { x.w.fdb.m[fdbKey{1, dp.MAC{1}}] = dp.FDBEntry{Net: 1} }, report.Repairs{report.Entry: 1}},
		"entries changed": {func(_ *testing.T, x parts) { clear(x.w.publishes.m) }, report.Repairs{report.Entry: 4}},
		"host address removed": {func(_ *testing.T, x parts) {
			delete(x.w.hostAddrs.m, netip.MustParseAddr("10.7.0.1"))
		}, report.Repairs{report.Entry: 1}},
		"program detached": {func(_ *testing.T, x parts) {
			delete(x.w.attached, device.Place{IfIndex: int(x.dev.Index), Hook: loader.FromEndpoint})
		}, report.Repairs{report.Program: 1}},
		"pins removed":             {func(_ *testing.T, x parts) { x.w.lostPins = 3 }, report.Repairs{report.Program: 3}},
		"socket programs detached": {func(_ *testing.T, x parts) { x.w.cgroup = false }, report.Repairs{report.Program: 1}},
		"sandbox's device down": {func(_ *testing.T, x parts) {
			x.w.inNetNS(x.b, func(h *rtnl.Handle) error {
				l, err := h.LinkByName("eth0")
				down := false
				return errors.Join(err, h.SetLink(l.Index, rtnl.LinkChange{Up: &down}))
			})
		}, report.Repairs{report.Device: 1, report.Address: 1, report.Route: 2}},
		"sandbox's address removed": {func(_ *testing.T, x parts) {
			x.w.inNetNS(x.b, func(h *rtnl.Handle) error {
				l, err := h.LinkByName("eth0")
				return errors.Join(err, h.DeleteAddr(l.Index, netip.MustParsePrefix("10.7.0.2/16")))
			})
		}, report.Repairs{report.Address: 1, report.Route: 1}},
		"device deleted in the sandbox": {func(_ *testing.T, x parts) {
			x.w.inNetNS(x.b, func(h *rtnl.Handle) error {
				l, err := h.LinkByName("eth0")
				return errors.Join(err, h.DeleteLink(l.Index))
			})
		}, report.Repairs{report.Device: 1}},
		"limit of the host end removed": {func(t *testing.T, x parts) { run(t, "tc", "qdisc", "del", "dev", x.dev.Name, "root") }, report.Repairs{report.Device: 1}},
		"limit of the host end changed": {func(t *testing.T, x parts) {
			run(t, "tc", "qdisc", "change", "dev", x.dev.Name, "root", "tbf", "rate", "9mbit", "burst", "64k", "limit", "1m")
		}, report.Repairs{report.Device: 1}},
		"limit in the sandbox replaced": {func(t *testing.T, x parts) {
			x.w.inNetNS(x.b, func(*rtnl.Handle) error {
				run(t, "tc", "qdisc", "replace", "dev", "eth0", "root", "pfifo")
				return nil
			})
		}, report.Repairs{report.Device: 1}},
		"device renamed": {func(t *testing.T, x parts) {
			ip(t, "link", "set", x.dev.Name, "down")
			ip(t, "link", "set", x.dev.Name, "name", "mine")
		}, report.Repairs{report.Device: 1}},
	}
	for name, tt := range tests {
		repairs := func(t *testing.T, insideFirst bool) {
			w := newWorld(t)
			p := w.plan()
			n, b := p.network("net", 7), p.sandbox("box")
			e := p.endpoint(b, n)
			e.Bandwidth = limits()
			p.publish(1, e, netip.Addr{}, 80, 2)
			w.apply(p)
			tt.breakIt(t, parts{w, b, w.link(rtnl.GatewayAlias(n.ID)), w.link(rtnl.HostPortAlias(n.ID)), w.link(rtnl.EndpointAlias(e.ID))})
			want := report.NewRepairs()
			for kind, count := range tt.want {
				want[kind] = count
			}
			got := report.NewRepairs()
			if insideFirst {
				inside, _ := w.r.sandboxes.Check(t.Context(), w.r.sandboxes.Next(-1)) // what it leaves, the host's check finds
				got.Add(inside)
			}
			got.Add(w.resync())
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("repairs (-want +got):\n%s", diff)
			}
			if got := w.r.Stats().Repairs; !cmp.Equal(report.Repairs(got), want) {
				t.Errorf("counted %v, want %v", got, want)
			}
			if wrong := w.r.Stats().LastError; wrong != "" || len(w.errors) > 0 {
				t.Errorf("what was repaired is called an error: status %q, log %q", wrong, w.errors)
			}
			if len(w.ours()) != 3 || len(w.endpoints.m) != 2 || len(w.attached) != 2 {
				t.Errorf("devices %v, %d endpoints, %d attachments", w.ours(), len(w.endpoints.m), len(w.attached))
			}
		}
		t.Run(name, func(t *testing.T) { repairs(t, false) })
		t.Run(name+", sandbox checked first", func(t *testing.T) { repairs(t, true) })
	}
}

// The last error is what is wrong now: a change that was refused is not, once it was reverted, and what cannot be repaired
// is, until it can.
func TestLastErrorIsOfNow(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n, b := p.network("net", 7), p.sandbox("box")
	e := p.endpoint(b, n)
	w.apply(p)
	expect := func(when string, wrong bool) {
		t.Helper()
		if got := w.r.Stats().LastError; (got != "") != wrong {
			t.Errorf("%s: last error %q", when, got)
		}
	}
	theirs := func(name string) { // a device of a user
		if _, err := w.nl.CreateVeth(rtnl.Veth{Name: "tmp0", PeerName: "tmp1", MTU: 1500}); err != nil {
			t.Fatal(err)
		}
		rename(t, "tmp0", name)
	}
	before := p.snapshot()
	other := p.network("other", 8)
	refused := []string{rtnl.GatewayDevice(other.ID), rtnl.EndpointDevice(p.endpoint(p.sandbox("two"), n).ID)}
	for _, name := range refused {
		theirs(name)
		if err := w.applySnapshot(p.snapshot()); err == nil {
			t.Errorf("%s: a user's device was taken over", name)
		}
		if err := w.applySnapshot(before); err != nil {
			t.Fatal(err)
		}
		expect(name, false)
		w.resync()
		expect(name+", checked", false)
		ip(t, "link", "del", name)
	}
	host := rtnl.EndpointDevice(e.ID)
	ip(t, "link", "del", host)
	theirs(host)
	for range 2 {
		_, _ = w.repairAll(t.Context())
		expect("cannot be repaired", true)
	}
	ip(t, "link", "del", host)
	_, _ = w.repairAll(t.Context())
	w.resync()
	expect("repaired", false)
}

// A filter is restored as soon as the kernel reports its removal, without reading the
// attachments.
func TestSuspects(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	e := p.endpoint(p.sandbox("box"), p.network("net", 7))
	w.apply(p)
	l := w.link(rtnl.EndpointAlias(e.ID))
	at := device.Place{IfIndex: int(l.Index), Hook: loader.FromEndpoint}
	check := func(want uint64) {
		t.Helper()
		if r, err := w.r.host.Check(t.Context(), check.Quick); err != nil || r[report.Program] != want {
			t.Errorf("repaired %v, %v; want %d programs", r, err, want)
		}
	}
	w.r.state.Programs.Suspect(at.IfIndex)
	check(0)
	delete(w.attached, at)
	check(0)
	w.r.state.Programs.Suspect(at.IfIndex)
	check(1)
	if !w.attached[at] {
		t.Error("not attached again")
	}
	delete(w.attached, at)
	delete(p.s.Endpoints, e.ID)
	w.r.state.Programs.Suspect(at.IfIndex)
	w.apply(p)
	check(0)
	if w.attached[at] {
		t.Error("attached again though the endpoint was removed")
	}
}

func TestUplinksAreFollowed(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	p.network("net", 7)
	w.apply(p)
	if len(w.uplinks.m) != 0 {
		t.Fatalf("uplinks at first: %v", w.uplinks.m)
	}
	ip(t, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	ip(t, "link", "set", "up0", "up")
	ip(t, "link", "set", "up1", "up")
	ip(t, "addr", "add", "192.0.2.10/24", "dev", "up0")
	ip(t, "addr", "add", "2001:db8::10/64", "dev", "up0", "nodad")
	up0, err := w.nl.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	check := func(want ...dp.Uplink) {
		t.Helper()
		if r := w.resync(); r.Total() != 0 {
			t.Errorf("following the uplinks counts as repair: %v", r)
		}
		got := make(map[uint32]dp.Uplink)
		hooks := 0
		for _, u := range want {
			got[u.IfIndex] = u
			hooks += 2
		}
		if diff := cmp.Diff(got, w.uplinks.m, equal); diff != "" {
			t.Errorf("uplinks (-want +got):\n%s", diff)
		}
		if len(w.attached) != 1+hooks {
			t.Errorf("attached: %v", w.attached)
		}
	}
	v6 := netip.MustParseAddr("2001:db8::10")
	check(dp.Uplink{IfIndex: up0.Index, IPv4: netip.MustParseAddr("192.0.2.10"), IPv6: v6})
	if !w.hostAddrs.m[netip.MustParseAddr("192.0.2.10")].IsValid() {
		t.Error("the uplink's address is not known as the host's")
	}

	masqueraded := func(a string) dp.Flow {
		return dp.Flow{NATSrc: true, Reply: dp.Tuple{Dst: netip.AddrPortFrom(netip.MustParseAddr(a), 40000)}}
	}
	w.flows = []dp.Flow{masqueraded("192.0.2.10"), masqueraded("2001:db8::10")}
	ip(t, "addr", "del", "192.0.2.10/24", "dev", "up0")
	ip(t, "addr", "add", "192.0.2.20/24", "dev", "up0")
	check(dp.Uplink{IfIndex: up0.Index, IPv4: netip.MustParseAddr("192.0.2.20"), IPv6: v6})
	if len(w.flows) != 2 {
		t.Errorf("flows just after the address changed: %v", w.flows)
	}
	ip(t, "addr", "flush", "dev", "up0")
	v4 := netip.MustParseAddr("192.0.2.10") // the lowest of its former addresses
	check(dp.Uplink{IfIndex: up0.Index, IPv4: v4, IPv6: v6})
	ip(t, "link", "set", "up0", "down")
	w.r.state.Uplinks.Linger = 0
	check(dp.Uplink{IfIndex: up0.Index, IPv4: v4, IPv6: v6}) // as long as it is down
	ip(t, "addr", "add", "2001:db8::10/64", "dev", "up0", "nodad")
	ip(t, "link", "set", "up0", "up")
	check(dp.Uplink{IfIndex: up0.Index, IPv6: v6})
	if len(w.flows) != 1 || w.flows[0].Reply.Dst.Addr() != v6 {
		t.Errorf("flows after one address came back: %v", w.flows)
	}
	ip(t, "addr", "flush", "dev", "up0")
	w.resync()
	check()
	// Without an address, but with a route.
	ip(t, "route", "add", "198.51.100.0/24", "dev", "up0")
	check(dp.Uplink{IfIndex: up0.Index})
	ip(t, "link", "del", "up0")
	check()
}

// A verb attaches a filter to an endpoint, and checks keep it. It becomes a tcx link when no verb
// ran for a while, or at the next daemon's start.
func TestAttachedForGood(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	w.apply(p)
	e := p.endpoint(p.sandbox("box"), p.network("net", 7))
	filters := func(want int) {
		t.Helper()
		w.r.state.Mu.Lock()
		defer w.r.state.Mu.Unlock()
		if len(w.attached) != 2 || len(w.provisional) != want {
			t.Errorf("attached at %d places, %d of them by filters; want 2, %d", len(w.attached), len(w.provisional), want)
		}
	}
	w.apply(p)
	filters(1)
	w.wantNoRepairs("attached by a filter")
	filters(1)
	w.restart()
	w.apply(p)
	filters(0)

	var last time.Time // before the last verb
	again := func() {
		delete(p.s.Endpoints, e.ID)
		w.apply(p)
		p.s.Endpoints[e.ID] = e
		last = time.Now()
		w.apply(p)
	}
	again()
	filters(1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.r.Run(ctx) }()
	end := time.Now().Add(time.Minute)
	for i := 0; i < 8; i++ { // verbs in sequence, for longer than loop.PromoteDelay
		before := last
		last = time.Now()
		p.publish(1, e, netip.Addr{}, 80, 1)
		w.apply(p)
		delete(p.s.Publishes, 1)
		w.apply(p)
		if time.Since(before) < loop.PromoteDelay {
			filters(1)
			time.Sleep(loop.PromoteDelay / 4)
			continue
		}
		if time.Now().After(end) {
			t.Fatal("this machine is too slow for verbs in sequence")
		}
		again() // no verb ran for so long that it may be attached for good already
		i = -1
	}
	for more := true; more; time.Sleep(10 * time.Millisecond) {
		if time.Since(last) > 10*time.Second {
			t.Fatal("still attached by a filter")
		}
		w.r.state.Mu.Lock()
		more = len(w.provisional) > 0
		w.r.state.Mu.Unlock()
	}
	filters(0)
	if took := time.Since(last); took < loop.PromoteDelay {
		t.Errorf("attached %v after the last verb, want %v at least", took, loop.PromoteDelay)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("run ended with %v", err)
	}
}

func TestRunRepairsAtOnce(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	e := p.endpoint(p.sandbox("box"), p.network("net", 7))
	w.apply(p)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.r.Run(ctx) }()
	time.Sleep(100 * time.Millisecond) // until the watch runs; otherwise the ticker finds it
	l := w.link(rtnl.EndpointAlias(e.ID))
	watch := machine.Start()
	defer watch.Stop()
	ip(t, "link", "del", l.Name)
	for !slices.Contains(w.ours(), l.Name) || w.r.Stats().Repairs[report.Device] == 0 {
		if watch.Over(5 * time.Second) {
			t.Fatal("not repaired within 5 s")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("repaired after %v", watch.Took())
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("run ended with %v", err)
	}
}
