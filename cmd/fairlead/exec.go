// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/cmd/fairlead/enter"
)

func newExecCommand(e *env) *cobra.Command {
	var o programFlags
	cmd := &cobra.Command{
		Use:               "exec [flags] SANDBOX COMMAND [ARG…]",
		Short:             "Run another program in a sandbox",
		Long:              "Run another program in a sandbox. Signals and exit status are handled as by run.",
		Args:              minArgs("SANDBOX", "COMMAND"),
		Annotations:       map[string]string{"status": "program"},
		ValidArgsFunction: completeSandboxes(e, 1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runExec(cmd.Context(), e, &o, args[0], args[1:]) },
	}
	cmd.Flags().SetInterspersed(false)
	o.register(cmd)
	return cmd
}

func runExec(ctx context.Context, e *env, o *programFlags, ref string, command []string) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	sb, err := c.Sandbox(ctx, ref)
	if err != nil {
		return err
	}
	daemon, err := c.Status(ctx)
	if err != nil {
		return err
	}
	at, err := enter.At(ctx, c, sb, daemon.Pid)
	if err != nil {
		return err
	}
	cmd, err := o.command(e, command)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
	signals := newRelay()
	if err := e.start(cmd, at); err != nil {
		signals.close(false)
		return startError(cmd.Path, err)
	}
	signals.forward(cmd.Process)
	code, err := status(cmd.Wait())
	signals.close(true)
	if err != nil {
		return &exitError{exitFailed, err}
	}
	return programExit(code)
}
