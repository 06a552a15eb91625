// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
)

func newServiceCommand(e *env) *cobra.Command {
	return newGroup("service", "Manage services: a virtual address and a name in front of several sandboxes",
		newServiceCreateCommand(e), newServiceLsCommand(e), newServiceInspectCommand(e), newServiceRmCommand(e),
		newServiceDrainCommand(e), newServiceResumeCommand(e))
}

// completeServices is completeNetworks for services.
func completeServices(e *env, max int) cobra.CompletionFunc {
	return completeNames(e, max, func(c *client.Client, ctx context.Context) ([]api.Service, error) {
		return c.Services(ctx, nil)
	}, func(s api.Service) string { return s.Name })
}

// completeBackends completes a service, then its backends.
func completeBackends(e *env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return completeServices(e, 1)(cmd, args, word)
		}
		return completeSandboxes(e, 2)(cmd, args, word)
	}
}

// serviceRow is a line of "service ls".
type serviceRow struct {
	CreatedAt string
	ID        string
	Name      string
	Network   string
	IPv4      string
	IPv6      string
	Backends  string // active and all
	Ports     string
	Announced string // addresses, each with the host that has it
	Labels    string

	labels map[string]string
}

// Label returns the value of one label, for templates.
func (r serviceRow) Label(key string) string { return r.labels[key] }

func newServiceLsCommand(e *env) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List services",
		Long: `List services. BACKENDS is how many get new flows, and how many there are. Addresses of ports that are
announced (--announce) are shown with the host that has them, * for this one.

Filters: id=PART, label=KEY[=VALUE], name=PART, network=NAME.
Template fields: .ID .Name .Network .IPv4 .IPv6 .Backends .Ports .Announced .Labels .Label "KEY" .CreatedAt`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runServiceLs(cmd.Context(), e, &o) },
	}
	o.register(cmd)
	return cmd
}

func runServiceLs(ctx context.Context, e *env, o *listOptions) error {
	filters, err := o.parseFilters()
	if err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	services, err := c.Services(ctx, filters)
	if err != nil {
		return err
	}
	rows := make([]serviceRow, 0, len(services))
	for _, s := range services {
		active := 0
		for _, b := range s.Backends {
			if b.State == api.BackendActive {
				active++
			}
		}
		rows = append(rows, serviceRow{
			CreatedAt: s.Created.Format(time.RFC3339Nano), ID: o.shortID(s.ID), Name: s.Name, Network: s.Network,
			IPv4: s.IPv4Address, IPv6: s.IPv6Address, Backends: fmt.Sprintf("%d/%d", active, len(s.Backends)),
			Ports: formatPorts(s.Ports), Announced: formatAnnounced(s.Announced), Labels: formatLabels(s.Labels), labels: s.Labels,
		})
	}
	return printList(e.stdout, o, table{
		headers: headers{"ID": "SERVICE ID", "Name": "NAME", "Network": "NETWORK", "IPv4": "IPV4", "IPv6": "IPV6",
			"Backends": "BACKENDS", "Ports": "PORTS", "Announced": "ANNOUNCED", "Labels": "LABELS", "CreatedAt": "CREATED AT"},
		layout: "{{.ID}}\t{{.Name}}\t{{.Network}}\t{{.IPv4}}\t{{.IPv6}}\t{{.Backends}}\t{{.Ports}}\t{{.Announced}}",
		quiet:  "{{.ID}}",
	}, rows)
}

// formatAnnounced shows addresses with the hosts that have them.
func formatAnnounced(list []api.AnnouncedAddress) string {
	var texts []string
	for _, a := range list {
		by := cmp.Or(a.Node, a.MacAddress, "none")
		if a.Here {
			by = a.Node + "*"
		}
		texts = append(texts, a.Address+"@"+by)
	}
	return strings.Join(texts, ", ")
}

func newServiceInspectCommand(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [flags] NAME…",
		Short:             "Show services in full, as a JSON array",
		Args:              minArgs("NAME"),
		ValidArgsFunction: completeServices(e, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), e, format, args, (*client.Client).Service)
		},
	}
	addInspectFormat(cmd, &format)
	return cmd
}

func newServiceRmCommand(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] NAME…",
		Aliases:           []string{"remove"},
		Short:             "Remove services; connections through them end",
		Args:              minArgs("NAME"),
		ValidArgsFunction: completeServices(e, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			return removeEach(e, force, args, func(ref string) error { return c.RemoveService(cmd.Context(), ref) })
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "ignore missing services")
	return cmd
}

func newServiceDrainCommand(e *env) *cobra.Command {
	return newBackendCommand(e, "drain", "Give a backend no new connections; it keeps those that it has", (*client.Client).DrainBackend)
}

func newServiceResumeCommand(e *env) *cobra.Command {
	return newBackendCommand(e, "resume", "Give a drained backend new connections again", (*client.Client).ResumeBackend)
}

func newBackendCommand(e *env, verb, short string, do func(c *client.Client, ctx context.Context, service, sandbox string) error) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " SERVICE SANDBOX",
		Short:             short,
		Args:              exactArgs("SERVICE", "SANDBOX"),
		ValidArgsFunction: completeBackends(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			return do(c, cmd.Context(), args[0], args[1])
		},
	}
}
