// SPDX-License-Identifier: Apache-2.0

// Package verbtest provides the verbs of users and of container engines on one state, with fakes of
// the kernel and the host, and checks the state after each.
package verbtest

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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/control/controller"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/engine"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
	"github.com/fairlead-net/fairlead/control/store"
)

// Fake is a kernel and a host. It checks every snapshot that it applies. Snapshots may be applied at the same
// time; Applied is the one of them that was accepted last.
type Fake struct {
	T       testing.TB
	Applied *desired.Snapshot
	Applies int

	mu                sync.Mutex // of Applied, Applies and these
	accepted, applied int        // snapshots were accepted, and this one of them applied

	// OnApply, if set, may fail an Apply, or panic.
	OnApply     func(*desired.Snapshot) error
	Prefixes    []netip.Prefix
	HostAddress netip.Addr      // of the host's eth0
	Busy        map[string]bool // "tcp 80" -> a program listens at all addresses
	Lo, Hi      uint16
	Inner       map[string]model.InnerEnd // by endpoint ID; absent: taken
	Vanished    []string                  // sandboxes whose namespace does not exist
}

// Accept returns a function that applies a snapshot.
func (k *Fake) Accept(_ context.Context, s *desired.Snapshot) func() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.accepted++
	n := k.accepted
	return func() error { return k.apply(n, s) }
}

func (k *Fake) apply(n int, s *desired.Snapshot) error {
	k.mu.Lock()
	k.Applies++
	k.mu.Unlock()
	if err := CheckSnapshot(s); err != nil {
		k.T.Errorf("apply of an inconsistent snapshot: %v", err)
	}
	if k.OnApply != nil {
		if err := k.OnApply(s); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if n > k.applied {
		k.applied, k.Applied = n, s
	}
	return nil
}

func (k *Fake) HostPrefixes(context.Context) ([]netip.Prefix, error) { return k.Prefixes, nil }

func (k *Fake) HostAddr(_ context.Context, within netip.Prefix) (string, netip.Addr, error) {
	if within.Contains(k.HostAddress) {
		return "eth0", k.HostAddress, nil
	}
	return "", netip.Addr{}, nil
}

func (k *Fake) PortFree(p model.Proto, _ netip.Addr, port, count uint16) error {
	for i := range count {
		if k.Busy[fmt.Sprint(p, " ", port+i)] {
			return fmt.Errorf("bind %d: %w", port+i, syscall.EADDRINUSE)
		}
	}
	return nil
}

func (k *Fake) InnerEnd(ep *model.Endpoint) (model.InnerEnd, error) {
	if inner, ok := k.Inner[ep.ID]; ok {
		return inner, nil
	}
	return model.InnerTaken, nil
}

func (k *Fake) VanishedSandboxes(time.Duration) []string { return k.Vanished }

func (k *Fake) EphemeralRange() (lo, hi uint16) { return k.Lo, k.Hi }

// Parts are the verbs of users and of engines, and the state that they share.
type Parts struct {
	*controller.Controller
	*engine.Engine
	State *txn.State
}

// Snapshot returns the state after the last successful verb.
func (p Parts) Snapshot() *desired.Snapshot { return p.State.Snapshot() }

// CreateNetwork creates a network; one of an engine if the spec has its ID.
func (p Parts) CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error) {
	if spec.EngineID != "" {
		return p.Engine.CreateNetwork(ctx, spec)
	}
	return p.Controller.CreateNetwork(ctx, spec)
}

// Reap removes what users, runtimes and engines left behind, as the daemon does.
func (p Parts) Reap(ctx context.Context) error {
	return errors.Join(p.Controller.Reap(ctx), p.Engine.Reap(ctx))
}

// Configs are the configurations of all parts.
type Configs struct {
	State      txn.Config
	Controller controller.Config
	Engine     engine.Config
}

// Open returns the verbs on a store and a kernel. The caller starts them.
func Open(t testing.TB, cfg Configs) Parts {
	t.Helper()
	state, err := txn.New(cfg.State)
	if err != nil {
		t.Fatal(err)
	}
	c, err1 := controller.New(state, cfg.Controller)
	cfg.Engine.Networks = c
	e, err2 := engine.New(state, cfg.Engine)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return Parts{c, e, state}
}

// World is the parts under test with their environment.
type World struct {
	Parts
	T      testing.TB
	Log    bytes.Buffer
	Store  *store.Bolt
	Kernel *Fake
	Alive  map[int]bool
	Time   time.Time
	Wrap   func(store.Store) store.Store // around the store; nil: none
	Change func(*Configs)                // of every daemon; nil: none
	path   string
}

