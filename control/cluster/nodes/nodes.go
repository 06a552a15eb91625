// SPDX-License-Identifier: Apache-2.0

// Package nodes registers this host in the cluster: its identity, which it keeps in its state
// directory, its record with its addresses, and its sign of life. It also removes other hosts.
package nodes

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// keySelf is the key of this node's identity in the local store.
const keySelf = "cluster/self"

const (
	// aliveTTL is how long after its last sign of life a node counts as alive.
	aliveTTL = 30 * time.Second
	// checkEach is the time between two checks of the node's own record.
	checkEach = 30 * time.Second
	retryMin  = 200 * time.Millisecond
	retryMax  = 5 * time.Second
	// numberTries bounds the attempts to claim a number while other nodes do.
	numberTries = 64
)

// Config configures Self. All fields are required, unless they say otherwise.
type Config struct {
	Cluster kv.Store
	Local   store.Store
	Name    string // of this host
	Version string
	Port    uint16 // of VXLAN
	// VTEPs returns the addresses of this host in the underlay: at most one a family, zero if the host
	// has none at the moment.
	VTEPs func() (v4, v6 netip.Addr, err error)
	// Key returns the public key and the UDP port of the node's device that encrypts, zero until it has had one.
	Key func() (model.PublicKey, uint16)
	// MACs returns the MACs of the host's uplinks, separated by commas. It may be nil.
	MACs func() string
	// Verify is called when the cluster's store was replaced, and when it is reached for the first time.
	Verify func()
	Log    *slog.Logger
}

// identity is what the node knows of itself, under keySelf.
type identity struct {
	ID      string `json:"id"`
	Number  uint16 `json:"number,omitempty"`  // the last one
	Cluster string `json:"cluster,omitempty"` // ID of the cluster's store when it was last seen
}

// Self is this node.
type Self struct {
	cfg  Config
	wake chan struct{}

	mu         sync.Mutex
	identity   identity
	node       model.Node // as last registered, or as it will be
	registered bool       // once since the start
	replaced   bool       // the store is another one than the last time
	logged     string
}

// Open loads this node's identity, or chooses one.
func Open(ctx context.Context, cfg Config) (*Self, error) {
	s := &Self{cfg: cfg, wake: make(chan struct{}, 1)}
	e, err := cfg.Local.Get(ctx, keySelf)
	switch {
	case err == nil:
		if err := json.Unmarshal(e.Value, &s.identity); err != nil {
			return nil, fmt.Errorf("load %q: %w: %w", keySelf, store.ErrDamaged, err)
		}
	case !errors.Is(err, store.ErrNotFound):
		return nil, fmt.Errorf("load this node's identity: %w", err)
	default:
		s.identity.ID = newID()
		if err := s.save(ctx, s.identity); err != nil {
			return nil, err
		}
	}
	s.node = model.Node{ID: s.identity.ID, Name: cfg.Name, Number: s.identity.Number, Version: cfg.Version, Port: cfg.Port}
	return s, nil
}

// newID generates an ID of 64 hexadecimal digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (s *Self) save(ctx context.Context, id identity) error {
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if _, err := s.cfg.Local.Commit(ctx, store.Put(keySelf, b)); err != nil {
		return fmt.Errorf("store this node's identity: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = id
	return nil
}

// Node returns this node's record, as last registered.
func (s *Self) Node() model.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// Registered reports whether the cluster has had this node's record since the start.
func (s *Self) Registered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registered
}

