// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/model"
)

func newIPAMCommand(e *env) *cobra.Command {
	return newGroup("ipam", "Show addresses of networks that hosts share", newIPAMLsCommand(e))
}

// addressRow is a line of "ipam ls".
type addressRow struct {
	Address  string
	Node     string
	Sandbox  string
	Endpoint string
	Since    string
}

func newIPAMLsCommand(e *env) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls [flags] NETWORK",
		Aliases: []string{"list"},
		Short:   "List which node holds which address of a network, and since when",
		Long: `List which node holds which address of a network with driver overlay, and since when.
An address without a sandbox is that of the node itself.

Template fields: .Address .Node .Sandbox .Endpoint .Since`,
		Args:              exactArgs("NETWORK"),
		ValidArgsFunction: completeNetworks(e, 1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runIPAMLs(cmd.Context(), e, &o, args[0]) },
	}
	o.register(cmd)
	cmd.Flags().Lookup("filter").Hidden = true
	cmd.Flags().Lookup("quiet").Usage = "print addresses only"
	return cmd
}

func runIPAMLs(ctx context.Context, e *env, o *listOptions, network string) error {
	if len(o.filters) > 0 {
		return usagef("ipam ls has no filters")
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	list, err := c.Addresses(ctx, network)
	if err != nil {
		return err
	}
	rows := make([]addressRow, 0, len(list))
	for _, h := range list {
		row := addressRow{Address: h.Address, Node: h.Node, Sandbox: cmp.Or(h.Sandbox, "-"), Endpoint: "-", Since: h.Since.Format(time.RFC3339)}
		if h.Endpoint != "" {
			row.Endpoint = model.ShortID(h.Endpoint)
		}
		rows = append(rows, row)
	}
	return printList(e.stdout, o, table{
		headers: headers{"Address": "ADDRESS", "Node": "NODE", "Sandbox": "SANDBOX", "Endpoint": "ENDPOINT", "Since": "SINCE"},
		layout:  "{{.Address}}\t{{.Node}}\t{{.Sandbox}}\t{{.Since}}",
		quiet:   "{{.Address}}",
	}, rows)
}
