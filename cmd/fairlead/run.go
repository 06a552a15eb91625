// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/cmd/fairlead/enter"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/control/model"
)

type runOptions struct {
	sandboxFlags
	program programFlags
	detach  bool
	remove  bool
	name    string
}

func newRunCommand(e *env) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] COMMAND [ARG…]",
		Short: "Run a program in a new sandbox",
		Long: `Run a program in a new sandbox, in its own network namespace.

In the foreground the program uses this terminal and receives this process's
signals, and its exit status is returned: 128+N after signal N, 126 if it
cannot be executed, 127 if it is not found, 125 if Fairlead failed.
With -d it runs in a new session, its output goes to the sandbox's LogPath (see
"fairlead inspect"), and the sandbox's ID is printed.`,
		Example: `  fairlead run --rm ping -c 3 192.0.2.1
  fairlead run -d --name web -p 8080:80 nginx -g 'daemon off;'
  fairlead run --network db --network name=web,ip=10.5.0.9 sh`,
		Args:        minArgs("COMMAND"),
		Annotations: map[string]string{"status": "program"},
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, more, err := o.spec(cmd)
			if err != nil {
				return err
			}
			spec.Name, spec.AutoRemove, spec.Command = o.name, o.remove, args
			program, err := o.program.command(e, args)
			if err != nil {
				return err
			}
			return runRun(cmd.Context(), e, program, spec, more, o.detach)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.detach, "detach", "d", false, "run in the background and print the sandbox's ID")
	f.BoolVar(&o.remove, "rm", false, "remove the sandbox when the program ends")
	f.StringVar(&o.name, "name", "", "name of the sandbox (default: generated)")
	o.program.register(cmd)
	o.register(cmd)
	return cmd
}

// session is one run: a sandbox, its program, and the client of the daemon.
type session struct {
	env     *env
	client  *client.Client
	sandbox api.Sandbox
	cmd     *exec.Cmd
	began   uint64 // start time of the program
}

func runRun(ctx context.Context, e *env, program *exec.Cmd, spec model.SandboxSpec, more []attachment, detach bool) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	daemon, err := c.Status(ctx)
	if err != nil {
		return err
	}
	s := &session{env: e, client: c, cmd: program}
	signals := newRelay()
	if err := s.make(ctx, spec, more, signals); err != nil {
		signals.close(false)
		return err
	}
	if err := s.start(ctx, daemon.Pid, detach); err != nil {
		signals.close(false)
		return errors.Join(err, s.discard(ctx))
	}
	if detach {
		defer signals.close(false) // once the daemon knows of the program
		return s.detached(ctx)
	}
	signals.forward(s.cmd.Process)
	code, err := s.foreground(ctx)
	signals.close(true)
	if err != nil {
		return &exitError{exitFailed, err}
	}
	return programExit(code)
}

