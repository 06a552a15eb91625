// SPDX-License-Identifier: Apache-2.0

// Package hostports indexes which host ports are claimed.
package hostports

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
)

// Index maps a host port to the publishes and services that occupy it. The cost of a lookup depends on
// the claims of that port only, not on the number of published ports.
type Index map[key][]claim

type key struct {
	proto model.Proto
	port  uint16
}

type claim struct {
	addr netip.Addr // zero: all addresses
	id   uint32     // of the publish, or the number of the service
}

// overlap reports whether two host addresses cannot share a port. The zero
// address stands for all addresses, 0.0.0.0 and :: for all of their family.
func overlap(a, b netip.Addr) bool {
	switch {
	case !a.IsValid() || !b.IsValid():
		return true
	case a.Is4() != b.Is4():
		return false
	}
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// Conflict finds the first port of a binding that another publish occupies.
func (x Index) Conflict(b model.PortBinding) (port uint16, id uint32, found bool) {
	for i := range b.Count {
		port := b.HostPort + i
		for _, c := range x[key{b.Proto, port}] {
			if overlap(c.addr, b.HostIP) {
				return port, c.id, true
			}
		}
	}
	return 0, 0, false
}

// Claim records that a publish, by its ID, occupies the ports of a binding.
func (x Index) Claim(id uint32, b model.PortBinding) {
	for i := range b.Count {
		k := key{b.Proto, b.HostPort + i}
		x[k] = append(x[k], claim{b.HostIP, id})
	}
}

// Release removes what a publish claimed, and returns at which address that was.
func (x Index) Release(id uint32, b model.PortBinding) (at netip.Addr, claimed bool) {
	at, claimed = x.Claimed(id, b)
	for i := range b.Count {
		k := key{b.Proto, b.HostPort + i}
		rest := slices.DeleteFunc(x[k], func(c claim) bool { return c.id == id })
		if len(rest) == 0 {
			delete(x, k)
		} else {
			x[k] = rest
		}
	}
	return at, claimed
}

// Claimed returns the address at which a publish has claimed its ports, and whether it has.
func (x Index) Claimed(id uint32, b model.PortBinding) (at netip.Addr, ok bool) {
	all := x[key{b.Proto, b.HostPort}]
	if i := slices.IndexFunc(all, func(c claim) bool { return c.id == id }); i >= 0 {
		return all[i].addr, true
	}
	return at, false
}

// Count returns how often each claim is there.
func (x Index) Count() map[string]int {
	m := map[string]int{}
	for k, claims := range x {
		for _, c := range claims {
			m[fmt.Sprint(k, c)]++
		}
	}
	return m
}
