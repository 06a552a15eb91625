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
		Short: "Demonstrate Fairlead in separate network namespaces",
		Long: `Demonstrate Fairlead with real programs in separate network namespaces: two of
them play hosts, first one alone and then both as a cluster, another one an
external machine. The network of this machine is not changed, and everything is
removed at the end. Requires root, fairlead-store, and the programs that "make
demo" installs: ip, ping, curl, nginx and iperf3.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.needsCapabilities(cmd); err != nil {
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
