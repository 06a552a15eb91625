// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"strconv"

	"github.com/spf13/cobra"
)

// nodeRow is a line of "node ls".
type nodeRow struct {
	ID        string
	Name      string
	Number    string
	Self      string
	Status    string
	Address   string
	Device    string
	MTU       string
	Version   string
	Sandboxes string
}

func newNodeLsCommand(e *env) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List the hosts of the cluster",
		Long: `List the hosts of the cluster. The one with a * is this host.

Template fields: .ID .Name .Number .Self .Status .Address .Device .MTU .Version .Sandboxes`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runNodeLs(cmd.Context(), e, &o) },
	}
	o.register(cmd)
	cmd.Flags().Lookup("filter").Hidden = true
	return cmd
}

func runNodeLs(ctx context.Context, e *env, o *listOptions) error {
	if len(o.filters) > 0 {
		return usagef("node ls has no filters")
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	rows := make([]nodeRow, 0, len(nodes))
	for _, n := range nodes {
		row := nodeRow{
			ID: o.shortID(n.ID), Name: n.Name, Number: strconv.Itoa(int(n.Number)), Status: n.Status, Address: n.Address,
			Device: cmp.Or(n.Device, "-"), MTU: "-", Version: n.Version, Sandboxes: strconv.Itoa(n.Sandboxes),
		}
		if n.MTU > 0 {
			row.MTU = strconv.Itoa(n.MTU)
		}
		if n.Self {
			row.Self = "*"
		}
		rows = append(rows, row)
	}
	return printList(e.stdout, o, table{
		headers: headers{"ID": "NODE ID", "Name": "NAME", "Number": "NUMBER", "Self": "SELF", "Status": "STATUS", "Address": "ADDRESS",
			"Device": "DEVICE", "MTU": "MTU", "Version": "VERSION", "Sandboxes": "SANDBOXES"},
		layout: "{{.ID}} {{.Self}}\t{{.Name}}\t{{.Status}}\t{{.Address}}\t{{.Device}}\t{{.MTU}}\t{{.Sandboxes}}",
		quiet:  "{{.ID}}",
	}, rows)
}
