// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

func newCleanupCommand(e *env) *cobra.Command {
	var dirs directories
	cmd := &cobra.Command{
		Use:   "cleanup [flags]",
		Short: "Remove all kernel objects of a daemon that has exited",
		Long: `Remove every device, namespace, route, program and map of the daemon that used
these directories, and nothing else. Networks and sandboxes stay in the state
directory, and the next daemon recreates them unless that directory is removed,
too. Refused while a daemon runs in this network namespace.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.needsCapabilities(cmd); err != nil {
				return err
			}
			return e.node.cleanup(cmd.Context(), dirs)
		},
	}
	dirs.register(cmd)
	return cmd
}
