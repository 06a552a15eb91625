// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/cmd/fairlead/demo"
)

func newDemoCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show it all, in a small world of its own",
		Long: `Show what Fairlead does, with real programs in a small world of its own: a
network namespace plays the host, another one a machine outside. Nothing of
it reaches this machine's network, and nothing remains. Takes root, and the
programs that "make demo" installs: ip, ping, curl, nginx and iperf3.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.needsRoot(cmd); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			return demo.Run(ctx, demo.Config{Self: self, Out: e.stdout})
		},
	}
}