// NewWorld returns parts that were started on an empty store.
func NewWorld(t testing.TB) *World {
	t.Helper()
	return NewWorldAt(t, filepath.Join(t.TempDir(), "state.db"))
}

// NewWorldAt returns parts that were started on the store at a path.
func NewWorldAt(t testing.TB, path string) *World { return NewWorldWith(t, path, nil) }

// NewWorldWith returns parts that were started on the store at a path, with other configurations.
func NewWorldWith(t testing.TB, path string, change func(*Configs)) *World {
	t.Helper()
	w := &World{
		Change: change,
		T:      t,
		path:   path,
		Kernel: &Fake{T: t, Lo: 32768, Hi: 60999, Busy: map[string]bool{}, Inner: map[string]model.InnerEnd{}},
		Alive:  map[int]bool{},
		Time:   time.Unix(1700000000, 0),
	}
	t.Cleanup(func() {
		if w.Store != nil {
			_ = w.Store.Close()
		}
	})
	w.Restart()
	return w
}

// All is implemented by fakes of the kernel and the host.
type All interface {
	txn.Realizer
	txn.HostFacts
	controller.Namespaces
	engine.InnerEnds
}

// Open returns the verbs on a store and a kernel. The caller starts them.
func (w *World) Open(s store.Store, k All, change ...func(*Configs)) Parts {
	w.T.Helper()
	cfg := Configs{
		State: txn.Config{
			Store: s, Realizer: k, Host: k,
			Now: func() time.Time { return w.Time },
			Log: slog.New(slog.NewTextHandler(&w.Log, &slog.HandlerOptions{ReplaceAttr: withoutChanging})),
		},
		Controller: controller.Config{Namespaces: k, RunDir: "/run/fl", Alive: func(pid int, _ uint64) bool { return w.Alive[pid] }},
		Engine:     engine.Config{Inner: k},
	}
	if w.Change != nil {
		w.Change(&cfg)
	}
	for _, f := range change {
		f(&cfg)
	}
	return Open(w.T, cfg)
}

// withoutChanging leaves out attributes that differ from run to run.
func withoutChanging(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == "id" || a.Key == "ipv4" || a.Key == "ipv6" {
		return slog.Attr{}
	}
	return a
}

// Restart kills the daemon at any point and starts another.
func (w *World) Restart() {
	w.T.Helper()
	if w.Store != nil {
		if err := w.Store.Close(); err != nil {
			w.T.Fatal(err)
		}
	}
	var err error
	if w.Store, err = store.OpenBolt(store.BoltConfig{Path: w.path, NoSync: true}); err != nil {
		w.T.Fatal(err)
	}
	var s store.Store = w.Store
	if w.Wrap != nil {
		s = w.Wrap(s)
	}
	w.Parts = w.Open(s, w.Kernel)
	if err := w.Start(w.T.Context()); err != nil {
		w.T.Fatal(err)
	}
}

