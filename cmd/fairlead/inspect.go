// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api/client"
)

func newInspectCommand(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [flags] SANDBOX…",
		Short:             "Show sandboxes in full, as a JSON array",
		Args:              minArgs("SANDBOX"),
		ValidArgsFunction: completeSandboxes(e, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), e, format, args, (*client.Client).Sandbox)
		},
	}
	addInspectFormat(cmd, &format)
	return cmd
}
