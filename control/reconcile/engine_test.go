// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	dp "github.com/fairlead-net/fairlead/maps"
)

// engineSandbox adds an engine-managed sandbox, at a path where nothing exists yet.
func (p *plan) engineSandbox(name string, n *model.Network) (*model.Sandbox, *model.Endpoint) {
	b := p.sandbox(name)
	b.ManagedBy, b.NetNS = model.ByEngine, filepath.Join(p.w.dir, name)
	e := p.endpoint(b, n)
	e.IfName = "fls" + e.ID[:11]
	return b, e
}

// wantNoRepairs fails the test if there is anything to repair.
func (w *world) wantNoRepairs(when string) {
	w.tb.Helper()
	if repairs := w.resync(); repairs.Total() != 0 {
		w.tb.Errorf("%s: repaired %v", when, repairs)
	}
}

// wantInnerEnd fails the test unless an endpoint's inner end is there.
func (w *world) wantInnerEnd(e *model.Endpoint, want model.InnerEnd) {
	w.tb.Helper()
	if got, err := w.r.InnerEnd(e); err != nil || got != want {
		w.tb.Errorf("the inner end is at %v, %v; want %v", got, err, want)
	}
}

// An engine moves the inner end into its container, and back. Neither is damage, and Fairlead
// does not manage the inner end's state.
func TestEngineManagedSandbox(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	w.apply(p)
	b, e := p.engineSandbox("box", n)
	w.apply(p)
	host := w.link(rtnl.EndpointAlias(e.ID))
	inner, err := w.nl.LinkByName(e.IfName)
	if err != nil || inner.MAC != e.MAC || inner.PeerIndex != host.Index {
		t.Fatalf("inner end: %+v, %v", inner, err)
	}
	if !host.Up || len(w.endpoints.m) != 2 || len(w.attached) != 2 {
		t.Errorf("host end up: %v, %d endpoints, %d attachments", host.Up, len(w.endpoints.m), len(w.attached))
	}
	w.wantNoRepairs("before the engine takes it")
	w.wantInnerEnd(e, model.InnerOnHost)

	if err := rtnl.CreateNetNS(b.NetNS); err != nil {
		t.Fatal(err)
	}
	defer rtnl.RemoveNetNS(b.NetNS)
	ip(t, "link", "set", e.IfName, "netns", b.NetNS, "name", "eth0")
	w.wantInnerEnd(e, model.InnerTaken)
	inIt := func(args ...string) {
		t.Helper()
		w.inNetNS(b, func(*rtnl.Handle) error {
			out, err := exec.Command("ip", args...).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
			return err
		})
	}
	inIt("link", "set", "eth0", "up")
	w.wantNoRepairs("taken")
	w.promoteAll()
	w.writes = 0
	w.restart()
	w.apply(p)
	if w.link(rtnl.EndpointAlias(e.ID)).Index != host.Index || w.writes != 0 {
		t.Errorf("adopting took %d writes", w.writes)
	}
	w.wantNoRepairs("adopted")
	w.wantInnerEnd(e, model.InnerTaken)

	home := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
	inIt("link", "set", "eth0", "down", "netns", home, "name", e.IfName)
	w.wantNoRepairs("given back")
	w.wantInnerEnd(e, model.InnerOnHost)
	if _, err := w.nl.LinkByName(e.IfName); err != nil {
		t.Error(err)
	}
	delete(p.s.Endpoints, e.ID)
	delete(p.s.Sandboxes, b.ID)
	w.apply(p)
	if len(w.ours()) != 2 {
		t.Errorf("left: %v", w.ours())
	}
}

// Verbs about a container whose processes ended do not fail because its devices cannot be exempted from
// connection tracking.
func TestUntrackedContainerEnded(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	n.Untracked = true
	w.apply(p)
	b, e := p.engineSandbox("box", n)
	w.apply(p)
	if err := rtnl.CreateNetNS(b.NetNS); err != nil {
		t.Fatal(err)
	}
	defer rtnl.RemoveNetNS(b.NetNS)
	ip(t, "link", "set", e.IfName, "netns", b.NetNS)
	w.inNetNS(b, func(h *rtnl.Handle) error {
		l, err := h.LinkByName(e.IfName)
		if err != nil {
			return err
		}
		up := true
		return h.Conn().SetLink(l.Index, rtnl.LinkChange{Up: &up})
	})
	p.publish(1, e, netip.Addr{}, 80, 1)
	w.apply(p)
	delete(p.s.Publishes, 1)
	w.apply(p)
	w.wantNoRepairs("after the end")
	if err := w.r.Stats().LastError; err != "" {
		t.Error(err)
	}
}

