// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// fakeKernel checks every snapshot that it applies.
type fakeKernel struct {
	t       testing.TB
	applied *desired.Snapshot
	applies int
	// apply, if set, may fail an Apply, or panic.
	apply    func(*desired.Snapshot) error
	prefixes []netip.Prefix
	addr     netip.Addr      // of the host's eth0
	busy     map[string]bool // "tcp 80" -> a program listens at all addresses
	lo, hi   uint16
	inner    map[string]model.InnerEnd // by endpoint ID; absent: taken
	gone     []string                  // sandboxes whose namespace is gone
}

func (k *fakeKernel) Apply(_ context.Context, s *desired.Snapshot) error {
	k.applies++
	if err := checkSnapshot(s); err != nil {
		k.t.Errorf("apply of an inconsistent snapshot: %v", err)
	}
	if k.apply != nil {
		if err := k.apply(s); err != nil {
			return err
		}
	}
	k.applied = s
	return nil
}

func (k *fakeKernel) HostPrefixes(context.Context) ([]netip.Prefix, error) { return k.prefixes, nil }

func (k *fakeKernel) HostAddr(_ context.Context, within netip.Prefix) (string, netip.Addr, error) {
	if within.Contains(k.addr) {
		return "eth0", k.addr, nil
	}
	return "", netip.Addr{}, nil
}

func (k *fakeKernel) PortFree(p model.Proto, _ netip.Addr, port, count uint16) error {
	for i := range count {
		if k.busy[fmt.Sprint(p, " ", port+i)] {
			return fmt.Errorf("bind %d: %w", port+i, syscall.EADDRINUSE)
		}
	}
	return nil
}

func (k *fakeKernel) InnerEnd(ep *model.Endpoint) (model.InnerEnd, error) {
	if inner, ok := k.inner[ep.ID]; ok {
		return inner, nil
	}
	return model.InnerTaken, nil
}

func (k *fakeKernel) VanishedSandboxes(time.Duration) []string { return k.gone }

func (k *fakeKernel) EphemeralRange() (lo, hi uint16) { return k.lo, k.hi }

// world is a controller under test with its environment.
type world struct {
	*Controller
	state  *txn.State
	log    bytes.Buffer
	t      testing.TB
	path   string
	store  *store.Bolt
	kernel *fakeKernel
	alive  map[int]bool
	now    time.Time
	wrap   func(store.Store) store.Store // around the store; nil: none
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t:      t,
		path:   filepath.Join(t.TempDir(), "state.db"),
		kernel: &fakeKernel{t: t, lo: 32768, hi: 60999, busy: map[string]bool{}, inner: map[string]model.InnerEnd{}},
		alive:  map[int]bool{},
		now:    time.Unix(1700000000, 0),
	}
	t.Cleanup(func() {
		if w.store != nil {
			_ = w.store.Close()
		}
	})
	w.restart()
	return w
}

// kernelAndHost is implemented by the fakes.
type kernelAndHost interface {
	Kernel
	txn.Realizer
	txn.HostFacts
}

// open returns a controller that was not started, with its state.
func (w *world) open(s store.Store, k kernelAndHost, change ...func(*txn.Config)) (*Controller, *txn.State) {
	w.t.Helper()
	cfg := txn.Config{
		Store: s, Realizer: k, Host: k,
		Now: func() time.Time { return w.now },
		Log: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{ReplaceAttr: withoutChanging})),
	}
	for _, f := range change {
		f(&cfg)
	}
	state, err := txn.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := New(state, Config{Kernel: k, RunDir: "/run/fl", Alive: func(pid int, _ uint64) bool { return w.alive[pid] }})
	if err != nil {
		w.t.Fatal(err)
	}
	return c, state
}

// withoutChanging leaves out attributes that differ from run to run.
func withoutChanging(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == "id" || a.Key == "ipv4" || a.Key == "ipv6" {
		return slog.Attr{}
	}
	return a
}

