// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/model"
)

func newPublishCommand(e *env) *cobra.Command {
	return newGroup("publish", "Change the published ports of a sandbox",
		newPublishChangeCommand(e, "add", "Publish further ports of a sandbox, all or none", (*client.Client).PublishPorts,
			`  fairlead publish add web -p 8443:443 -p 8443:443/udp
  fairlead publish add db -p 5432:5432,from=192.0.2.0/24,from=2001:db8::/32`),
		newPublishChangeCommand(e, "rm", "Stop publishing ports of a sandbox; connections by other ports continue", (*client.Client).UnpublishPorts,
			`  fairlead publish rm web -p 8443:443
  fairlead publish rm web -p 443    (at whatever host port)`))
}

func newPublishChangeCommand(e *env, verb, short string, change func(c *client.Client, ctx context.Context, ref string, p api.PublishedPorts) error, example string) *cobra.Command {
	var ports []string
	cmd := &cobra.Command{
		Use:               verb + " SANDBOX -p PORT…",
		Short:             short,
		Example:           example,
		Args:              exactArgs("SANDBOX"),
		ValidArgsFunction: completeSandboxes(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(ports) == 0 {
				return usagef("no port is given (give --publish)")
			}
			var specs []model.PortSpec
			for _, text := range ports {
				p, err := api.ParsePublish(text)
				if err != nil {
					return usageError{err}
				}
				specs = append(specs, p)
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			return change(c, cmd.Context(), args[0], api.PublishedPorts{PortBindings: api.NewPortBindings(specs)})
		},
	}
	cmd.Flags().StringArrayVarP(&ports, "publish", "p", nil, "a port: [IP:][HOST[-HOST]:]PORT[-PORT][/tcp|udp][,from=PREFIX…], the clients that reach it; repeatable")
	return cmd
}
