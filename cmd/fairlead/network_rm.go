// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newNetworkRmCommand(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] NAME…",
		Aliases:           []string{"remove"},
		Short:             "Remove networks",
		Args:              minArgs("NAME"),
		ValidArgsFunction: completeNetworks(e, 0),
		RunE:              func(cmd *cobra.Command, args []string) error { return runNetworkRm(cmd.Context(), e, force, args) },
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "ignore missing networks; remove a network of Docker that Docker no longer has")
	return cmd
}

func runNetworkRm(ctx context.Context, e *env, force bool, refs []string) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	remove := c.RemoveNetwork
	if force {
		remove = c.ForceRemoveNetwork
	}
	return removeEach(e, force, refs, func(ref string) error { return remove(ctx, ref) })
}
