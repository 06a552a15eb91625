// SPDX-License-Identifier: Apache-2.0

package txn_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
	"github.com/fairlead-net/fairlead/control/store"
)

var (
	errInjected = errors.New("injected")
	// errKilled is the value of a panic that stands for a killed process.
	errKilled = errors.New("killed")
)

// fault selects what fails in the next commits or applies.
type fault struct {
	storeAfter  bool // fail after the write
	storePanic  bool
	storeErrors int // how many commits in a row fail
	applyPanic  bool
	applyErrors int
}

// faultyStore fails commits.
type faultyStore struct {
	store.Store
	f *fault
}

func (s *faultyStore) Commit(ctx context.Context, ops ...store.Op) (uint64, error) {
	if !s.f.storePanic && s.f.storeErrors == 0 {
		return s.Store.Commit(ctx, ops...)
	}
	if s.f.storeAfter {
		if _, err := s.Store.Commit(ctx, ops...); err != nil {
			return 0, err
		}
	}
	if s.f.storePanic {
		s.f.storePanic = false
		panic(errKilled)
	}
	s.f.storeErrors--
	return 0, errInjected
}

func (f *fault) apply(*desired.Snapshot) error {
	if f.applyPanic {
		f.applyPanic = false
		panic(errKilled)
	}
	if f.applyErrors > 0 {
		f.applyErrors--
		return errInjected
	}
	return nil
}

// faults returns all ways in which a verb can fail. In those named killed the daemon
// dies.
func faults() map[string]fault {
	return map[string]fault{
		"store-error":             {storeErrors: 1},
		"store-error-but-written": {storeErrors: 1, storeAfter: true},
		"store-error-and-revert":  {storeErrors: 2},
		"store-written-no-revert": {storeErrors: 2, storeAfter: true},
		"killed-before-write":     {storePanic: true},
		"killed-after-write":      {storePanic: true, storeAfter: true},
		"apply-error":             {applyErrors: 1},
		"apply-error-twice":       {applyErrors: 2},
		"killed-in-apply":         {applyPanic: true},
	}
}

func faultyWorld(t *testing.T) (*world, *fault) {
	f := &fault{}
	w := newWorld(t)
	w.Wrap = func(s store.Store) store.Store { return &faultyStore{s, f} }
	w.Kernel.OnApply = f.apply
	w.Restart()
	return w, f
}

// survive runs a verb with a fault, and restarts the daemon if the fault
// killed it.
func (w *world) survive(verb func() error) (killed bool, err error) {
	w.T.Helper()
	func() {
		defer func() {
			if r := recover(); r != nil {
				if r != errKilled { //nolint:errorlint // a panic value, not wrapped
					panic(r)
				}
				killed = true
			}
		}()
		err = verb()
	}()
	if killed {
		w.Restart()
	}
	return killed, err
}

