// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
)

// slowPool is a reference implementation: a list of the whole range, searched linearly.
type slowPool struct {
	prefix netip.Prefix
	usable []netip.Addr // of the subnet
	choose []netip.Addr // of the range
	taken  map[netip.Addr]bool
	cursor int // index into choose
}

func newSlow(prefix netip.Prefix, within model.AddrRange) *slowPool {
	s := &slowPool{prefix: prefix, taken: map[netip.Addr]bool{}}
	var all []netip.Addr
	for a := prefix.Addr(); prefix.Contains(a); a = a.Next() {
		all = append(all, a)
	}
	s.usable = all
	if len(all) > 2 {
		s.usable = all[1:]
		if prefix.Addr().Is4() {
			s.usable = all[1 : len(all)-1]
		}
	}
	for _, a := range s.usable {
		if within.Contains(a) {
			s.choose = append(s.choose, a)
		}
	}
	return s
}

func (s *slowPool) allocate() (netip.Addr, error) {
	for i := range s.choose {
		j := (s.cursor + i) % len(s.choose)
		if a := s.choose[j]; !s.taken[a] {
			s.taken[a] = true
			s.cursor = (j + 1) % len(s.choose)
			return a, nil
		}
	}
	return netip.Addr{}, ErrExhausted
}

func (s *slowPool) reserve(a netip.Addr) error {
	if !s.prefix.Contains(a) {
		return ErrOutside
	}
	for _, u := range s.usable {
		if u == a {
			if s.taken[a] {
				return ErrTaken
			}
			s.taken[a] = true
			return nil
		}
	}
	return ErrUnusable
}

func (s *slowPool) free() (n uint64) {
	for _, a := range s.choose {
		if !s.taken[a] {
			n++
		}
	}
	return n
}

func TestPoolAgainstModel(t *testing.T) {
	for _, tt := range []struct{ prefix, within string }{
		{"192.0.2.0/31", ""}, {"192.0.2.0/30", ""}, {"192.0.2.0/29", ""}, {"192.0.2.0/26", ""},
		{"192.0.2.0/26", "192.0.2.0/28"}, {"192.0.2.0/26", "192.0.2.48/28"}, {"192.0.2.0/27", "192.0.2.5/32"},
		{"255.255.255.240/28", ""}, {"192.0.2.7/32", ""}, {"192.0.2.0/24", "192.0.2.0/32"},
		{"192.0.2.0/24", "192.0.2.250-192.0.2.255"}, {"192.0.2.0/24", "192.0.2.0-192.0.2.6"}, {"192.0.2.0/24", "192.0.2.3-192.0.2.9"},
		{"2001:db8::/127", ""}, {"2001:db8::/126", ""}, {"2001:db8::/122", "2001:db8::30/124"},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124", ""},
	} {
		t.Run(tt.prefix+","+tt.within, func(t *testing.T) {
			prefix := netip.MustParsePrefix(tt.prefix)
			p, err := NewPool(prefix, addrRange(t, tt.within))
			if err != nil {
				t.Fatal(err)
			}
			within := model.RangeOf(prefix)
			if tt.within != "" {
				within = addrRange(t, tt.within)
			}
			runModel(t, p, newSlow(prefix, within))
		})
	}
}

func runModel(t *testing.T, p *Pool, s *slowPool) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	// Candidates for the other operations: all addresses of the subnet and one outside.
	var cands []netip.Addr
	for a := s.prefix.Addr(); s.prefix.Contains(a); a = a.Next() {
		cands = append(cands, a)
	}
	cands = append(cands, netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:ffff::1"))
	for i := range 4000 {
		a := cands[r.IntN(len(cands))]
		var what string
		var got, want error
		switch op := r.IntN(10); {
		case op < 4:
			what = "allocate"
			var x, y netip.Addr
			x, got = p.Allocate()
			y, want = s.allocate()
			if x != y {
				t.Fatalf("seed %d step %d: allocate = %v, want %v", seed, i, x, y)
			}
		case op < 6:
			what = fmt.Sprint("reserve ", a)
			got, want = p.Reserve(a), s.reserve(a)
		default:
			p.Release(a)
			delete(s.taken, a)
		}
		if !errors.Is(got, want) || (got == nil) != (want == nil) {
			t.Fatalf("seed %d step %d: %s: %v, want %v", seed, i, what, got, want)
		}
		if p.Free() != s.free() {
			t.Fatalf("seed %d step %d: free = %d, want %d", seed, i, p.Free(), s.free())
		}
	}
}