// Check compares the objects and indices of the controller with those that another one
// loads from its store.
func (w *World) Check() {
	w.T.Helper()
	if err := CheckSnapshot(w.Snapshot()); err != nil {
		w.T.Errorf("snapshot: %v", err)
	}
	quiet := &Fake{T: w.T}
	fresh := w.Open(w.Store, quiet, func(cfg *Configs) {
		cfg.State.Log = nil
		cfg.Controller.Alive = func(int, uint64) bool { return true } // so that it reaps nothing
		cfg.Controller.StartGrace = 1000 * time.Hour
	})
	if err := fresh.Start(w.T.Context()); err != nil {
		w.T.Fatal(err)
	}
	opts := cmp.Options{cmpopts.IgnoreFields(desiredtest.Plain{}, "Rev"), cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	want := desiredtest.Of(w.Snapshot())
	maps.DeleteFunc(want.Pools, func(_ string, p *model.AddressPool) bool { // removed at a start
		n := want.Networks[p.NetworkID]
		return len(p.Taken) == 0 && (n == nil || n.EngineNetwork == "")
	})
	if diff := cmp.Diff(want, desiredtest.Of(fresh.Snapshot()), opts); diff != "" {
		w.T.Errorf("memory (-) and store (+) differ:\n%s", diff)
	}
	if err := w.State.Compare(fresh.State); err != nil {
		w.T.Errorf("indices in memory and those of the store: %v", err)
	}
}

// CheckSnapshot checks the invariants of every state.
func CheckSnapshot(s *desired.Snapshot) error {
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
		// A service with published ports makes a host a member of a shared network, some time later.
		serves := n.Has().Shared && resource.HasPorts(s, id)
		if used := s.HasMembers(id); used && n.Idle || !used && !serves && resource.MayIdle(n) && !n.Idle {
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
		if sb.NetNS != "" && !sb.SharesNetNS() {
			own("netns "+sb.NetNS, id)
			netns[model.ModeContainer+id] = sb.NetNS
		}
	}
	for sb := range s.Sandboxes() {
		if sb.SharesNetNS() && netns[sb.NetworkMode] != sb.NetNS {
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
			byEngine, may := sb.ManagedBy == model.ByEngine, n.EngineNetwork != "" // of both, then
			if byEngine != (n.ManagedBy == model.ByEngine) && !may || byEngine == ep.Reserved.IsZero() {
				bad("endpoint %s mixes objects of Fairlead and of an engine", model.ShortID(id))
			}
		}
		own(fmt.Sprint(n.ID, ep.MAC), id)
		for _, p := range []netip.Prefix{ep.IPv4, ep.IPv6} {
			if !p.IsValid() {
				continue
			}
			own(fmt.Sprint(n.ID, p.Addr()), id)
			if sub, ok := n.SubnetWith(p.Addr()); (!ok || sub.Prefix != p.Masked()) && (ep.Lease == nil || p.Addr().Is6()) {
				bad("endpoint %s has address %v outside its network", model.ShortID(id), p)
			}
		}
		if ep.IsGateway() {
			what := "gateway of "
			if !ep.DefaultRoute6 || sb.ManagedBy == model.ByEngine && !n.DefaultGateway(ep, model.V6).IsValid() {
				what = "gateway for IPv4 of "
			}
			own(what+sb.ID, id)
			if n.Closed() {
				bad("gateway of %q is in internal network %q", sb.Name, n.Name)
			}
		}
	}
	onHost := func(p *model.Publish) (model.PortBinding, bool) {
		if ep := s.Endpoint(p.EndpointID); ep != nil && s.Network(ep.NetworkID) != nil {
			return s.Network(ep.NetworkID).OnHost(p.PortBinding)
		}
		return p.PortBinding, true
	}
	for p := range s.Publishes() {
		id := p.ID
		ep := s.Endpoint(p.EndpointID)
		if ep == nil || !ep.IsGateway() || s.Publish(id) != p || id == 0 {
			bad("publish %d is not at a gateway endpoint", id)
		}
		for o := range s.Publishes() {
			mine, some := onHost(p)
			other, too := onHost(o)
			if o.ID < id && some && too && o.Proto == p.Proto && overlap(other.HostIP, mine.HostIP) &&
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

// MakeNetwork creates a network.
func (w *World) MakeNetwork(spec model.NetworkSpec) *model.Network {
	w.T.Helper()
	n, err := w.CreateNetwork(w.T.Context(), spec)
	if err != nil {
		w.T.Fatal(err)
	}
	return n
}

// MakeSandbox creates a sandbox.
func (w *World) MakeSandbox(spec model.SandboxSpec) *model.Sandbox {
	w.T.Helper()
	sb, err := w.CreateSandbox(w.T.Context(), spec)
	if err != nil {
		w.T.Fatal(err)
	}
	return sb
}

// EndpointIn returns a sandbox's endpoint in a network, or nil.
func (w *World) EndpointIn(network, sandbox string) *model.Endpoint {
	w.T.Helper()
	n, err1 := w.Network(network)
	sb, err2 := w.Sandbox(sandbox)
	if err := errors.Join(err1, err2); err != nil {
		w.T.Fatal(err)
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

// Refused checks an error's kind, a part of its text, that it names a
// remedy, and that the snapshot is unchanged.
func (w *World) Refused(before *desired.Snapshot, err, kind error, text string) {
	w.T.Helper()
	var r *model.Refusal
	if !errors.As(err, &r) || !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
		w.T.Errorf("error %v\nwant a refusal of kind %v with %q", err, kind, text)
	}
	if !remedy.MatchString(err.Error()) {
		w.T.Errorf("the refusal %q names no remedy", err)
	}
	if w.Snapshot() != before {
		w.T.Error("a refused verb changed the snapshot")
	}
	w.Check()
}

// Subnet returns the spec of a subnet.
func Subnet(s string) model.SubnetSpec { return model.SubnetSpec{Prefix: netip.MustParsePrefix(s)} }

// Addr returns an address.
func Addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// TCP returns the spec of one -p. With a host count of 0 the controller chooses the host
// port.
func TCP(hostIP string, host, hostCount, port, count uint16) model.PortSpec {
	p := model.PortSpec{HostPort: host, HostCount: hostCount, Port: port, Count: count, Proto: model.TCP}
	if hostIP != "" {
		p.HostIP = Addr(hostIP)
	}
	return p
}
