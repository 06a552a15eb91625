// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api/client"
)

func newNodeInspectCommand(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [flags] NODE…",
		Short:             "Show hosts of the cluster in full, as a JSON array",
		Args:              minArgs("NODE"),
		ValidArgsFunction: completeNodes(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), e, format, args, (*client.Client).Node)
		},
	}
	addInspectFormat(cmd, &format)
	return cmd
}