// verbs returns all verbs that change something. Each succeeds after populate.
func verbs(ctx context.Context, w *world) map[string]func() error {
	web := []model.PortSpec{verbtest.TCP("", 81, 1, 81, 1), verbtest.TCP("", 0, 0, 80, 1), verbtest.TCP("", 9000, 10000, 9000, 10000)}
	web[0].From = "10.0.0.0/8,2001:db8::/32"
	limit := model.Limit{Rate: 1e8, Burst: 1e7}
	return map[string]func() error{
		"create-network": func() error {
			_, err := w.CreateNetwork(ctx, model.NetworkSpec{Name: "new", EnableIPv6: true})
			return err
		},
		"create-macvlan-network": func() error {
			_, err := w.CreateNetwork(ctx, model.NetworkSpec{Name: "lan", Driver: model.DriverMacvlan, EnableIPv6: true,
				Options: map[string]string{model.OptParent: "eth0", model.OptHostAccess: "true"}})
			return err
		},
		"remove-network": func() error { return w.RemoveNetwork(ctx, "idle") },
		"prune":          func() error { _, err := w.PruneNetworks(ctx, nil); return err },
		"create-sandbox": func() error {
			_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "new", NetworkMode: "a", Ports: web, Endpoint: model.EndpointSpec{IPv4: verbtest.Addr("10.0.0.9")}})
			return err
		},
		"remove-sandbox":  func() error { return w.RemoveSandbox(ctx, "old", false) },
		"remove-by-force": func() error { return w.RemoveSandbox(ctx, "old", true) },
		"publish-add": func() error {
			return w.PublishPorts(ctx, "both", []model.PortSpec{verbtest.TCP("", 8443, 1, 443, 1), verbtest.TCP("", 0, 0, 444, 1)})
		},
		"publish-rm":       func() error { return w.UnpublishPorts(ctx, "both", []model.PortSpec{verbtest.TCP("", 0, 0, 80, 1)}) },
		"bandwidth":        func() error { return w.SetBandwidth(ctx, "old", "a", &limit, &model.Limit{}) },
		"rename":           func() error { return w.RenameSandbox(ctx, "both", "renamed") },
		"connect":          func() error { _, err := w.Connect(ctx, "b", "old", model.EndpointSpec{}); return err },
		"disconnect":       func() error { return w.Disconnect(ctx, "a", "both", false) },
		"disconnect-force": func() error { return w.Disconnect(ctx, "a", "both", true) },
		"started":          func() error { return w.SandboxStarted(ctx, "old", 77, 1) },
		"exited":           func() error { return w.SandboxExited(ctx, "old", 1) },
		"exited-auto":      func() error { return w.SandboxExited(ctx, "auto", 1) },
		"reap":             func() error { w.Alive = map[int]bool{}; return w.Reap(ctx) },
		"reap-vanished": func() error {
			if sb, err := w.Sandbox("old"); err == nil {
				w.Kernel.Vanished = []string{sb.ID}
			}
			return w.Reap(ctx)
		},

		"engine-network": func() error {
			_, err := w.CreateNetwork(ctx, verbtest.EngineNetwork("f2", "10.9.0.0/24"))
			return err
		},
		"engine-network-gone": func() error { return w.RemoveEngineNetwork(ctx, verbtest.EngineID("idle")) },
		"reserve": func() error {
			_, err := w.ReserveEndpoint(ctx, verbtest.EngineID("f"), model.EndpointSpec{EngineID: verbtest.EngineID("new"), IPv4: verbtest.Addr("10.8.0.9")})
			return err
		},
		"reserve-again": func() error {
			_, err := w.ReserveEndpoint(ctx, verbtest.EngineID("f"), model.EndpointSpec{EngineID: verbtest.EngineID("new"), IPv4: verbtest.Addr("10.8.0.4")})
			return err
		},
		"join": func() error {
			_, err := w.JoinEndpoint(ctx, verbtest.EngineID("waits"), "docker-2", "/run/x/2")
			return err
		},
		"join-another": func() error {
			_, err := w.JoinEndpoint(ctx, verbtest.EngineID("joined"), "docker-2", "/run/x/2")
			return err
		},
		"publish": func() error {
			return w.PublishEndpoint(ctx, verbtest.EngineID("joined"), []model.PortSpec{verbtest.TCP("", 700, 2, 80, 2)}, false)
		},
		"unpublish": func() error { return w.UnpublishEndpoint(ctx, verbtest.EngineID("serves")) },
		"name":      func() error { return w.SyncEngineNames(ctx, verbtest.EngineNames("web", "joined", "ben")) },
		"release":   func() error { return w.ReleaseEndpoint(ctx, verbtest.EngineID("serves")) },
		"request-pool": func() error {
			_, err := w.RequestPool(ctx, "", model.V4, verbtest.Prefix("10.7.0.0/24"), model.RangeOf(verbtest.Prefix("10.7.0.128/25")))
			return err
		},
		"forget":          func() error { return w.RemoveOrphaned(ctx, []string{verbtest.EngineID("idle-f"), "10.6.0.0/24"}) },
		"release-pool":    func() error { return w.ReleasePool(ctx, "10.6.0.0/24") },
		"request-address": func() error { _, err := w.RequestAddress(ctx, "10.6.0.0/24", netip.Addr{}, false); return err },
		"release-address": func() error { return w.ReleaseAddress(ctx, "10.6.0.0/24", verbtest.Addr("10.6.0.1")) },
		"forgotten": func() error {
			w.Time = w.Time.Add(time.Hour)
			w.Kernel.Inner[verbtest.EngineID("joined")] = model.InnerDeleted
			return w.Reap(ctx)
		},
	}
}

