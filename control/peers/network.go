// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
	tables "github.com/fairlead-net/fairlead/maps"
)

// network is the members of a network on other nodes.
type network struct {
	id    string
	index uint32
	// encrypted: its nodes are those that the encrypting device reaches.
	encrypted bool
	stop      func()
	listed    bool // by the store, since the start
	ready     bool // it has what the copy on disk had

	chunks map[string]chunk // by key
	// The claims of a MAC or of an address. While an endpoint moves between nodes there may be two: the
	// last one counts.
	macs  map[model.MAC][]claim
	addrs map[netip.Addr][]claim
	names map[string][]*model.Member // in lower case
	flood []uint16                   // as written last
}

// chunk is some members of a network on a node.
type chunk struct {
	node    string
	members []model.Member
}

// claim is the entry of a MAC or an address in one chunk.
type claim struct {
	key  string // of the chunk
	node string
	mac  model.MAC
	host bool // it is the node itself
}

func newNetwork(id string, index uint32) *network {
	return &network{
		id: id, index: index, stop: func() {}, chunks: map[string]chunk{},
		macs: map[model.MAC][]claim{}, addrs: map[netip.Addr][]claim{}, names: map[string][]*model.Member{},
	}
}

// touched are the keys whose entries may have changed.
type touched struct {
	macs  map[model.MAC]bool
	addrs map[netip.Addr]bool
}

// apply applies an update, and returns the keys that no longer exist and what is to be written.
func (n *network) apply(u kv.Update, self string, nodes *nodes, log *slog.Logger) (gone []string, w work) {
	t := touched{map[model.MAC]bool{}, map[netip.Addr]bool{}}
	gone = u.Deleted
	if u.Reset {
		has := make(map[string]bool, len(u.Entries))
		for _, e := range u.Entries {
			has[e.Key] = true
		}
		for key := range n.chunks {
			if !has[key] {
				gone = append(gone, key)
			}
		}
	}
	for _, e := range u.Entries {
		_, node, _, ok := layout.ParseChunkKey(e.Key)
		var c layout.Chunk
		if err := layout.Decode(e.Key, e.Value, &c); err != nil || !ok {
			log.Error("members of another node cannot be read; what was known of them stays", "key", e.Key, "err", err)
			continue
		}
		if node != self {
			n.set(e.Key, chunk{node, c.Members}, &t)
		}
	}
	for _, key := range gone {
		n.set(key, chunk{}, &t)
	}
	return gone, n.written(t, nodes)
}

// set replaces the members of a chunk. A chunk without members does not exist.
func (n *network) set(key string, now chunk, t *touched) {
	before := n.chunks[key]
	for i := range before.members {
		n.unname(&before.members[i])
	}
	n.chunks[key] = now
	if len(now.members) == 0 {
		delete(n.chunks, key)
	}
	macs, addrs := map[model.MAC]bool{}, map[netip.Addr]bool{}
	for i := range now.members {
		m := &now.members[i]
		n.name(m)
		macs[m.MAC] = true
		put(n.macs, m.MAC, claim{key, now.node, m.MAC, m.SandboxID == ""}, t.macs)
		for _, a := range addrsOf(m) {
			addrs[a] = true
			put(n.addrs, a, claim{key, now.node, m.MAC, m.SandboxID == ""}, t.addrs)
		}
	}
	for i := range before.members {
		m := &before.members[i]
		if !macs[m.MAC] {
			drop(n.macs, m.MAC, key, t.macs)
		}
		for _, a := range addrsOf(m) {
			if !addrs[a] {
				drop(n.addrs, a, key, t.addrs)
			}
		}
	}
}

// addrsOf returns the addresses that a member answers for, with IPv6 also the one that the kernel
// derives from its MAC. A node itself has the gateway's.
func addrsOf(m *model.Member) []netip.Addr {
	var addrs []netip.Addr
	if m.IPv4.IsValid() {
		addrs = append(addrs, m.IPv4)
	}
	if m.IPv6.IsValid() {
		addrs = append(addrs, m.IPv6)
		if m.SandboxID != "" {
			addrs = append(addrs, m.MAC.LinkLocal())
		}
	}
	return addrs
}

// put sets the claim of a chunk. A new one is appended.
func put[K comparable](claims map[K][]claim, k K, c claim, t map[K]bool) {
	i := slices.IndexFunc(claims[k], func(o claim) bool { return o.key == c.key })
	switch {
	case i < 0:
		claims[k] = append(claims[k], c)
	case claims[k][i] == c:
		return
	default:
		claims[k][i] = c
	}
	t[k] = true
}

