// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
	"github.com/fairlead-net/fairlead/control/rtnl/stacked"
	"github.com/fairlead-net/fairlead/control/rtnl/station"
)

// newHost moves the test into a network namespace of its own.
func newHost(t *testing.T) *rtnl.Handle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	nl, err := rtnl.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nl.Close() })
	return nl
}

func spec() Spec {
	n := &model.Network{
		ID: "0123456789abcdef", Driver: model.DriverBridge, EnableIPv4: true, GatewayMAC: model.MAC{2, 0, 0, 0, 0, 1},
		Subnets: []model.Subnet{{Prefix: netip.MustParsePrefix("10.7.0.0/24"), Gateway: netip.MustParseAddr("10.7.0.1")}},
	}
	ep := &model.Endpoint{ID: n.ID, IfName: "eth0", MAC: model.MAC{2, 0, 0, 0, 0, 2}, IPv4: netip.MustParsePrefix("10.7.0.2/24")}
	return Spec{ID: n.ID, Network: n, Endpoint: ep}
}

// read returns the host as a pass that read it sees it.
func read(t *testing.T, nl *rtnl.Handle) *Host {
	t.Helper()
	s, err := Read(nl)
	if err != nil {
		t.Fatal(err)
	}
	return NewHost(nl, s)
}

// Every kind keeps the contract of Kind, whether the pass read the host or queries it.
func TestKinds(t *testing.T) {
	nl := newHost(t)
	kinds := NewKinds(nl, station.New(nl, t.TempDir()), slog.New(slog.DiscardHandler))
	all := maps.Clone(kinds.networks)
	for k, kind := range kinds.endpoints {
		if _, ok := kind.(SandboxKind); !ok { // TestOnParent
			all[k] = kind
		}
	}
	for _, kind := range all {
		for _, loaded := range []bool{false, true} {
			host := func() *Host {
				if loaded {
					return read(t, nl)
				}
				return NewHost(nl, State{})
			}
			t.Logf("%T, host was read: %t", kind, loaded)
			keepsContract(t, kind, host)
		}
	}
}

