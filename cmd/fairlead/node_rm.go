// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newNodeRmCommand(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [flags] NODE…",
		Aliases: []string{"remove"},
		Short:   "Remove hosts that do not come back from the cluster",
		Long: `Remove hosts that do not come back from the cluster, and release the addresses of
their sandboxes. A host that is away keeps everything until then: its sandboxes are
reached again as soon as it is back.`,
		Args:              minArgs("NODE"),
		ValidArgsFunction: completeNodes(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			return removeEach(e, force, args, func(ref string) error { return c.RemoveNode(cmd.Context(), ref, force) })
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also remove a host that is alive; ignore missing ones")
	return cmd
}
