// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/cmd/fairlead/subnets"
	"github.com/fairlead-net/fairlead/control/api"
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

	ipamDriver  string
	ipamOptions []string
	attachable  bool
	configOnly  bool
	configFrom  string
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
	f.StringVarP(&o.driver, "driver", "d", "bridge", "network driver: bridge, macvlan, ipvlan, lan (members on the link of a device, carried by the datapath), or overlay (shared by the hosts of a cluster)")
	f.StringArrayVar(&o.subnets, "subnet", nil, "subnet, ADDRESS/LENGTH; one per address family, of macvlan and ipvlan networks several (default: from the daemon's pools)")
	f.StringArrayVar(&o.gateways, "gateway", nil, "gateway address of a subnet (default: its first)")
	f.StringArrayVar(&o.ranges, "ip-range", nil, "part of a subnet to allocate addresses from, ADDRESS/LENGTH or FIRST-LAST")
	f.StringArrayVar(&o.aux, "aux-address", nil, "address that is never allocated, NAME=ADDRESS")
	f.BoolVar(&o.ipv4, "ipv4", true, "enable IPv4; --ipv4=false --ipv6 means IPv6 only")
	f.BoolVar(&o.ipv6, "ipv6", false, "enable IPv6, with a /64 from the daemon's pools unless --subnet gives one")
	f.BoolVar(&o.internal, "internal", false, "no traffic in or out, except with the host itself")
	f.StringArrayVar(&o.labels, "label", nil, "label, KEY[=VALUE]")
	f.StringArrayVarP(&o.options, "opt", "o", nil, "driver option, KEY=VALUE")
	f.StringVar(&o.ipamDriver, "ipam-driver", "default", "what allocates addresses: default; for macvlan and ipvlan also null (nothing) and dhcp (a DHCP server on the link of the parent)")
	f.StringArrayVar(&o.ipamOptions, "ipam-opt", nil, "option of the IPAM driver, KEY=VALUE; the drivers above have none")
	f.BoolVar(&o.attachable, "attachable", false, "as in Docker; without effect, since any sandbox may join")
	f.BoolVar(&o.configOnly, "config-only", false, "create only a configuration, for networks with --config-from")
	f.StringVar(&o.configFrom, "config-from", "", "network whose configuration to copy: subnets, options, labels")
	return cmd
}

func runNetworkCreate(ctx context.Context, e *env, o networkCreateOptions, name string) error {
	ipam, err := subnets.Config(subnets.Flags{Subnets: o.subnets, Gateways: o.gateways, Ranges: o.ranges, Aux: o.aux})
	if err != nil {
		return usageError{err}
	}
	options, err := keyValues("option", o.options)
	if err != nil {
		return err
	}
	labels, err := keyValues("label", o.labels)
	if err != nil {
		return err
	}
	ipamOptions, err := keyValues("IPAM option", o.ipamOptions)
	if err != nil {
		return err
	}
	var from *api.ConfigReference
	if o.configFrom != "" {
		from = &api.ConfigReference{Network: o.configFrom}
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	n, err := c.CreateNetwork(ctx, api.NetworkCreate{
		Name: name, Driver: o.driver, EnableIPv4: &o.ipv4, EnableIPv6: &o.ipv6, Internal: o.internal,
		Attachable: o.attachable, ConfigOnly: o.configOnly, ConfigFrom: from,
		IPAM: &api.IPAM{Driver: o.ipamDriver, Options: ipamOptions, Config: ipam}, Options: options, Labels: labels,
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
