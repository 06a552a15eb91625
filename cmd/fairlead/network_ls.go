// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// networkRow is a line of "network ls". All fields are strings, like Docker's.
type networkRow struct {
	CreatedAt string
	Driver    string
	ID        string
	IPv4      string
	IPv6      string
	Internal  string
	Labels    string
	Name      string
	Scope     string

	labels map[string]string
}

// Label returns the value of one label, for templates.
func (r networkRow) Label(key string) string { return r.labels[key] }

func newNetworkLsCommand(e *env) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List networks",
		Long: `List networks.

Filters: dangling=true|false, driver=NAME, id=PART, label=KEY[=VALUE], name=PART, scope=SCOPE, type=builtin|custom.
Template fields: .ID .Name .Driver .Scope .IPv4 .IPv6 .Internal .Labels .Label "KEY" .CreatedAt`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runNetworkLs(cmd.Context(), e, &o) },
	}
	o.register(cmd)
	return cmd
}

func runNetworkLs(ctx context.Context, e *env, o *listOptions) error {
	filters, err := o.parseFilters()
	if err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	networks, err := c.Networks(ctx, filters)
	if err != nil {
		return err
	}
	rows := make([]networkRow, 0, len(networks))
	for _, n := range networks {
		rows = append(rows, networkRow{
			CreatedAt: n.Created.Format(time.RFC3339Nano), Driver: n.Driver, ID: o.shortID(n.ID),
			IPv4: strconv.FormatBool(n.EnableIPv4), IPv6: strconv.FormatBool(n.EnableIPv6),
			Internal: strconv.FormatBool(n.Internal), Labels: formatLabels(n.Labels), Name: n.Name, Scope: n.Scope,
			labels: n.Labels,
		})
	}
	return printList(e.stdout, o, table{
		headers: headers{"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4",
			"IPv6": "IPV6", "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT"},
		layout: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
		quiet:  "{{.ID}}",
	}, rows)
}
