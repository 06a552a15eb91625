// SPDX-License-Identifier: Apache-2.0

// Package pools is the tables of the backends of services: it computes Maglev tables, and writes
// differences.
package pools

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
)

// Pool is the backends of one address family among which a service spreads its new flows.
type Pool struct {
	Service  uint32 // model.Service.Number
	IPv6     bool
	Affinity uint32 // seconds; 0: off
	Members  []Member
}

// Member is a backend of a pool.
type Member struct {
	ID      uint64 // the same on every node; unique in the pool
	Addr    netip.Addr
	IfIndex uint32 // of its host end; maps.ViaNode: it is on another node
	Net     uint32 // network index
}

// String is for logs.
func (p Pool) String() string {
	return fmt.Sprintf("pool of service %d: %d backends", p.Service, len(p.Members))
}

func (p Pool) key() bpf.TCBackendKey {
	k := bpf.TCBackendKey{Service: p.Service}
	if p.IPv6 {
		k.Slot = FirstSlot6
	}
	return k
}

// FirstSlot6 tells the pool of IPv6 from that of IPv4, as it does with slots of fl_backend.
const FirstSlot6 = 1 << 15

// poolEntries are the entries of pools in their three tables.
type poolEntries struct {
	pools   map[bpf.TCBackendKey]bpf.TCPool
	parts   map[bpf.TCPoolKey]bpf.TCMaglev
	members map[bpf.TCPoolKey]bpf.TCBackend
}

// partSize is how many slots of a Maglev table one entry has.
const partSize = len(bpf.TCMaglev{}.Tag)

func entriesOf(pools []Pool) poolEntries {
	e := poolEntries{
		pools:   make(map[bpf.TCBackendKey]bpf.TCPool, len(pools)),
		parts:   make(map[bpf.TCPoolKey]bpf.TCMaglev),
		members: make(map[bpf.TCPoolKey]bpf.TCBackend),
	}
	for _, p := range pools {
		e.add(p)
	}
	return e
}

