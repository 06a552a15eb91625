// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"
)

func newNetworkCommand(e *env) *cobra.Command {
	return newGroup("network", "Manage networks",
		newNetworkCreateCommand(e), newNetworkLsCommand(e), newNetworkInspectCommand(e), newNetworkRmCommand(e),
		newNetworkPruneCommand(e), newNetworkConnectCommand(e), newNetworkDisconnectCommand(e))
}

// completeNetworks completes the names of networks for the first max arguments; 0
// means all.
func completeNetworks(e *env, max int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		c, err := e.client()
		if err != nil || max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := c.Networks(cmd.Context(), nil)
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

// completeSandboxes is completeNetworks for sandboxes.
func completeSandboxes(e *env, max int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		c, err := e.client()
		if err != nil || max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := c.Sandboxes(cmd.Context(), nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, s := range list {
			names = append(names, s.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeMembers completes a network, then a sandbox.
func completeMembers(e *env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return completeNetworks(e, 1)(cmd, args, word)
		}
		return completeSandboxes(e, 2)(cmd, args, word)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
