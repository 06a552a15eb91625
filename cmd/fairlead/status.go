// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
)

func newStatusCommand(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "status [flags]",
		Short:             "Show the status of the daemon; exits 0 once it is ready",
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), e, format) },
	}
	cmd.Flags().StringVar(&format, "format", "table", `"table", "json" or a Go TEMPLATE`)
	return cmd
}

func runStatus(ctx context.Context, e *env, format string) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	switch format {
	case "table":
		return printStatus(e.stdout, c.Socket(), st, e.now())
	case "json":
		return json.NewEncoder(e.stdout).Encode(st)
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	return executeLine(e.stdout, t, st)
}

// printCluster prints the host's part in a cluster.
func printCluster(row func(name, format string, args ...any), c *api.ClusterStatus, now time.Time) {
	if c == nil {
		return
	}
	health := "reachable"
	if !c.Reachable {
		health = fmt.Sprintf("does not answer since %s: %s", age(now, c.Since), c.Error)
	}
	row("Cluster store", "%s, %s", c.Store, health)
	row("Node", "%s, number %d", c.Node, c.Number)
	row("Other nodes", "%d, of which %d are down, with %d sandboxes in networks of this host", c.Nodes, c.NodesDown, c.Members)
	if c.Waiting > 0 {
		row("Not published", "sandboxes of %d networks", c.Waiting)
	}
	if c.EncryptionError != "" {
		row("Encryption", "%s", c.EncryptionError)
	}
}

func printStatus(w io.Writer, socket string, st api.Status, now time.Time) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(tab, name+":\t"+format+"\n", args...) }
	row("Daemon", "%s, process %d, started %s", st.Version, st.Pid, age(now, st.Started))
	row("Socket", "%s", socket)
	row("Directories", "%s %s %s", st.StateDir, st.RunDir, st.BPFDir)
	row("Attached with", "%s", st.Attach)
	uplinks := strings.Join(st.Uplinks, " ")
	if uplinks == "" {
		uplinks = "none"
	}
	row("Uplinks", "%s", uplinks)
	for _, trouble := range st.Troubles {
		row("Uplink problem", "%s", trouble)
	}
	for _, problem := range st.Leases {
		row("DHCP", "%s", problem)
	}
	for _, problem := range st.Gateways {
		row("Gateway", "%s", problem)
	}
	row("Networks", "%d", st.Networks)
	row("Sandboxes", "%d with %d endpoints", st.Sandboxes, st.Endpoints)
	row("Published ports", "%d", st.Publishes)
	row("Flows", "%d of %d", st.Flows, st.FlowsMax)
	var repairs []string
	for _, kind := range sortedKeys(st.Repairs) {
		if n := st.Repairs[kind]; n > 0 {
			repairs = append(repairs, fmt.Sprintf("%s %d", kind, n))
		}
	}
	if len(repairs) == 0 {
		repairs = []string{"none"}
	}
	row("Repairs", "%s", strings.Join(repairs, ", "))
	printCluster(row, st.Cluster, now)
	if st.LastError != "" {
		row("Last error", "%s", st.LastError)
	}
	return tab.Flush()
}
