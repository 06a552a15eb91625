// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
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
	RoundTrip string
	Loss      string
	LastHeard string
}

func newNodeLsCommand(e *env) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List the hosts of the cluster",
		Long: `List the hosts of the cluster. The one with a * is this host.

Template fields: .ID .Name .Number .Self .Status .Address .Device .MTU .Version .Sandboxes
                 .RoundTrip .Loss .LastHeard

The last three come from probes, which are sent between hosts with sandboxes in a common network.`,
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
		row.probed(n.Paths, time.Now())
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
			"Device": "DEVICE", "MTU": "MTU", "Version": "VERSION", "Sandboxes": "SANDBOXES", "RoundTrip": "ROUND TRIP", "Loss": "LOSS", "LastHeard": "LAST HEARD"},
		layout: "{{.ID}} {{.Self}}\t{{.Name}}\t{{.Status}}\t{{.Address}}\t{{.Device}}\t{{.MTU}}\t{{.RoundTrip}}\t{{.Loss}}\t{{.LastHeard}}\t{{.Sandboxes}}",
		quiet:  "{{.ID}}",
	}, rows)
}

// probed fills in what probes say, the worst of all paths and sizes.
func (r *nodeRow) probed(paths []api.NodePath, now time.Time) {
	r.RoundTrip, r.Loss, r.LastHeard = "-", "-", "-"
	var slowest, loss float64
	var last time.Time
	for _, p := range paths {
		slowest = max(slowest, p.RoundTrip)
		loss = max(loss, share(p.Lost, p.Probes), share(p.LargeLost, p.LargeProbes))
		for _, t := range []time.Time{p.LastAnswer, p.LastHeard} {
			if t.After(last) {
				last = t
			}
		}
		if p.Probes > 0 {
			r.Loss = fmt.Sprintf("%.0f%%", 100*loss)
		}
	}
	if slowest > 0 {
		r.RoundTrip = fmt.Sprintf("%.3gms", 1000*slowest)
	}
	if !last.IsZero() {
		r.LastHeard = age(now, last)
	}
}

func share(part, of int) float64 { return float64(part) / float64(max(of, 1)) }
