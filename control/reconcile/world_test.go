// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
	dp "github.com/fairlead-net/fairlead/maps"
)

// errFault is the error of injected faults.
var errFault = errors.New("fault")

// world is a test's own host: a network namespace, and a datapath that only records.
type world struct {
	tb  testing.TB
	dir string
	nl  *rtnl.Handle
	log *slog.Logger
	r   *Reconciler

	// beforeAttach is called before a program is attached.
	beforeAttach atomic.Value // func(ifindex int)
	// beforeFlows is called before flows are searched.
	beforeFlows atomic.Value // func()
	// onSettle is called when a first pass has attached what it could.
	onSettle func()

	mu     sync.Mutex // guards what follows
	writes int        // to tables, and of attachments, that changed something
	fault  int        // the number of calls until one fails; 0 means never

	attached    map[device.Place]bool
	provisional map[device.Place]bool // of the attached: filters
	cgroup      bool
	lostPins    int // that RestorePins restores
	commits     int
	flows       []dp.Flow
	reset       []uint32 // networks whose counters were reset
	errors      []string // lines of the log

	endpoints  *fakeTable[dp.Endpoint, uint32]
	fdb        *fakeTable[dp.FDBEntry, fdbKey]
	neighbours *fakeTable[dp.Neighbour, neighbourKey]
	publishes  *fakeTable[dp.Publish, publishKey]
	sources    *fakeTable[dp.Source, dp.Source]
	pools      *fakeTable[dp.Pool, poolKey]
	resolvers  *fakeTable[dp.Resolver, uint64]
	subnets    *fakeTable[dp.Subnet, netip.Prefix]
	uplinks    *fakeTable[dp.Uplink, uint32]
	hostAddrs  *fakeTable[netip.Addr, netip.Addr]
	hostNets   *fakeTable[dp.Subnet, netip.Prefix]
	egresses   *fakeTable[dp.Egress, uint32]
	tunnels    *fakeTable[dp.Tunnel, uint32]
	vnis       *fakeTable[dp.VNI, uint32]
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: it makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatal(err)
	}
	nl, err := rtnl.New()
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{tb: tb, dir: tb.TempDir(), nl: nl, attached: make(map[device.Place]bool), provisional: make(map[device.Place]bool)}
	w.log = slog.New(slog.NewTextHandler(testLog{w}, nil))
	w.beforeAttach.Store(func(int) {})
	w.beforeFlows.Store(func() {})
	w.onSettle = func() {}
	w.endpoints = newFakeTable(w, func(e dp.Endpoint) uint32 { return e.IfIndex })
	w.fdb = newFakeTable(w, func(e dp.FDBEntry) fdbKey { return fdbKey{e.Net, e.MAC} })
	w.neighbours = newFakeTable(w, func(e dp.Neighbour) neighbourKey { return neighbourKey{e.Net, e.Addr} })
	w.sources = newFakeTable(w, func(e dp.Source) dp.Source { return e })
	w.publishes = newFakeTable(w, func(e dp.Publish) publishKey { return publishKey{e.HostIP, e.Port, e.Proto} })
	w.resolvers = newFakeTable(w, func(e dp.Resolver) uint64 { return e.Cookie })
	w.pools = newFakeTable(w, func(e dp.Pool) poolKey { return poolKey{e.Service, e.IPv6} })
	w.subnets = newFakeTable(w, func(e dp.Subnet) netip.Prefix { return e.Prefix })
	w.egresses = newFakeTable(w, func(e dp.Egress) uint32 { return e.Net })
	w.tunnels = newFakeTable(w, func(e dp.Tunnel) uint32 { return e.Net })
	w.vnis = newFakeTable(w, func(e dp.VNI) uint32 { return e.VNI })
	w.hostNets = newFakeTable(w, func(e dp.Subnet) netip.Prefix { return e.Prefix })
	w.uplinks = newFakeTable(w, func(u dp.Uplink) uint32 { return u.IfIndex })
	w.hostAddrs = newFakeTable(w, func(a netip.Addr) netip.Addr { return a })
	w.restart()
	tb.Cleanup(func() {
		files, _ := os.ReadDir(w.netnsDir())
		for _, f := range files {
			if err := rtnl.RemoveNetNS(filepath.Join(w.netnsDir(), f.Name())); err != nil {
				tb.Error(err)
			}
		}
		nl.Close()
	})
	return w
}

func (w *world) netnsDir() string { return filepath.Join(w.dir, "netns") }

// restart replaces the reconciler by a new one.
func (w *world) restart() {
	w.r = New(Config{NetNSDir: w.netnsDir(), Log: w.log}, w, tables.Set{
		Endpoints: w.endpoints, FDB: w.fdb, Neighbours: w.neighbours, Publishes: w.publishes, Sources: w.sources, Pools: w.pools, Resolvers: w.resolvers,
		Subnets: w.subnets, Egresses: w.egresses, Tunnels: w.tunnels, VNIs: w.vnis, Uplinks: w.uplinks, HostAddrs: w.hostAddrs, HostNets: w.hostNets, Flows: w, Traffic: w,
	}, w.nl)
}

