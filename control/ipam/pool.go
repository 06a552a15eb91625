// SPDX-License-Identifier: Apache-2.0

// Package ipam hands out addresses of a subnet and subnets of default pools.
// It holds no lock and keeps nothing on disk: its owner does both.
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
	// ErrExhausted: no address of the range is free.
	ErrExhausted = errors.New("no available addresses")
	// ErrOutside: the address is not in the subnet.
	ErrOutside = errors.New("address is not in the subnet")
	// ErrUnusable: the address names the subnet or is its broadcast address.
	ErrUnusable = errors.New("address cannot be given to an interface")
	// ErrTaken: the address has an owner.
	ErrTaken = errors.New("address already in use")
)

// Pool hands out the addresses of one subnet. It goes round: an address that
// was released is handed out again only after all others had their turn.
type Pool struct {
	prefix   netip.Prefix
	within   model.AddrRange // what Allocate chooses from
	next     netip.Addr      // where Allocate looks first; outside within: its start
	taken    map[netip.Addr]struct{}
	used     uint64 // of taken, those in within
	capacity uint64 // usable addresses of within; saturates
}

// NewPool makes the pool of a subnet, which must be masked. A zero within is
// the whole subnet.
func NewPool(prefix netip.Prefix, within model.AddrRange) (*Pool, error) {
	if !prefix.IsValid() || prefix != prefix.Masked() {
		return nil, fmt.Errorf("make address pool of %v: not a masked prefix", prefix)
	}
	if !within.IsValid() {
		within = model.RangeOf(prefix)
	}
	if !prefix.Contains(within.First) || !prefix.Contains(within.Last) || within.Last.Less(within.First) {
		return nil, fmt.Errorf("make address pool of %v: range %v is not inside", prefix, within)
	}
	p := &Pool{prefix: prefix, within: within, taken: map[netip.Addr]struct{}{}}
	p.capacity = p.count()
	return p, nil
}

// count is the number of usable addresses in p.within.
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

// Usable reports whether an interface of the subnet may bear the address. The
// first address is not (network address, or subnet-router anycast), nor is the
// last of IPv4 (broadcast), except in subnets of one or two addresses
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

// First returns the lowest usable address that is free, ignoring the range;
// ErrExhausted if there is none.
func (p *Pool) First() (netip.Addr, error) {
	for a := p.prefix.Addr(); p.prefix.Contains(a); a = a.Next() {
		if _, taken := p.taken[a]; !taken && p.Usable(a) {
			return a, nil
		}
	}
	return netip.Addr{}, ErrExhausted
}

// Allocate takes the next free address of the range.
func (p *Pool) Allocate() (netip.Addr, error) {
	if p.used >= p.capacity {
		return netip.Addr{}, ErrExhausted
	}
	a := p.next
	for { // ends, because one is free
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

// Reserve takes this very address, in the range or not.
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

// Release gives an address back; that it is free already is success.
func (p *Pool) Release(a netip.Addr) {
	if _, taken := p.taken[a]; !taken {
		return
	}
	delete(p.taken, a)
	if p.within.Contains(a) {
		p.used--
	}
}

// Resume makes Allocate go on after an address, as it was before a restart.
func (p *Pool) Resume(after netip.Addr) { p.next = after.Next() }

// Free is the number of addresses that Allocate can still hand out; it
// saturates at the largest uint64.
func (p *Pool) Free() uint64 {
	if p.capacity == math.MaxUint64 {
		return p.capacity
	}
	return p.capacity - p.used
}

// Last is the highest address of a prefix.
func Last(p netip.Prefix) netip.Addr { return model.RangeOf(p).Last }