// A pair that was deleted with the engine's namespace is not recreated by a repair or a start,
// but by a verb.
func TestEngineManagedPairDeleted(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	w.apply(p)
	_, e := p.engineSandbox("box", n)
	p.publish(1, e, n.Subnets[0].Gateway, 80, 1)
	w.apply(p)
	ip(t, "link", "del", e.IfName)
	w.wantInnerEnd(e, model.InnerDeleted)
	w.wantNoRepairs("deleted")
	w.wantInnerEnd(e, model.InnerDeleted)
	if len(w.endpoints.m) != 1 || len(w.publishes.m) != 0 || len(w.ours()) != 2 {
		t.Errorf("%d endpoints, %d publishes, devices %v", len(w.endpoints.m), len(w.publishes.m), w.ours())
	}
	w.restart()
	w.apply(p)
	w.wantNoRepairs("deleted, after a restart")
	if len(w.ours()) != 2 {
		t.Errorf("devices %v", w.ours())
	}
	again := *e // the engine joins again, since it did not get the answer
	p.s.Endpoints[e.ID] = &again
	w.apply(p)
	if len(w.endpoints.m) != 2 || len(w.publishes.m) != 1 || len(w.ours()) != 4 {
		t.Errorf("%d endpoints, %d publishes, devices %v", len(w.endpoints.m), len(w.publishes.m), w.ours())
	}
	delete(p.s.Publishes, 1)
	delete(p.s.Endpoints, e.ID)
	delete(p.s.Sandboxes, e.SandboxID)
	w.apply(p)
	if len(w.endpoints.m) != 1 || len(w.ours()) != 2 {
		t.Errorf("left: %d endpoints, devices %v", len(w.endpoints.m), w.ours())
	}
}

// An endpoint that is not attached to a sandbox, or no longer, has nothing in the kernel.
func TestEndpointWithoutSandbox(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	_, e := p.engineSandbox("box", p.network("net", 7))
	waits := *e
	waits.SandboxID = ""
	p.s.Endpoints[e.ID] = &waits
	w.apply(p)
	w.wantNoRepairs("waits")
	joined := len(w.ours())
	p.s.Endpoints[e.ID] = e
	w.apply(p)
	w.wantNoRepairs("joined")
	left := waits
	p.s.Endpoints[e.ID] = &left
	w.apply(p)
	w.wantNoRepairs("left")
	if joined != 2 || len(w.ours()) != 2 || len(w.endpoints.m) != 1 {
		t.Errorf("devices %d, then %v; %d endpoints", joined, w.ours(), len(w.endpoints.m))
	}
}

// An endpoint that loses one of its addresses keeps the rest: its devices, its entries, and the
// flows of its other addresses.
func TestEndpointLosesAnAddress(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	w.apply(p)
	_, e := p.engineSandbox("box", n)
	p.publish(1, e, netip.Addr{}, 80, 1)
	w.apply(p)
	host := w.link(rtnl.EndpointAlias(e.ID)).Index
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 80) }
	v4, v6 := at(e.IPv4.Addr()), at(e.IPv6.Addr())
	keep := []dp.Flow{{InIf: host, Orig: dp.Tuple{Src: v4}}, {OutIf: host, Reply: dp.Tuple{Src: v4}}, {InIf: 999, Orig: dp.Tuple{Src: v6}}, {OutIf: 999, Reply: dp.Tuple{Src: v6}}}
	w.flows = append(slices.Clone(keep), dp.Flow{InIf: host, Orig: dp.Tuple{Src: v6}}, dp.Flow{OutIf: host, Reply: dp.Tuple{Src: v6}})
	less := *e
	less.IPv6 = netip.Prefix{}
	p.s.Endpoints[e.ID] = &less
	w.apply(p)
	if !slices.Equal(w.flows, keep) {
		t.Errorf("flows that stay: %v, want %v", w.flows, keep)
	}
	if now := w.link(rtnl.EndpointAlias(e.ID)).Index; now != host {
		t.Errorf("the host end is device %d, was %d", now, host)
	}
	for _, m := range w.neighbours.m {
		if m.Addr == e.IPv6.Addr() {
			t.Errorf("the lost address still has an entry: %+v", m)
		}
	}
	for _, m := range w.publishes.m {
		if m.Backend == e.IPv6.Addr() {
			t.Errorf("a published port has the lost address as backend: %+v", m)
		}
	}
	if m := w.endpoints.m[host]; m.IPv4 != e.IPv4.Addr() || m.IPv6.IsValid() {
		t.Errorf("the endpoint's entry is %+v", m)
	}
	w.wantNoRepairs("afterwards")
}
