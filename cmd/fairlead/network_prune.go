// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newNetworkPruneCommand(e *env) *cobra.Command {
	var filters []string
	var force bool
	cmd := &cobra.Command{
		Use:               "prune [flags]",
		Short:             "Remove all unused networks",
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runNetworkPrune(cmd.Context(), e, force, filters) },
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not prompt for confirmation")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "until=TIME|DURATION, label=KEY[=VALUE], label!=KEY[=VALUE]")
	return cmd
}

func runNetworkPrune(ctx context.Context, e *env, force bool, list []string) error {
	filters, err := parseFilters(list)
	if err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	if !force {
		fmt.Fprint(e.stdout, "WARNING! This will remove all custom networks not used by at least one sandbox.\nAre you sure you want to continue? [y/N] ")
		answer, _ := bufio.NewReader(e.stdin).ReadString('\n') // no answer means no
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			return fmt.Errorf("nothing was removed: not confirmed (use --force where nobody can answer)")
		}
	}
	names, err := c.PruneNetworks(ctx, filters)
	if err != nil || len(names) == 0 {
		return err
	}
	fmt.Fprintf(e.stdout, "Deleted Networks:\n%s\n\n", strings.Join(names, "\n"))
	return nil
}
