// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

func newRenameCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "rename SANDBOX NAME",
		Short:             "Give a sandbox another name; links to it follow",
		Args:              exactArgs("SANDBOX", "NAME"),
		ValidArgsFunction: completeSandboxes(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			return c.RenameSandbox(cmd.Context(), args[0], args[1])
		},
	}
}
