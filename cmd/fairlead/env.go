// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/cmd/fairlead/enter"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
)

// Exit statuses. run and exec return the program's own status, or one of 125 to 127.
const (
	exitRefused       = 1
	exitUsage         = 2
	exitFailed        = 125 // run, exec: Fairlead failed, not the program
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the signal's number
)

// env is the environment of a command, which tests replace.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	host           string // --host
	node           nodeCommands
	start          func(cmd *exec.Cmd, at enter.Place) error
	retryFor       time.Duration   // how long to retry reports while the daemon restarts
	uid            int             // effective user ID
	missing        func() []string // the capabilities that root lacks here
	grace          time.Duration   // how long the creation of a sandbox may continue after Ctrl-C
}

// nodeCommands are the commands that work on this host directly, not through the API
// of a daemon.
type nodeCommands struct {
	daemon func(ctx context.Context, o daemonOptions) error
	// refuse reports an invalid command line of the daemon to the clients whose connection
	// made systemd start it.
	refuse  func(ctx context.Context, reason error)
	cleanup func(ctx context.Context, o directories) error
	// downgrade calls ready when the daemon of the binary at path to may start.
	downgrade func(ctx context.Context, o directories, to string, ready func(converted []string)) error
	// doctor writes a report, including the daemon at host, and returns whether Fairlead can
	// work on this host.
	doctor func(ctx context.Context, w io.Writer, host string) (bool, error)
}

func newEnv() *env {
	return &env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv, now: time.Now, node: newNodeCommands(os.Stderr), start: enter.Start, retryFor: 10 * time.Second, grace: 5 * time.Second, uid: os.Geteuid(), missing: missingCapabilities,
	}
}

// daemonHost returns the address of the daemon from --host or FAIRLEAD_HOST.
func (e *env) daemonHost() string {
	return cmp.Or(e.host, e.getenv("FAIRLEAD_HOST"), api.DefaultHost)
}

// client returns a client of that daemon.
func (e *env) client() (*client.Client, error) {
	c, err := client.New(e.daemonHost())
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// exitError carries the exit status of a command. A nil err prints nothing.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError reports an invalid command line.
type usageError struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// execute runs one command line and returns the exit status.
func execute(ctx context.Context, e *env, args []string) int {
	root := newRootCommand(e)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	code := exitRefused
	var exit *exitError
	var usage usageError
	text := err.Error()
	switch {
	case errors.As(err, &exit):
		if exit.err == nil {
			return exit.code
		}
		code = exit.code
	case errors.As(err, &usage):
		code = exitUsage
		text += fmt.Sprintf(" (see \"%s --help\")", cmd.CommandPath())
	}
	if runsProgram(cmd) && (code == exitRefused || code == exitUsage) {
		code = exitFailed
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintf(e.stderr, "fairlead: %s\n", line)
		}
	}
	return code
}

// runsProgram reports whether the command's exit status is that of a program.
func runsProgram(cmd *cobra.Command) bool {
	return cmd.Annotations["status"] == "program"
}

// needsRoot refuses to run a command that works on the kernel without root, before the lack
// of permissions looks like another error.
func (e *env) needsRoot(cmd *cobra.Command) error {
	if e.uid != 0 {
		return fmt.Errorf("%s needs root (run it as root, or with sudo)", cmd.CommandPath())
	}
	return nil
}

// needsCapabilities is needsRoot for a command that does not report by itself what root lacks.
func (e *env) needsCapabilities(cmd *cobra.Command) error {
	if err := e.needsRoot(cmd); err != nil {
		return err
	}
	if missing := e.missing(); len(missing) > 0 {
		return fmt.Errorf("%s needs %s, which root lacks here (give it to the service or container; deploy/fairlead.service lists what the daemon uses)",
			cmd.CommandPath(), strings.Join(missing, " and "))
	}
	return nil
}

// exactArgs requires one argument per name.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usagef("wants %s, got %s", describeArgs(names), countArgs(len(args)))
		}
		return noEmpty(args)
	}
}

// minArgs requires one argument per name, and accepts more of the last one.
func minArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("wants %s…, got %s", describeArgs(names), countArgs(len(args)))
		}
		return noEmpty(args[:len(names)])
	}
}

func noEmpty(args []string) error {
	for _, a := range args {
		if a == "" {
			return usagef("an argument is empty")
		}
	}
	return nil
}

func describeArgs(names []string) string {
	if len(names) == 0 {
		return "no arguments"
	}
	return strings.Join(names, " ")
}

func countArgs(n int) string {
	switch n {
	case 0:
		return "no argument"
	case 1:
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}
