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

	"github.com/fairlead-net/fairlead/control/api"
)

// Exit statuses. run and exec return the program's own, or one of the last
// three.
const (
	exitRefused       = 1
	exitUsage         = 2
	exitFailed        = 125 // run, exec: Fairlead failed, not the program
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the signal's number
)

// env is the world a command runs in, so that tests can give it another one.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	host           string // --host
	node           nodeCommands
	start          func(cmd *exec.Cmd, at place) error
	retryFor       time.Duration // how long reports to a restarting daemon are repeated
	uid            int           // of the user, as far as the kernel is concerned
	grace          time.Duration // how long the daemon may go on to make a sandbox after Ctrl-C
}

// nodeCommands are the verbs that work on this node itself, not through a
// daemon's API.
type nodeCommands struct {
	daemon func(ctx context.Context, o daemonOptions) error
	// refuse is for a daemon whose command line makes no sense: it tells those that made
	// systemd start it.
	refuse  func(ctx context.Context, reason error)
	cleanup func(ctx context.Context, o directories) error
	// downgrade calls ready when the daemon of the build at the path to may start.
	downgrade func(ctx context.Context, bpfDir, to string, ready func(converted []string)) error
	// doctor writes its report, on the daemon at host too, and returns whether
	// Fairlead can work here.
	doctor func(ctx context.Context, w io.Writer, host string) (bool, error)
}

func newEnv() *env {
	return &env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv, now: time.Now, node: newNodeCommands(os.Stderr), start: startInNetNS, retryFor: 10 * time.Second, grace: 5 * time.Second, uid: os.Geteuid(),
	}
}

// daemonHost is the daemon that --host or FAIRLEAD_HOST names.
func (e *env) daemonHost() string {
	return cmp.Or(e.host, e.getenv("FAIRLEAD_HOST"), api.DefaultHost)
}

// client makes a client of that daemon.
func (e *env) client() (*api.Client, error) {
	c, err := api.NewClient(e.daemonHost())
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

// usageError is a command line that makes no sense.
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

// runsProgram reports whether the exit status belongs to a program.
func runsProgram(cmd *cobra.Command) bool {
	return cmd.Annotations["status"] == "program"
}

// needsRoot refuses a command that works on the kernel for anybody but root, before it
// takes the lack of permissions for something else.
func (e *env) needsRoot(cmd *cobra.Command) error {
	if e.uid == 0 {
		return nil
	}
	return fmt.Errorf("%s needs root (run it as root, or with sudo)", cmd.CommandPath())
}

// exactArgs wants one argument per name.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usagef("wants %s, got %s", describeArgs(names), countArgs(len(args)))
		}
		return noEmpty(args)
	}
}

// minArgs wants the names, the last one any number of times but at least once.
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
