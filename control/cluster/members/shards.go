// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

const (
	// maxShards bounds the addresses of a large subnet that are allocated without a request: 4 million.
	maxShards = 1 << 16
	// nearby is how many shards are tried one by one before all are listed.
	nearby = 4
)

// batch is a commit that changes shards together with other records.
type batch struct {
	store  kv.Store
	shards map[string]*shard // by key
	conds  []kv.Cond
	ops    []kv.Op
}

type shard struct {
	layout.Shard
	rev     kv.Rev
	changed bool
}

func newBatch(s kv.Store) *batch { return &batch{store: s, shards: map[string]*shard{}} }

// shard reads the shard of an address, once.
func (b *batch) shard(ctx context.Context, network string, a netip.Addr) (*shard, error) {
	key := layout.ShardKey(network, a)
	if s := b.shards[key]; s != nil {
		return s, nil
	}
	s := &shard{}
	var err error
	if s.rev, err = layout.Load(ctx, b.store, key, &s.Shard); err != nil {
		return nil, err
	}
	b.shards[key] = s
	return s, nil
}

// hold records the holder of an address.
func (s *shard) hold(a netip.Addr, by model.AddressHolder) {
	if s.Held == nil {
		s.Held = map[netip.Addr]model.AddressHolder{}
	}
	s.Held[a] = by
	s.changed = true
}

func (s *shard) release(a netip.Addr) {
	delete(s.Held, a)
	s.changed = true
}

// commit writes everything, if nothing that the batch read was changed since. An empty shard stays,
// so that an address that was released is not reused at once.
func (b *batch) commit(ctx context.Context) error {
	for _, key := range slices.Sorted(maps.Keys(b.shards)) {
		if s := b.shards[key]; s.changed {
			b.conds = append(b.conds, kv.If(key, s.rev))
			b.ops = append(b.ops, kv.Put(key, layout.Encode(s.Shard)))
		}
	}
	return b.store.Commit(ctx, b.conds, b.ops...)
}

// pool is what may be allocated of a subnet.
type pool struct {
	subnet model.Subnet
	usable *ipam.Pool // the gateway and auxiliary addresses are taken
	within model.AddrRange
	shards uint64 // number of shards that contain a part of within
}

func poolOf(s model.Subnet) (*pool, error) {
	usable, err := ipam.ForSubnet(s)
	if err != nil {
		return nil, err
	}
	p := &pool{subnet: s, usable: usable, within: s.IPRange}
	if !p.within.IsValid() {
		p.within = model.RangeOf(s.Prefix)
	}
	first, last := number(layout.ShardOf(p.within.First).Addr()), number(p.within.Last)
	p.shards = maxShards
	if high(p.within.First) == high(p.within.Last) {
		p.shards = min(maxShards, (last-first)/layout.ShardSize+1)
	}
	return p, nil
}

// number returns the lower 64 bits of an address, and high the others.
func number(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}

func high(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:])
}

// at returns the first address of the i-th shard.
func (p *pool) at(i uint64) netip.Addr {
	first := layout.ShardOf(p.within.First).Addr()
	b := first.As16()
	binary.BigEndian.PutUint64(b[8:], number(first)+i*layout.ShardSize)
	a := netip.AddrFrom16(b)
	if first.Is4() {
		return a.Unmap()
	}
	return a
}

// isFree reports whether an address of a shard may be allocated without a request.
func (p *pool) isFree(s *layout.Shard, a netip.Addr) bool {
	_, held := s.Held[a]
	return !held && p.within.Contains(a) && p.usable.IsFree(a)
}

// choose returns a free address of a shard, or the zero Addr.
func (p *pool) choose(s *layout.Shard, first netip.Addr) netip.Addr {
	for i := range uint8(layout.ShardSize) {
		at := (s.Next + i) % layout.ShardSize
		b := first.As16()
		b[15] += at // the lowest bits of first are zero
		a := netip.AddrFrom16(b)
		if first.Is4() {
			a = a.Unmap()
		}
		if p.isFree(s, a) {
			s.Next = (at + 1) % layout.ShardSize
			return a
		}
	}
	return netip.Addr{}
}

// start returns the shard that a node begins with, so that nodes seldom compete for one.
func (p *pool) start(node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // never fails
	return h.Sum64() % p.shards
}

// allocate allocates a free address, beginning with the shard number from, which is updated.
func (b *batch) allocate(ctx context.Context, network string, p *pool, from *uint64, by model.AddressHolder) (netip.Addr, error) {
	for i := range min(nearby, p.shards) {
		a, err := b.allocateIn(ctx, network, p, (*from+i)%p.shards, by)
		if err != nil || a.IsValid() {
			*from = (*from + i) % p.shards
			return a, err
		}
	}
	full, err := b.fullShards(ctx, network, p)
	if err != nil {
		return netip.Addr{}, err
	}
	for i := range p.shards {
		at := (*from + i) % p.shards
		if full[p.at(at)] {
			continue
		}
		a, err := b.allocateIn(ctx, network, p, at, by)
		if err != nil || a.IsValid() {
			*from = at
			return a, err
		}
	}
	return netip.Addr{}, ipam.ErrExhausted
}

func (b *batch) allocateIn(ctx context.Context, network string, p *pool, i uint64, by model.AddressHolder) (netip.Addr, error) {
	first := p.at(i)
	s, err := b.shard(ctx, network, first)
	if err != nil {
		return netip.Addr{}, err
	}
	a := p.choose(&s.Shard, first)
	if a.IsValid() {
		s.hold(a, by)
	}
	return a, nil
}

// fullShards returns the first addresses of the shards without a free address.
func (b *batch) fullShards(ctx context.Context, network string, p *pool) (map[netip.Addr]bool, error) {
	entries, err := b.store.List(ctx, layout.ShardsOf(network))
	if err != nil {
		return nil, err
	}
	full := map[netip.Addr]bool{}
	for _, e := range entries {
		first, err := netip.ParseAddr(e.Key[len(layout.ShardsOf(network)):])
		if err != nil {
			continue
		}
		var s layout.Shard
		if err := layout.Decode(e.Key, e.Value, &s); err != nil {
			return nil, err
		}
		full[first] = !p.choose(&s, first).IsValid()
	}
	return full, nil
}
