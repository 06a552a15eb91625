// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/memory"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
	"github.com/fairlead-net/fairlead/maps"
)

// fakes are the tables, and the underlay.
type fakes struct {
	mu      sync.Mutex
	nodes   map[uint16]maps.Node
	addrs   map[netip.Addr]uint16
	flood   map[uint32][]uint16
	fdb     map[string]uint16 // node by network and MAC
	neigh   map[string]string // MAC and node by network and address
	deleted []string
	full    bool
	changed func()
	touched map[string]int // how often the members of a network changed
	device  uint32

	encrypting bool // there is a device that encrypts
	peers      map[model.PublicKey]netip.AddrPort
	refused    error // of the device

	aggregated []model.Family
}

func newFakes() *fakes {
	return &fakes{
		nodes: map[uint16]maps.Node{}, addrs: map[netip.Addr]uint16{}, flood: map[uint32][]uint16{},
		fdb: map[string]uint16{}, neigh: map[string]string{}, device: 7,
	}
}

func (f *fakes) tables() Tables {
	return Tables{Nodes: nodeTable{f}, NodeAddrs: addrTable{f}, Flood: floodTable{f}, FDB: fdbTable{f}, Neighbours: neighTable{f}}
}

func (f *fakes) Path(to netip.Addr) (Path, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Path{IfIndex: f.device, Source: netip.MustParseAddr("10.98.0.1"), MTU: 1500}, nil
}

// fakeEncryption is the device that encrypts.
type fakeEncryption struct{ *fakes }

func (e fakeEncryption) Ensure() (model.EncryptingDevice, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refused != nil {
		return model.EncryptingDevice{}, e.refused
	}
	e.encrypting = true
	return model.EncryptingDevice{IfIndex: 70, Key: model.PublicKey{1}, MTU: 1440}, nil
}

func (e fakeEncryption) Sync(peers []model.EncryptedPeer, keep bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !keep {
		e.peers = nil
	}
	if e.peers == nil {
		e.peers = map[model.PublicKey]netip.AddrPort{}
	}
	for _, p := range peers {
		e.peers[p.Key] = p.Endpoint
	}
	return nil
}

func (e fakeEncryption) Remove() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.encrypting, e.peers = false, nil
	return nil
}

// fakeAggregation has the devices for aggregation.
type fakeAggregation struct{ *fakes }

func (a fakeAggregation) Ensure(families []model.Family) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.aggregated = slices.Clone(families)
	return nil
}

func (f *fakes) noteChange(network string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.touched == nil {
		f.touched = map[string]int{}
	}
	f.touched[network]++
}

func (f *fakes) Watch(ctx context.Context, changed func()) error {
	f.mu.Lock()
	f.changed = changed
	f.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

type (
	nodeTable  struct{ *fakes }
	addrTable  struct{ *fakes }
	floodTable struct{ *fakes }
	fdbTable   struct{ *fakes }
	neighTable struct{ *fakes }
)

func (t nodeTable) PutAll(es []maps.Node) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range es {
		t.nodes[e.ID] = e
	}
	return len(es), nil
}

func (t nodeTable) Sync(es []maps.Node) (int, int, error) {
	t.mu.Lock()
	clear(t.nodes)
	t.mu.Unlock()
	n, err := t.PutAll(es)
	return n, 0, err
}

func (t addrTable) PutAll(es []maps.NodeAddr) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range es {
		t.addrs[e.Addr] = e.Node
	}
	return len(es), nil
}

func (t addrTable) Sync(es []maps.NodeAddr) (int, int, error) {
	t.mu.Lock()
	clear(t.addrs)
	t.mu.Unlock()
	n, err := t.PutAll(es)
	return n, 0, err
}

func (t floodTable) Set(net uint32, nodes []uint16) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flood[net] = nodes; len(nodes) == 0 {
		delete(t.flood, net)
	}
	return true, nil
}

