// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

func newClusterCommand(e *env) *cobra.Command {
	return newGroup("cluster", "Join hosts to the embedded store", newClusterTokenCommand(e))
}
