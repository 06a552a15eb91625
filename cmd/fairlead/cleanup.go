// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

func newCleanupCommand(e *env) *cobra.Command {
	var dirs directories
	cmd := &cobra.Command{
		Use:   "cleanup [flags]",
		Short: "Remove every kernel object of a daemon that is gone",
		Long: `Remove every device, namespace, route, program and map of the daemon that lived
in these directories, and nothing else. What it knew of networks and
sandboxes stays in the state directory: the next daemon makes them again, unless
that directory is removed too. Refused while a daemon runs in this network
namespace.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.needsRoot(cmd); err != nil {
				return err
			}
			return e.node.cleanup(cmd.Context(), dirs)
		},
	}
	dirs.register(cmd)
	return cmd
}
