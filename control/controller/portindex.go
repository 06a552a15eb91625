// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
)

// portIndex maps a host port to the publishes that occupy it. The cost of a lookup depends on
// the claims of that port only, not on the number of published ports.
type portIndex map[portKey][]claim

type portKey struct {
	proto model.Proto
	port  uint16
}

type claim struct {
	addr netip.Addr // zero: all addresses
	id   uint32     // of the publish
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

// conflict finds the first port of a binding that another publish occupies.
func (x portIndex) conflict(b model.PortBinding) (port uint16, id uint32, found bool) {
	for i := range b.Count {
		port := b.HostPort + i
		for _, c := range x[portKey{b.Proto, port}] {
			if overlap(c.addr, b.HostIP) {
				return port, c.id, true
			}
		}
	}
	return 0, 0, false
}

func (x portIndex) claim(id uint32, b model.PortBinding) {
	for i := range b.Count {
		k := portKey{b.Proto, b.HostPort + i}
		x[k] = append(x[k], claim{b.HostIP, id})
	}
}

func (x portIndex) release(id uint32, b model.PortBinding) {
	for i := range b.Count {
		k := portKey{b.Proto, b.HostPort + i}
		rest := slices.DeleteFunc(x[k], func(c claim) bool { return c.id == id })
		if len(rest) == 0 {
			delete(x, k)
		} else {
			x[k] = rest
		}
	}
}
