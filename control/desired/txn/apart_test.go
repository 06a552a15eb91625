// SPDX-License-Identifier: Apache-2.0

package txn_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// slowKernel is a kernel that takes its time for some sandboxes. It checks that the changes that it applies
// at the same time are about different sandboxes.
type slowKernel struct {
	*verbtest.Fake
	// onApply is called with the names of the changed sandboxes. It may fail the change.
	onApply func(sandboxes []string) error

	mu       sync.Mutex
	accepted *desired.Snapshot
	until    context.Context // of that
	busy     map[string]bool
}

func (k *slowKernel) Accept(ctx context.Context, s *desired.Snapshot) func() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.until = ctx
	if err := verbtest.CheckSnapshot(s); err != nil {
		k.T.Errorf("accepted an inconsistent snapshot: %v", err)
	}
	before := k.accepted
	if before == nil {
		before = &desired.Snapshot{}
	}
	k.accepted = s
	var names []string
	add := func(s *desired.Snapshot, id string) {
		if sb := s.Sandbox(id); sb != nil && !slices.Contains(names, sb.Name) {
			names = append(names, sb.Name)
		}
	}
	for c := range desired.DiffSandboxes(before, s) {
		add(before, c.ID)
		add(s, c.ID)
	}
	for c := range desired.DiffEndpoints(before, s) {
		if c.Old != nil {
			add(before, c.Old.SandboxID)
		}
		if c.New != nil {
			add(s, c.New.SandboxID)
		}
	}
	return func() error { return k.apply(names) }
}

func (k *slowKernel) apply(names []string) error {
	k.mu.Lock()
	for _, name := range names {
		if k.busy[name] {
			k.T.Errorf("two changes of sandbox %s at the same time", name)
		}
		k.busy[name] = true
	}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, name := range names {
			delete(k.busy, name)
		}
	}()
	return k.onApply(names)
}

// slowWorld returns verbs on a slowKernel.
func slowWorld(t *testing.T, onApply func([]string) error) (*world, *slowKernel) {
	w := newWorld(t)
	k := &slowKernel{Fake: w.Kernel, onApply: onApply, busy: map[string]bool{}}
	w.Parts = w.Open(w.Store, k)
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w, k
}

// While the kernel does not complete the change of one sandbox, verbs on others return, and listing shows
// what is complete. Verbs that depend on its outcome wait for it. If it fails, all is as if it had never been.
func TestVerbsOfOtherSandboxesDoNotWait(t *testing.T) {
	for _, outcome := range []error{nil, errors.New("the device is broken")} {
		t.Run(fmt.Sprint(outcome), func(t *testing.T) {
			release, stuck := make(chan struct{}), make(chan bool, 9)
			hold := ""
			w, _ := slowWorld(t, func(names []string) error {
				if hold != "" && slices.Contains(names, hold) {
					stuck <- true
					<-release
					return outcome
				}
				return nil
			})
			ctx := t.Context()
			for _, n := range []string{"one", "two"} {
				w.MakeNetwork(model.NetworkSpec{Name: n, EnableIPv6: true})
			}
			w.MakeSandbox(model.SandboxSpec{Name: "first", NetworkMode: "one"})
			leaving := w.MakeSandbox(model.SandboxSpec{Name: "leaving", NetworkMode: "one", Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}})
			before := w.Snapshot()

			// One sandbox is being created, another one removed.
			hold = "slow"
			created, removed := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "slow", NetworkMode: "one"})
				created <- err
			}()
			<-stuck
			if w.Snapshot() != before {
				t.Error("a sandbox without devices is listed")
			}
			hold = "leaving"
			go func() { removed <- w.RemoveSandbox(ctx, "leaving", false) }()
			<-stuck
			hold = ""

			within, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			var seen []string
			w.State.Subscribe(func(s *desired.Snapshot) {
				for sb := range s.Sandboxes() {
					seen = append(seen, sb.Name)
				}
			})
			_, err := w.CreateSandbox(within, model.SandboxSpec{Name: "other", NetworkMode: "one"})
			_, err2 := w.Connect(within, "two", "other", model.EndpointSpec{})
			err = errors.Join(err, err2, w.Disconnect(within, "one", "other", false), w.RemoveSandbox(within, "first", false), w.RemoveSandbox(within, "other", false))
			if err != nil {
				t.Errorf("verbs on other sandboxes: %v", err)
			}
			if _, err := w.Sandbox("leaving"); err != nil || slices.Contains(seen, "slow") || !slices.Contains(seen, "leaving") {
				t.Errorf("listing: %v; subscribers saw %v", err, seen)
			}
			if _, err := w.CreateSandbox(within, model.SandboxSpec{Name: "slow", NetworkMode: "one"}); !errors.Is(err, model.ErrConflict) {
				t.Errorf("the name of a sandbox that is being created is given away: %v", err)
			}

			// These need what the removal releases if it succeeds.
			short := func() context.Context {
				ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				t.Cleanup(cancel)
				return ctx
			}
			at := leaving.ID
			var addr netip.Addr
			for ep := range w.Snapshot().EndpointsOf(at) {
				addr = ep.IPv4.Addr()
			}
			for what, spec := range map[string]model.SandboxSpec{
				"name":      {Name: "leaving", NetworkMode: "one"},
				"address":   {Name: "heir", NetworkMode: "one", Endpoint: model.EndpointSpec{IPv4: addr}},
				"host port": {Name: "heir", NetworkMode: "one", Ports: []model.PortSpec{verbtest.TCP("127.0.0.1", 80, 1, 80, 1)}},
			} {
				if _, err := w.CreateSandbox(short(), spec); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "try again") {
					t.Errorf("the %s of a sandbox that is being removed: %v", what, err)
				}
			}
			if err := w.RemoveSandbox(short(), "slow", false); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("removal of a sandbox that is being created: %v", err)
			}
			heir := make(chan error, 1)
			go func() {
				_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "leaving", NetworkMode: "one", Endpoint: model.EndpointSpec{IPv4: addr}, Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}})
				heir <- err
			}()

			close(release)
			if err := <-created; !errors.Is(err, outcome) {
				t.Errorf("create: %v", err)
			}
			if err := <-removed; !errors.Is(err, outcome) {
				t.Errorf("remove: %v", err)
			}
			if err := <-heir; (err == nil) != (outcome == nil) {
				t.Errorf("what waited for the removal: %v", err)
			}
			_, err = w.Sandbox("slow")
			if (err == nil) != (outcome == nil) {
				t.Errorf("the sandbox afterwards: %v", err)
			}
			w.Check()
		})
	}
}

