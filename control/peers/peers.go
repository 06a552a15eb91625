// SPDX-License-Identifier: Apache-2.0

// Package peers writes the tables of what is on other nodes: the nodes themselves, and their members of
// networks that have members here. It follows the cluster's store, incrementally and apart from the
// desired state. While the store does not answer, and before it has listed everything once, nothing
// is deleted; a copy of what was seen last, on disk, serves after a restart.
package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/logonce"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
	"github.com/fairlead-net/fairlead/maps"
)

const (
	settle  = 100 * time.Millisecond // after a change of routes, to collect those that follow
	tick    = 2 * time.Second        // between writes of the copy on disk, and attempts to write what failed
	refresh = 10 * time.Second       // between lookups of all routes, since not all changes are reported
)

// Path is how this host reaches another one.
type Path struct {
	IfIndex uint32 // 0: there is no route
	Source  netip.Addr
	MTU     int // of the packets that the route carries, in bytes
	Below   int // see maps.Node
}

// Underlay is the host's network below the tunnels.
type Underlay interface {
	// Path looks up the route to an address.
	Path(to netip.Addr) (Path, error)
	// Watch calls changed when routes or devices may have changed, until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// Encryption is the device that encrypts packets for other nodes.
type Encryption interface {
	// Ensure makes sure that the device exists.
	Ensure() (model.EncryptingDevice, error)
	// Sync makes these the device's peers. keep: others stay.
	Sync(peers []model.EncryptedPeer, keep bool) error
	// Remove removes the device, if it exists.
	Remove() error
}

// Table is a table that holds all its entries in memory.
type Table[E any] interface {
	PutAll([]E) (written int, err error)
	Sync([]E) (written, deleted int, err error)
}

// Tables are the tables of what is on other nodes.
type Tables struct {
	Nodes     Table[maps.Node]
	NodeAddrs Table[maps.NodeAddr]
	Flood     interface {
		Set(net uint32, nodes []uint16) (written bool, err error)
		List() map[uint32][]uint16
	}
	FDB interface {
		Put(maps.PeerFDBEntry) error
		Delete(net uint32, mac maps.MAC) (deleted bool, err error)
		Walk(visit func(maps.PeerFDBEntry) bool) error
	}
	Neighbours interface {
		Put(maps.PeerNeighbour) error
		Delete(net uint32, addr netip.Addr) (deleted bool, err error)
		Walk(visit func(maps.PeerNeighbour) bool) error
	}
}

// Config configures Peers. All fields are required.
type Config struct {
	Store    kv.Store
	Cache    store.Store // of the copy on disk; nothing else is in it
	Self     string      // this node's ID
	Tables   Tables
	Underlay Underlay
	// Encryption is used while the cluster has encrypted networks.
	Encryption Encryption
	// Aggregation is used while the cluster has networks that are not encrypted.
	Aggregation Aggregation
	// Changed is called when the members of a network on other nodes changed, or the states of their
	// nodes. It must not wait.
	Changed func(network string)
	// UnderlayChanged is called some time after routes or devices of the host changed. It must not wait.
	UnderlayChanged func()
	Log             *slog.Logger
}

// Peers follows the other nodes of the cluster. Run changes it; the other methods may be called
// concurrently.
type Peers struct {
	cfg      Config
	snapshot atomic.Pointer[desired.Snapshot]
	wake     chan struct{}
	events   chan event

	mu    sync.RWMutex // held for writing by Run alone, which may read without it
	nodes *nodes
	nets  map[string]*network // those with members here, by ID

	encryption    encryption
	aggregating   bool // the cluster has networks that are not encrypted
	notAggregated logonce.Error
	writeErr      logonce.Error

	copy  copyOnDisk
	swept bool            // what earlier daemons wrote was compared with the first lists
	down  map[string]bool // nodes that were down at the last tick
	todo  work            // that failed
}

// event is an update of a watch.
type event struct {
	prefix  string
	network *network // nil for those of nodes
	kv.Update
}

// New returns Peers that know nothing until Run.
func New(cfg Config) *Peers {
	p := &Peers{
		cfg: cfg, wake: make(chan struct{}, 1), events: make(chan event),
		nodes: newNodes(), nets: map[string]*network{}, copy: copyOnDisk{store: cfg.Cache, dirty: map[string][]byte{}},
	}
	p.snapshot.Store(&desired.Snapshot{})
	return p
}

// Update passes the desired state.
func (p *Peers) Update(s *desired.Snapshot) {
	p.snapshot.Store(s)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run follows the store until ctx ends.
func (p *Peers) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var watches sync.WaitGroup
	defer watches.Wait()
	defer cancel()
	changed := make(chan struct{}, 1)
	watches.Go(func() { p.watchUnderlay(ctx, changed) })
	for _, prefix := range []string{layout.Nodes, layout.Alive} {
		p.handle(event{prefix: prefix, Update: kv.Update{Entries: p.copy.load(ctx, prefix, p.cfg.Log)}}, true)
		if err := p.watch(ctx, &watches, prefix, nil); err != nil {
			return err
		}
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	defer func() { p.copy.flush(context.WithoutCancel(ctx), p.cfg.Log) }()
	var settled <-chan time.Time
	looked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
			if err := p.follow(ctx, &watches); err != nil {
				return err
			}
		case e := <-p.events:
			p.handle(e, false)
		case <-changed:
			if settled == nil {
				settled = time.After(settle)
			}
		case <-settled:
			settled, looked = nil, time.Now()
			p.cfg.UnderlayChanged()
			p.writeNodes()
		case <-ticker.C:
			p.copy.flush(ctx, p.cfg.Log)
			p.retry()
			p.noteDown()
			if time.Since(looked) > refresh {
				looked = time.Now()
				p.writeNodes()
			}
		}
	}
}

