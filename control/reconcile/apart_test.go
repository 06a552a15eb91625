// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// While a sandbox's namespace does not open, snapshots that change other sandboxes are applied, the host is
// checked, and queries are answered. What waits is completed afterwards.
func TestOthersDoNotWaitForASandbox(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	one, two := p.network("one", 1), p.network("two", 2)
	a, b := p.sandbox("a"), p.sandbox("b")
	ofA, ofB := p.endpoint(a, one), p.endpoint(b, one)
	w.apply(p)

	awaited, release := rtnltest.Hold(t, a.NetNS)
	p.endpoint(a, two)
	connect := w.r.Accept(t.Context(), p.snapshot())
	connected := make(chan error, 1)
	go func() { connected <- connect() }()
	awaited()

	others := make(chan bool)
	go func() {
		defer close(others)
		p.endpoint(p.sandbox("c"), one)
		p.publish(1, ofB, netip.Addr{}, 80, 1)
		w.apply(p)
		delete(p.s.Publishes, 1)
		delete(p.s.Endpoints, ofB.ID)
		delete(p.s.Sandboxes, b.ID)
		w.apply(p)
		if _, err := w.repairAll(t.Context()); err != nil {
			t.Error(err)
		}
		if gone := w.r.VanishedSandboxes(0); len(gone) != 0 {
			t.Errorf("the namespaces of %v are missing", gone)
		}
		if _, err := w.r.InnerEnd(ofA); err != nil {
			t.Error(err)
		}
		// What is about the same sandbox waits, no longer than its caller.
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := w.r.Check(ctx, a.ID); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a check of the sandbox: %v", err)
		}
	}()
	select {
	case <-others:
	case <-time.After(20 * time.Second):
		t.Error("what is about other sandboxes waits for the one whose namespace does not open")
	}
	select {
	case err := <-connected:
		t.Errorf("the namespace opened: %v", err)
	default:
	}
	release()
	<-others
	if err := <-connected; err != nil {
		t.Error(err)
	}
	w.resync()
	got := w.render()
	fresh := newWorldLike(t, w)
	fresh.apply(p)
	if want := fresh.render(); !slices.Equal(want, got) {
		t.Errorf("the kernel has\n%q\nwant\n%q", got, want)
	}
}

// A repair that waits for a sandbox's namespace delays no verb of another sandbox.
func TestRepairDelaysNoOther(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("one", 1)
	a := p.sandbox("a")
	p.endpoint(a, n)
	w.apply(p)
	awaited, release := rtnltest.Hold(t, a.NetNS)
	checked := make(chan error, 1)
	go func() {
		_, err := w.r.sandboxes.Check(t.Context(), []string{a.ID})
		checked <- err
	}()
	awaited()
	applied := make(chan error, 1)
	go func() {
		p.endpoint(p.sandbox("b"), n)
		err := w.applySnapshot(p.snapshot())
		applied <- err
	}()
	select {
	case err := <-applied:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("a verb waits for the check of another sandbox")
	}
	release()
	if err := <-checked; err != nil {
		t.Error(err)
	}
	w.resync()
}

// A check that somebody waits for comes after the verbs whose snapshots are accepted: what they have not made yet is
// no damage.
func TestCheckComesAfterVerbs(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("one", 1)
	b := p.sandbox("box")
	e := p.endpoint(b, n)
	w.apply(p)
	delete(p.s.Endpoints, e.ID)
	apply := w.r.Accept(t.Context(), p.snapshot())
	checked := make(chan error, 1)
	go func() { checked <- w.r.Check(t.Context(), b.ID) }()
	select {
	case err := <-checked:
		t.Fatalf("checked before the verb: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := errors.Join(apply(), <-checked); err != nil {
		t.Error(err)
	}
}

// A removal whose caller gives up before its turn is reverted. Until then, checks leave alone what it was about.
func TestGivenUpRemoval(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	b := p.sandbox("box")
	e := p.endpoint(b, p.network("one", 1))
	w.apply(p)
	before := w.link(rtnl.EndpointAlias(e.ID)).Index
	awaited, release := rtnltest.Hold(t, b.NetNS)
	checked := make(chan error, 1)
	go func() {
		_, err := w.r.sandboxes.Check(t.Context(), []string{b.ID})
		checked <- err
	}()
	awaited()
	with := p.s.Clone()
	delete(p.s.Endpoints, e.ID)
	delete(p.s.Sandboxes, b.ID)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.r.Accept(ctx, p.snapshot())(); !errors.Is(err, context.Canceled) {
		t.Errorf("a verb that was given up: %v", err)
	}
	release()
	if err := <-checked; err != nil {
		t.Error(err)
	}
	if _, err := w.r.host.Check(t.Context(), check.Regular); err != nil {
		t.Error(err)
	}
	with.Rev = p.s.Rev
	p.s = with
	w.apply(p)
	if now := w.link(rtnl.EndpointAlias(e.ID)).Index; now != before {
		t.Errorf("device %d became %d", before, now)
	}
	w.wantNoRepairs("after the revert")
	if !w.r.state.Turns.Idle() {
		t.Error("turns do not end")
	}
}

// A check that waits for a namespace does not keep others from being repaired.
func TestRepairsGoOnWithoutOne(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("one", 1)
	a, b := p.sandbox("a"), p.sandbox("b")
	p.endpoint(a, n)
	p.endpoint(b, n)
	w.apply(p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.r.Run(ctx) }()
	awaited, release := rtnltest.Hold(t, a.NetNS)
	awaited() // the loop checks all sandboxes in turn
	w.inNetNS(b, func(h *rtnl.Handle) error {
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		down := false
		return h.Conn().SetLink(l.Index, rtnl.LinkChange{Up: &down})
	})
	for end := time.Now().Add(30 * time.Second); w.r.Stats().Repairs[report.Device] == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not repaired while the namespace of another sandbox does not open")
		}
	}
	release()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.resync()
}

