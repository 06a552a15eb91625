// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newDowngradeCommand(e *env) *cobra.Command {
	var to, bpfDir string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "downgrade --to PATH [flags]",
		Short: "Hand the flows over to an earlier build",
		Long: `Hand the flow tables over to the daemon of an earlier build, PATH, which cannot read the
layout of this build and would break all connections. Start that daemon when this command
says so; the command ends when it has taken over. Ctrl-C before that restores the previous
state. Upgrades do not need this command.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return usagef("--to is missing (the path of the earlier fairlead)")
			}
			if err := e.needsRoot(cmd); err != nil {
				return err
			}
			return runDowngrade(cmd.Context(), e, bpfDir, to, wait)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "path of the fairlead binary that takes over")
	cmd.Flags().StringVar(&bpfDir, "bpf-dir", "/sys/fs/bpf/fairlead", "directory of the pins")
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait for that daemon")
	return cmd
}

func runDowngrade(ctx context.Context, e *env, bpfDir, to string, wait time.Duration) error {
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("waited for %v", wait))
	defer cancel()
	needed := false
	ready := func(converted []string) {
		needed = len(converted) > 0
		if needed {
			fmt.Fprintf(e.stdout, "converted %s; start the daemon of %s now\n", strings.Join(converted, ", "), to)
		}
	}
	if err := e.node.downgrade(ctx, bpfDir, to, ready); err != nil {
		return err
	}
	if !needed {
		fmt.Fprintf(e.stdout, "nothing to convert: %s reads the tables as they are\n", to)
		return nil
	}
	fmt.Fprintf(e.stdout, "%s has taken over\n", to)
	return nil
}