// watchUnderlay reports changes of the underlay, and restarts the watch if it fails.
func (p *Peers) watchUnderlay(ctx context.Context, changed chan<- struct{}) {
	for ctx.Err() == nil {
		err := p.cfg.Underlay.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if ctx.Err() != nil {
			return
		}
		p.cfg.Log.Warn("watch over routes ended; changes are noticed late until it is restarted", "in", refresh, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(refresh):
		}
	}
}

// watch passes the updates of a prefix to Run until ctx ends.
func (p *Peers) watch(ctx context.Context, watches *sync.WaitGroup, prefix string, n *network) error {
	w, err := p.cfg.Store.Watch(prefix)
	if err != nil {
		return fmt.Errorf("watch %q: %w", prefix, err)
	}
	watches.Go(func() {
		defer w.Close()
		for {
			u, err := w.Next(ctx)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, kv.ErrClosed) {
					p.cfg.Log.Error("watch over the cluster's store ended; changes on other nodes are no longer noticed", "prefix", prefix, "err", err)
				}
				return
			}
			select {
			case p.events <- event{prefix, n, u}:
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// follow begins to watch the networks that have members here now, and forgets those that have none any
// more.
func (p *Peers) follow(ctx context.Context, watches *sync.WaitGroup) error {
	s := p.snapshot.Load()
	if hasNetworks(s, true) != p.encryption.on || hasNetworks(s, false) != p.aggregating {
		p.writeNodes()
	}
	wanted := map[string]uint32{}
	encrypted := map[string]bool{}
	for n := range s.Networks() {
		if n.Has().Shared && !n.Idle {
			wanted[n.ID], encrypted[n.ID] = n.Index, n.Encrypted
		}
	}
	for id, n := range p.nets {
		if wanted[id] == n.index {
			continue
		}
		n.stop()
		p.mu.Lock()
		delete(p.nets, id)
		p.mu.Unlock()
		p.write(n.leave())
	}
	for id, index := range wanted {
		if p.nets[id] != nil {
			continue
		}
		n := newNetwork(id, index)
		n.encrypted = encrypted[id]
		prefix := layout.EndpointsOf(id)
		p.mu.Lock()
		p.nets[id] = n
		p.mu.Unlock()
		p.handle(event{prefix, n, kv.Update{Entries: p.copy.load(ctx, prefix, p.cfg.Log)}}, true)
		var within context.Context
		within, n.stop = context.WithCancel(ctx)
		if err := p.watch(within, watches, prefix, n); err != nil {
			return err
		}
	}
	return nil
}

// handle applies an update. cached: it comes from the copy on disk.
func (p *Peers) handle(e event, cached bool) {
	if e.network != nil && p.nets[e.network.id] != e.network {
		return // it was left meanwhile
	}
	switch e.prefix {
	case layout.Nodes:
		p.handleNodes(e, cached)
	case layout.Alive:
		p.mu.Lock()
		p.nodes.noteAlive(e.Update, time.Now())
		p.mu.Unlock()
		return
	default:
		p.handleMembers(e, cached)
	}
	p.sweep()
}

func (p *Peers) handleNodes(e event, cached bool) {
	p.mu.Lock()
	gone, renumbered := p.nodes.apply(e.Update, p.cfg.Log)
	p.nodes.noteAlive(kv.Update{}, time.Now())
	p.mu.Unlock()
	if !cached {
		p.copy.note(e.Update, gone)
	}
	p.writeNodes()
	var w work
	p.mu.Lock()
	for _, n := range p.nets {
		w.add(n.renumber(renumbered, p.nodes))
	}
	p.mu.Unlock()
	p.write(w)
}

func (p *Peers) handleMembers(e event, cached bool) {
	n := e.network
	p.mu.Lock()
	gone, w := n.apply(e.Update, p.cfg.Self, p.nodes, p.cfg.Log)
	n.listed, n.ready = n.listed || e.Reset, true
	p.mu.Unlock()
	if !cached {
		p.copy.note(e.Update, gone)
	}
	p.write(w)
	p.cfg.Changed(n.id)
}

// noteDown reports the networks with members on nodes that went down or came back.
func (p *Peers) noteDown() {
	h, now := p.cfg.Store.Health(), time.Now()
	down, changed := map[string]bool{}, map[string]bool{}
	for id := range p.nodes.byID {
		if p.nodes.isDown(id, h, now) {
			down[id] = true
		}
		if down[id] != p.down[id] {
			changed[id] = true
		}
	}
	p.down = down
	for id, n := range p.nets {
		if n.isOn(changed) {
			p.cfg.Changed(id)
		}
	}
}

// write writes and deletes entries. What fails is tried again.
func (p *Peers) write(w work) {
	w.do(&p.cfg.Tables)
	if p.writeErr.IsNew(w.err) {
		p.cfg.Log.Error("cannot write what is on other nodes; trying again", "err", w.err)
	}
	p.todo.add(w)
}

// retry writes what failed.
func (p *Peers) retry() {
	if w := p.todo; !w.empty() {
		p.todo = work{}
		p.write(p.current(w))
	}
}

// current returns what is right now for the keys of failed work.
func (p *Peers) current(failed work) (w work) {
	nets := map[uint32]*network{}
	for _, n := range p.nets {
		nets[n.index] = n
	}
	for _, e := range slices.Concat(failed.fdb, failed.fdbGone) {
		if n := nets[e.Net]; n != nil {
			n.putMAC(&w, model.MAC(e.MAC), p.nodes)
		} else {
			w.fdbGone = append(w.fdbGone, e)
		}
	}
	for _, e := range slices.Concat(failed.neigh, failed.neighGone) {
		if n := nets[e.Net]; n != nil {
			n.putAddr(&w, e.Addr, p.nodes)
		} else {
			w.neighGone = append(w.neighGone, e)
		}
	}
	for net := range failed.flood {
		w.setFlood(net, nil)
		if n := nets[net]; n != nil {
			w.setFlood(net, n.flood)
		}
	}
	return w
}

// writeNodes looks up the routes to all nodes, and writes the tables of nodes. Before the first list
// nothing is deleted.
func (p *Peers) writeNodes() {
	var list []maps.Node
	var addrs []maps.NodeAddr
	var reached []reachedNode
	paths := map[string]Path{}
	for id, node := range p.nodes.byID {
		if id == p.cfg.Self || node.Number == 0 {
			continue
		}
		for _, f := range model.Families {
			if a := node.VTEP(f); a.IsValid() {
				addrs = append(addrs, maps.NodeAddr{Addr: a, Node: node.Number})
			}
		}
		e, path := p.entryOf(node)
		list = append(list, e)
		paths[id] = path
		reached = append(reached, reachedNode{node, e, path})
	}
	p.aggregate(reached)
	encrypted, inside := p.encrypt(reached)
	list, addrs = append(list, encrypted...), append(addrs, inside...)
	slices.SortFunc(list, func(a, b maps.Node) int { return int(a.ID) - int(b.ID) })
	p.mu.Lock()
	p.nodes.paths = paths
	p.mu.Unlock()
	var err1, err2 error
	if p.nodes.listed {
		_, _, err1 = p.cfg.Tables.Nodes.Sync(list)
		_, _, err2 = p.cfg.Tables.NodeAddrs.Sync(addrs)
	} else {
		_, err1 = p.cfg.Tables.Nodes.PutAll(list)
		_, err2 = p.cfg.Tables.NodeAddrs.PutAll(addrs)
	}
	if err := errors.Join(err1, err2); err != nil {
		p.cfg.Log.Error("cannot write the table of nodes; trying again", "in", refresh, "err", err)
	}
}

// overhead is the size of the headers of the tunnel, in bytes: outer IP and UDP, VXLAN, inner Ethernet.
var overhead = [...]int{model.V4: 20 + 8 + 8 + 14, model.V6: 40 + 8 + 8 + 14}

// Overhead returns the size of the headers of a tunnel over a family, in bytes.
func Overhead(f model.Family) int { return overhead[f] }

// entryOf returns the entry of a node. IPv4 is preferred: its headers are smaller.
func (p *Peers) entryOf(node model.Node) (maps.Node, Path) {
	e := maps.Node{ID: node.Number}
	var path Path
	for _, f := range model.Families {
		to := node.VTEP(f)
		if !to.IsValid() {
			continue
		}
		var err error
		if path, err = p.cfg.Underlay.Path(to); err != nil {
			p.cfg.Log.Debug("cannot look up the route to a node", "node", node.Name, "vtep", to, "err", err)
			path = Path{}
		}
		e.Remote, e.Local = to, path.Source
		if path.IfIndex == 0 {
			continue // the other family may have a route
		}
		e.IfIndex, e.Below, e.MTU = path.IfIndex, path.Below, uint16(max(0, min(path.MTU-Overhead(f), 1<<16-1)))
		break
	}
	return e, path
}

// sweep deletes what earlier daemons wrote and nothing has now, once: when every network and the nodes
// were listed.
func (p *Peers) sweep() {
	if p.swept || !p.nodes.listed {
		return
	}
	indices := map[uint32]*network{}
	for _, n := range p.nets {
		if !n.listed {
			return
		}
		indices[n.index] = n
	}
	var w work
	err1 := p.cfg.Tables.FDB.Walk(func(e maps.PeerFDBEntry) bool {
		if n := indices[e.Net]; n == nil || len(n.macs[model.MAC(e.MAC)]) == 0 {
			w.fdbGone = append(w.fdbGone, e)
		}
		return true
	})
	err2 := p.cfg.Tables.Neighbours.Walk(func(e maps.PeerNeighbour) bool {
		if n := indices[e.Net]; n == nil || len(n.addrs[e.Addr]) == 0 {
			w.neighGone = append(w.neighGone, e)
		}
		return true
	})
	if err := errors.Join(err1, err2); err != nil {
		p.cfg.Log.Error("cannot compare the tables of other nodes' members with the cluster's; trying again later", "err", err)
		return
	}
	for net := range p.cfg.Tables.Flood.List() {
		if indices[net] == nil {
			w.setFlood(net, nil)
		}
	}
	if n := len(w.fdbGone); n > 0 {
		p.cfg.Log.Info("removed members of other nodes that no longer exist", "count", n)
	}
	p.write(w)
	p.swept = true
}