func (t floodTable) List() map[uint32][]uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[uint32][]uint16{}
	for k, v := range t.flood {
		out[k] = v
	}
	return out
}

func fdbKeyOf(net uint32, mac maps.MAC) string { return fmt.Sprint(net, " ", model.MAC(mac)) }

func (t fdbTable) Put(e maps.PeerFDBEntry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.full {
		return errors.New("table is full")
	}
	t.fdb[fdbKeyOf(e.Net, e.MAC)] = e.Node
	return nil
}

func (t fdbTable) Delete(net uint32, mac maps.MAC) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := fdbKeyOf(net, mac)
	_, had := t.fdb[key]
	if delete(t.fdb, key); had {
		t.deleted = append(t.deleted, key)
	}
	return had, nil
}

func (t fdbTable) Walk(visit func(maps.PeerFDBEntry) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, node := range t.fdb {
		var net uint32
		var text string
		if _, err := fmt.Sscan(k, &net, &text); err != nil {
			return err
		}
		mac, err := model.ParseMAC(text)
		if err != nil || !visit(maps.PeerFDBEntry{Net: net, MAC: maps.MAC(mac), Node: node}) {
			return err
		}
	}
	return nil
}

func (t neighTable) Put(e maps.PeerNeighbour) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.neigh[fmt.Sprint(e.Net, " ", e.Addr)] = fmt.Sprint(model.MAC(e.MAC), " ", e.Node)
	return nil
}

func (t neighTable) Delete(net uint32, a netip.Addr) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := fmt.Sprint(net, " ", a)
	_, had := t.neigh[key]
	if delete(t.neigh, key); had {
		t.deleted = append(t.deleted, key)
	}
	return had, nil
}

func (t neighTable) Walk(visit func(maps.PeerNeighbour) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.neigh {
		var net uint32
		var text string
		if _, err := fmt.Sscan(k, &net, &text); err != nil {
			return err
		}
		if !visit(maps.PeerNeighbour{Net: net, Addr: netip.MustParseAddr(text)}) {
			return nil
		}
	}
	return nil
}

// world is Peers with fakes, and the store of the cluster.
type world struct {
	testing.TB
	*fakes
	Peers  *Peers
	server *memory.Server
	store  kv.Store // of the other nodes
	cache  store.Store
	stop   func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{TB: t, fakes: newFakes(), server: memory.New(), stop: func() {}}
	w.store = w.server.Open()
	t.Cleanup(func() { w.store.Close() })
	var err error
	if w.cache, err = store.OpenBolt(store.BoltConfig{Path: filepath.Join(t.TempDir(), "cache.db"), NoSync: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cache.Close() })
	return w
}

// start starts a daemon whose host has members in networks n1 and n2, with the given indices.
func (w *world) start(indices ...uint32) {
	w.Helper()
	own := kv.New(w.server.Dial(), kv.Config{Name: "memory://", PingEvery: 50 * time.Millisecond, PingTimeout: 100 * time.Millisecond, MaxBackoff: 50 * time.Millisecond})
	w.Peers = New(Config{Store: own, Cache: w.cache, Self: "self", Tables: w.fakes.tables(), Underlay: w.fakes, Encryption: fakeEncryption{w.fakes}, Aggregation: fakeAggregation{w.fakes}, Changed: w.fakes.noteChange, UnderlayChanged: func() {}, Log: slog.New(slog.DiscardHandler)})
	w.Peers.Update(snapshot(indices...))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Peers.Run(ctx) }()
	w.stop = func() {
		cancel()
		<-ended
		own.Close()
		w.stop = func() {}
	}
	w.Cleanup(func() { w.stop() })
}

func snapshot(indices ...uint32) *desired.Snapshot {
	edit := (&desired.Snapshot{}).Edit()
	for i, index := range indices {
		id := fmt.Sprint("n", i+1)
		edit.PutNetwork(id, &model.Network{ID: id, Name: id, Driver: model.DriverOverlay, Local: model.Local{Index: index}})
	}
	return edit.Done()
}

