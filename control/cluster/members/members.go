// SPDX-License-Identifier: Apache-2.0

// Package members allocates the addresses of shared networks in the cluster's store, and publishes
// there which members of them are on this node. What the local state holds is what should be in the
// store: claims of verbs precede it, everything else follows it as soon as the store answers.
package members

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// Config configures Members. All fields are required, unless they say otherwise.
type Config struct {
	Store kv.Store
	Local store.Store // of this host
	// Node returns this node's record; only its ID never changes.
	Node func() model.Node
	// Check refuses a network that cannot have endpoints on this node.
	Check func(ctx context.Context, n *model.Network) error
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
	// Grace is how long an address may be held without an endpoint: a commit of a daemon that was
	// killed may arrive late. 0: one minute.
	Grace time.Duration
}

const defaultGrace = time.Minute

// Members are the members of shared networks on this node. All methods may be called concurrently.
type Members struct {
	cfg  Config
	wake chan struct{}
	used *used

	mu       sync.Mutex // held for moments
	snapshot *desired.Snapshot
	pending  map[string]map[string]*model.Claim // of running verbs, by network and endpoint
	nets     map[string]*network
	dirty    map[string]scope     // networks to bring up to date
	due      map[string]time.Time // networks to compare again, and when
}

// scope is how much of a network is compared with the store.
type scope int

const (
	changes scope = iota // what changed here
	all                  // also what the store should have of earlier changes
)

// network is what this node publishes in a network.
type network struct {
	id     string
	turn   chan struct{} // has a token while its records are read or written
	loaded bool
	chunks map[int]map[string]model.Member
	from   map[model.Family]*uint64 // the shard of the last allocation
	logged string                   // the last error
}

// New returns Members that publish nothing until the first Update.
func New(ctx context.Context, cfg Config) (*Members, error) {
	used, err := loadUsed(ctx, cfg.Local)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Grace = cmp.Or(cfg.Grace, defaultGrace)
	return &Members{
		used: used,
		cfg:  cfg, wake: make(chan struct{}, 1), snapshot: &desired.Snapshot{},
		pending: map[string]map[string]*model.Claim{}, nets: map[string]*network{}, dirty: map[string]scope{}, due: map[string]time.Time{},
	}, nil
}

// Update passes the desired state. It does not wait for the store.
func (m *Members) Update(s *desired.Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.snapshot
	m.snapshot = s
	touch := func(id string) {
		for _, in := range []*desired.Snapshot{before, s} {
			if n := in.Network(id); n != nil && n.Has().Shared {
				m.touch(id, changes)
			}
		}
	}
	for c := range desired.DiffNetworks(before, s) {
		touch(c.ID)
	}
	for c := range desired.DiffEndpoints(before, s) {
		touch(cmp.Or(c.New, c.Old).NetworkID)
	}
	for c := range desired.DiffSandboxes(before, s) { // a name may have changed
		for ep := range s.EndpointsOf(c.ID) {
			touch(ep.NetworkID)
		}
	}
}

