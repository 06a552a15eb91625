// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// NodeStatus is a node as this one sees it.
type NodeStatus struct {
	model.Node
	Self    bool
	Down    bool       // not heard of for a while
	Lost    time.Time  // since when; zero if it is alive
	Path    Path       // how this host reaches it
	VTEP    netip.Addr // the address that is used
	Members int        // in networks that have members here
}

// Nodes returns the nodes of the cluster, by name.
func (p *Peers) Nodes() []NodeStatus {
	p.mu.RLock()
	defer p.mu.RUnlock()
	h, now := p.cfg.Store.Health(), time.Now()
	members := map[string]int{}
	for _, n := range p.nets {
		for _, c := range n.chunks {
			for _, m := range c.members {
				if m.SandboxID != "" {
					members[c.node]++
				}
			}
		}
	}
	var list []NodeStatus
	for id, node := range p.nodes.byID {
		s := NodeStatus{Node: node, Self: id == p.cfg.Self, Path: p.nodes.paths[id], VTEP: node.VTEP4, Members: members[id]}
		if !s.VTEP.IsValid() || s.Path.Source.Is6() {
			s.VTEP = node.VTEP6
		}
		if s.Self {
			s.Members = p.ownMembers()
		} else {
			s.Down, s.Lost = p.nodes.isDown(id, h, now), p.nodes.lost[id]
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b NodeStatus) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	return list
}

// ownMembers counts the sandboxes of this node in shared networks.
func (p *Peers) ownMembers() (count int) {
	s := p.snapshot.Load()
	for n := range s.Networks() {
		if !n.Has().Shared || n.Idle {
			continue
		}
		for ep := range s.Members(n.ID) {
			if ep.SandboxID != "" {
				count++
			}
		}
	}
	return count
}

// HostAddr is an address that another node itself has in a network.
type HostAddr struct {
	Node    string // its ID
	Network string // ID
	Addr    netip.Addr
}

// Hosts returns the addresses of other nodes in networks with members here, by network and node.
func (p *Peers) Hosts() (list []HostAddr) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, n := range p.nets {
		for _, c := range n.chunks {
			for _, m := range c.members {
				if m.SandboxID != "" {
					continue
				}
				for _, a := range addrsOf(&m) {
					list = append(list, HostAddr{Node: c.node, Network: n.id, Addr: a})
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b HostAddr) int {
		return cmp.Or(strings.Compare(a.Network, b.Network), strings.Compare(a.Node, b.Node), a.Addr.Compare(b.Addr))
	})
	return list
}

// Find finds a node by its ID, its name, or the beginning of its ID, in this order.
func (p *Peers) Find(ref string) (NodeStatus, error) {
	var found, begin []NodeStatus
	for _, n := range p.Nodes() {
		switch {
		case n.ID == ref:
			return n, nil
		case n.Name == ref:
			found = append(found, n)
		case ref != "" && strings.HasPrefix(n.ID, ref):
			begin = append(begin, n)
		}
	}
	if len(found) == 0 {
		found = begin
	}
	switch len(found) {
	case 0:
		return NodeStatus{}, model.Refuse(model.ErrNotFound, "no such node: %s (see: fairlead node ls)", ref)
	case 1:
		return found[0], nil
	}
	return NodeStatus{}, model.Refuse(model.ErrInvalid, "node %s is ambiguous (%d nodes; give more digits of the ID)", ref, len(found))
}

// Members returns the members of a network on other nodes. Of one without members here it queries
// the store.
func (p *Peers) Members(ctx context.Context, network string) ([]model.RemoteMember, error) {
	p.mu.RLock()
	n := p.nets[network]
	if n != nil {
		defer p.mu.RUnlock()
		return p.membersOf(n), nil
	}
	p.mu.RUnlock()
	entries, err := p.cfg.Store.List(ctx, layout.EndpointsOf(network))
	if err != nil {
		return nil, err
	}
	n = newNetwork(network, 0)
	p.mu.RLock()
	defer p.mu.RUnlock()
	n.apply(kv.Update{Entries: entries}, p.cfg.Self, p.nodes, p.cfg.Log)
	return p.membersOf(n), nil
}

func (p *Peers) membersOf(n *network) (list []model.RemoteMember) {
	h, now := p.cfg.Store.Health(), time.Now()
	for _, c := range n.chunks {
		name := cmp.Or(p.nodes.byID[c.node].Name, model.ShortID(c.node))
		down := p.nodes.isDown(c.node, h, now)
		for _, m := range c.members {
			list = append(list, model.RemoteMember{Member: m, Node: name, NodeDown: down})
		}
	}
	slices.SortFunc(list, func(a, b model.RemoteMember) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Named returns the members of a network on other nodes that have a name, in lower case, without those
// on nodes that are down.
func (p *Peers) Named(network, name string) (list []model.Member) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	n := p.nets[network]
	if n == nil {
		return nil
	}
	h, now := p.cfg.Store.Health(), time.Now()
	for _, m := range n.names[name] {
		if claims := n.macs[m.MAC]; len(claims) == 0 || !p.nodes.isDown(claims[len(claims)-1].node, h, now) {
			list = append(list, *m)
		}
	}
	return list
}

// Backends returns the backends that a service has on other nodes, by ID. Before Run has its network, they
// are those of the copy on disk.
func (p *Peers) Backends(svc *model.Service) (list []model.RemoteMember) {
	p.mu.RLock()
	n := p.nets[svc.NetworkID]
	if n == nil || !n.ready {
		p.mu.RUnlock()
		return Copied(p.cfg.Cache, svc, p.cfg.Log)
	}
	defer p.mu.RUnlock()
	if len(n.names[strings.ToLower(svc.Name)]) == 0 {
		return nil
	}
	for _, m := range p.membersOf(n) {
		if m.HasAlias(svc.Name) {
			list = append(list, m)
		}
	}
	return list
}

// Leaving returns the IDs of the members of a network on other nodes that are about to be removed.
func (p *Peers) Leaving(network string) (ids []string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	n := p.nets[network]
	if n == nil {
		return nil
	}
	for _, c := range n.chunks {
		for _, m := range c.members {
			if m.Leaving {
				ids = append(ids, m.ID)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// Alive returns the IDs of the other nodes with members in a network that are connected to the store.
func (p *Peers) Alive(network string) (ids []string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	n := p.nets[network]
	if n == nil {
		return nil
	}
	for _, c := range n.chunks {
		if p.nodes.alive[c.node] && !slices.Contains(ids, c.node) {
			ids = append(ids, c.node)
		}
	}
	return ids
}

// Copied returns the backends of a service as the copy on disk has them. It may have this node's own.
func Copied(cache store.Store, svc *model.Service, log *slog.Logger) (list []model.RemoteMember) {
	c := copyOnDisk{store: cache}
	for _, e := range c.load(context.Background(), layout.EndpointsOf(svc.NetworkID), log) {
		var chunk layout.Chunk
		if err := layout.Decode(e.Key, e.Value, &chunk); err != nil {
			continue // Run logs it
		}
		for _, m := range chunk.Members {
			if m.HasAlias(svc.Name) {
				list = append(list, model.RemoteMember{Member: m})
			}
		}
	}
	return list
}

// At returns the name of the sandbox on another node that has an address in a network, or "".
func (p *Peers) At(network string, a netip.Addr) string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	n := p.nets[network]
	if n == nil {
		return ""
	}
	for _, claim := range n.addrs[a] {
		for _, m := range n.chunks[claim.key].members {
			if m.SandboxID != "" && (m.IPv4 == a || m.IPv6 == a) {
				return m.Name
			}
		}
	}
	return ""
}

// Counts are numbers for the metrics.
type Counts struct{ Nodes, Down, Members int }

// Count counts the other ones of the nodes, and their members.
func Count(nodes []NodeStatus) (c Counts) {
	for _, n := range nodes {
		if n.Self {
			continue
		}
		c.Nodes++
		if c.Members += n.Members; n.Down {
			c.Down++
		}
	}
	return c
}