func (w *world) commit(ops ...kv.Op) {
	w.Helper()
	if err := w.store.Commit(context.Background(), nil, ops...); err != nil {
		w.Fatal(err)
	}
}

func nodeRecord(id string, number uint16) kv.Op {
	return kv.Put(layout.NodeKey(id), layout.Encode(model.Node{ID: id, Name: "node-" + id, Number: number, VTEP4: netip.AddrFrom4([4]byte{10, 98, 0, byte(100 + number)})}))
}

// member returns a member with the address 10.5.0.n.
func member(n byte) model.Member {
	a := netip.AddrFrom4([4]byte{10, 5, 0, n})
	return model.Member{ID: fmt.Sprint("ep", n), SandboxID: fmt.Sprint("sandbox", n), Name: fmt.Sprint("Name", n), MAC: model.MACOf(a), IPv4: a, Aliases: []string{"all"}}
}

func chunkOf(network, node string, i int, members ...model.Member) kv.Op {
	return kv.Put(layout.ChunkKey(network, node, i), layout.Encode(layout.Chunk{Members: members}))
}

func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.Fatalf("%s: nodes %v, fdb %v, neighbours %v, flood %v", what, w.nodes, w.fdb, w.neigh, w.flood)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// at returns the node of the member 10.5.0.n in a network, 0 if there is none, and whether both tables agree.
func (w *world) at(net uint32, n byte) (node uint16, agree bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := member(n)
	node = w.fdb[fmt.Sprint(net, " ", m.MAC)]
	text := w.neigh[fmt.Sprint(net, " ", m.IPv4)]
	return node, node == 0 && text == "" || text == fmt.Sprint(m.MAC, " ", node)
}

func (w *world) is(net uint32, n byte, want uint16) {
	w.Helper()
	w.eventually(fmt.Sprintf("member %d of network %d is at node %d", n, net, want), func() bool {
		node, agree := w.at(net, n)
		return node == want && agree
	})
}

func TestFollowsOtherNodes(t *testing.T) {
	w := newWorld(t)
	w.commit(nodeRecord("self", 1), nodeRecord("b", 2), chunkOf("n1", "b", 0, member(2), member(3)), chunkOf("n1", "self", 0, member(9)), chunkOf("n2", "b", 0, member(2)))
	w.start(11)
	w.is(11, 2, 2)
	w.is(11, 3, 2)
	w.is(11, 9, 0) // its own
	w.eventually("flood list, node and address", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		n := w.nodes[2]
		return slices.Equal(w.flood[11], []uint16{2}) && len(w.nodes) == 1 && n.IfIndex == 7 && n.MTU == 1450 && n.Remote == netip.MustParseAddr("10.98.0.102") &&
			n.Local == netip.MustParseAddr("10.98.0.1") && w.addrs[n.Remote] == 2
	})
	// Members come before the record of their node.
	w.commit(chunkOf("n1", "c", 0, member(4)))
	w.commit(nodeRecord("c", 3))
	w.is(11, 4, 3)
	// A member moves: the new node's record comes first, the removal later, or the other way round.
	w.commit(chunkOf("n1", "c", 0, member(4), member(2)))
	w.is(11, 2, 3)
	w.commit(chunkOf("n1", "b", 0, member(3)))
	w.commit(chunkOf("n1", "b", 0, member(3), member(5)))
	w.is(11, 5, 2)
	w.is(11, 2, 3)
	// A network gets its first member here, and loses its last.
	w.Peers.Update(snapshot(11, 12))
	w.is(12, 2, 2)
	w.Peers.Update(snapshot(11))
	w.is(12, 2, 0)
	// A device of the underlay changes.
	w.mu.Lock()
	w.device = 8
	changed := w.changed
	w.mu.Unlock()
	changed()
	w.eventually("the new device", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.nodes[2].IfIndex == 8
	})
	// A node is removed.
	w.commit(kv.Delete(layout.ChunkKey("n1", "c", 0)), kv.Delete(layout.NodeKey("c")))
	w.is(11, 4, 0)
	w.eventually("no node c", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.nodes) == 1 && slices.Equal(w.flood[11], []uint16{2})
	})
	// Members are found by name.
	if got := w.Peers.Named("n1", "all"); len(got) != 2 {
		t.Errorf("named all: %v", got)
	}
	if got := w.Peers.Named("n1", "name3"); len(got) != 1 || got[0].IPv4 != member(3).IPv4 || w.Peers.At("n1", member(3).IPv4) != "Name3" {
		t.Errorf("named name3: %v", got)
	}
	// A name counts more than the beginning of an ID.
	w.commit(kv.Put(layout.NodeKey("e"), layout.Encode(model.Node{ID: "e", Name: "sel", Number: 9, VTEP4: netip.AddrFrom4([4]byte{10, 98, 0, 9})})))
	w.eventually("node e", func() bool { _, err := w.Peers.Find("e"); return err == nil })
	for ref, want := range map[string]string{"sel": "e", "se": "self", "node-b": "b", "self": "self"} {
		if n, err := w.Peers.Find(ref); err != nil || n.ID != want {
			t.Errorf("node %s is %s, %v", ref, n.ID, err)
		}
	}
	if got, err := w.Peers.Members(t.Context(), "n1"); err != nil || len(got) != 2 || got[0].Node != "node-b" {
		t.Errorf("members of n1: %v, %v", got, err)
	}
	if got, err := w.Peers.Members(t.Context(), "n2"); err != nil || len(got) != 1 {
		t.Errorf("members of n2, which has none here: %v, %v", got, err)
	}
}

