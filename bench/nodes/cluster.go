// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/open"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
)

type config struct {
	store                         string
	nodes, span, endpoints, churn int
}

const (
	// lease is a real node's.
	lease = 30 * time.Second
	// firstNumber leaves the numbers below to real nodes.
	firstNumber = 512
	// maxNodes is how many numbers are left: a cluster has those up to 4 095.
	maxNodes = 4096 - firstNumber
	// together is how many nodes are made at once.
	together = 32
)

// cluster is the simulated nodes, and the networks that they found.
type cluster struct {
	cfg       config
	nodes     []*node
	networks  []*network
	endpoints int
}

// network is a network with its presence on each of its nodes.
type network struct {
	model.Network
	present []*presence
	next    func() (netip.Addr, error) // the address of another member
}

func (n *network) some() *presence { return n.present[rand.N(len(n.present))] }

// node is a simulated node.
type node struct {
	model.Node
	store kv.Store
}

// presence is what a node publishes in a network.
type presence struct {
	node    *node
	network *network

	mu     sync.Mutex
	chunks []layout.Chunk
}

// build makes the nodes, and spreads them and the endpoints over the networks of the store.
func build(ctx context.Context, cfg config, log *slog.Logger) (*cluster, error) {
	c := &cluster{cfg: cfg, nodes: make([]*node, cfg.nodes)}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i := range c.nodes {
		group.Go(func() (err error) {
			c.nodes[i], err = newNode(gctx, cfg.store, i, log)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := c.findNetworks(ctx); err != nil {
		return nil, err
	}
	var all []*presence
	for i, n := range c.networks {
		for k := range cfg.span {
			p := &presence{node: c.nodes[(i*cfg.span+k)%cfg.nodes], network: n}
			n.present = append(n.present, p)
			all = append(all, p)
		}
	}
	group, gctx = errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i, p := range all {
		share := cfg.endpoints*(i+1)/len(all) - cfg.endpoints*i/len(all)
		c.endpoints += share
		group.Go(func() error { return p.publish(gctx, share) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	watches := map[*node][]string{}
	for _, n := range c.nodes {
		go func() { _ = n.store.Alive(ctx, layout.AliveKey(n.ID), []byte("{}"), lease) }()
		watches[n] = []string{layout.Nodes, layout.Alive, layout.Networks, layout.Services}
	}
	for _, p := range all {
		watches[p.node] = append(watches[p.node], layout.EndpointsOf(p.network.ID))
	}
	group, gctx = errgroup.WithContext(ctx)
	group.SetLimit(together)
	for n, prefixes := range watches {
		group.Go(func() error { return n.watch(gctx, ctx, prefixes) })
	}
	return c, group.Wait()
}

// findNetworks reads the networks that exist, sorted by name.
func (c *cluster) findNetworks(ctx context.Context) error {
	entries, err := c.nodes[0].store.List(ctx, layout.Networks)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var record layout.Network
		if err := layout.Decode(e.Key, e.Value, &record); err != nil {
			return err
		}
		n := &network{Network: record.Network}
		if n.next, err = addresses(&n.Network); err != nil {
			return err
		}
		c.networks = append(c.networks, n)
	}
	slices.SortFunc(c.networks, func(a, b *network) int { return strings.Compare(a.Name, b.Name) })
	if len(c.networks) == 0 {
		return fmt.Errorf("the store has no network (create some with: fairlead network create -d overlay)")
	}
	return nil
}

// addresses returns a function that returns the IPv4 addresses of a network's upper half one after the
// other. They are not claimed in the store: real sandboxes should have chosen ones of the lower half.
func addresses(n *model.Network) (next func() (netip.Addr, error), err error) {
	i := slices.IndexFunc(n.Subnets, func(s model.Subnet) bool { return s.Prefix.Addr().Is4() })
	if i < 0 {
		return nil, fmt.Errorf("network %s has no IPv4 subnet", n.Name)
	}
	p := n.Subnets[i].Prefix
	half := uint32(1) << (31 - p.Bits())
	first := binary.BigEndian.Uint32(p.Addr().AsSlice()) + half
	var used atomic.Uint32
	return func() (netip.Addr, error) {
		k := used.Add(1) - 1
		if k >= half-1 { // the last one is the broadcast address
			return netip.Addr{}, fmt.Errorf("the upper half of %v has no address left", p)
		}
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, first+k))), nil
	}, nil
}

// newNode registers a node.
func newNode(ctx context.Context, store string, i int, log *slog.Logger) (*node, error) {
	s, err := open.Open(store, open.Options{Log: log})
	if err != nil {
		return nil, err
	}
	n := &node{store: s, Node: model.Node{
		ID: newID(), Name: fmt.Sprint("simulated-", i), Number: uint16(firstNumber + i),
		VTEP4: netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)}), Port: 4789,
	}}
	err = s.Commit(ctx, nil, kv.Put(layout.NodeKey(n.ID), layout.Encode(n.Node)), kv.Put(layout.NumberKey(n.Number), []byte(n.ID)))
	return n, err
}

// watch receives all entries of the prefixes before it returns, and then their changes until the end of
// long.
func (n *node) watch(ctx, long context.Context, prefixes []string) error {
	for _, prefix := range prefixes {
		w, err := n.store.Watch(prefix)
		if err != nil {
			return err
		}
		if _, err := w.Next(ctx); err != nil {
			return err
		}
		go func() {
			for {
				if _, err := w.Next(long); err != nil {
					return
				}
			}
		}()
	}
	return nil
}

// publish adds endpoints to a network, beside the node itself.
func (p *presence) publish(ctx context.Context, endpoints int) error {
	members := []model.Member{{ID: p.node.ID, Name: p.node.Name}}
	for range endpoints {
		members = append(members, newMember())
	}
	for i := range members {
		if err := p.address(&members[i]); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(members, layout.ChunkSize) {
		p.chunks = append(p.chunks, layout.Chunk{Members: chunk})
		if err := p.put(ctx, len(p.chunks)-1); err != nil {
			return err
		}
	}
	return nil
}

func (p *presence) put(ctx context.Context, chunk int) error {
	return p.node.store.Commit(ctx, nil, kv.Put(layout.ChunkKey(p.network.ID, p.node.ID, chunk), layout.Encode(p.chunks[chunk])))
}

// address gives a member an address of the network.
func (p *presence) address(m *model.Member) (err error) {
	m.IPv4, err = p.network.next()
	m.MAC = model.MACOf(m.IPv4)
	return err
}

func newMember() model.Member {
	id := newID()
	return model.Member{ID: id, SandboxID: newID(), Name: "sandbox-" + id[:12]}
}

// newID returns 64 random hexadecimal digits.
func newID() string {
	var b [32]byte
	crand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// replace replaces an endpoint by another, which it returns. The first member of the first chunk is the
// node itself and stays.
func (p *presence) replace(ctx context.Context) (model.Member, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := rand.N(len(p.chunks))
	members := &p.chunks[i].Members
	k := rand.N(len(*members))
	if (*members)[k].SandboxID == "" {
		if k++; k == len(*members) {
			*members = append(*members, model.Member{})
		}
	}
	m := newMember()
	if err := p.address(&m); err != nil {
		return m, err
	}
	(*members)[k] = m
	return m, p.put(ctx, i)
}

// churn replaces endpoints in all networks until ctx ends or the store fails.
func (c *cluster) churn(ctx context.Context) error {
	if c.cfg.churn == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	ticks := time.NewTicker(time.Second / time.Duration(c.cfg.churn))
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
			if _, err := c.networks[rand.N(len(c.networks))].some().replace(ctx); err != nil {
				return err
			}
		}
	}
}