// What nothing would complete is not given up with the caller: a removal by force, and a revert that the next verb
// completes.
func TestCallerGivesUp(t *testing.T) {
	during := func() {}
	w, k := slowWorld(t, func([]string) error {
		do := during
		during = func() {}
		do()
		return nil
	})
	w.MakeNetwork(model.NetworkSpec{Name: "one"})
	w.MakeSandbox(model.SandboxSpec{Name: "forced", NetworkMode: "one"})
	given := 0
	caller := func() context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		during = func() {
			given++
			if cancel(); k.until.Err() != nil {
				t.Error("given up with the caller")
			}
		}
		return ctx
	}
	if err := w.RemoveSandbox(caller(), "forced", true); err != nil {
		t.Errorf("a removal by force: %v", err)
	}

	during = func() { panic("by the kernel") }
	func() {
		defer func() { _ = recover() }()
		_, err := w.CreateSandbox(t.Context(), model.SandboxSpec{Name: "panics", NetworkMode: "one"})
		t.Errorf("no panic, but %v", err)
	}()
	_, _ = w.CreateSandbox(caller(), model.SandboxSpec{Name: "completes", NetworkMode: "one"})
	if given != 2 {
		t.Errorf("gave up %d times, want 2", given)
	}
	w.Check()
}

// A verb whose caller gives up returns soon, also if what it waits for keeps the kernel from reverting it. Verbs on the
// same sandbox wait for the revert.
func TestGivingUpDoesNotWaitForTheRevert(t *testing.T) {
	stuck, release := make(chan bool, 1), make(chan struct{})
	var k *slowKernel
	w, k := slowWorld(t, func(names []string) error {
		if !slices.Contains(names, "held") {
			return nil
		}
		k.mu.Lock()
		until := k.until
		k.mu.Unlock()
		select { // the first time the caller gives up; a revert waits
		case <-until.Done():
			return until.Err()
		case stuck <- true:
			select {
			case <-until.Done():
				return until.Err()
			case <-release:
				return nil
			}
		case <-release:
			return nil
		}
	})
	w.MakeNetwork(model.NetworkSpec{Name: "one"})
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "held", NetworkMode: "one"})
		given <- err
	}()
	<-stuck
	cancel()
	select {
	case err := <-given:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the verb returns %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the verb waits for its revert")
	}
	<-stuck // the revert
	if _, err := w.Sandbox("held"); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("the sandbox is visible: %v", err)
	}
	within, done := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer done()
	if _, err := w.CreateSandbox(within, model.SandboxSpec{Name: "other", NetworkMode: "one"}); err != nil {
		t.Errorf("a verb on another sandbox: %v", err)
	}
	close(release)
	w.MakeSandbox(model.SandboxSpec{Name: "held", NetworkMode: "one"})
	w.Check()
}

