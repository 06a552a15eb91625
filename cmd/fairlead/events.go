// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
)

func newEventsCommand(e *env) *cobra.Command {
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "Follow what changes: networks, sandboxes, published ports, repairs",
		Long: `Follow what changes, one line each, until interrupted: create, connect, disconnect and
destroy of networks, create, destroy, publish and unpublish of sandboxes, and repairs of what
other programs changed. It continues when the daemon restarts; what happens meanwhile is not shown.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return usagef("--format %q is not known (want json)", format)
			}
			f, err := parseFilters(filters)
			if err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			return c.Follow(cmd.Context(), f, func(event api.Event) error {
				if format == "json" {
					return json.NewEncoder(e.stdout).Encode(event)
				}
				_, err := fmt.Fprintln(e.stdout, event)
				return err
			})
		},
	}
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "show those that match KEY=VALUE: type, event, network, sandbox (or container); repeatable, one value of each key must match")
	cmd.Flags().StringVar(&format, "format", "", "json: an object per line (default: text)")
	return cmd
}
