// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/daemon"
)

func newDowngradeCommand(e *env) *cobra.Command {
	var to string
	var dirs directories
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "downgrade --to PATH [flags]",
		Short: "Hand the flows and the state over to an earlier build",
		Long: `Hand the flow tables and the stored state over to the daemon of an earlier build, PATH,
which cannot read the layouts of this build: it would break all connections, or not start. Start
that daemon when this command says so; the command ends when it has taken over. Ctrl-C before that
restores the previous state. Upgrades do not need this command.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return usagef("--to is missing (the path of the earlier fairlead)")
			}
			if err := e.needsCapabilities(cmd); err != nil {
				return err
			}
			return runDowngrade(cmd.Context(), e, dirs, to, wait)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "path of the fairlead binary that takes over")
	cmd.Flags().StringVar(&dirs.bpf, "bpf-dir", "/sys/fs/bpf/fairlead", "directory of the pins")
	cmd.Flags().StringVar(&dirs.state, "state-dir", "/var/lib/fairlead", "directory of the stored state")
	cmd.Flags().StringVar(&dirs.run, "run-dir", "/run/fairlead", "directory of the socket, the namespaces and the logs")
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait for that daemon")
	return cmd
}

func runDowngrade(ctx context.Context, e *env, dirs directories, to string, wait time.Duration) error {
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("waited for %v", wait))
	defer cancel()
	var converted []string
	ready := func(names []string) {
		if converted = names; len(names) > 0 {
			fmt.Fprintf(e.stdout, "converted %s; start the daemon of %s now\n", strings.Join(names, ", "), to)
		}
	}
	if err := e.node.downgrade(ctx, dirs, to, ready); err != nil {
		return err
	}
	switch {
	case len(converted) == 0:
		fmt.Fprintf(e.stdout, "nothing to convert: %s reads the tables and the state as they are\n", to)
	case slices.Equal(converted, []string{daemon.ConvertedState}):
		fmt.Fprintf(e.stdout, "%s can read %s\n", to, daemon.ConvertedState)
	default:
		fmt.Fprintf(e.stdout, "%s has taken over\n", to)
	}
	return nil
}
