// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"strings"
)

// AddrRange is a range of addresses of one family, including First and Last. The zero
// value means no range.
type AddrRange struct{ First, Last netip.Addr }

// RangeOf returns the range of all addresses of a prefix.
func RangeOf(p netip.Prefix) AddrRange {
	if !p.IsValid() {
		return AddrRange{}
	}
	p = p.Masked()
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return AddrRange{p.Addr(), last}
}

// ParseAddrRange parses a prefix without host bits, or FIRST-LAST. "" means no range.
func ParseAddrRange(s string) (AddrRange, error) {
	if s == "" {
		return AddrRange{}, nil
	}
	first, last, dash := strings.Cut(s, "-")
	if !dash {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return AddrRange{}, fmt.Errorf("%q is not an address range (want ADDRESS/LENGTH or FIRST-LAST)", s)
		}
		if p != p.Masked() {
			return AddrRange{}, fmt.Errorf("range %s should be %s", s, p.Masked())
		}
		return RangeOf(p), nil
	}
	from, err := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)
	r := AddrRange{from.Unmap(), to.Unmap()}
	switch {
	case err != nil || err2 != nil || from.Zone()+to.Zone() != "" || r.First.Is4() != r.Last.Is4():
		return AddrRange{}, fmt.Errorf("%q is not an address range (want ADDRESS/LENGTH or FIRST-LAST)", s)
	case r.Last.Less(r.First):
		return AddrRange{}, fmt.Errorf("range %s ends before it begins (swap the two addresses)", s)
	}
	return r, nil
}

// IsValid reports whether the range is set.
func (r AddrRange) IsValid() bool { return r.First.IsValid() }

// Contains reports whether an address is in the range.
func (r AddrRange) Contains(a netip.Addr) bool {
	return r.IsValid() && a.Is4() == r.First.Is4() && !a.Less(r.First) && !r.Last.Less(a)
}

// String returns the prefix with exactly these addresses, if there is one, otherwise
// FIRST-LAST. It returns "" if there is no range.
func (r AddrRange) String() string {
	if !r.IsValid() {
		return ""
	}
	for bits := range r.First.BitLen() + 1 {
		if p := netip.PrefixFrom(r.First, bits); RangeOf(p) == r {
			return p.String()
		}
	}
	return r.First.String() + "-" + r.Last.String()
}

// MarshalText implements [encoding.TextMarshaler].
func (r AddrRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *AddrRange) UnmarshalText(b []byte) (err error) {
	*r, err = ParseAddrRange(string(b))
	return err
}
