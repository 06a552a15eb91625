// SPDX-License-Identifier: Apache-2.0

// Package ipam allocates addresses from subnets, and subnets from default pools.
// The caller is responsible for locking and persistence.
package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/model"
)

var (
	// ErrExhausted means that no address of the range is free.
	ErrExhausted = errors.New("no available addresses")
	// ErrOutside means that the address is not in the subnet.
	ErrOutside = errors.New("address is not in the subnet")
	// ErrUnusable means that the address is the network or broadcast address.
	ErrUnusable = errors.New("address cannot be assigned to an interface")
	// ErrTaken means that the address is already allocated.
	ErrTaken = errors.New("address already in use")
)

// Pool allocates the addresses of one subnet in a cycle: an address that
// was released is allocated again only after all others.
type Pool struct {
	prefix   netip.Prefix
	within   model.AddrRange // the range of Allocate
	next     netip.Addr      // where Allocate continues; if not in within, at its start
	taken    map[netip.Addr]struct{}
	used     uint64 // number of taken addresses in within
	capacity uint64 // usable addresses of within; saturates
}

// NewPool returns the pool of a subnet, which must be masked. A zero within stands for
// the whole subnet.
func NewPool(prefix netip.Prefix, within model.AddrRange) (*Pool, error) {
	if !prefix.IsValid() || prefix != prefix.Masked() {
		return nil, fmt.Errorf("create address pool of %v: not a masked prefix", prefix)
	}
	if !within.IsValid() {
		within = model.RangeOf(prefix)
	}
	if !prefix.Contains(within.First) || !prefix.Contains(within.Last) || within.Last.Less(within.First) {
		return nil, fmt.Errorf("create address pool of %v: range %v is not in it", prefix, within)
	}
	p := &Pool{prefix: prefix, within: within, taken: map[netip.Addr]struct{}{}}
	p.capacity = p.count()
	return p, nil
}

// count returns the number of usable addresses in p.within.
func (p *Pool) count() uint64 {
	first, last := p.within.First.As16(), p.within.Last.As16()
	if [8]byte(first[:8]) != [8]byte(last[:8]) {
		return math.MaxUint64
	}
	n := binary.BigEndian.Uint64(last[8:]) - binary.BigEndian.Uint64(first[8:])
	if n == math.MaxUint64 {
		return n
	}
	n++
	if !p.Usable(p.prefix.Addr()) && p.within.Contains(p.prefix.Addr()) {
		n--
	}
	if last := Last(p.prefix); !p.Usable(last) && p.within.Contains(last) {
		n--
	}
	return n
}

// Numbers returns how many addresses are in use, with those that no interface may have, and how many Allocate can return.
func (p *Pool) Numbers() (used, free uint64) {
	used = uint64(len(p.taken))
	for i, a := range []netip.Addr{p.prefix.Addr(), Last(p.prefix)} {
		if !p.Usable(a) && (i == 0 || a.Is4()) {
			used++
		}
	}
	return used, p.capacity - p.used
}

// Usable reports whether an interface in the subnet may have the address. The
// first address is not usable (network address, or subnet-router anycast), and neither is
// the last one of IPv4 (broadcast), except in subnets of one or two addresses
// (RFC 3021, RFC 6164).
func (p *Pool) Usable(a netip.Addr) bool {
	if !p.prefix.Contains(a) {
		return false
	}
	if p.prefix.Addr().BitLen()-p.prefix.Bits() <= 1 {
		return true
	}
	return a != p.prefix.Addr() && (!a.Is4() || a != Last(p.prefix))
}

// IsFree reports whether an address is usable and not allocated.
func (p *Pool) IsFree(a netip.Addr) bool {
	_, taken := p.taken[a]
	return !taken && p.Usable(a)
}

// First returns the lowest usable address that is free, even outside the range, or
// ErrExhausted if there is none.
func (p *Pool) First() (netip.Addr, error) {
	for a := p.prefix.Addr(); p.prefix.Contains(a); a = a.Next() {
		if _, taken := p.taken[a]; !taken && p.Usable(a) {
			return a, nil
		}
	}
	return netip.Addr{}, ErrExhausted
}

// Allocate allocates the next free address of the range.
func (p *Pool) Allocate() (netip.Addr, error) {
	if p.used >= p.capacity {
		return netip.Addr{}, ErrExhausted
	}
	a := p.next
	for { // terminates, because an address is free
		if !p.within.Contains(a) {
			a = p.within.First
		}
		if _, taken := p.taken[a]; !taken && p.Usable(a) {
			break
		}
		a = a.Next()
	}
	p.take(a)
	p.next = a.Next()
	return a, nil
}

// Reserve allocates this address, in the range or not.
func (p *Pool) Reserve(a netip.Addr) error {
	if !p.prefix.Contains(a) {
		return ErrOutside
	}
	if !p.Usable(a) {
		return ErrUnusable
	}
	if _, taken := p.taken[a]; taken {
		return ErrTaken
	}
	p.take(a)
	return nil
}

func (p *Pool) take(a netip.Addr) {
	p.taken[a] = struct{}{}
	if p.within.Contains(a) {
		p.used++
	}
}

// Release releases an address. It does nothing if the address is free.
func (p *Pool) Release(a netip.Addr) {
	if _, taken := p.taken[a]; !taken {
		return
	}
	delete(p.taken, a)
	if p.within.Contains(a) {
		p.used--
	}
}

// Resume makes Allocate continue after an address, as before a restart.
func (p *Pool) Resume(after netip.Addr) { p.next = after.Next() }

// Free returns the number of addresses that Allocate can still return. It
// saturates at the largest uint64.
func (p *Pool) Free() uint64 {
	if p.capacity == math.MaxUint64 {
		return p.capacity
	}
	return p.capacity - p.used
}

// Last returns the highest address of a prefix.
func Last(p netip.Prefix) netip.Addr { return model.RangeOf(p).Last }
