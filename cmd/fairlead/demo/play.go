// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// play plays a scene. It continues after a step that fails.
func (s *stage) play(ctx context.Context, sc scene) {
	fmt.Fprintf(s.cfg.Out, "\n# %s\n", sc.text)
	for _, st := range sc.steps {
		if ctx.Err() != nil {
			return
		}
		if st.line != "" {
			fmt.Fprintf(s.cfg.Out, "%s$ %s\n", s.machines[st.on].Name, st.line)
		}
		out, err := s.perform(ctx, st)
		s.show(out)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.failed++
			fmt.Fprintf(s.cfg.Out, "FAIL: %v\n", err)
		case st.line != "":
			s.passed++
			fmt.Fprintln(s.cfg.Out, "PASS")
		}
	}
}

// perform runs a step and returns its output.
func (s *stage) perform(ctx context.Context, st step) (string, error) {
	m := &s.machines[st.on]
	switch st.do {
	case startDaemon:
		return "", s.startDaemon(ctx, m, st.line)
	case killDaemon:
		return "", m.endDaemon(syscall.SIGKILL)
	case stopDaemon:
		return "", m.endDaemon(syscall.SIGTERM)
	case startOutside:
		_, err := m.SpawnCommand(s.command(context.Background(), "nginx", "-p", ".", "-c", "outside.conf"))
		return "", err
	}
	for deadline := time.Now().Add(st.within); ; {
		out, err := s.typeLine(ctx, st)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return out, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// typeLine runs a step's command line in a shell and checks the outcome.
func (s *stage) typeLine(ctx context.Context, st step) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := s.command(ctx, "sh", "-c", st.line)
	// fairlead passes it on to the program it runs.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	r, err := s.machines[st.on].RunCommand(cmd)
	out := r.Output()
	switch {
	case err != nil:
		return out, err
	case ctx.Err() != nil:
		return out, errors.New("took longer than 30 s")
	case st.refused && r.Code == 0:
		return out, errors.New("it succeeded but should have failed")
	case st.refused && r.Code == 125 && len(st.wants) == 0:
		return out, errors.New("fairlead itself failed")
	case !st.refused && r.Code != 0:
		return out, fmt.Errorf("it ended with status %d", r.Code)
	}
	for _, want := range st.wants {
		if !strings.Contains(out, want) {
			return out, fmt.Errorf("the output does not say %q", want)
		}
	}
	return out, nil
}

// command prepares a program that can find fairlead and its daemon.
func (s *stage) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := world.Command(ctx, name, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(),
		"PATH="+filepath.Join(s.dir, "bin")+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"FAIRLEAD_HOST=", "no_proxy=*")
	return cmd
}

// startDaemon runs a line that starts a daemon.
func (s *stage) startDaemon(ctx context.Context, m *machine, line string) error {
	args := strings.Fields(strings.TrimSuffix(line, "&"))[1:]
	daemon, err := m.SpawnCommand(s.command(context.Background(), s.cfg.Self, args...))
	if err != nil {
		return err
	}
	m.daemon = daemon
	deadline := time.After(20 * time.Second)
	for {
		r, err := m.RunCommand(s.command(ctx, s.cfg.Self, "status"))
		if err == nil && r.Code == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-daemon.Done():
			return fmt.Errorf("the daemon ended:\n%s", daemon.Output())
		case <-deadline:
			return fmt.Errorf("the daemon does not serve: %s; its log:\n%s", r.Stderr, daemon.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m *machine) endDaemon(signal syscall.Signal) error {
	if m.daemon == nil {
		return errors.New("no daemon runs")
	}
	daemon := m.daemon
	m.daemon = nil
	if err := daemon.Signal(signal); err != nil {
		return fmt.Errorf("end the daemon: %w; its log:\n%s", err, daemon.Output())
	}
	select {
	case <-daemon.Done():
		return nil
	case <-time.After(10 * time.Second):
		daemon.Kill()
		return errors.New("the daemon did not end")
	}
}

// show prints output, indented.
func (s *stage) show(out string) {
	for line := range strings.Lines(out) {
		fmt.Fprintln(s.cfg.Out, "   ", strings.TrimRight(line, "\n"))
	}
}