// touch schedules a network. The caller holds mu.
func (m *Members) touch(id string, s scope) {
	if before, ok := m.dirty[id]; !ok || before < s {
		m.dirty[id] = s
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Verify schedules a comparison of all networks that this node uses, or may have used, with everything
// that the store holds.
func (m *Members) Verify() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range m.used.list() {
		m.touch(id, all)
	}
	for n := range m.snapshot.Networks() {
		if n.Has().Shared && !n.Idle {
			m.touch(n.ID, all)
		}
	}
}

// network returns what is published in a network. The caller holds mu.
func (m *Members) network(id string) *network {
	n := m.nets[id]
	if n == nil {
		n = &network{id: id, turn: make(chan struct{}, 1), from: map[model.Family]*uint64{}}
		m.nets[id] = n
	}
	return n
}

// take waits until no other goroutine works on the network.
func (n *network) take(ctx context.Context) error {
	select {
	case n.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *network) leave() { <-n.turn }

// desired returns the members that should be published in a network, by ID.
func (m *Members) desired(id string) map[string]model.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	want := map[string]model.Member{}
	node := m.cfg.Node()
	for _, claim := range m.pending[id] {
		if claim.Member.ID != "" {
			want[claim.Member.ID] = claim.Member
		}
		if claim.NodeIPv4.IsValid() || claim.NodeIPv6.IsValid() {
			want[node.ID] = nodeMember(node, claim.NodeIPv4, claim.NodeIPv6)
		}
	}
	n := m.snapshot.Network(id)
	if n == nil {
		return want
	}
	if n.NodeIPv4.IsValid() || n.NodeIPv6.IsValid() {
		want[node.ID] = nodeMember(node, n.NodeIPv4, n.NodeIPv6)
	}
	for ep := range m.snapshot.Members(id) {
		want[ep.ID] = memberOf(ep, m.snapshot.Sandbox(ep.SandboxID))
	}
	return want
}

// nodeMember returns the node's own presence in a network.
func nodeMember(node model.Node, v4, v6 netip.Addr) model.Member {
	return model.Member{ID: node.ID, Name: node.Name, MAC: model.MACOf(cmp.Or(v4, v6)), IPv4: v4, IPv6: v6}
}

func memberOf(ep *model.Endpoint, sb *model.Sandbox) model.Member {
	member := model.Member{
		ID: ep.ID, SandboxID: ep.SandboxID, Aliases: ep.Aliases, MAC: ep.MAC, IPv4: ep.Addr(model.V4), IPv6: ep.Addr(model.V6),
	}
	if sb != nil {
		member.Name, member.Hostname, member.Stopped, member.Leaving = sb.Name, sb.Hostname, !ep.Serves(sb), ep.Leaving
	}
	return member
}

// load reads which members the store has of this node.
func (m *Members) load(ctx context.Context, n *network) error {
	if n.loaded {
		return nil
	}
	entries, err := m.cfg.Store.List(ctx, layout.EndpointsAt(n.id, m.cfg.Node().ID))
	if err != nil {
		return err
	}
	n.chunks = map[int]map[string]model.Member{}
	for _, e := range entries {
		var c layout.Chunk
		_, _, i, ok := layout.ParseChunkKey(e.Key)
		if err := layout.Decode(e.Key, e.Value, &c); err != nil || !ok {
			m.cfg.Log.Warn("a record of this node in the cluster's store is damaged; writing it again", "key", e.Key, "err", err)
		}
		n.chunks[i] = map[string]model.Member{}
		for _, member := range c.Members {
			n.chunks[i][member.ID] = member
		}
	}
	n.loaded = true
	return nil
}

// chunkFor returns the number of the chunk that has a member, or of the first that has room for it.
func (n *network) chunkFor(id string) int {
	for i, members := range n.chunks {
		if _, has := members[id]; has {
			return i
		}
	}
	i := 0
	for len(n.chunks[i]) >= layout.ChunkSize {
		i++
	}
	return i
}

// putChunk returns the change that writes a chunk with these members.
func (m *Members) putChunk(n *network, i int, members map[string]model.Member) kv.Op {
	key := layout.ChunkKey(n.id, m.cfg.Node().ID, i)
	if len(members) == 0 {
		return kv.Delete(key)
	}
	c := layout.Chunk{}
	for _, id := range slices.Sorted(maps.Keys(members)) {
		c.Members = append(c.Members, members[id])
	}
	return kv.Put(key, layout.Encode(c))
}

func sameMember(a, b model.Member) bool {
	return slices.Equal(a.Aliases, b.Aliases) && reflect.DeepEqual(withoutAliases(a), withoutAliases(b))
}

func withoutAliases(m model.Member) model.Member {
	m.Aliases = nil
	return m
}