// TestEveryVerbSurvivesEveryFault checks that a verb takes effect wholly or not at all,
// whatever fails in it, and that it can be repeated.
func TestEveryVerbSurvivesEveryFault(t *testing.T) {
	for name := range verbs(t.Context(), nil) {
		for what, fl := range faults() {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				w, f := faultyWorld(t)
				verbtest.Populate(w.World)
				before := w.Snapshot()
				verb := verbs(t.Context(), w)[name]
				*f = fl
				killed, err := w.survive(verb)
				if !killed && err != nil {
					if !errors.Is(err, errInjected) {
						t.Errorf("error = %v", err)
					}
					if w.Snapshot() != before {
						t.Error("the verb failed, but the snapshot changed")
					}
				}
				// After the fault the next verb must succeed.
				*f = fault{}
				_ = w.SandboxExited(t.Context(), "both", 0)
				w.Check()
				if err := verb(); err != nil && !refusal(err) {
					t.Errorf("again: %v", err)
				}
				w.Check()
				w.Restart()
				if w.Check(); w.Kernel.Applied != w.Snapshot() {
					t.Error("a start did not apply what it loaded")
				}
			})
		}
	}
}

// refusal reports whether a repeated verb was refused: it had taken effect, or its object
// no longer exists.
func refusal(err error) bool {
	var r *model.Refusal
	return errors.As(err, &r)
}

