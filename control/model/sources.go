// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// MaxSources is how many prefixes of clients one published port may have.
const MaxSources = 64

// Sources are the prefixes of the clients that reach a published port, in order and separated by commas; "": all clients do.
// It is text because a PortBinding is compared and used as a key.
type Sources string

// ParseSources checks prefixes of clients. An address stands for itself alone.
func ParseSources(texts []string) (Sources, error) {
	if len(texts) > MaxSources {
		return "", fmt.Errorf("%d prefixes of clients: a port may have %d (join prefixes, or limit the port where the clients are)", len(texts), MaxSources)
	}
	var list []netip.Prefix
	for _, text := range texts {
		p, err := parseSource(text)
		if err != nil {
			return "", err
		}
		if slices.Contains(list, p) {
			return "", fmt.Errorf("from=%s is given twice", p)
		}
		list = append(list, p)
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return Sources(strings.Join(out, ",")), nil
}

func parseSource(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return p, fmt.Errorf("from=%s is not a prefix of addresses (give one as in from=192.0.2.0/24 or from=2001:db8::/32)", text)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case p.Addr().Is4In6():
		return p, fmt.Errorf("from=%s is IPv4 in the form of IPv6 (give it in the form of IPv4)", text)
	case p != p.Masked():
		return p, fmt.Errorf("from=%s has bits set beyond its length (give from=%s, or from=%s for the address alone)", text, p.Masked(), p.Addr())
	}
	return p, nil
}

// Texts returns the prefixes as text, or nil for all clients.
func (s Sources) Texts() []string {
	if s == "" {
		return nil
	}
	return strings.Split(string(s), ",")
}

// Prefixes returns the prefixes, or nil for all clients.
func (s Sources) Prefixes() (list []netip.Prefix) {
	for _, text := range s.Texts() {
		if p, err := netip.ParsePrefix(text); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// Misses returns a prefix of a family of which a port does not have clients, and whether there is one.
func (s Sources) Misses(clients func(Family) bool) (netip.Prefix, bool) {
	list := s.Prefixes()
	if i := slices.IndexFunc(list, func(p netip.Prefix) bool { return !clients(FamilyOf(p.Addr())) }); i >= 0 {
		return list[i], true
	}
	return netip.Prefix{}, false
}
