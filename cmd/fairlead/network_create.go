// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

type networkCreateOptions struct {
	driver   string
	subnets  []string
	gateways []string
	ranges   []string
	aux      []string
	ipv4     bool
	ipv6     bool
	internal bool
	labels   []string
	options  []string
}

func newNetworkCreateCommand(e *env) *cobra.Command {
	var o networkCreateOptions
	cmd := &cobra.Command{
		Use:   "create [flags] NAME",
		Short: "Create a network and print its ID",
		Example: `  fairlead network create web
  fairlead network create --ipv6 --subnet 10.5.0.0/16 --gateway 10.5.0.254 --subnet fd00:5::/64 db
  fairlead network create --ipv4=false --ipv6 six
  fairlead network create -d overlay shop
  fairlead network create -d overlay -o encrypted secret
  fairlead network create --internal -o com.docker.network.driver.mtu=9000 backend`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return runNetworkCreate(cmd.Context(), e, o, args[0]) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.driver, "driver", "d", "bridge", "network driver: bridge, macvlan, ipvlan, or overlay (shared by the hosts of a cluster)")
	f.StringArrayVar(&o.subnets, "subnet", nil, "subnet, ADDRESS/LENGTH; one per address family (default: from the daemon's pools)")
	f.StringArrayVar(&o.gateways, "gateway", nil, "gateway address of a subnet (default: its first)")
	f.StringArrayVar(&o.ranges, "ip-range", nil, "part of a subnet to allocate addresses from, ADDRESS/LENGTH or FIRST-LAST")
	f.StringArrayVar(&o.aux, "aux-address", nil, "address that is never allocated, NAME=ADDRESS")
	f.BoolVar(&o.ipv4, "ipv4", true, "enable IPv4; --ipv4=false --ipv6 means IPv6 only")
	f.BoolVar(&o.ipv6, "ipv6", false, "enable IPv6, with a /64 from the daemon's pools unless --subnet gives one")
	f.BoolVar(&o.internal, "internal", false, "no traffic in or out, except with the host itself")
	f.StringArrayVar(&o.labels, "label", nil, "label, KEY[=VALUE]")
	f.StringArrayVarP(&o.options, "opt", "o", nil, "driver option, KEY=VALUE")
	return cmd
}

func runNetworkCreate(ctx context.Context, e *env, o networkCreateOptions, name string) error {
	ipam, err := ipamConfig(o)
	if err != nil {
		return err
	}
	options, err := keyValues("option", o.options)
	if err != nil {
		return err
	}
	labels, err := keyValues("label", o.labels)
	if err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	n, err := c.CreateNetwork(ctx, api.NetworkCreate{
		Name: name, Driver: o.driver, EnableIPv4: &o.ipv4, EnableIPv6: &o.ipv6, Internal: o.internal,
		IPAM: &api.IPAM{Driver: "default", Config: ipam}, Options: options, Labels: labels,
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, n.ID)
	return nil
}

// keyValues parses KEY=VALUE; KEY alone has an empty value.
func keyValues(what string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, s := range list {
		key, value, _ := strings.Cut(s, "=")
		if key == "" {
			return nil, usagef("%s %q: want KEY=VALUE", what, s)
		}
		m[key] = value
	}
	return m, nil
}

// ipamConfig assigns every gateway, range and auxiliary address to the subnet that
// contains it.
func ipamConfig(o networkCreateOptions) ([]api.IPAMConfig, error) {
	if len(o.subnets) == 0 {
		for _, list := range [][]string{o.gateways, o.ranges, o.aux} {
			if len(list) > 0 {
				return nil, usagef("--gateway, --ip-range and --aux-address need a --subnet that holds them")
			}
		}
		return nil, nil
	}
	var prefixes []netip.Prefix
	configs := make([]api.IPAMConfig, len(o.subnets))
	for i, s := range o.subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, usagef("subnet %q: want ADDRESS/LENGTH, as in 10.1.0.0/16 or fd00:1::/64", s)
		}
		// 0.0.0.0/24 requests any subnet of that size, so it does not overlap anything.
		for _, other := range prefixes {
			if p.Overlaps(other) && !p.Addr().IsUnspecified() && !other.Addr().IsUnspecified() {
				return nil, usagef("subnets %s and %s overlap", other, p)
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
	if err := assignGateways(o.gateways, find); err != nil {
		return nil, err
	}
	if err := assignRanges(o.ranges, find); err != nil {
		return nil, err
	}
	return configs, assignAux(o.aux, find)
}

func assignGateways(list []string, find func(netip.Addr) *api.IPAMConfig) error {
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return usagef("gateway %q is not an IP address", s)
		}
		c := find(a)
		if c == nil {
			return usagef("gateway %s is in no --subnet", a)
		}
		if c.Gateway != "" {
			return usagef("subnet %s has two gateways, %s and %s", c.Subnet, c.Gateway, a)
		}
		c.Gateway = s
	}
	return nil
}

func assignRanges(list []string, find func(netip.Addr) *api.IPAMConfig) error {
	for _, s := range list {
		p, err := model.ParseAddrRange(s)
		if err != nil {
			return usagef("IP range: %v", err)
		}
		c := find(p.First)
		if c == nil {
			return usagef("IP range %s is in no --subnet", p)
		}
		if c.IPRange != "" {
			return usagef("subnet %s has two IP ranges, %s and %s", c.Subnet, c.IPRange, p)
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
			return usagef("auxiliary address %q: want NAME=ADDRESS", s)
		}
		c := find(a)
		if c == nil {
			return usagef("auxiliary address %s is in no --subnet", a)
		}
		if c.AuxiliaryAddresses == nil {
			c.AuxiliaryAddresses = map[string]string{}
		}
		if other, taken := c.AuxiliaryAddresses[name]; taken {
			return usagef("auxiliary address %s is given twice, %s and %s", name, other, a)
		}
		c.AuxiliaryAddresses[name] = text
	}
	return nil
}
