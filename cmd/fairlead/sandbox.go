// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/model"
)

func newSandboxCommand(e *env) *cobra.Command {
	return newGroup("sandbox", "Manage sandboxes that run no program of Fairlead's", newSandboxCreateCommand(e))
}

func newSandboxCreateCommand(e *env) *cobra.Command {
	var o sandboxFlags
	var netns string
	cmd := &cobra.Command{
		Use:   "create [flags] NAME",
		Short: "Create a sandbox without a program, or from an existing network namespace",
		Example: `  fairlead sandbox create --network web box && fairlead exec box sh
  ip netns add blue && fairlead sandbox create --netns /run/netns/blue -p 8080:80 blue`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, more, err := o.spec(cmd)
			if err != nil {
				return err
			}
			spec.Name = args[0]
			if netns != "" {
				if spec.NetNS, err = filepath.Abs(netns); err != nil {
					return fmt.Errorf("find namespace %q: %w", netns, err)
				}
			}
			return runSandboxCreate(cmd.Context(), e, spec, more)
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&netns, "netns", "", "path of an existing network namespace (default: a new one)")
	return cmd
}

func runSandboxCreate(ctx context.Context, e *env, spec model.SandboxSpec, more []attachment) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	s := &session{env: e, client: c}
	signals := newRelay()
	defer signals.close(false)
	if err := s.make(ctx, spec, more, signals); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, s.sandbox.ID)
	return nil
}
