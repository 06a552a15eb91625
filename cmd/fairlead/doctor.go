// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func newDoctorCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Check the kernel for the features Fairlead needs",
		Long: `Report which features this kernel has, which are missing and what follows from
that, and the status of the daemon. Succeeds if Fairlead can work on this host.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.needsRoot(cmd); err != nil {
				return err
			}
			return runDoctor(cmd.Context(), e)
		},
	}
}

func runDoctor(ctx context.Context, e *env) error {
	ok, err := e.node.doctor(ctx, e.stdout, e.daemonHost())
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("this host lacks something Fairlead needs; see the report")
	}
	return nil
}
