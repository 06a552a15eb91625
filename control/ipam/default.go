// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ErrNoPool: the default pools have no subnet left that overlaps nothing.
var ErrNoPool = errors.New("all predefined address pools have been fully subnetted")

// DefaultPool is cut into subnets of Size bits for networks that name none.
type DefaultPool struct {
	Base netip.Prefix
	Size int // prefix length of each subnet; at least Base.Bits()
}

// DefaultPools are the IPv4 pools that Docker has. It begins with 172.17.0.0/16, so these
// begin elsewhere: while an engine does not run nobody sees the subnets that it is going to
// bring back, and at boot it starts last. For IPv6 see [NewULA].
func DefaultPools() []DefaultPool {
	p := netip.MustParsePrefix
	return []DefaultPool{
		{p("172.28.0.0/14"), 16},
		{p("172.24.0.0/14"), 16},
		{p("172.20.0.0/14"), 16},
		{p("172.18.0.0/15"), 16},
		{p("172.17.0.0/16"), 16},
		{p("192.168.0.0/16"), 20},
	}
}

// ParseDefaultPool reads the form base=172.16.0.0/12,size=16.
func ParseDefaultPool(s string) (DefaultPool, error) {
	var d DefaultPool
	for f := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(f, "=")
		var err error
		switch k {
		case "base":
			d.Base, err = netip.ParsePrefix(v)
			d.Base = d.Base.Masked()
		case "size":
			d.Size, err = strconv.Atoi(v)
		default:
			err = fmt.Errorf("unknown field %q", k)
		}
		if err != nil {
			return d, fmt.Errorf("parse address pool %q: %w (want base=172.16.0.0/12,size=16)", s, err)
		}
	}
	if err := d.Validate(); err != nil {
		return d, fmt.Errorf("parse address pool %q: %w", s, err)
	}
	return d, nil
}

// Validate tells what is wrong with the pool.
func (d DefaultPool) Validate() error {
	switch {
	case !d.Base.IsValid():
		return errors.New("base is missing (want base=172.16.0.0/12,size=16)")
	case d.Base != d.Base.Masked():
		return fmt.Errorf("base %v has host bits set (want %v)", d.Base, d.Base.Masked())
	case reserved(d.Base):
		return fmt.Errorf("base %v holds loopback, link-local or multicast addresses, which cannot be a network's (choose another)", d.Base)
	case d.Size < d.Base.Bits():
		return fmt.Errorf("size %d is shorter than base %v", d.Size, d.Base)
	case d.Size >= d.Base.Addr().BitLen():
		return fmt.Errorf("size %d leaves no address to hand out", d.Size)
	}
	return nil
}

// reserved reports whether a prefix overlaps addresses that networks cannot have.
func reserved(p netip.Prefix) bool {
	for _, r := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"} {
		if p.Overlaps(netip.MustParsePrefix(r)) {
			return true
		}
	}
	return false
}

// NewULA makes up a unique local /48 (RFC 4193) to cut IPv6 subnets from.
func NewULA() DefaultPool {
	b := [16]byte{0: 0xfd}
	_, _ = rand.Read(b[1:6]) // never fails (crypto/rand)
	return DefaultPool{Base: netip.PrefixFrom(netip.AddrFrom16(b), 48), Size: 64}
}

// Pick returns the first subnet of a family that overlaps none of avoid. A
// size other than 0 overrides the pools' own.
func Pick(pools []DefaultPool, is4 bool, size int, avoid []netip.Prefix) (netip.Prefix, error) {
	spans := merge(avoid, is4)
	for _, d := range pools {
		if d.Base.Addr().Is4() != is4 {
			continue
		}
		bits := d.Size
		if size != 0 {
			bits = size
		}
		if p, ok := firstFree(d.Base, bits, spans); ok {
			return p, nil
		}
	}
	return netip.Prefix{}, ErrNoPool
}

// span is a closed interval of addresses.
type span struct{ lo, hi netip.Addr }

// merge turns prefixes into sorted disjoint spans. Routes of length 0 and 1
// are ways out (a VPN's pair 0.0.0.0/1, 128.0.0.0/1 too), not places that
// networks could collide with.
func merge(ps []netip.Prefix, is4 bool) []span {
	var all []span
	for _, p := range ps {
		if p.IsValid() && p.Bits() > 1 && p.Addr().Is4() == is4 {
			all = append(all, span{p.Masked().Addr(), Last(p)})
		}
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Or(a.lo.Compare(b.lo), a.hi.Compare(b.hi)) })
	out := all[:0]
	for _, s := range all {
		if n := len(out); n > 0 && s.lo.Compare(out[n-1].hi) <= 0 {
			if s.hi.Compare(out[n-1].hi) > 0 {
				out[n-1].hi = s.hi
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

func firstFree(base netip.Prefix, bits int, spans []span) (netip.Prefix, bool) {
	if bits < base.Bits() || bits > base.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	for a := base.Addr(); base.Contains(a); {
		p := netip.PrefixFrom(a, bits)
		last := Last(p)
		i, _ := slices.BinarySearchFunc(spans, a, func(s span, a netip.Addr) int { return s.hi.Compare(a) })
		if i == len(spans) || spans[i].lo.Compare(last) > 0 {
			return p, true
		}
		// The next candidate begins behind the one that holds the span's end.
		a = Last(netip.PrefixFrom(spans[i].hi, bits)).Next()
	}
	return netip.Prefix{}, false
}
