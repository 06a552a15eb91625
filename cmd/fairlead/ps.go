// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// sandboxRow is a line of ps. All fields are strings, like Docker's.
type sandboxRow struct {
	Command    string
	CreatedAt  string
	ID         string
	Labels     string
	Names      string
	Networks   string
	Pid        string
	Ports      string
	RunningFor string
	State      string
	Status     string

	labels map[string]string
}

// Label returns the value of one label, for templates.
func (r sandboxRow) Label(key string) string { return r.labels[key] }

func newPsCommand(e *env) *cobra.Command {
	var o listOptions
	var all bool
	cmd := &cobra.Command{
		Use:   "ps [flags]",
		Short: "List sandboxes, newest first",
		Long: `List sandboxes, newest first. Those whose program has ended are shown with -a, or
if a filter selects their status.

Filters: expose=PORT[/PROTO], id=PART, label=KEY[=VALUE], name=PART, network=NETWORK, publish=PORT[/PROTO], status=created|running|exited.
Template fields: .ID .Names .Command .CreatedAt .RunningFor .State .Status .Pid .Ports .Networks .Labels .Label "KEY"`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runPs(cmd.Context(), e, &o, all) },
	}
	o.register(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "include those whose program has ended")
	return cmd
}

func runPs(ctx context.Context, e *env, o *listOptions, all bool) error {
	filters, err := o.parseFilters()
	if err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	if _, asked := filters["status"]; !asked && !all {
		filters["status"] = []string{api.StatusCreated, api.StatusRunning}
	}
	sandboxes, err := c.Sandboxes(ctx, filters)
	if err != nil {
		return err
	}
	rows := make([]sandboxRow, 0, len(sandboxes))
	for _, s := range sandboxes {
		command := strings.Join(s.Command, " ")
		if !o.noTrunc {
			command = truncate(command, 20)
		}
		if command != "" {
			command = fmt.Sprintf("%q", command)
		}
		rows = append(rows, sandboxRow{
			Command: command, CreatedAt: s.Created.Format(time.RFC3339Nano), ID: o.shortID(s.ID), Labels: formatLabels(s.Labels),
			Names: s.Name, Networks: cmp.Or(strings.Join(s.Networks, ","), sharedMode(s.NetworkMode)), Pid: fmt.Sprint(s.State.Pid), Ports: formatPorts(s.Ports),
			RunningFor: age(e.now(), s.Created), State: s.State.Status, Status: formatState(s.State), labels: s.Labels,
		})
	}
	return printList(e.stdout, o, table{
		headers: headers{"ID": "SANDBOX ID", "Names": "NAMES", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
			"State": "STATE", "Status": "STATUS", "Pid": "PID", "Ports": "PORTS", "Networks": "NETWORKS", "Labels": "LABELS"},
		layout: "{{.ID}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Networks}}\t{{.Ports}}\t{{.Names}}",
		quiet:  "{{.ID}}",
	}, rows)
}

func formatState(s api.SandboxState) string {
	switch {
	case s.Status == api.StatusRunning:
		return "Up"
	case s.Status == api.StatusExited && s.ExitCode != nil:
		return fmt.Sprintf("Exited (%d)", *s.ExitCode)
	case s.Status == api.StatusExited:
		return "Exited"
	}
	return "Created"
}

// formatPorts lists ports like Docker: "0.0.0.0:8080-8081->80-81/tcp", and the first clients of those that have not all.
func formatPorts(ports []api.PortSummary) string {
	out := make([]string, 0, len(ports))
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%s->%s/%s%s", net.JoinHostPort(p.IP, portRange(p.PublicPort, p.Count)), portRange(p.PrivatePort, p.Count), p.Type, api.FromText(p.From, 2)))
	}
	return strings.Join(out, ", ")
}

func portRange(first, count uint16) string {
	if count <= 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, first+count-1)
}

// sharedMode returns a network mode without a network of its own, or "".
func sharedMode(mode string) string {
	if mode == model.NetworkHost || mode == model.NetworkNone || model.SharesNetNS(mode) {
		return mode
	}
	return ""
}
