// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
	"github.com/fairlead-net/fairlead/maps/transfer"
)

// peers presents a table whose writer knows what it wrote. It keeps no copy of the entries, which
// can be hundreds of thousands. Safe for concurrent use.
type peers[K, V comparable, D any] struct {
	name string
	m    *ebpf.Map
	raw  func(D) (K, V)
	from func(K, V) D
	// changed is called after entries were overwritten or deleted, but not for new ones.
	changed func() error
}

// Put writes an entry.
func (t peers[K, V, D]) Put(d D) error {
	_, err := t.PutAll([]D{d})
	return err
}

// PutAll writes entries until one fails, and returns how many it wrote.
func (t peers[K, V, D]) PutAll(ds []D) (written int, err error) {
	changed := false
	for ; written < len(ds); written++ {
		k, v := t.raw(ds[written])
		err = t.m.Update(k, v, ebpf.UpdateNoExist)
		if errors.Is(err, ebpf.ErrKeyExist) {
			changed, err = true, t.m.Put(k, v)
		}
		if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
			err = &table.FullError{Table: t.name, Max: t.MaxEntries()}
		}
		if err != nil {
			err = fmt.Errorf("write to table %s: %w", t.name, err)
			break
		}
	}
	if changed {
		err = errors.Join(err, t.changed())
	}
	return written, err
}

// remove deletes the entry that has the key of d; absent is success.
func (t peers[K, V, D]) remove(d D) (deleted bool, err error) {
	k, _ := t.raw(d)
	switch err := t.m.Delete(k); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("delete from table %s: %w", t.name, err)
	}
	return true, t.changed()
}

// get reads the entry that has the key of d.
func (t peers[K, V, D]) get(d D) (have D, ok bool, err error) {
	k, _ := t.raw(d)
	var v V
	switch err := t.m.Lookup(k, &v); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return have, false, nil
	case err != nil:
		return have, false, fmt.Errorf("read table %s: %w", t.name, err)
	}
	return t.from(k, v), true, nil
}

// Walk visits every entry of the kernel's until visit returns false. Visit may delete entries.
func (t peers[K, V, D]) Walk(visit func(D) bool) error {
	err := table.ReadAll(t.m, func(k K, v V) bool { return visit(t.from(k, v)) })
	if err != nil {
		return fmt.Errorf("read table %s: %w", t.name, err)
	}
	return nil
}

// Count returns the number of entries. It walks the table.
func (t peers[K, V, D]) Count() (int, error) { return transfer.Count(t.m) }

// MaxEntries returns the table's capacity in entries.
func (t peers[K, V, D]) MaxEntries() int { return int(t.m.MaxEntries()) }

// PeerFDBEntry maps a member of a network to the node that it is on.
type PeerFDBEntry struct {
	Net  uint32 // network index
	MAC  MAC
	Node uint16
	Host bool // it is the node itself
}

// String is for logs.
func (e PeerFDBEntry) String() string {
	return fmt.Sprintf("peer fdb net %d %s node %d", e.Net, macString(e.MAC), e.Node)
}

func (e PeerFDBEntry) raw() (bpf.TCFdbKey, bpf.TCFdbEntry) {
	raw := bpf.TCFdbEntry{Node: e.Node}
	raw.Flags = when(e.Host, uint16(HostPort))
	return bpf.TCFdbKey{Net: e.Net, Mac: e.MAC}, raw
}

func peerFDBFrom(k bpf.TCFdbKey, v bpf.TCFdbEntry) PeerFDBEntry {
	return PeerFDBEntry{Net: k.Net, MAC: k.Mac, Node: v.Node, Host: v.Flags&uint16(HostPort) != 0}
}

// PeerFDB is fl_peer_fdb: nodes of remote members by network and MAC.
type PeerFDB struct {
	peers[bpf.TCFdbKey, bpf.TCFdbEntry, PeerFDBEntry]
}

// Delete removes a member; absent is success.
func (t *PeerFDB) Delete(net uint32, mac MAC) (deleted bool, err error) {
	return t.remove(PeerFDBEntry{Net: net, MAC: mac})
}

// Get reads a member's entry.
func (t *PeerFDB) Get(net uint32, mac MAC) (e PeerFDBEntry, ok bool, err error) {
	return t.get(PeerFDBEntry{Net: net, MAC: mac})
}

// PeerNeighbour maps an address in a network to a member on another node.
type PeerNeighbour struct {
	Net  uint32 // network index
	Addr netip.Addr
	MAC  MAC
	Node uint16
}

// String is for logs.
func (n PeerNeighbour) String() string {
	return fmt.Sprintf("peer neighbour net %d %s %s node %d", n.Net, n.Addr, macString(n.MAC), n.Node)
}

func (n PeerNeighbour) raw() (bpf.TCNeighKey, bpf.TCNeighEntry) {
	return bpf.TCNeighKey{Addr: bpf.IPOf(n.Addr), Net: n.Net}, bpf.TCNeighEntry{Mac: n.MAC, Node: n.Node}
}

func peerNeighbourFrom(k bpf.TCNeighKey, v bpf.TCNeighEntry) PeerNeighbour {
	return PeerNeighbour{Net: k.Net, Addr: k.Addr.Addr(), MAC: v.Mac, Node: v.Node}
}

// PeerNeighbours is fl_peer_neigh: MACs and nodes of remote members by network and address.
type PeerNeighbours struct {
	peers[bpf.TCNeighKey, bpf.TCNeighEntry, PeerNeighbour]
}

// Delete removes a member's address; absent is success.
func (t *PeerNeighbours) Delete(net uint32, addr netip.Addr) (deleted bool, err error) {
	return t.remove(PeerNeighbour{Net: net, Addr: addr})
}

// Get reads an address's entry.
func (t *PeerNeighbours) Get(net uint32, addr netip.Addr) (n PeerNeighbour, ok bool, err error) {
	return t.get(PeerNeighbour{Net: net, Addr: addr})
}
