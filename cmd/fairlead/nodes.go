// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
)

func newNodeCommand(e *env) *cobra.Command {
	return newGroup("node", "Manage the hosts of the cluster", newNodeLsCommand(e), newNodeInspectCommand(e), newNodeRmCommand(e))
}

// completeNodes is completeNetworks for nodes.
func completeNodes(e *env) cobra.CompletionFunc {
	return completeNames(e, 0, (*client.Client).Nodes, func(n api.Node) string { return n.Name })
}
