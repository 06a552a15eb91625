// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

func newPortCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "port SANDBOX [PORT[/PROTO]]",
		Short: "List the published ports of a sandbox",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return noEmpty(args)
			}
			return exactArgs("SANDBOX")(cmd, args)
		},
		ValidArgsFunction: completeSandboxes(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			port := ""
			if len(args) == 2 {
				port = args[1]
			}
			return runPort(cmd.Context(), e, args[0], port)
		},
	}
}

func runPort(ctx context.Context, e *env, ref, port string) error {
	if port != "" {
		p, err := api.ParseExpose(port)
		if err != nil || p.Count != 1 {
			return usagef("port %q: want PORT or PORT/PROTO", port)
		}
		port = fmt.Sprintf("%d/%s", p.Port, p.Proto)
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	sb, err := c.Sandbox(ctx, ref)
	if err != nil {
		return err
	}
	ports := sb.NetworkSettings.Ports
	if port != "" {
		if len(ports[port]) == 0 {
			return fmt.Errorf("sandbox %s publishes no port %s; \"fairlead port %s\" lists those it does", sb.Name, port, sb.Name)
		}
		for _, b := range ports[port] {
			fmt.Fprintln(e.stdout, net.JoinHostPort(b.HostIP, b.HostPort))
		}
		return nil
	}
	for _, key := range slices.SortedFunc(maps.Keys(ports), comparePorts) {
		for _, b := range ports[key] {
			fmt.Fprintf(e.stdout, "%s -> %s%s\n", key, net.JoinHostPort(b.HostIP, b.HostPort), api.FromText(b.From, model.MaxSources))
		}
	}
	return nil
}

// comparePorts orders "80/tcp" by number, then protocol.
func comparePorts(a, b string) int {
	an, ap, _ := strings.Cut(a, "/")
	bn, bp, _ := strings.Cut(b, "/")
	x, _ := strconv.Atoi(an) // the daemon sends numbers
	y, _ := strconv.Atoi(bn)
	return cmp.Or(cmp.Compare(x, y), cmp.Compare(ap, bp))
}