type testLog struct{ w *world }

func (l testLog) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	l.w.tb.Logf("%s", line)
	if strings.Contains(line, "level=ERROR") {
		l.w.mu.Lock()
		defer l.w.mu.Unlock()
		l.w.errors = append(l.w.errors, line)
	}
	return len(b), nil
}

// trip counts calls down to the injected fault.
func (w *world) trip() error {
	if w.fault > 0 {
		if w.fault--; w.fault == 0 {
			return errFault
		}
	}
	return nil
}

func (w *world) Attach(ifindex int, h loader.Hook) (bool, error) {
	w.beforeAttach.Load().(func(int))(ifindex)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.attach(ifindex, h)
}

func (w *world) attach(ifindex int, h loader.Hook) (bool, error) {
	if err := w.trip(); err != nil {
		return false, err
	}
	if _, err := w.nl.Link(uint32(ifindex)); err != nil {
		return false, err
	}
	at := device.Place{IfIndex: ifindex, Hook: h}
	if w.attached[at] && !w.provisional[at] {
		return false, nil
	}
	delete(w.provisional, at)
	w.writes++
	w.attached[at] = true
	return true, nil
}

func (w *world) AttachFast(ifindex int, h loader.Hook) (changed, provisional bool, err error) {
	w.beforeAttach.Load().(func(int))(ifindex)
	w.mu.Lock()
	defer w.mu.Unlock()
	at := device.Place{IfIndex: ifindex, Hook: h}
	if w.provisional[at] {
		return false, true, nil
	}
	if changed, err = w.attach(ifindex, h); changed {
		w.provisional[at] = true
	}
	return changed, changed, err
}

func (w *world) Detach(ifindex int, h loader.Hook) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.trip(); err != nil {
		return err
	}
	delete(w.attached, device.Place{IfIndex: ifindex, Hook: h})
	delete(w.provisional, device.Place{IfIndex: ifindex, Hook: h})
	return nil
}

func (w *world) RestorePins() (int, error) {
	n := w.lostPins
	if n == 0 {
		return 0, nil
	}
	w.lostPins = 0
	w.writes += n
	return n, nil
}

func (w *world) AttachCgroup() (int, error) {
	w.mu.Lock()
	attached := w.cgroup
	w.mu.Unlock()
	if attached {
		return 0, nil
	}
	w.beforeAttach.Load().(func(int))(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cgroup = true
	w.writes++
	return 1, nil
}

func (w *world) Attached() ([]loader.Attachment, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var as []loader.Attachment
	for at := range w.attached {
		_, err := w.nl.Link(uint32(at.IfIndex))
		kind := loader.TCX
		if w.provisional[at] {
			kind = loader.Clsact
		}
		as = append(as, loader.Attachment{IfIndex: at.IfIndex, Hook: at.Hook, Kind: kind, Live: err == nil})
	}
	return as, nil
}

func (w *world) Settle() error {
	w.onSettle()
	return nil
}

func (w *world) Commit() error {
	w.commits++
	return nil
}

func (w *world) DeleteWhere(match func(dp.Flow) bool) (int, error) {
	w.beforeFlows.Load().(func())()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.trip(); err != nil {
		return 0, err
	}
	before := len(w.flows)
	w.flows = slices.DeleteFunc(w.flows, match)
	return before - len(w.flows), nil
}

func (w *world) ResetTraffic(net uint32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reset = append(w.reset, net)
	return w.trip()
}

// plan builds snapshots. Each call of snapshot returns a new one that shares what did not change.
type plan struct {
	w    *world
	s    desiredtest.Plain
	next byte
}

func (w *world) plan() *plan { return &plan{w: w, next: 2, s: desiredtest.New()} }

func (p *plan) snapshot() *desired.Snapshot {
	p.s.Rev++
	return p.s.Snapshot()
}

func id(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

// network adds a dual-stack network; index is also in its addresses.
func (p *plan) network(name string, index byte) *model.Network {
	n := &model.Network{
		ID: id(name), Name: name, Local: model.Local{Index: uint32(index)}, Driver: model.DriverBridge,
		EnableIPv4: true, EnableIPv6: true, ICC: true, Masquerade: true, AntiSpoof: true,
		GatewayMAC: model.MAC{2, 0x42, 10, index, 0, 1},
		Subnets: []model.Subnet{
			{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, index, 0, 0}), 16), Gateway: netip.AddrFrom4([4]byte{10, index, 0, 1})},
			{Prefix: netip.PrefixFrom(addr6(index, 0), 64), Gateway: addr6(index, 1)},
		},
	}
	p.s.Networks[n.ID] = n
	return n
}