// Many verbs change different sandboxes at the same time, some fail and are reverted, while the loop repairs.
// In the end the kernel and the tables have what a fresh daemon makes of the last snapshot.
func TestConcurrentPasses(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t)
	p := w.plan()
	for i := range byte(2) {
		n := p.network(fmt.Sprint("net", i+1), i+1)
		p.endpoint(p.sandbox(n.Name+"stays"), n) // the network has a member in any case
		p.s.Services[id("web"+n.Name)] = &model.Service{
			ID: id("web" + n.Name), Name: "web", NetworkID: n.ID, Number: 100 + uint32(i), IPv4: netip.AddrFrom4([4]byte{10, i + 1, 9, 9}),
			MAC: model.MAC{2, 0x42, 10, i + 1, 9, 9},
		}
	}
	w.apply(p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.r.Run(ctx) }()

	var mu sync.Mutex // of the plan: snapshots are accepted in the order in which they are made
	change := func(do func() (undo func())) {
		mu.Lock()
		undo := do()
		apply := w.r.Accept(t.Context(), p.snapshot())
		mu.Unlock()
		if apply() == nil {
			return
		}
		mu.Lock()
		undo()
		apply = w.r.Accept(context.WithoutCancel(t.Context()), p.snapshot())
		mu.Unlock()
		_ = apply() // what fails again is repaired
	}
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for range 15 {
				if rnd.IntN(3) == 0 {
					w.mu.Lock()
					w.fault = 1 + rnd.IntN(20)
					w.mu.Unlock()
				}
				change(func() func() { return p.changeSandbox(rnd, fmt.Sprint("box", i)) })
			}
		})
	}
	clients.Wait()
	w.mu.Lock()
	w.fault = 0
	w.mu.Unlock()
	cancel()
	<-ended
	w.resync()
	got := append(w.render(), w.renderPools()...)
	fresh := newWorldLike(t, w)
	fresh.apply(p)
	if want := append(fresh.render(), fresh.renderPools()...); !slices.Equal(want, got) {
		t.Errorf("the kernel has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !w.r.state.Turns.Idle() {
		t.Error("turns do not end")
	}
}

// The host is checked all the time while verbs create and remove networks and sandboxes. Nothing that they do
// is taken for damage.
func TestChecksTakeNoVerbForDamage(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	w.apply(p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if _, err := w.r.host.Check(ctx, check.Regular); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	}()
	var mu sync.Mutex // of the plan
	change := func(do func()) {
		mu.Lock()
		do()
		apply := w.r.Accept(t.Context(), p.snapshot())
		mu.Unlock()
		if err := apply(); err != nil {
			t.Error(err)
		}
	}
	var clients sync.WaitGroup
	for i := range byte(4) {
		clients.Go(func() {
			for range 20 {
				var n *model.Network
				var b *model.Sandbox
				var e *model.Endpoint
				change(func() { n = p.network(fmt.Sprint("net", i+1), i+1) })
				change(func() {
					b = p.sandbox(fmt.Sprint("box", i))
					e = p.endpoint(b, n)
				})
				change(func() {
					delete(p.s.Endpoints, e.ID)
					delete(p.s.Sandboxes, b.ID)
				})
				change(func() { delete(p.s.Networks, n.ID) })
			}
		})
	}
	clients.Wait()
	cancel()
	<-ended
	for kind, n := range w.r.Stats().Repairs {
		if n > 0 {
			t.Errorf("%d repairs of kind %v", n, kind)
		}
	}
	w.resync()
}

// changeSandbox makes a random change of one sandbox, and returns what takes it back.
func (p *plan) changeSandbox(rnd *rand.Rand, name string) (undo func()) {
	b := p.s.Sandboxes[id(name)]
	if b == nil {
		b = p.sandbox(name)
		return func() { delete(p.s.Sandboxes, b.ID) }
	}
	n := p.s.Networks[id(fmt.Sprint("net", 1+rnd.IntN(2)))]
	pid := uint32(name[len(name)-1])
	e, published := p.s.Endpoints[id(name+n.Name)], p.s.Publishes[pid]
	switch {
	case e == nil:
		e = p.endpoint(b, n)
		e.Aliases = []string{"web"}
		return func() { delete(p.s.Endpoints, e.ID) }
	case published == nil && rnd.IntN(2) == 0:
		p.publish(pid, e, netip.Addr{}, uint16(pid)*10, 2)
		return func() { delete(p.s.Publishes, pid) }
	case published != nil && published.EndpointID == e.ID:
		delete(p.s.Publishes, pid)
		return func() { p.s.Publishes[pid] = published }
	}
	delete(p.s.Endpoints, e.ID)
	return func() { p.s.Endpoints[e.ID] = e }
}

// renderPools describes the tables of services: the number of backends.
func (w *world) renderPools() (out []string) {
	for k, e := range w.pools.m {
		out = append(out, fmt.Sprintf("pool %v of %d", k, len(e.Members)))
	}
	slices.Sort(out)
	return out
}
