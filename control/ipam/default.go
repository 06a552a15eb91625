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

	"github.com/fairlead-net/fairlead/control/model"
)

// ErrNoPool means that every subnet of the default pools overlaps another prefix.
var ErrNoPool = errors.New("all predefined address pools have been fully subnetted")

// DefaultPool is divided into subnets of prefix length Size, for networks that are created
// without a subnet.
type DefaultPool struct {
	Base netip.Prefix
	Size int // prefix length of each subnet; at least Base.Bits()
}

// DefaultPools returns Docker's IPv4 pools in another order. Docker allocates from
// 172.17.0.0/16 first, so that comes last here: the subnets of an engine that is not running
// (at boot it starts last) are not visible, but it will use them again. For IPv6 see
// [NewULA].
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

// SharedPools returns the IPv4 pools for networks that hosts share. Docker's swarm allocates from the
// lower half of the same block.
func SharedPools() []DefaultPool {
	return []DefaultPool{{netip.MustParsePrefix("10.128.0.0/9"), 24}}
}

// ParseDefaultPool parses a pool in the form base=172.16.0.0/12,size=16.
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

// Validate returns an error if the pool cannot be used.
func (d DefaultPool) Validate() error {
	switch {
	case !d.Base.IsValid():
		return errors.New("base is missing (want base=172.16.0.0/12,size=16)")
	case d.Base != d.Base.Masked():
		return fmt.Errorf("base %v has host bits set (want %v)", d.Base, d.Base.Masked())
	case reserved(d.Base):
		return fmt.Errorf("base %v contains loopback, link-local or multicast addresses, which cannot be used (choose another)", d.Base)
	case d.Size < d.Base.Bits():
		return fmt.Errorf("size %d is shorter than base %v", d.Size, d.Base)
	case d.Size >= d.Base.Addr().BitLen():
		return fmt.Errorf("size %d leaves no address to allocate", d.Size)
	}
	return nil
}

// reserved reports whether a prefix overlaps addresses that networks cannot use.
func reserved(p netip.Prefix) bool {
	for _, r := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"} {
		if p.Overlaps(netip.MustParsePrefix(r)) {
			return true
		}
	}
	return false
}

// NewULA generates a unique local /48 (RFC 4193) as a pool of IPv6 subnets.
func NewULA() DefaultPool {
	b := [16]byte{0: 0xfd}
	_, _ = rand.Read(b[1:6]) // never fails (crypto/rand)
	return DefaultPool{Base: netip.PrefixFrom(netip.AddrFrom16(b), 48), Size: 64}
}

// Pick returns the first subnet of a family that does not overlap a prefix in avoid. A
// size other than 0 overrides the pools' sizes.
func Pick(pools []DefaultPool, f model.Family, size int, avoid []netip.Prefix) (netip.Prefix, error) {
	spans := merge(avoid, f)
	for _, d := range pools {
		if model.FamilyOf(d.Base.Addr()) != f {
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

// merge converts prefixes to sorted disjoint spans. It ignores prefix lengths 0 and 1:
// these are default routes (a VPN uses the pair 0.0.0.0/1 and 128.0.0.0/1), which networks
// do not conflict with.
func merge(ps []netip.Prefix, f model.Family) []span {
	var all []span
	for _, p := range ps {
		if p.IsValid() && p.Bits() > 1 && model.FamilyOf(p.Addr()) == f {
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
		// The next candidate follows the one that contains the end of the span.
		a = Last(netip.PrefixFrom(spans[i].hi, bits)).Next()
	}
	return netip.Prefix{}, false
}
