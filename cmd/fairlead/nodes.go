// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

func newNodeCommand(e *env) *cobra.Command {
	return newGroup("node", "Manage the hosts of the cluster", newNodeLsCommand(e), newNodeInspectCommand(e), newNodeRmCommand(e))
}

// completeNodes completes the names of nodes.
func completeNodes(e *env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		c, err := e.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := c.Nodes(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, n := range list {
			names = append(names, n.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