func (e *poolEntries) add(p Pool) {
	key := p.key()
	members := slices.SortedFunc(slices.Values(p.Members), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	ids, tags := make([]uint64, len(members)), make([]uint32, len(members))
	for i, m := range members {
		ids[i] = m.ID
		tags[i] = e.tag(key, m.ID)
		e.members[bpf.TCPoolKey{Pool: key, N: tags[i]}] = bpf.TCBackend{Addr: bpf.IPOf(m.Addr), Ifindex: m.IfIndex, Net: m.Net}
	}
	pool := bpf.TCPool{Affinity: p.Affinity, Count: uint32(len(members))}
	switch len(members) {
	case 0:
	case 1:
		pool.Only = tags[0]
	default:
		slots := maglev(ids, maglevSize(len(ids)))
		pool.Slots = uint32(len(slots))
		for part := 0; part*partSize < len(slots); part++ {
			var m bpf.TCMaglev
			for i := range m.Tag {
				// The last part repeats the first slots: another table may just have been larger.
				m.Tag[i] = tags[slots[(part*partSize+i)%len(slots)]]
			}
			e.parts[bpf.TCPoolKey{Pool: key, N: uint32(part)}] = m
		}
	}
	e.pools[key] = pool
}

// tag returns the number of a member that has none yet: the upper half of its ID, or one of the
// next numbers if another member of the pool has that. It is not 0.
func (e *poolEntries) tag(pool bpf.TCBackendKey, id uint64) uint32 {
	for tag := uint32(id >> 32); ; tag++ {
		if _, taken := e.members[bpf.TCPoolKey{Pool: pool, N: tag}]; tag != 0 && !taken {
			return tag
		}
	}
}

// Table is fl_pool with fl_maglev, the tables of pools of several backends, and fl_member, the
// backends. They are written in an order in which every slot that a program may find has a
// backend.
type Table struct {
	pools   *table.Table[bpf.TCBackendKey, bpf.TCPool]
	parts   *table.Table[bpf.TCPoolKey, bpf.TCMaglev]
	members *table.Table[bpf.TCPoolKey, bpf.TCBackend]

	mu sync.Mutex
	// has are the keys of parts and members that the tables may have, by pool.
	has map[bpf.TCBackendKey]poolKeys
	// rest are the tables that VerifySome has not finished in this round.
	rest []verifiable
}

// poolKeys are the keys of one pool.
type poolKeys struct{ parts, members map[bpf.TCPoolKey]bool }

type verifiable interface {
	Verify() (restored int, err error)
	VerifySome() (restored int, more bool, err error)
}

// New reads the kernel's entries. The maps are found by name.
func New(m map[string]*ebpf.Map) (t *Table, err error) {
	t = &Table{}
	if t.pools, err = table.New[bpf.TCBackendKey, bpf.TCPool](bpf.TCMapFlPool, m[bpf.TCMapFlPool]); err != nil {
		return nil, err
	}
	if t.parts, err = table.New[bpf.TCPoolKey, bpf.TCMaglev](bpf.TCMapFlMaglev, m[bpf.TCMapFlMaglev]); err != nil {
		return nil, err
	}
	if t.members, err = table.New[bpf.TCPoolKey, bpf.TCBackend](bpf.TCMapFlMember, m[bpf.TCMapFlMember]); err != nil {
		return nil, err
	}
	t.recount(t.parts.Entries(), t.members.Entries())
	return t, nil
}

// recount records the keys of all parts and members.
func (t *Table) recount(parts map[bpf.TCPoolKey]bpf.TCMaglev, members map[bpf.TCPoolKey]bpf.TCBackend) {
	t.has = make(map[bpf.TCBackendKey]poolKeys)
	t.note(parts, members)
}

func (t *Table) note(parts map[bpf.TCPoolKey]bpf.TCMaglev, members map[bpf.TCPoolKey]bpf.TCBackend) {
	for k := range parts {
		t.keysOf(k.Pool).parts[k] = true
	}
	for k := range members {
		t.keysOf(k.Pool).members[k] = true
	}
}

func (t *Table) keysOf(pool bpf.TCBackendKey) poolKeys {
	h, ok := t.has[pool]
	if !ok {
		h = poolKeys{make(map[bpf.TCPoolKey]bool), make(map[bpf.TCPoolKey]bool)}
		t.has[pool] = h
	}
	return h
}

// PutAll makes sure the kernel has the pools. It returns how many entries it wrote.
func (t *Table) PutAll(pools []Pool) (written int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(pools) == 0 {
		return 0, nil
	}
	e := entriesOf(pools)
	if written, err = t.write(e); err != nil {
		return written, err
	}
	// What these pools had before.
	return written, t.deleteOthers(e.pools, e)
}

// write writes entries: backends before the slots that have them, and slots before the pool that
// counts them.
func (t *Table) write(e poolEntries) (written int, err error) {
	t.note(e.parts, e.members)
	for _, put := range []func() (int, error){
		func() (int, error) { return t.members.PutAll(e.members) },
		func() (int, error) { return t.parts.PutAll(e.parts) },
		func() (int, error) { return t.pools.PutAll(e.pools) },
	} {
		n, err := put()
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// deleteOthers deletes the slots and backends of some pools that are not in keep.
func (t *Table) deleteOthers(of map[bpf.TCBackendKey]bpf.TCPool, keep poolEntries) error {
	var parts, members []bpf.TCPoolKey
	for pool := range of {
		for k := range t.has[pool].parts {
			if _, ok := keep.parts[k]; !ok {
				parts = append(parts, k)
			}
		}
		for k := range t.has[pool].members {
			if _, ok := keep.members[k]; !ok {
				members = append(members, k)
			}
		}
	}
	_, err := t.parts.DeleteAll(parts)
	_, err2 := t.members.DeleteAll(members)
	if err := errors.Join(err, err2); err != nil {
		return err // they are deleted with the next change, or by the next Sync
	}
	for pool := range of {
		delete(t.has, pool)
	}
	t.note(keep.parts, keep.members)
	return nil
}

// DeleteAll removes pools; absent is success. It returns how many there were.
func (t *Table) DeleteAll(pools []Pool) (deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := make(map[bpf.TCBackendKey]bpf.TCPool, len(pools))
	for _, p := range pools {
		keys[p.key()] = bpf.TCPool{}
	}
	if deleted, err = t.pools.DeleteAll(slices.Collect(maps.Keys(keys))); err != nil {
		return deleted, err
	}
	return deleted, t.deleteOthers(keys, poolEntries{})
}

// Sync makes the kernel's pools exactly desired, after reading all entries back. It writes before
// it deletes, and does not touch correct entries.
func (t *Table) Sync(desired []Pool) (written, deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := entriesOf(desired)
	if err := errors.Join(t.members.Refresh(), t.parts.Refresh(), t.pools.Refresh()); err != nil {
		return 0, 0, err
	}
	if written, err = t.write(e); err != nil && !errors.Is(err, table.ErrFull) {
		return written, 0, err
	}
	for _, sync := range []func() (int, int, error){
		func() (int, int, error) { return t.pools.Sync(e.pools) },
		func() (int, int, error) { return t.parts.Sync(e.parts) },
		func() (int, int, error) { return t.members.Sync(e.members) },
	} {
		w, d, err := sync()
		written, deleted = written+w, deleted+d
		if err != nil {
			return written, deleted, err
		}
	}
	t.recount(e.parts, e.members)
	return written, deleted, nil
}

func (t *Table) all() []verifiable { return []verifiable{t.members, t.parts, t.pools} }

// Verify reads all entries back and restores those that another process changed.
func (t *Table) Verify() (restored int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range t.all() {
		n, err := v.Verify()
		restored += n
		if err != nil {
			return restored, err
		}
	}
	return restored, nil
}

// VerifySome verifies the next part of each table that has more in this round, and reports
// whether one has more after it.
func (t *Table) VerifySome() (restored int, more bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rest) == 0 {
		t.rest = t.all()
	}
	var rest []verifiable
	var errs []error
	for _, v := range t.rest {
		n, more, err := v.VerifySome()
		restored += n
		if errs = append(errs, err); more {
			rest = append(rest, v)
		}
	}
	t.rest = rest
	return restored, len(rest) > 0, errors.Join(errs...)
}

// Len returns the number of pools.
func (t *Table) Len() int { return t.pools.Len() }

// Parts returns how many entries fl_maglev has, and how many there is room for.
func (t *Table) Parts() (have, most int) { return t.parts.Len(), t.parts.MaxEntries() }

// Members returns how many entries fl_member has, and how many there is room for.
func (t *Table) Members() (have, most int) { return t.members.Len(), t.members.MaxEntries() }

// MaxEntries returns how many pools there is room for.
func (t *Table) MaxEntries() int { return t.pools.MaxEntries() }