func keepsContract(t *testing.T, kind Kind, host func() *Host) {
	t.Helper()
	s := spec()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := kind.Adopt(host(), s, Ends{}); ok || err != nil {
		t.Fatalf("adopted what was never created: %t, %v", ok, err)
	}
	f, err := kind.Create(s)
	must(err)
	if !f.Created || !f.Ends().Exist() || f.Peer.Index == 0 || f.Host.Up || f.Peer.Up {
		t.Errorf("created %+v", f)
	}
	if _, err := kind.Create(s); !errors.Is(err, rtnl.ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	if _, ok := kind.Check(host(), s, f.Ends()); ok {
		t.Error("an unfinished device counts as finished")
	}
	if again, ok, err := kind.Adopt(host(), s, f.Ends()); !ok || err != nil || again.Ends() != f.Ends() {
		t.Errorf("this daemon's device is not adopted: %+v, %t, %v", again, ok, err)
	}
	_, err = kind.Configure(host(), s, f)
	must(err)
	must(kind.Finish(s.ID, f.Ends()))
	done, ok := kind.Check(host(), s, f.Ends())
	_, isParent := kind.(*parent)
	if !ok || done.Ends() != f.Ends() || !done.Finished || !done.Host.Up && !isParent {
		t.Errorf("a finished device is found as %+v, %t", done, ok)
	}
	if ch, err := kind.Configure(host(), s, done); err != nil || ch != (configure.Changes{}) {
		t.Errorf("configured again: %+v, %v", ch, err)
	}
	if p := kind.Places(done.Ends()); isParent && len(p) != 0 || !isParent && (len(p) != 1 || p[0].IfIndex != int(done.Host.Index) || len(kind.Places(Ends{})) != 0) {
		t.Errorf("programs are attached at %v", p)
	}
	// The next daemon knows no index.
	if next, ok, err := kind.Adopt(read(t, host().nl), s, Ends{}); !ok || err != nil || next.Ends() != f.Ends() {
		t.Errorf("the next daemon adopts %+v, %t, %v", next, ok, err)
	}
	wanted := make(map[string]bool)
	for _, n := range kind.Names(s) {
		wanted[n] = true
	}
	if s.EngineManaged = true; len(kind.Names(s)) < len(wanted) {
		t.Errorf("an engine-managed device is recognised by %v only", kind.Names(s))
	}
	wanted[rtnl.SandboxAlias(s.ID)], wanted[s.Endpoint.IfName] = true, true
	must(read(t, host().nl).Sweep(wanted, slog.New(slog.DiscardHandler)))
	if _, ok := kind.Check(host(), s, f.Ends()); !ok {
		t.Error("a wanted device is swept")
	}
	for range 2 {
		must(kind.Remove(host(), s, f.Ends()))
	}
	if _, ok := kind.Check(host(), s, f.Ends()); ok {
		t.Error("a removed device is found")
	}
}

// A pair that the last daemon did not finish is deleted, because what it lacks is unknown.
func TestUnfinishedVeth(t *testing.T) {
	nl := newHost(t)
	kind := NewKinds(nl, station.New(nl, t.TempDir()), slog.New(slog.DiscardHandler)).OfEndpoint(spec().Network)
	f, err := kind.Create(spec())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := kind.Adopt(read(t, nl), spec(), Ends{}); ok || err != nil {
		t.Errorf("adopted an unfinished pair: %t, %v", ok, err)
	}
	if _, err := nl.Link(f.Host.Index); !errors.Is(err, rtnl.ErrNoDevice) {
		t.Errorf("the unfinished pair is left: %v", err)
	}
}

// A device of another program that has the name of one of Fairlead's is neither adopted nor
// deleted.
func TestNameIsTaken(t *testing.T) {
	nl := newHost(t)
	s := spec()
	kinds := NewKinds(nl, station.New(nl, t.TempDir()), slog.New(slog.DiscardHandler))
	other, err := kinds.OfEndpoint(spec().Network).Create(s)
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]Kind{rtnl.EndpointDevice(s.ID): kinds.OfEndpoint(spec().Network), rtnl.HostPortDevice(s.ID): kinds.OfNetwork(spec().Network)} {
		h := read(t, nl)
		foreign := other.Host
		foreign.Kind, foreign.Alias, foreign.Name = "dummy", "", name
		h.byName[name] = foreign
		if _, ok, err := kind.Adopt(h, s, Ends{}); ok || err == nil {
			t.Errorf("adopted %q: %t", name, ok)
		}
		if err := kind.Remove(h, s, Ends{}); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if _, err := nl.Link(other.Host.Index); err != nil {
		t.Errorf("deleted: %v", err)
	}
}

// Every kind of device that a driver asks for is in the table.
func TestDrivers(t *testing.T) {
	kinds := NewKinds(nil, nil, nil)
	for _, name := range model.DriverNames() {
		n := &model.Network{Driver: name}
		if has := n.Has().OnHost != model.NoDevice; has != (kinds.OfNetwork(n) != nil) {
			t.Errorf("networks of driver %s have a device: %t; its kind is %v", name, has, kinds.OfNetwork(n))
		}
		if has := n.Has().Endpoint != model.NoDevice; has != (kinds.OfEndpoint(n) != nil) {
			t.Errorf("endpoints of driver %s have a device: %t; its kind is %v", name, has, kinds.OfEndpoint(n))
		}
	}
}

// A device that is in the sandbox only, of each kind that this kernel has, is found there by the next daemon, which deletes
// it if it is not finished or has another parent, and never a device of another program.
func TestOnParent(t *testing.T) {
	for _, driver := range model.DriverNames() {
		n := &model.Network{Driver: driver}
		if _, ok := NewKinds(nil, nil, nil).OfEndpoint(n).(SandboxKind); !ok {
			continue // TestKinds
		}
		t.Run(driver, func(t *testing.T) {
			nl := newHost(t)
			if err := stacked.Probe(nl, driver); err != nil {
				t.Skip(err) // TestKernelMatrix
			}
			keepsSandboxContract(t, nl, driver)
		})
	}
}

func keepsSandboxContract(t *testing.T, nl *rtnl.Handle, driver string) {
	path := filepath.Join(t.TempDir(), "box")
	if err := rtnl.CreateNetNS(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rtnl.RemoveNetNS(path) })
	ns, err := rtnl.OpenNetNS(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	s := spec()
	s.Network.Driver, s.Network.Mode, s.Endpoint.MAC, s.NetNS = driver, model.ModeBridge, model.MAC{}, ns // the modes of the others have other names
	kinds := NewKinds(nl, station.New(nl, t.TempDir()), slog.New(slog.DiscardHandler))
	below, err := kinds.OfNetwork(s.Network).Create(s)
	if err != nil {
		t.Fatal(err)
	}
	s.Parent = below.Peer.Index
	kind := kinds.OfEndpoint(s.Network).(SandboxKind)
	create := func() Found {
		t.Helper()
		f, err := kind.Create(s)
		if err != nil || !f.Created || f.Host.Index != 0 || f.Peer.PeerIndex != s.Parent {
			t.Fatalf("created %+v, %v", f, err)
		}
		return f
	}
	find := func(want bool) {
		t.Helper()
		if f, ok, err := kind.Find(s); ok != want || err != nil || ok && !f.Finished {
			t.Errorf("found %+v, %t, %v; want %t", f, ok, err, want)
		}
	}
	find(false)
	f := create()
	if _, err := kind.Create(s); !errors.Is(err, rtnl.ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	find(false) // it was not finished, and is deleted
	f = create()
	finish := func() {
		t.Helper()
		if ch, err := configure.Sandbox(ns, []configure.Device{kind.Inside(s, f.Ends(), true)}); err != nil || ch.Addresses != 1 {
			t.Fatalf("configured %+v, %v", ch, err)
		}
	}
	finish()
	find(true)
	s.Parent++
	find(false) // the parent's successor is another device
	s.Parent--
	f = create()
	finish()
	// It is kept while its network has no parent, and swept if it is not wanted.
	for _, keep := range []bool{true, false} {
		var aliases []string
		if keep {
			aliases = []string{rtnl.SandboxAlias(s.ID)}
		}
		if _, err := configure.Sandbox(ns, nil, aliases...); err != nil {
			t.Fatal(err)
		}
		find(keep)
	}
	f = create()
	for range 2 {
		if err := kind.Remove(NewHost(nl, State{}), s, f.Ends()); err != nil {
			t.Fatal(err)
		}
		find(false)
	}
	if err := ns.Do(func() error { return rtnltest.IP("link add eth0 type veth peer name other") }); err != nil {
		t.Fatal(err)
	}
	find(false)
	if _, err := kind.Create(s); !errors.Is(err, rtnl.ErrExists) {
		t.Errorf("created beside the device of another program: %v", err)
	}
}