// Nothing is deleted before the store has listed everything: entries of an earlier daemon stay, and
// without the store the copy on disk serves. Then what is left over is deleted.
func TestNothingIsDeletedBeforeTheFirstList(t *testing.T) {
	w := newWorld(t)
	w.commit(nodeRecord("self", 1), nodeRecord("b", 2), chunkOf("n1", "b", 0, member(2), member(3)), chunkOf("n2", "b", 0, member(2)))
	w.start(11, 12)
	w.is(11, 2, 2)
	w.is(12, 2, 2)
	w.eventually("copy on disk", func() bool {
		entries, err := w.cache.List(t.Context(), "fairlead/")
		return err == nil && len(entries) >= 4
	})
	w.stop()
	// An entry that the copy does not have, and what changes while the daemon is away and the store is down.
	w.mu.Lock()
	w.fdb["11 02:42:0a:05:00:63"], w.neigh["11 10.5.0.99"] = 2, "02:42:0a:05:00:63 2"
	w.fdb["77 02:42:0a:05:00:63"] = 2 // of a network that has no members here any more
	w.nodes[9] = maps.Node{ID: 9}
	w.deleted = nil
	w.mu.Unlock()
	w.commit(chunkOf("n1", "b", 0, member(3), member(4)))
	w.server.Stop()
	w.start(11, 12)
	w.eventually("the copy is served", func() bool { return len(w.Peers.Named("n1", "all")) == 2 })
	time.Sleep(300 * time.Millisecond)
	w.mu.Lock()
	if len(w.deleted) > 0 || len(w.nodes) != 2 || w.fdb["11 02:42:0a:05:00:02"] != 2 || len(w.flood[11]) != 1 {
		t.Errorf("deleted without the store: %v; fdb %v, flood %v", w.deleted, w.fdb, w.flood)
	}
	w.mu.Unlock()
	if nodes := w.Peers.Nodes(); len(nodes) != 2 || nodes[0].Path.IfIndex != 7 {
		t.Errorf("nodes without the store: %+v", nodes)
	}
	w.server.Start()
	w.is(11, 4, 2)
	w.is(11, 2, 0)
	w.is(11, 3, 2)
	w.eventually("leftovers are gone", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.fdb) == 3 && len(w.neigh) == 3 && len(w.nodes) == 1
	})
}