func TestPoolOf64HostBits(t *testing.T) {
	p, err := NewPool(netip.MustParsePrefix("2001:db8::/32"), addrRange(t, "2001:db8:0:1::/64"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		a, err := p.Allocate()
		if want := fmt.Sprintf("2001:db8:0:1::%x", i); err != nil || a != netip.MustParseAddr(want) {
			t.Errorf("allocate = %v, %v, want %s", a, err, want)
		}
	}
	p.Resume(netip.MustParseAddr("2001:db8:0:1:ffff:ffff:ffff:ffff"))
	if a, _ := p.Allocate(); a != netip.MustParseAddr("2001:db8:0:1::3") {
		t.Errorf("allocate after wrap = %v", a)
	}
}

func addrRange(t *testing.T, s string) model.AddrRange {
	t.Helper()
	r, err := model.ParseAddrRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNewPoolRefuses(t *testing.T) {
	for _, tt := range [][2]string{
		{"192.0.2.1/24", "192.0.2.0/28"}, {"192.0.2.0/24", "192.0.1.255-192.0.2.3"}, {"192.0.2.0/24", "192.0.2.9-192.0.3.0"},
		{"192.0.2.0/24", "192.0.0.0/16"}, {"192.0.2.0/24", "198.51.100.0/28"}, {"192.0.2.0/24", "2001:db8::/64"},
	} {
		if _, err := NewPool(netip.MustParsePrefix(tt[0]), addrRange(t, tt[1])); err == nil {
			t.Errorf("NewPool(%v) is accepted", tt)
		}
	}
}

func prefixes(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func TestPick(t *testing.T) {
	ula := DefaultPool{netip.MustParsePrefix("fd00:1:2::/48"), 64}
	pools := append(DefaultPools(), ula)
	for _, tt := range []struct {
		name  string
		of    model.Family
		size  int
		avoid []netip.Prefix
		want  string
	}{
		{"first", model.V4, 0, nil, "172.28.0.0/16"},
		{"default-routes-are-ignored", model.V4, 0, prefixes("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"), "172.28.0.0/16"},
		{"smaller-inside", model.V4, 0, prefixes("172.28.3.0/24"), "172.29.0.0/16"},
		{"docker-comes-last", model.V4, 0, prefixes("172.20.0.0/14", "172.24.0.0/13"), "172.18.0.0/16"},
		{"larger-around", model.V4, 0, prefixes("172.16.0.0/12"), "192.168.0.0/20"},
		{"not-aligned", model.V4, 0, prefixes("172.16.0.0/12", "192.168.0.0/22", "192.168.5.0/24", "192.168.17.0/32"), "192.168.32.0/20"},
		{"sized", model.V4, 24, prefixes("172.28.0.0/24", "172.28.1.128/25"), "172.28.2.0/24"},
		{"sized-larger-than-pool", model.V4, 12, nil, ""},
		{"full", model.V4, 0, prefixes("172.16.0.0/12", "192.168.0.0/16"), ""},
		{"other-family", model.V4, 0, prefixes("::/2", "fd00::/8"), "172.28.0.0/16"},
		{"v6", model.V6, 0, prefixes("fd00:1:2::/64", "fd00:1:2:1::1/128", "172.17.0.0/16"), "fd00:1:2:2::/64"},
		{"v6-sized", model.V6, 56, nil, "fd00:1:2::/56"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Pick(pools, tt.of, tt.size, tt.avoid)
			if tt.want == "" {
				if !errors.Is(err, ErrNoPool) {
					t.Errorf("pick = %v, %v, want %v", got, err, ErrNoPool)
				}
				return
			}
			if err != nil || got != netip.MustParsePrefix(tt.want) {
				t.Errorf("pick = %v, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// TestPickAgainstModel compares with a search that tries every candidate.
func TestPickAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 2))
	pool := []DefaultPool{{netip.MustParsePrefix("10.0.0.0/24"), 28}, {netip.MustParsePrefix("255.255.255.0/24"), 27}}
	slow := func(avoid []netip.Prefix) (netip.Prefix, bool) {
		for _, d := range pool {
			for a := d.Base.Addr(); d.Base.Contains(a); a = Last(netip.PrefixFrom(a, d.Size)).Next() {
				p, hit := netip.PrefixFrom(a, d.Size), false
				for _, v := range avoid {
					hit = hit || v.Overlaps(p)
				}
				if !hit {
					return p, true
				}
			}
		}
		return netip.Prefix{}, false
	}
	for range 3000 {
		var avoid []netip.Prefix
		for range r.IntN(20) {
			base := pool[r.IntN(2)].Base.Addr().As4()
			base[3] = byte(r.IntN(256))
			avoid = append(avoid, netip.PrefixFrom(netip.AddrFrom4(base), 24+r.IntN(9)).Masked())
		}
		got, err := Pick(pool, model.V4, 0, avoid)
		want, ok := slow(avoid)
		if got != want || (err == nil) != ok {
			t.Fatalf("pick avoiding %v = %v, %v, want %v", avoid, got, err, want)
		}
	}
}

func TestPickUsesAllDockerPools(t *testing.T) {
	var used []netip.Prefix
	for {
		p, err := Pick(DefaultPools(), model.V4, 0, used)
		if err != nil {
			break
		}
		used = append(used, p)
	}
	if len(used) != 31 {
		t.Errorf("%d networks fit, want 31", len(used))
	}
}

func TestParseDefaultPool(t *testing.T) {
	for s, ok := range map[string]bool{
		"base=172.16.0.0/12,size=16": true, "size=64,base=fd00::/48": true,
		"base=172.16.0.1/12,size=16": true, "base=172.16.0.0/12,size=8": false, "base=172.16.0.0/12": false,
		"size=16": false, "base=x,size=16": false, "base=10.0.0.0/8,size=33": false, "": false, "base=10.0.0.0/8,size=32": false,
	} {
		if _, err := ParseDefaultPool(s); (err == nil) != ok {
			t.Errorf("ParseDefaultPool(%q): %v", s, err)
		}
	}
	for _, base := range []string{"224.0.0.0/8", "239.1.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/0", "ff05::/16", "fe80::/64", "::/0"} {
		d := DefaultPool{Base: netip.MustParsePrefix(base)}
		if d.Size = d.Base.Bits() + 8; d.Validate() == nil {
			t.Errorf("a pool of %s is accepted", base)
		}
	}
	if u := NewULA(); u.Validate() != nil || !netip.MustParsePrefix("fd00::/8").Overlaps(u.Base) {
		t.Errorf("NewULA = %v", u)
	}
}

// Addresses that no interface may have count as in use, and only the range is free.
func TestNumbers(t *testing.T) {
	for _, tc := range []struct {
		subnet, ipRange, gateway string
		used, free               uint64
	}{
		{"10.0.0.0/24", "", "10.0.0.1", 3, 253},
		{"10.0.0.0/24", "10.0.0.128/25", "10.0.0.1", 3, 127},
		{"10.0.0.0/31", "", "10.0.0.0", 1, 1},
		{"2001:db8::/64", "", "2001:db8::1", 2, 1<<64 - 2},
		{"2001:db8::/56", "2001:db8::/120", "", 1, 255},
	} {
		s := model.Subnet{Prefix: netip.MustParsePrefix(tc.subnet)}
		if tc.gateway != "" {
			s.Gateway = netip.MustParseAddr(tc.gateway)
		}
		if tc.ipRange != "" {
			s.IPRange = model.RangeOf(netip.MustParsePrefix(tc.ipRange))
		}
		pool, err := ForSubnet(s)
		if err != nil {
			t.Fatal(err)
		}
		if used, free := pool.Numbers(); used != tc.used || free != tc.free {
			t.Errorf("%s, range %q: %d in use and %d free, want %d and %d", tc.subnet, tc.ipRange, used, free, tc.used, tc.free)
		}
	}
}
