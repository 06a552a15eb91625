// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
)

func newNetworkDisconnectCommand(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "disconnect [flags] NETWORK SANDBOX",
		Short:             "Disconnect a sandbox from a network",
		Args:              exactArgs("NETWORK", "SANDBOX"),
		ValidArgsFunction: completeMembers(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runNetworkDisconnect(cmd.Context(), e, force, args[0], args[1])
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if its network namespace no longer exists")
	return cmd
}

func runNetworkDisconnect(ctx context.Context, e *env, force bool, network, sandbox string) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	return c.Disconnect(ctx, network, api.NetworkDisconnect{Container: sandbox, Force: force})
}