// An entry that could not be written is tried again.
func TestFullTableIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.full = true
	w.commit(nodeRecord("b", 2), chunkOf("n1", "b", 0, member(2)))
	w.start(11)
	w.eventually("the neighbour", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.neigh) == 1
	})
	w.mu.Lock()
	w.full = false
	w.mu.Unlock()
	w.is(11, 2, 2)
}

// Signs of life decide what is shown and named, never what is forwarded.
func TestNodesThatAreDown(t *testing.T) {
	ns := newNodes()
	for i := range 5 {
		id := fmt.Sprint("n", i)
		ns.byID[id] = model.Node{ID: id, Number: uint16(i + 1)}
	}
	now := time.Unix(1_700_000_000, 0)
	var all []kv.Entry
	for id := range ns.byID {
		all = append(all, kv.Entry{Key: layout.AliveKey(id)})
	}
	healthy := kv.Health{Reachable: true, Since: now.Add(-time.Hour)}
	down := func(id string, h kv.Health, at time.Time, want bool) {
		t.Helper()
		if ns.isDown(id, h, at) != want {
			t.Errorf("%s at %v with %+v: down %t, want %t", id, at.Sub(now), h, !want, want)
		}
	}
	down("n1", healthy, now, false) // nothing is known yet
	ns.noteAlive(kv.Update{Reset: true, Entries: all}, now)
	down("n1", healthy, now, false)
	ns.noteAlive(kv.Update{Deleted: []string{layout.AliveKey("n1")}}, now)
	down("n1", healthy, now.Add(time.Second), false)
	down("n1", healthy, now.Add(downAfter), true)
	down("n1", kv.Health{Reachable: false, Since: now}, now.Add(time.Hour), false)
	down("n1", kv.Health{Reachable: true, Since: now.Add(time.Hour - time.Second)}, now.Add(time.Hour), false)
	// Half of all nodes at once: the store lost its leases. A minute later it is true.
	ns.noteAlive(kv.Update{Deleted: []string{layout.AliveKey("n2"), layout.AliveKey("n3")}}, now)
	down("n2", healthy, now.Add(downAfter), false)
	down("n2", healthy, now.Add(together), true)
	ns.noteAlive(kv.Update{Entries: []kv.Entry{{Key: layout.AliveKey("n2")}}}, now)
	down("n2", healthy, now.Add(together), false)
}

// Backends of a service are the members with its name as alias, also of the copy on disk; changes are
// reported.
func TestBackends(t *testing.T) {
	w := newWorld(t)
	stopped := member(3)
	stopped.Stopped = true
	w.commit(nodeRecord("self", 1), nodeRecord("b", 2), chunkOf("n1", "b", 0, member(2), stopped), chunkOf("n1", "self", 0, member(9)))
	w.start(11)
	svc := &model.Service{Name: "ALL", NetworkID: "n1"}
	backends := func() (text string) {
		for _, b := range w.Peers.Backends(svc) {
			text += fmt.Sprint(b.Name, b.Stopped, " ")
		}
		return text
	}
	w.eventually("both are backends", func() bool { return backends() == "Name2false Name3true " })
	changes := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.touched["n1"]
	}
	before := changes()
	w.commit(chunkOf("n1", "b", 0, member(2)))
	w.eventually("one is left, which is reported", func() bool { return backends() == "Name2false " && changes() > before })
	if list := w.Peers.Backends(&model.Service{Name: "other", NetworkID: "n1"}); len(list) > 0 {
		t.Errorf("backends of another service: %v", list)
	}
	w.stop()
	if list := Copied(w.cache, svc, slog.New(slog.DiscardHandler)); !slices.ContainsFunc(list, func(m model.RemoteMember) bool { return m.ID == "ep2" }) {
		t.Errorf("the copy on disk has %v", list)
	}
}
