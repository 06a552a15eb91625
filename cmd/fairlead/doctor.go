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
		Short: "Say what this kernel offers and what is missing",
		Long: `Say in plain words what this kernel offers, what is missing and what follows,
and how the daemon is. Succeeds if Fairlead can work here.`,
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
