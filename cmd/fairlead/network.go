// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
)

func newNetworkCommand(e *env) *cobra.Command {
	return newGroup("network", "Manage networks",
		newNetworkCreateCommand(e), newNetworkLsCommand(e), newNetworkInspectCommand(e), newNetworkRmCommand(e),
		newNetworkPruneCommand(e), newNetworkConnectCommand(e), newNetworkDisconnectCommand(e))
}

// completeNames completes the names of the listed objects for the first max arguments; 0 means all.
func completeNames[T any](e *env, max int, list func(*client.Client, context.Context) ([]T, error), name func(T) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		c, err := e.client()
		if err != nil || max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		objects, err := list(c, cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, o := range objects {
			names = append(names, name(o))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNetworks completes the names of networks, as completeNames does.
func completeNetworks(e *env, max int) cobra.CompletionFunc {
	return completeNames(e, max, func(c *client.Client, ctx context.Context) ([]api.Network, error) {
		return c.Networks(ctx, nil)
	}, func(n api.Network) string { return n.Name })
}

// completeSandboxes is completeNetworks for sandboxes.
func completeSandboxes(e *env, max int) cobra.CompletionFunc {
	return completeNames(e, max, func(c *client.Client, ctx context.Context) ([]api.SandboxSummary, error) {
		return c.Sandboxes(ctx, nil)
	}, func(s api.SandboxSummary) string { return s.Name })
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
