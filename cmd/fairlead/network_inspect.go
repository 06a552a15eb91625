// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api/client"
)

func newNetworkInspectCommand(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [flags] NAME…",
		Short:             "Show networks in full, as a JSON array",
		Args:              minArgs("NAME"),
		ValidArgsFunction: completeNetworks(e, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), e, format, args, (*client.Client).Network)
		},
	}
	addInspectFormat(cmd, &format)
	return cmd
}

func addInspectFormat(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "format", "f", "", `"json" (one line) or a Go TEMPLATE over the JSON fields`)
}

// runInspect prints the objects that exist and reports the missing ones, like Docker.
func runInspect[T any](ctx context.Context, e *env, format string, refs []string, get func(*client.Client, context.Context, string) (T, error)) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	found := []T{}
	var errs []error
	for _, ref := range refs {
		v, err := get(c, ctx, ref)
		if errors.Is(err, client.ErrUnreachable) {
			return err
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, v)
	}
	return errors.Join(append(errs, printInspect(e.stdout, format, found))...)
}