func addr6(index, host byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfd, 0, 0, 0, 0, 0, 0, index, 15: host})
}

func (p *plan) sandbox(name string) *model.Sandbox {
	b := &model.Sandbox{
		ID: id(name), Name: name, NetworkMode: model.NetworkBridge,
		NetNS: filepath.Join(p.w.netnsDir(), name),
	}
	p.s.Sandboxes[b.ID] = b
	return b
}

// endpoint attaches a sandbox to a network. The sandbox's first endpoint has the gateway.
func (p *plan) endpoint(b *model.Sandbox, n *model.Network) *model.Endpoint {
	order, used := 0, make(map[int]bool)
	for _, e := range p.s.Endpoints {
		if e.SandboxID == b.ID {
			used[e.Order] = true
		}
	}
	for used[order] {
		order++
	}
	i := byte(n.Index)
	e := &model.Endpoint{
		ID: id(b.Name + n.Name), NetworkID: n.ID, SandboxID: b.ID, IfName: fmt.Sprintf("eth%d", order),
		MAC:  model.MAC{2, 0x42, 10, i, 0, p.next},
		IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, i, 0, p.next}), 16),
		IPv6: netip.PrefixFrom(addr6(i, p.next), 64), Order: order, DefaultRoute4: len(used) == 0, DefaultRoute6: len(used) == 0,
	}
	p.next++
	p.s.Endpoints[e.ID] = e
	return e
}

func (p *plan) publish(pid uint32, e *model.Endpoint, host netip.Addr, port, count uint16) {
	p.s.Publishes[pid] = &model.Publish{ID: pid, EndpointID: e.ID, PortBinding: model.PortBinding{
		HostIP: host, HostPort: port, Port: 80, Count: count, Proto: model.TCP,
	}}
}

func (w *world) apply(p *plan) {
	w.tb.Helper()
	if err := w.applySnapshot(p.snapshot()); err != nil {
		w.tb.Fatal(err)
	}
}

// applySnapshot applies a snapshot, and returns when the kernel has it.
func (w *world) applySnapshot(s *desired.Snapshot) error {
	return w.r.Accept(context.WithoutCancel(w.tb.Context()), s)()
}

// promoteAll replaces all filters by links, as Run does after a while.
func (w *world) promoteAll() {
	w.r.promoter.LastVerb = time.Time{}
	for more := true; more; _, more = w.r.promoter.One() {
	}
}

// repairAll reads everything back, as Run does in turn, and returns what it repaired.
func (w *world) repairAll(ctx context.Context) (report.Repairs, error) {
	repairs := report.NewRepairs()
	for more := true; more; {
		start := time.Now()
		restored, next, err := w.r.state.Entries.VerifyPart()
		if w.r.host.NoteVerified(ctx, start, restored, err); err != nil {
			return repairs, err
		}
		repairs[report.Entry] += uint64(restored)
		more = next
	}
	host := func() error {
		more, err := w.r.host.Check(ctx, check.Regular)
		repairs.Add(more)
		return err
	}
	if err := host(); err != nil {
		return repairs, err
	}
	inside, err := w.r.sandboxes.Check(ctx, w.r.sandboxes.Next(-1))
	repairs.Add(inside)
	if w.r.state.Unfinished() {
		err = host()
	}
	return repairs, err
}

// resync repairs, and then expects that nothing is left to repair.
func (w *world) resync() report.Repairs {
	w.tb.Helper()
	repairs, err := w.repairAll(w.tb.Context())
	if err != nil {
		w.tb.Fatal(err)
	}
	again, err := w.repairAll(w.tb.Context())
	if err != nil || again.Total() > 0 {
		w.tb.Errorf("after a repair there is still %v to repair, %v", again, err)
	}
	return repairs
}

// link finds a device by its alias.
func (w *world) link(alias string) rtnl.Link {
	w.tb.Helper()
	ls, err := w.nl.Links()
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, l := range ls {
		if l.Alias == alias {
			return l
		}
	}
	w.tb.Fatalf("there is no device %q", alias)
	return rtnl.Link{}
}

// ours lists the names of Fairlead's devices.
func (w *world) ours() []string {
	w.tb.Helper()
	ls, err := w.nl.Links()
	if err != nil {
		w.tb.Fatal(err)
	}
	names := []string{}
	for _, l := range ls {
		if l.Ours() {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return names
}

// inNetNS runs fn in a sandbox's namespace.
func (w *world) inNetNS(b *model.Sandbox, fn func(h *rtnl.Handle) error) {
	w.tb.Helper()
	ns, err := rtnl.OpenNetNS(b.NetNS)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		h, err := rtnl.New()
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
	if err != nil {
		w.tb.Fatal(err)
	}
}
