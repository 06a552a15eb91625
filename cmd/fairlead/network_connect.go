// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
)

type networkConnectOptions struct {
	ip, ip6 string
	aliases []string
	links   []string
	gwPrio  int
	limits  limitFlags
	opts    []string
}

func newNetworkConnectCommand(e *env) *cobra.Command {
	var o networkConnectOptions
	cmd := &cobra.Command{
		Use:               "connect [flags] NETWORK SANDBOX",
		Short:             "Connect a sandbox to a network",
		Args:              exactArgs("NETWORK", "SANDBOX"),
		ValidArgsFunction: completeMembers(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runNetworkConnect(cmd.Context(), e, o, args[0], args[1])
		},
	}
	cmd.Flags().StringVar(&o.ip, "ip", "", "IPv4 address (default: a free one)")
	cmd.Flags().StringVar(&o.ip6, "ip6", "", "IPv6 address (default: a free one)")
	cmd.Flags().StringArrayVar(&o.aliases, "alias", nil, "name in the network beside the sandbox's own; also that of a service, or *.NAME for all names below; repeatable")
	cmd.Flags().StringArrayVar(&o.links, "link", nil, "another sandbox in the network, under an alias that only this one knows: NAME[:ALIAS]; repeatable")
	cmd.Flags().IntVar(&o.gwPrio, "gw-priority", 0, "the network with the highest has the sandbox's default route and published ports, if it has a gateway (default: by name)")
	o.limits.register(cmd.Flags(), "default: that of the network")
	cmd.Flags().StringArrayVar(&o.opts, "driver-opt", nil, api.OptIfName+"=NAME, the name of the interface (default: the first free of eth0, eth1, …), or "+
		api.OptSysctls+"=net.X.Y.IFNAME.Z=VALUE[,…], its settings")
	return cmd
}

func runNetworkConnect(ctx context.Context, e *env, o networkConnectOptions, network, sandbox string) error {
	ep := attachment{network: network, aliases: o.aliases, links: o.links, gwPrio: o.gwPrio}
	if err := ep.setIP(o.ip, o.ip6); err != nil {
		return err
	}
	var err error
	if ep.limits, err = o.limits.ofNew(); err != nil {
		return err
	}
	for _, opt := range o.opts {
		if err := ep.setOpt(opt); err != nil {
			return err
		}
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	warnings, err := c.Connect(ctx, network, api.NetworkConnect{Container: sandbox, EndpointConfig: ep.config()})
	e.warn(warnings)
	return err
}
