// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Family is an address family.
type Family uint8

// Address families.
const (
	V4 Family = iota
	V6
)

// Families holds every address family.
var Families = [...]Family{V4, V6}

// FamilyOf returns the family of an address. An IPv4 address in the IPv6 form is of V6.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return V4
	}
	return V6
}

// Other returns the other family.
func (f Family) Other() Family { return 1 - f }

// String returns the name of the protocol.
func (f Family) String() string {
	if f == V4 {
		return "IPv4"
	}
	return "IPv6"
}

// choose returns what is of the family.
func choose[T any](f Family, v4, v6 T) T {
	if f == V4 {
		return v4
	}
	return v6
}
