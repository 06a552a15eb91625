// SPDX-License-Identifier: Apache-2.0

// Package flood is the tables of the nodes that receive copies of a network's broadcasts, and of the
// multicast groups that they listen to.
package flood

import (
	"errors"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
)

// Nodes is fl_tunnel_node: the nodes that receive a copy of each broadcast of a network. Each of
// them has an entry in fl_group, too.
type Nodes struct {
	mu     sync.Mutex // held through one change of a list
	t      *table.Table[bpf.TCTunnelNodeKey, uint32]
	groups *Groups
}

// New opens both tables.
func New(nodes, groups *ebpf.Map) (*Nodes, *Groups, error) {
	t, err := table.New[bpf.TCTunnelNodeKey, uint32](bpf.TCMapFlTunnelNode, nodes)
	g := &Groups{groups}
	return &Nodes{t: t, groups: g}, g, err
}

// Set makes these the nodes of a network. It writes only what differs. A broadcast in the meantime
// may reach a node twice, or miss one. It reports whether it had to write.
func (t *Nodes) Set(net uint32, nodes []uint16) (written bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, _ := t.t.Get(bpf.TCTunnelNodeKey{Net: net})
	if err := t.groups.follow(net, t.list(net, before), nodes); err != nil {
		return false, err
	}
	entries := make(map[bpf.TCTunnelNodeKey]uint32, len(nodes))
	for i, node := range nodes {
		entries[bpf.TCTunnelNodeKey{Net: net, N: uint32(i + 1)}] = uint32(node)
	}
	var surplus []bpf.TCTunnelNodeKey
	for n := uint32(len(nodes)) + 1; n <= before; n++ {
		surplus = append(surplus, bpf.TCTunnelNodeKey{Net: net, N: n})
	}
	n, err := t.t.PutAll(entries)
	if err != nil {
		return n > 0, err
	}
	counted, err := t.count(net, uint32(len(nodes)))
	deleted, err2 := t.t.DeleteAll(surplus)
	return counted || n+deleted > 0, errors.Join(err, err2)
}

// list returns the nodes of a network, which are so many.
func (t *Nodes) list(net, count uint32) (nodes []uint16) {
	for i := range count {
		if node, ok := t.t.Get(bpf.TCTunnelNodeKey{Net: net, N: i + 1}); ok {
			nodes = append(nodes, uint16(node))
		}
	}
	return nodes
}

// count writes how many nodes a network has.
func (t *Nodes) count(net, nodes uint32) (written bool, err error) {
	k := bpf.TCTunnelNodeKey{Net: net}
	if nodes == 0 {
		return t.t.Delete(k)
	}
	return t.t.Put(k, nodes)
}

// List returns the nodes of each network that has any, in the order of copies.
func (t *Nodes) List() map[uint32][]uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := t.t.Entries()
	lists := make(map[uint32][]uint16)
	for k, n := range entries {
		if k.N != 0 {
			continue
		}
		for i := range n {
			if node := entries[bpf.TCTunnelNodeKey{Net: k.Net, N: i + 1}]; node != 0 {
				lists[k.Net] = append(lists[k.Net], uint16(node))
			}
		}
	}
	return lists
}

// Sync makes these the lists of all networks, after reading the table back.
func (t *Nodes) Sync(lists map[uint32][]uint16) (written, deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := make(map[bpf.TCTunnelNodeKey]uint32)
	for net, nodes := range lists {
		for i, node := range nodes {
			entries[bpf.TCTunnelNodeKey{Net: net, N: uint32(i + 1)}] = uint32(node)
		}
		if len(nodes) > 0 {
			entries[bpf.TCTunnelNodeKey{Net: net}] = uint32(len(nodes))
		}
	}
	return t.t.Sync(entries)
}

// Get returns the nodes of a network.
func (t *Nodes) Get(net uint32) []uint16 { return slices.Clone(t.List()[net]) }

// Refresh reads all entries back from the kernel.
func (t *Nodes) Refresh() error { return t.t.Refresh() }

// Len returns the number of entries.
func (t *Nodes) Len() int { return t.t.Len() }

// MaxEntries returns the table's capacity in entries.
func (t *Nodes) MaxEntries() int { return t.t.MaxEntries() }
