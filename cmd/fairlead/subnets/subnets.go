// SPDX-License-Identifier: Apache-2.0

// Package subnets parses the flags of "network create" that specify subnets.
package subnets

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// Flags are the values of --subnet, --gateway, --ip-range and --aux-address.
type Flags struct{ Subnets, Gateways, Ranges, Aux []string }

// Config assigns every gateway, range and auxiliary address to the subnet that contains it.
func Config(f Flags) ([]api.IPAMConfig, error) {
	if len(f.Subnets) == 0 {
		for _, list := range [][]string{f.Gateways, f.Ranges, f.Aux} {
			if len(list) > 0 {
				return nil, fmt.Errorf("--gateway, --ip-range and --aux-address need a --subnet that holds them")
			}
		}
		return nil, nil
	}
	var prefixes []netip.Prefix
	configs := make([]api.IPAMConfig, len(f.Subnets))
	for i, s := range f.Subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("subnet %q: want ADDRESS/LENGTH, as in 10.1.0.0/16 or fd00:1::/64", s)
		}
		// 0.0.0.0/24 requests any subnet of that size, so it does not overlap anything.
		for _, other := range prefixes {
			if p.Overlaps(other) && !p.Addr().IsUnspecified() && !other.Addr().IsUnspecified() {
				return nil, fmt.Errorf("subnets %s and %s overlap", other, p)
			}
		}
		prefixes = append(prefixes, p)
		configs[i].Subnet = s
	}
	find := func(a netip.Addr) *api.IPAMConfig {
		if i := slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) }); i >= 0 {
			return &configs[i]
		}
		return nil
	}
	if err := assignGateways(f.Gateways, find); err != nil {
		return nil, err
	}
	if err := assignRanges(f.Ranges, find); err != nil {
		return nil, err
	}
	return configs, assignAux(f.Aux, find)
}

func assignGateways(list []string, find func(netip.Addr) *api.IPAMConfig) error {
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("gateway %q is not an IP address", s)
		}
		c := find(a)
		if c == nil {
			return fmt.Errorf("gateway %s is in no --subnet", a)
		}
		if c.Gateway != "" {
			return fmt.Errorf("subnet %s has two gateways, %s and %s", c.Subnet, c.Gateway, a)
		}
		c.Gateway = s
	}
	return nil
}

func assignRanges(list []string, find func(netip.Addr) *api.IPAMConfig) error {
	for _, s := range list {
		p, err := model.ParseAddrRange(s)
		if err != nil {
			return fmt.Errorf("IP range: %v", err)
		}
		c := find(p.First)
		if c == nil {
			return fmt.Errorf("IP range %s is in no --subnet", p)
		}
		if c.IPRange != "" {
			return fmt.Errorf("subnet %s has two IP ranges, %s and %s", c.Subnet, c.IPRange, p)
		}
		c.IPRange = s
	}
	return nil
}

func assignAux(list []string, find func(netip.Addr) *api.IPAMConfig) error {
	for _, s := range list {
		name, text, ok := strings.Cut(s, "=")
		a, err := netip.ParseAddr(text)
		if !ok || name == "" || err != nil {
			return fmt.Errorf("auxiliary address %q: want NAME=ADDRESS", s)
		}
		c := find(a)
		if c == nil {
			return fmt.Errorf("auxiliary address %s is in no --subnet", a)
		}
		if c.AuxiliaryAddresses == nil {
			c.AuxiliaryAddresses = map[string]string{}
		}
		if other, taken := c.AuxiliaryAddresses[name]; taken {
			return fmt.Errorf("auxiliary address %s is given twice, %s and %s", name, other, a)
		}
		c.AuxiliaryAddresses[name] = text
	}
	return nil
}