func drop[K comparable](claims map[K][]claim, k K, key string, t map[K]bool) {
	rest := slices.DeleteFunc(claims[k], func(o claim) bool { return o.key == key })
	if len(rest) == 0 {
		delete(claims, k)
	} else {
		claims[k] = rest
	}
	t[k] = true
}

// written returns what is to be written for keys that were touched.
func (n *network) written(t touched, nodes *nodes) (w work) {
	for mac := range t.macs {
		n.putMAC(&w, mac, nodes)
	}
	for a := range t.addrs {
		n.putAddr(&w, a, nodes)
	}
	n.putFlood(&w, nodes)
	return w
}

// putMAC adds the entry of a MAC to the work, or its removal. Until the node of a member is known, its
// entry stays as it is.
func (n *network) putMAC(w *work, mac model.MAC, nodes *nodes) {
	claims := n.macs[mac]
	e := tables.PeerFDBEntry{Net: n.index, MAC: tables.MAC(mac)}
	if len(claims) == 0 {
		w.fdbGone = append(w.fdbGone, e)
		return
	}
	last := claims[len(claims)-1]
	if e.Node, e.Host = n.number(last.node, nodes), last.host; e.Node != 0 {
		w.fdb = append(w.fdb, e)
	}
}

func (n *network) putAddr(w *work, a netip.Addr, nodes *nodes) {
	claims := n.addrs[a]
	e := tables.PeerNeighbour{Net: n.index, Addr: a}
	if len(claims) == 0 {
		w.neighGone = append(w.neighGone, e)
		return
	}
	last := claims[len(claims)-1]
	if e.MAC, e.Node = tables.MAC(last.mac), n.number(last.node, nodes); e.Node != 0 {
		w.neigh = append(w.neigh, e)
	}
}

// number returns the number by which the datapath reaches a node for this network, or 0 if it is not known.
func (n *network) number(node string, nodes *nodes) uint16 {
	number := nodes.number(node)
	if n.encrypted && number != 0 {
		number += tables.EncryptedNode
	}
	return number
}

// putFlood adds the list of the nodes that have members. A list that is empty because nothing is known
// yet is not written.
func (n *network) putFlood(w *work, nodes *nodes) {
	has := map[uint16]bool{}
	for _, c := range n.chunks {
		if number := n.number(c.node, nodes); number != 0 {
			has[number] = true
		}
	}
	list := slices.Sorted(maps.Keys(has))
	if slices.Equal(list, n.flood) || len(list) == 0 && !n.listed {
		return
	}
	n.flood = list
	w.setFlood(n.index, list)
}

// isOn reports whether one of the nodes has members.
func (n *network) isOn(nodes map[string]bool) bool {
	for _, c := range n.chunks {
		if nodes[c.node] {
			return true
		}
	}
	return false
}

// renumber returns what is to be written after nodes got their numbers.
func (n *network) renumber(changed map[string]bool, nodes *nodes) (w work) {
	if len(changed) == 0 {
		return w
	}
	for _, c := range n.chunks {
		if !changed[c.node] {
			continue
		}
		for i := range c.members {
			n.putMAC(&w, c.members[i].MAC, nodes)
			for _, a := range addrsOf(&c.members[i]) {
				n.putAddr(&w, a, nodes)
			}
		}
	}
	n.putFlood(&w, nodes)
	return w
}

// leave returns the removal of all entries.
func (n *network) leave() (w work) {
	for mac := range n.macs {
		w.fdbGone = append(w.fdbGone, tables.PeerFDBEntry{Net: n.index, MAC: tables.MAC(mac)})
	}
	for a := range n.addrs {
		w.neighGone = append(w.neighGone, tables.PeerNeighbour{Net: n.index, Addr: a})
	}
	w.setFlood(n.index, nil)
	return w
}

// namesOf returns the names of a member in lower case, without duplicates.
func namesOf(m *model.Member) (list []string) {
	if m.SandboxID == "" {
		return nil // a node
	}
	for _, name := range append([]string{m.Name, model.ShortID(m.SandboxID), m.Hostname}, m.Aliases...) {
		if name = strings.ToLower(name); name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

func (n *network) name(m *model.Member) {
	for _, name := range namesOf(m) {
		n.names[name] = append(n.names[name], m)
	}
}

func (n *network) unname(m *model.Member) {
	for _, name := range namesOf(m) {
		rest := slices.DeleteFunc(n.names[name], func(o *model.Member) bool { return o == m })
		if len(rest) == 0 {
			delete(n.names, name)
		} else {
			n.names[name] = rest
		}
	}
}