// restart kills the daemon at any point and starts another.
func (w *world) restart() {
	w.t.Helper()
	if w.store != nil {
		if err := w.store.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	var err error
	if w.store, err = store.OpenBolt(store.BoltConfig{Path: w.path, NoSync: true}); err != nil {
		w.t.Fatal(err)
	}
	var s store.Store = w.store
	if w.wrap != nil {
		s = w.wrap(s)
	}
	w.Controller, w.state = w.open(s, w.kernel)
	if err := w.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// check compares the objects and indices of the controller with those that another one
// loads from its store.
func (w *world) check() {
	w.t.Helper()
	if err := checkSnapshot(w.Snapshot()); err != nil {
		w.t.Errorf("snapshot: %v", err)
	}
	quiet := &fakeKernel{t: w.t}
	fresh, state := w.open(w.store, quiet)
	fresh.cfg.Alive = func(int, uint64) bool { return true } // so that it reaps nothing
	fresh.cfg.StartGrace = 1000 * time.Hour
	if err := fresh.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	opts := cmp.Options{cmpopts.IgnoreFields(desiredtest.Plain{}, "Rev"), cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	want := desiredtest.Of(w.Snapshot())
	maps.DeleteFunc(want.Pools, func(_ string, p *model.AddressPool) bool { return len(p.Taken) == 0 }) // removed at a start
	if diff := cmp.Diff(want, desiredtest.Of(fresh.Snapshot()), opts); diff != "" {
		w.t.Errorf("memory (-) and store (+) differ:\n%s", diff)
	}
	if err := w.state.Compare(state); err != nil {
		w.t.Errorf("indices in memory and those of the store: %v", err)
	}
}

// checkSnapshot checks the invariants of every state.
func checkSnapshot(s *desired.Snapshot) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	owner := map[string]string{}
	own := func(what, holder string) {
		if o, ok := owner[what]; ok {
			bad("%s belongs to %s and %s", what, model.ShortID(o), model.ShortID(holder))
		}
		owner[what] = holder
	}
	for n := range s.Networks() {
		id := n.ID
		own("network name "+n.Name, id)
		own(fmt.Sprint("index ", n.Index), id)
		if s.Network(id) != n || n.Index == 0 || n.Index >= model.MaxNetworks {
			bad("network %q is stored under %s with index %d", n.Name, id, n.Index)
		}
		if used := s.HasMembers(id); used && n.Idle || !used && predefined(n.Name) && n.Has().Pools && !n.Idle {
			bad("network %q: idle %t, has members %t", n.Name, n.Idle, used)
		}
		for _, sub := range n.Claimed() {
			for o := range s.Networks() {
				oid := o.ID
				for _, os := range o.Claimed() {
					if oid != id && os.Prefix.Overlaps(sub.Prefix) {
						bad("networks %q and %q overlap", n.Name, o.Name)
					}
				}
			}
			if sub.Gateway.IsValid() {
				own(fmt.Sprint(id, sub.Gateway), "gateway")
			}
			for k, a := range sub.Aux {
				own(fmt.Sprint(id, a), k)
			}
		}
		own(fmt.Sprint(id, n.GatewayMAC), "gateway")
	}
	netns := map[string]string{}
	for sb := range s.Sandboxes() {
		id := sb.ID
		own("sandbox name "+sb.Name, id)
		if sb.NetNS != "" && !joinsSandbox(sb.NetworkMode) {
			own("netns "+sb.NetNS, id)
			netns[model.ModeContainer+id] = sb.NetNS
		}
	}
	for sb := range s.Sandboxes() {
		if joinsSandbox(sb.NetworkMode) && netns[sb.NetworkMode] != sb.NetNS {
			bad("sandbox %q joins %q, which does not exist", sb.Name, sb.NetworkMode)
		}
	}
	checkEndpoints(s, own, bad)
	return errors.Join(append(errs, desiredtest.Check(s))...)
}

func checkEndpoints(s *desired.Snapshot, own func(what, holder string), bad func(string, ...any)) {
	for ep := range s.Endpoints() {
		id := ep.ID
		n, sb := s.Network(ep.NetworkID), s.Sandbox(ep.SandboxID)
		waits := ep.SandboxID == "" && !ep.Reserved.IsZero() && !ep.IsGateway()
		if n == nil || sb == nil && !waits {
			bad("endpoint %s lacks its network or sandbox", model.ShortID(id))
			continue
		}
		if sb != nil {
			own("membership "+n.ID+sb.ID, id)
			own("interface "+sb.ID+ep.IfName, id)
			own(fmt.Sprint("order ", sb.ID, ep.Order), id)
			if byEngine := sb.ManagedBy == model.ByEngine; byEngine != (n.ManagedBy == model.ByEngine) || byEngine == ep.Reserved.IsZero() {
				bad("endpoint %s mixes objects of Fairlead and of an engine", model.ShortID(id))
			}
		}
		own(fmt.Sprint(n.ID, ep.MAC), id)
		for _, p := range []netip.Prefix{ep.IPv4, ep.IPv6} {
			if !p.IsValid() {
				continue
			}
			own(fmt.Sprint(n.ID, p.Addr()), id)
			if sub, ok := n.Subnet(model.FamilyOf(p.Addr())); !ok || sub.Prefix != p.Masked() {
				bad("endpoint %s has address %v outside its network", model.ShortID(id), p)
			}
		}
		if ep.IsGateway() {
			what := "gateway of "
			if !ep.DefaultRoute6 || sb.ManagedBy == model.ByEngine && !n.DefaultGateway(ep, model.V6).IsValid() {
				what = "gateway for IPv4 of "
			}
			own(what+sb.ID, id)
			if n.Internal {
				bad("gateway of %q is in internal network %q", sb.Name, n.Name)
			}
		}
	}
	for p := range s.Publishes() {
		id := p.ID
		ep := s.Endpoint(p.EndpointID)
		if ep == nil || !ep.IsGateway() || s.Publish(id) != p || id == 0 {
			bad("publish %d is not at a gateway endpoint", id)
		}
		for o := range s.Publishes() {
			oid := o.ID
			if oid < id && o.Proto == p.Proto && overlap(o.HostIP, p.HostIP) &&
				int(o.HostPort) < int(p.HostPort)+int(p.Count) && int(p.HostPort) < int(o.HostPort)+int(o.Count) {
				bad("publishes %+v and %+v collide", o, p)
			}
		}
	}
}

// overlap reports whether two host addresses cannot share a port. The zero address stands for
// all addresses.
func overlap(a, b netip.Addr) bool {
	all := func(a netip.Addr) bool { return a.IsUnspecified() }
	return !a.IsValid() || !b.IsValid() || a == b || a.Is4() == b.Is4() && (all(a) || all(b))
}

func (w *world) network(spec model.NetworkSpec) *model.Network {
	w.t.Helper()
	n, err := w.CreateNetwork(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) sandbox(spec model.SandboxSpec) *model.Sandbox {
	w.t.Helper()
	sb, err := w.CreateSandbox(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return sb
}

// endpoint returns a sandbox's endpoint in a network, or nil.
func (w *world) endpoint(network, sandbox string) *model.Endpoint {
	w.t.Helper()
	n, err1 := w.Network(network)
	sb, err2 := w.Sandbox(sandbox)
	if err := errors.Join(err1, err2); err != nil {
		w.t.Fatal(err)
	}
	for ep := range w.Snapshot().Endpoints() {
		if ep.NetworkID == n.ID && ep.SandboxID == sb.ID {
			return ep
		}
	}
	return nil
}

// remedy matches the remedy in a refusal: in brackets, or in its last clause.
var remedy = regexp.MustCompile(`\)$|; |it should be `)

// refused checks an error's kind, a part of its text, that it names a
// remedy, and that the snapshot is unchanged.
func (w *world) refused(before *desired.Snapshot, err, kind error, text string) {
	w.t.Helper()
	var r *model.Refusal
	if !errors.As(err, &r) || !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
		w.t.Errorf("error %v\nwant a refusal of kind %v with %q", err, kind, text)
	}
	if !remedy.MatchString(err.Error()) {
		w.t.Errorf("the refusal %q names no remedy", err)
	}
	if w.Snapshot() != before {
		w.t.Error("a refused verb changed the snapshot")
	}
	w.check()
}

func subnet(s string) model.SubnetSpec { return model.SubnetSpec{Prefix: netip.MustParsePrefix(s)} }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// tcp returns the spec of one -p. With a host count of 0 the controller chooses the host
// port.
func tcp(hostIP string, host, hostCount, port, count uint16) model.PortSpec {
	p := model.PortSpec{HostPort: host, HostCount: hostCount, Port: port, Count: count, Proto: model.TCP}
	if hostIP != "" {
		p.HostIP = addr(hostIP)
	}
	return p
}

// A subscriber sees each change when its verb returns: also one that the kernel
// does not need, and a forced removal that the kernel refused. A verb that failed
// changes nothing.
func TestChanged(t *testing.T) {
	w := newWorld(t)
	var seen *desired.Snapshot
	c, state := w.open(w.store, w.kernel)
	state.Subscribe(func(s *desired.Snapshot) { seen = s })
	follows := func(what string) {
		t.Helper()
		if seen != c.Snapshot() {
			t.Errorf("%s: not followed", what)
		}
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	follows("start")
	if _, err := c.CreateSandbox(t.Context(), model.SandboxSpec{Name: "box"}); err != nil {
		t.Fatal(err)
	}
	follows("create")
	w.alive[42] = true
	if err := c.SandboxStarted(t.Context(), "box", 42, 7); err != nil {
		t.Fatal(err)
	}
	follows("a report that the kernel need not know")
	w.kernel.apply = func(*desired.Snapshot) error { return errors.New("refused") }
	before := seen
	if err := c.RemoveSandbox(t.Context(), "box", false); err == nil || seen != before {
		t.Errorf("a removal that failed: %v, followed: %t", err, seen != before)
	}
	if err := c.RemoveSandbox(t.Context(), "box", true); err != nil {
		t.Fatal(err)
	}
	if follows("a forced removal"); seen == before {
		t.Error("a forced removal changed nothing")
	}
}