// Check makes Run check the node's record at once.
func (s *Self) Check() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// WaitRegistered waits until the node is registered, but not while the store is known not to answer.
func (s *Self) WaitRegistered(ctx context.Context, most time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for !s.Registered() {
		if s.cfg.Cluster.Health().Err != nil {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

// WaitKey waits until the cluster has the node's record with this key, or for the time given.
func (s *Self) WaitKey(ctx context.Context, key model.PublicKey, most time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for s.Node().WireGuardKey != key {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

// Run keeps the node registered and alive until ctx ends.
func (s *Self) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wait, alive := retryMin, false
	for {
		err := s.register(ctx)
		s.note(err)
		var retry <-chan struct{}
		waiting, cancel := context.WithCancel(ctx)
		if err != nil {
			retry = kv.Again(waiting, s.cfg.Cluster, wait)
			wait = min(2*wait, retryMax)
		} else {
			wait = retryMin
			if !alive {
				alive = true
				wg.Go(func() { s.stayAlive(ctx) })
			}
		}
		select {
		case <-ctx.Done():
		case <-retry:
		case <-time.After(checkEach):
		case <-s.wake:
		}
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (s *Self) stayAlive(ctx context.Context) {
	err := s.cfg.Cluster.Alive(ctx, layout.AliveKey(s.Node().ID), []byte("{}"), aliveTTL)
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("this node no longer gives signs of life to the cluster; others show it as down", "err", err)
	}
}

// note logs an error once, except that the store does not answer, which is logged elsewhere.
func (s *Self) note(err error) {
	text := ""
	if err != nil && !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, context.Canceled) {
		text = err.Error()
	}
	if text != "" && text != s.logged {
		s.cfg.Log.Warn("cannot register this node in the cluster; trying again", "err", err)
	}
	s.logged = text
}

// register makes sure that the cluster has this node's record as it should be.
func (s *Self) register(ctx context.Context) error {
	if err := s.recognise(ctx); err != nil {
		return err
	}
	want := s.Node()
	v4, v6, err := s.cfg.VTEPs()
	if err != nil {
		return fmt.Errorf("find this host's address in the underlay: %w", err)
	}
	s.setVTEPs(v4, v6)
	if !v4.IsValid() && !v6.IsValid() {
		return errors.New("this host has no address in the underlay (name one with --advertise)")
	}
	want.VTEP4, want.VTEP6 = v4, v6
	want.WireGuardKey, want.WireGuardPort = s.cfg.Key()
	if s.cfg.MACs != nil {
		want.MACs = s.cfg.MACs()
	}
	var have model.Node
	rev, err := layout.Load(ctx, s.cfg.Cluster, layout.NodeKey(want.ID), &have)
	if err != nil {
		return err
	}
	if rev == layout.Absent || have != want || have.Number == 0 {
		if err := s.write(ctx, rev, want); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.node.WireGuardKey, s.node.WireGuardPort = want.WireGuardKey, want.WireGuardPort
	first := !s.registered || s.replaced
	s.registered, s.replaced = true, false
	s.mu.Unlock()
	if first {
		s.cfg.Verify()
	}
	return nil
}

// setVTEPs records the node's addresses, also while the store does not answer.
func (s *Self) setVTEPs(v4, v6 netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node.VTEP4, s.node.VTEP6 = v4, v6
}

// recognise finds out whether the store is the one that this node knows. The first node gives a store
// its identity.
func (s *Self) recognise(ctx context.Context) error {
	var c layout.Identity
	rev, err := layout.Load(ctx, s.cfg.Cluster, layout.Cluster, &c)
	if err != nil {
		return err
	}
	if rev == layout.Absent {
		c = layout.Identity{ID: newID(), Created: time.Now().UTC().Round(time.Second)}
		err := s.cfg.Cluster.Commit(ctx, []kv.Cond{kv.If(layout.Cluster, layout.Absent)}, kv.Put(layout.Cluster, layout.Encode(c)))
		if errors.Is(err, kv.ErrConflict) {
			return s.recognise(ctx) // another node was first
		}
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	id := s.identity
	s.mu.Unlock()
	if id.Cluster == c.ID {
		return nil
	}
	if id.Cluster != "" {
		s.cfg.Log.Warn("the cluster's store was replaced or emptied; this node writes its networks and members to it again", "store", s.cfg.Cluster.Health().Store)
	}
	id.Cluster = c.ID
	if err := s.save(ctx, id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replaced = true
	return nil
}

// ClusterID returns the identity of the store that this node last registered in.
func (s *Self) ClusterID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity.Cluster
}

// write writes the node's record, whose revision is rev, and claims a number if it has none there.
func (s *Self) write(ctx context.Context, rev kv.Rev, want model.Node) error {
	record := []kv.Cond{kv.If(layout.NodeKey(want.ID), rev)}
	for try := range numberTries {
		number, conds, ops, err := s.number(ctx, want, try)
		if err != nil {
			return err
		}
		want.Number = number
		ops = append(ops, kv.Put(layout.NodeKey(want.ID), layout.Encode(want)))
		err = s.cfg.Cluster.Commit(ctx, append(conds, record...), ops...)
		if errors.Is(err, kv.ErrConflict) {
			var have model.Node
			if rev, err = layout.Load(ctx, s.cfg.Cluster, layout.NodeKey(want.ID), &have); err != nil {
				return err
			}
			record = []kv.Cond{kv.If(layout.NodeKey(want.ID), rev)}
			continue
		}
		if err != nil {
			return err
		}
		return s.wrote(ctx, want)
	}
	return errors.New("other nodes claim numbers all the time (trying again)")
}

func (s *Self) wrote(ctx context.Context, want model.Node) error {
	s.mu.Lock()
	id := s.identity
	s.node = want
	s.mu.Unlock()
	s.cfg.Log.Info("registered in the cluster", "node", want.Name, "number", want.Number, "vtep", strings.TrimSpace(model.AddrText(want.VTEP4)+" "+model.AddrText(want.VTEP6)))
	if id.Number == want.Number {
		return nil
	}
	id.Number = want.Number
	return s.save(ctx, id)
}

// number finds the node's number, or a free one, and what a commit needs to claim it.
func (s *Self) number(ctx context.Context, want model.Node, try int) (uint16, []kv.Cond, []kv.Op, error) {
	n := want.Number
	if n != 0 && try == 0 {
		var holder string
		rev, err := layout.Load(ctx, s.cfg.Cluster, layout.NumberKey(n), &holder)
		switch {
		case err != nil:
			return 0, nil, nil, err
		case holder == want.ID:
			return n, []kv.Cond{kv.If(layout.NumberKey(n), rev)}, nil, nil
		case rev == layout.Absent:
			return n, []kv.Cond{kv.If(layout.NumberKey(n), rev)}, []kv.Op{kv.Put(layout.NumberKey(n), layout.Encode(want.ID))}, nil
		}
	}
	entries, err := s.cfg.Cluster.List(ctx, layout.Numbers)
	if err != nil {
		return 0, nil, nil, err
	}
	taken := map[string]bool{}
	for _, e := range entries {
		taken[e.Key] = true
		var holder string
		if err := layout.Decode(e.Key, e.Value, &holder); err == nil && holder == want.ID {
			if n, ok := parseNumber(e.Key); ok {
				return n, []kv.Cond{kv.If(e.Key, e.Rev)}, nil, nil
			}
		}
	}
	for n := uint16(1); n < model.MaxNodes; n++ {
		if key := layout.NumberKey(n); !taken[key] {
			return n, []kv.Cond{kv.If(key, layout.Absent)}, []kv.Op{kv.Put(key, layout.Encode(want.ID))}, nil
		}
	}
	return 0, nil, nil, fmt.Errorf("the cluster already has %d nodes, the maximum (remove those that no longer exist with: fairlead node rm)", model.MaxNodes-1)
}

func parseNumber(key string) (uint16, bool) {
	var n uint16
	_, err := fmt.Sscan(strings.TrimPrefix(key, layout.Numbers), &n)
	return n, err == nil && n > 0 && n < model.MaxNodes
}

// Name returns the name of a host for its record.
func Name(configured, hostname string) string { return cmp.Or(configured, hostname, "node") }