// A verb that finds its work done by a change which the kernel does not have yet returns no earlier than that.
func TestNothingToChangeWaits(t *testing.T) {
	for _, outcome := range []error{nil, errInjected} {
		t.Run(fmt.Sprint(outcome), func(t *testing.T) {
			release, stuck := make(chan struct{}), make(chan bool, 9)
			var hold atomic.Bool
			w, _ := slowWorld(t, func([]string) error {
				if hold.CompareAndSwap(true, false) {
					stuck <- true
					<-release
					return outcome
				}
				return nil
			})
			ctx := t.Context()
			n := verbtest.EngineNetwork("f", "10.1.0.0/24")
			if _, err := w.Engine.CreateNetwork(ctx, n); err != nil {
				t.Fatal(err)
			}
			w.MakeNetwork(model.NetworkSpec{Name: "web"})
			svc, err := w.CreateService(ctx, model.ServiceSpec{Name: "shop", Network: "web"})
			if err != nil {
				t.Fatal(err)
			}
			for what, verb := range map[string]func(context.Context) error{
				"network of an engine": func(ctx context.Context) error { return w.RemoveEngineNetwork(ctx, n.EngineID) },
				"service":              func(ctx context.Context) error { return w.ForgetService(ctx, svc.ID) },
			} {
				release = make(chan struct{})
				hold.Store(true)
				first := make(chan error, 1)
				go func() { first <- verb(ctx) }()
				<-stuck
				short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
				if err := verb(short); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("removal of a %s that is being removed: %v", what, err)
				}
				close(release)
				if err := <-first; !errors.Is(err, outcome) && !errors.Is(outcome, err) {
					t.Errorf("removal of a %s: %v", what, err)
				}
				if err := verb(ctx); err != nil {
					t.Errorf("another removal of a %s: %v", what, err)
				}
			}
			w.Check()
		})
	}
}

// Sandboxes of exited programs are removed although a change of one of them does not complete.
func TestReapLeavesOutWhatIsBusy(t *testing.T) {
	release, stuck := make(chan struct{}), make(chan bool, 1)
	w, _ := slowWorld(t, func(names []string) error {
		select {
		case <-release:
		default:
			if slices.Contains(names, "stuck") {
				stuck <- true
				<-release
			}
		}
		return nil
	})
	ctx := t.Context()
	w.MakeNetwork(model.NetworkSpec{Name: "one"})
	w.MakeNetwork(model.NetworkSpec{Name: "two"})
	w.MakeSandbox(model.SandboxSpec{Name: "stays", NetworkMode: "one"})
	w.MakeSandbox(model.SandboxSpec{Name: "exits", NetworkMode: "one", AutoRemove: true})
	created := make(chan error, 1)
	go func() {
		_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "stuck", NetworkMode: "one", AutoRemove: true})
		created <- err
	}()
	<-stuck
	w.Time = w.Time.Add(time.Hour) // neither has a program
	within, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := w.Reap(within); err != nil {
		t.Error(err)
	}
	if _, err := w.Sandbox("exits"); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("the sandbox of an exited program: %v", err)
	}
	close(release)
	if err := <-created; err != nil {
		t.Error(err)
	}
	if err := w.Reap(ctx); err != nil {
		t.Error(err)
	}
	if _, err := w.Sandbox("stuck"); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("the sandbox afterwards: %v", err)
	}
	w.Check()
}

// Requests of an engine that publish ports of one sandbox at the same time all succeed: a later one replaces what an earlier one
// published, and releases its ports.
func TestEnginePublishesAtTheSameTime(t *testing.T) {
	w, _ := slowWorld(t, func([]string) error {
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		return nil
	})
	w.MakeNetwork(verbtest.EngineNetwork("f", "10.8.0.0/24"))
	ep := w.Reserve("ep", "/run/x/1")
	for range 100 {
		var requests sync.WaitGroup
		for _, second := range []uint16{81, 82, 83, 84} {
			requests.Go(func() {
				ports := []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1), verbtest.TCP("", second, 1, 90, 1)}
				if err := w.PublishEndpoint(t.Context(), ep.ID, ports, false); err != nil {
					t.Error(err)
				}
			})
		}
		requests.Wait()
		if n := w.Snapshot().Counts().Publishes; n != 2 {
			t.Fatalf("%d ports are published, want those of one request", n)
		}
		w.Check()
		if t.Failed() {
			return
		}
	}
}

// Many clients run random verbs at the same time, on a kernel that is slow and fails some changes. All
// invariants hold in every snapshot that the kernel gets, and in the end memory and store agree and nothing
// is left.
func TestConcurrentVerbs(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var fails, together, most atomic.Int64
	w, k := slowWorld(t, func([]string) error {
		now := together.Add(1)
		defer together.Add(-1)
		for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
		}
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		if fails.Load() > 0 && rand.Int64N(fails.Load()) == 0 {
			return errInjected
		}
		return nil
	})
	fails.Store(8)
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for range 100 {
				if err := w.randomVerb(r)(); err != nil && !refusal(err) && !errors.Is(err, errInjected) {
					t.Error(err)
					return
				}
				if err := verbtest.CheckSnapshot(w.Snapshot()); err != nil {
					t.Errorf("visible: %v", err)
					return
				}
			}
		})
	}
	clients.Wait()
	t.Logf("at most %d changes at the same time", most.Load())
	if most.Load() < 2 {
		t.Error("no two changes were applied at the same time")
	}
	fails.Store(0)
	w.Check()
	w.MakeNetwork(model.NetworkSpec{Name: "last"}) // the kernel learns with it what was only stored before
	if k.accepted != w.Snapshot() {
		t.Error("the kernel has another snapshot than what is visible")
	}
	w.removeAll()
	w.Check()
}