func TestFirstStartSurvivesEveryFault(t *testing.T) {
	for what, fl := range faults() {
		t.Run(what, func(t *testing.T) {
			w, f := faultyWorld(t)
			path := filepath.Join(t.TempDir(), "new.db")
			for try := range 3 {
				s, err := store.OpenBolt(store.BoltConfig{Path: path, NoSync: true})
				if err != nil {
					t.Fatal(err)
				}
				*f = fault{}
				if try == 0 {
					*f = fl
				}
				c := w.Open(&faultyStore{s, f}, w.Kernel)
				func() {
					defer func() { _ = recover() }()
					err = c.Start(t.Context())
				}()
				if try > 0 && (err != nil || c.Snapshot().Counts().Networks != 3) {
					t.Errorf("start %d: %v, %d networks", try, err, c.Snapshot().Counts().Networks)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestRandomVerbsWithFaults runs random verbs, a third of them with a fault. It checks
// after each that memory, store and indices agree, and at the end that no address
// leaked.
func TestRandomVerbsWithFaults(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 3))
	t.Logf("seed %d", seed)
	w, f := faultyWorld(t)
	var kinds []fault
	for _, fl := range faults() {
		kinds = append(kinds, fl)
	}
	for range 500 {
		*f = fault{}
		if r.IntN(3) == 0 {
			*f = kinds[r.IntN(len(kinds))]
		}
		verb := w.randomVerb(r)
		if _, err := w.survive(verb); err != nil && !refusal(err) && !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		*f = fault{}
		_ = w.SandboxExited(t.Context(), "sb0", 0) // completes a pending rollback
		if w.Check(); t.Failed() {
			t.FailNow()
		}
	}
	w.removeAll()
	w.Check() // no address and no port leaked
}

// removeAll removes all sandboxes and endpoints.
func (w *world) removeAll() {
	w.T.Helper()
	for _, joins := range []bool{true, false} { // remove joining sandboxes first
		for sb := range w.Snapshot().Sandboxes() {
			if sb.SharesNetNS() != joins {
				continue
			}
			if err := w.RemoveSandbox(w.T.Context(), sb.ID, true); err != nil {
				w.T.Error(err)
			}
		}
	}
	for ep := range w.Snapshot().Endpoints() { // those without a sandbox
		if err := w.ReleaseEndpoint(w.T.Context(), ep.ID); err != nil {
			w.T.Errorf("%+v: %v", ep, err)
		}
	}
	if has := w.Snapshot().Counts(); has.Sandboxes+has.Endpoints+has.Publishes != 0 {
		w.T.Errorf("the host still has %+v", has)
	}
}

func (w *world) randomVerb(r *rand.Rand) func() error {
	ctx := w.T.Context()
	net, sb := fmt.Sprint("net", r.IntN(4)), fmt.Sprint("sb", r.IntN(8))
	switch r.IntN(16) {
	case 15:
		return func() error { return w.RenameSandbox(ctx, sb, fmt.Sprint("sb", r.IntN(8))) }
	case 14:
		return w.randomLease(r)
	case 8, 9, 10:
		return w.randomRequest(r)
	case 11:
		limit := model.Limit{Rate: uint64(r.IntN(2)) * 1e8}
		limit.Burst = limit.Rate / 10
		return func() error { return w.SetBandwidth(ctx, sb, net, &limit, nil) }
	case 12:
		return func() error {
			return w.PublishPorts(ctx, sb, []model.PortSpec{verbtest.TCP("", uint16(80+r.IntN(6)), 1, 80, 1)})
		}
	case 13:
		return func() error { return w.UnpublishPorts(ctx, sb, []model.PortSpec{verbtest.TCP("", 0, 0, 80, 1)}) }
	case 0:
		spec := model.NetworkSpec{Name: net, EnableIPv6: r.IntN(2) == 0, Internal: r.IntN(3) == 0,
			Subnets: []model.SubnetSpec{verbtest.Subnet(fmt.Sprintf("10.0.%d.0/29", r.IntN(4)))}}
		if r.IntN(4) == 0 {
			spec.Driver, spec.Options = model.DriverMacvlan, map[string]string{model.OptParent: "eth0", model.OptHostAccess: "true"}
			if r.IntN(2) == 0 {
				spec.IPAM, spec.Subnets, spec.Internal = model.IPAMDHCP, nil, false
				delete(spec.Options, model.OptHostAccess)
			}
		}
		return func() error { _, err := w.CreateNetwork(ctx, spec); return err }
	case 1:
		if r.IntN(4) == 0 {
			return func() error { _, err := w.PruneNetworks(ctx, nil); return err }
		}
		return func() error { return w.RemoveNetwork(ctx, net) }
	case 2, 3:
		spec := model.SandboxSpec{Name: sb, NetworkMode: net, AutoRemove: r.IntN(3) == 0}
		if r.IntN(6) == 0 {
			spec.NetworkMode = fmt.Sprint("container:sb", r.IntN(8))
			return func() error { _, err := w.CreateSandbox(ctx, spec); return err }
		}
		for range r.IntN(3) {
			host := []string{"", "0.0.0.0", "127.0.0.1", "127.0.0.2", "::1"}[r.IntN(5)]
			n := uint16(1 + r.IntN(3))
			p := []model.PortSpec{verbtest.TCP(host, uint16(80+r.IntN(6)), n, 80, n), verbtest.TCP(host, 80, 4, 80, 1), verbtest.TCP(host, 0, 0, 80, n)}
			spec.Ports = append(spec.Ports, p[r.IntN(3)])
		}
		return func() error { _, err := w.CreateSandbox(ctx, spec); return err }
	case 4:
		return func() error { return w.RemoveSandbox(ctx, sb, r.IntN(2) == 0) }
	case 5:
		return func() error { _, err := w.Connect(ctx, net, sb, model.EndpointSpec{}); return err }
	case 6:
		return func() error { return w.Disconnect(ctx, net, sb, r.IntN(2) == 0) }
	}
	return func() error { return w.Reap(ctx) }
}

// randomLease gives an endpoint of a DHCP server an address, or takes it away.
func (w *world) randomLease(r *rand.Rand) func() error {
	for ep := range w.Snapshot().Endpoints() {
		if ep.Lease == nil {
			continue
		}
		addr := netip.Prefix{}
		if r.IntN(4) > 0 {
			addr = netip.PrefixFrom(verbtest.Addr(fmt.Sprintf("192.0.2.%d", 1+r.IntN(4))), 24)
		}
		lease := &model.Lease{Address: addr, Router: verbtest.Addr("192.0.2.254")}
		return func() error {
			if err := w.SetLease(w.T.Context(), ep.ID, addr, lease); !errors.Is(err, model.ErrNotFound) {
				return err
			}
			return nil // another client has removed the endpoint
		}
	}
	return func() error { return nil }
}

// randomRequest returns a random verb of a container engine.
func (w *world) randomRequest(r *rand.Rand) func() error {
	ctx := w.T.Context()
	i := r.IntN(2)
	net, ep := verbtest.EngineID(fmt.Sprint("f", i)), verbtest.EngineID(fmt.Sprint("ep", r.IntN(6)))
	pool, a := fmt.Sprintf("10.2.%d.0/29", i), verbtest.Addr(fmt.Sprintf("10.1.%d.%d", i, 2+r.IntN(4)))
	switch r.IntN(10) {
	case 0:
		return func() error {
			_, err := w.CreateNetwork(ctx, verbtest.EngineNetwork(fmt.Sprint("f", i), fmt.Sprintf("10.1.%d.0/29", i)))
			return err
		}
	case 1:
		return func() error { return w.RemoveEngineNetwork(ctx, net) }
	case 2, 3:
		spec := model.EndpointSpec{EngineID: ep}
		if r.IntN(2) == 0 {
			spec.IPv4 = a
		}
		return func() error { _, err := w.ReserveEndpoint(ctx, net, spec); return err }
	case 4, 5:
		box := r.IntN(3)
		return func() error {
			_, err := w.JoinEndpoint(ctx, ep, fmt.Sprint("docker-", box), fmt.Sprint("/run/x/", box))
			return err
		}
	case 6:
		ports := []model.PortSpec{verbtest.TCP("", uint16(80+r.IntN(6)), 1, 80, 1), verbtest.TCP("", 0, 0, 80, 1)}
		return func() error { return w.PublishEndpoint(ctx, ep, ports, false) }
	case 7:
		return func() error { return w.UnpublishEndpoint(ctx, ep) }
	case 8:
		switch r.IntN(4) {
		case 0:
			return func() error {
				_, err := w.RequestPool(ctx, "", model.V4, verbtest.Prefix(pool), model.AddrRange{})
				return err
			}
		case 1:
			return func() error { return w.ReleasePool(ctx, pool) }
		case 2:
			return func() error { return w.ReleaseAddress(ctx, pool, verbtest.Prefix(pool).Addr().Next()) }
		}
		return func() error { _, err := w.RequestAddress(ctx, pool, netip.Addr{}, r.IntN(2) == 0); return err }
	}
	return func() error { return w.ReleaseEndpoint(ctx, ep) }
}

func TestOrphansAreSwept(t *testing.T) {
	w := newWorld(t)
	w.MakeSandbox(model.SandboxSpec{Name: "web", Ports: []model.PortSpec{verbtest.TCP("", 80, 1, 80, 1)}})
	sb, _ := w.Sandbox("web")
	if _, err := w.Store.Commit(t.Context(), store.Delete("sandbox/"+sb.ID)); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	if s := w.Snapshot(); s.Counts().Endpoints+s.Counts().Publishes != 0 {
		t.Errorf("orphans: %+v", s)
	}
	for _, prefix := range []string{"endpoint/", "publish/"} {
		if es, err := w.Store.List(t.Context(), prefix); err != nil || len(es) != 0 {
			t.Errorf("stored orphans: %v, %v", es, err)
		}
	}
	w.Check()
}

func TestStartRefusesWhatItCannotRead(t *testing.T) {
	for key, value := range map[string]string{"meta/schema": fmt.Sprint(schema.Current + 1), "network/x": "{", "sandbox/x": "[]", "meta/ula": "1"} {
		w := newWorld(t)
		if _, err := w.Store.Commit(t.Context(), store.Put(key, []byte(value))); err != nil {
			t.Fatal(err)
		}
		c := w.Open(w.Store, w.Kernel)
		if err := c.Start(t.Context()); err == nil || errors.Is(err, store.ErrDamaged) != (key != "meta/schema") {
			t.Errorf("start with %s = %s: %v", key, value, err)
		}
	}
}

// A caller that cancels while it waits for another verb on the same object gets the error at once.
func TestWaitingEndsWithTheCaller(t *testing.T) {
	w := newWorld(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	w.Kernel.OnApply = func(*desired.Snapshot) error {
		close(begun)
		<-goOn
		return nil
	}
	ended := make(chan error)
	go func() {
		_, err := w.CreateNetwork(t.Context(), model.NetworkSpec{Name: "slow"})
		ended <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.RemoveNetwork(ctx, "slow"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v", err)
	}
	close(goOn)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	w.Kernel.OnApply = nil
	if _, err := w.Network("slow"); err != nil {
		t.Error("the cancelled verb took effect")
	}
	w.Check()
}

func TestCancelledVerbDoesNothing(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	before := w.Snapshot()
	// The caller cancels while its change is being applied.
	w.Kernel.OnApply = func(s *desired.Snapshot) error {
		if s != before {
			cancel()
			return ctx.Err()
		}
		return nil
	}
	if _, err := w.CreateNetwork(ctx, model.NetworkSpec{Name: "n"}); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	if w.Snapshot() != before || w.Kernel.Applied != before {
		t.Error("the change was not reverted")
	}
	w.Check()
}