// make has the daemon create the sandbox and connect it to its networks. If a signal arrives
// in the meantime, make removes the sandbox again: this process must not end before it
// knows what to remove.
func (s *session) make(ctx context.Context, spec model.SandboxSpec, more []attachment, signals *relay) error {
	err := signals.hold(ctx, s.env.grace, func(ctx context.Context) error {
		if err := s.create(ctx, spec); err != nil {
			return err
		}
		for _, a := range more {
			warnings, err := s.client.Connect(ctx, a.network, api.NetworkConnect{Container: s.sandbox.ID, EndpointConfig: a.config()})
			s.env.warn(warnings)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if n, ok := signals.pending(); ok {
		err = &exitError{exitSignal + int(n), fmt.Errorf("stopped by a signal before the sandbox was ready: %s", n)}
	}
	if err == nil || s.sandbox.ID == "" {
		return err
	}
	return errors.Join(err, s.discard(ctx))
}

// create has the daemon create the sandbox, and prints its warnings.
func (s *session) create(ctx context.Context, spec model.SandboxSpec) error {
	created, err := s.client.CreateSandbox(ctx, spec.Name, api.NewSandboxCreate(spec))
	if err != nil {
		return err
	}
	s.sandbox = created.Sandbox
	s.env.warn(created.Warnings)
	return nil
}

// warn prints what the daemon accepted but does not serve.
func (e *env) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(e.stderr, "fairlead: warning: %s\n", w)
	}
}

// start starts the program.
func (s *session) start(ctx context.Context, daemonPid int, detach bool) error {
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = s.env.stdin, s.env.stdout, s.env.stderr
	if detach {
		log, err := openLog(s.sandbox.LogPath)
		if err != nil {
			return err
		}
		defer log.Close()
		s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = nil, log, log
		s.cmd.SysProcAttr.Setsid = true
	}
	at, err := enter.At(ctx, s.client, s.sandbox, daemonPid)
	if err != nil {
		return err
	}
	if err := s.env.start(s.cmd, at); err != nil {
		return startError(s.cmd.Path, err)
	}
	// Before Wait, so that the PID cannot have been reused.
	began, err := host.ProcessStart(s.cmd.Process.Pid)
	if err != nil {
		return errors.Join(&exitError{exitFailed, err}, s.cmd.Process.Kill())
	}
	s.began = began
	return nil
}

func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("make directory of the program's log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the program's log: %w", err)
	}
	return f, nil
}

// discard removes the sandbox of a program that never ran.
func (s *session) discard(ctx context.Context) error {
	err := s.client.RemoveSandbox(ctx, s.sandbox.ID, true)
	if err == nil || errors.Is(err, model.ErrNotFound) {
		return nil
	}
	return fmt.Errorf("remove sandbox %s: %w", s.sandbox.Name, err)
}

// reportStarted reports the running program to the daemon.
func (s *session) reportStarted(ctx context.Context) error {
	return persist(ctx, func() error {
		return s.client.SandboxStarted(ctx, s.sandbox.ID, api.SandboxStarted{Pid: s.cmd.Process.Pid, PidStart: s.began})
	})
}

func (s *session) detached(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.env.retryFor)
	defer cancel()
	if err := s.reportStarted(ctx); err != nil {
		// A program that the daemon does not know could neither be listed nor removed.
		return errors.Join(fmt.Errorf("killed the program: could not report it to the daemon: %w", err), s.cmd.Process.Kill())
	}
	fmt.Fprintln(s.env.stdout, s.sandbox.ID)
	return s.cmd.Process.Release()
}

// foreground waits for the program and reports to the daemon, which may be down for a
// while or for good. That must not affect the program.
func (s *session) foreground(ctx context.Context) (int, error) {
	running, cancelRunning := context.WithCancel(ctx)
	defer cancelRunning()
	started := make(chan error, 1)
	go func() { started <- s.reportStarted(running) }()
	code, err := status(s.cmd.Wait())

	ending, cancelEnding := context.WithTimeout(ctx, s.env.retryFor)
	defer cancelEnding()
	var reportErr error
	select {
	case reportErr = <-started:
	case <-ending.Done():
		cancelRunning()
		reportErr = <-started
	}
	if reportErr == nil {
		reportErr = s.reportExited(ending, code)
	}
	if reportErr != nil && !errors.Is(reportErr, model.ErrNotFound) { // removed in the meantime: rm -f
		fmt.Fprintf(s.env.stderr, "fairlead: warning: sandbox %s: the daemon does not know that the program ended: %v\n",
			s.sandbox.Name, reportErr)
	}
	return code, err
}

// reportExited reports the exit to the daemon, which then removes the sandbox if --rm was given.
func (s *session) reportExited(ctx context.Context, code int) error {
	return persist(ctx, func() error {
		return s.client.SandboxExited(ctx, s.sandbox.ID, api.SandboxExited{ExitCode: code})
	})
}

// persist repeats a report while no daemon answers, until ctx ends. The report must be
// idempotent.
func persist(ctx context.Context, report func() error) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := report()
		if err == nil || !errors.Is(err, client.ErrUnreachable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
