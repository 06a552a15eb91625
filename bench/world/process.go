// SPDX-License-Identifier: Apache-2.0

package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Result is the exit status and output of a program that has exited.
type Result struct {
	Stdout, Stderr string
	Code           int // exit status; 128+N after signal N, as in a shell
}

// Output returns what the program wrote: standard output, then standard error.
func (r Result) Output() string { return r.Stdout + r.Stderr }

// Process is a program that runs on a host.
type Process struct {
	host *Host
	cmd  *exec.Cmd
	out  *buffer
	done chan struct{}
}

// buffer collects what a running program writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Start starts cmd on the host, in a process group of its own, so that a
// terminal's Ctrl-C does not reach it. It is killed with the host's thread.
func (h *Host) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	defaultSignals()
	return h.Do(cmd.Start)
}

// defaultSignals gives programs that are started from now on every signal's default action.
// Programs inherit the signals that their parent ignores, and a shell cannot trap those:
// nohup, a script's background job or a CI runner would change what the programs do. This
// process still ignores these two; Go never lets programs inherit the others.
var defaultSignals = sync.OnceFunc(func() {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
})

// Command returns a command that is looked up as for root: in the sbin directories too.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	if cmd.Err == nil || strings.Contains(name, "/") {
		return cmd
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path := filepath.Join(dir, name); isProgram(path) {
			return exec.CommandContext(ctx, path, args...)
		}
	}
	return cmd
}

func isProgram(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// Run runs a program until it exits. A program that ctx kills has status 137.
func (h *Host) Run(ctx context.Context, name string, args ...string) (Result, error) {
	return h.RunCommand(Command(ctx, name, args...))
}

// RunCommand runs cmd until it exits; its output is collected if it is not redirected.
func (h *Host) RunCommand(cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	cmd.WaitDelay = time.Second // for pipes that a child of cmd keeps open
	if err := h.Start(cmd); err != nil {
		return Result{Code: 127}, fmt.Errorf("start %s on %s: %w", cmd.Args[0], h.Name, err)
	}
	err := cmd.Wait()
	return Result{stdout.String(), stderr.String(), exitCode(cmd.ProcessState)}, waitError(err)
}

// pipe runs a program that must succeed, with input.
func (h *Host) pipe(input, name string, args ...string) (Result, error) {
	cmd := Command(context.Background(), name, args...)
	cmd.Stdin = strings.NewReader(input)
	r, err := h.RunCommand(cmd)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s on %s ended with status %d: %s", name, h.Name, r.Code, strings.TrimSpace(r.Output()))
	}
	return r, err
}

// Spawn starts a program that runs until it exits, is stopped, or the host is closed.
func (h *Host) Spawn(name string, args ...string) (*Process, error) {
	return h.SpawnCommand(Command(context.Background(), name, args...))
}

// SpawnCommand is like Spawn for a prepared command; its output is collected.
func (h *Host) SpawnCommand(cmd *exec.Cmd) (*Process, error) {
	p := &Process{host: h, cmd: cmd, out: new(buffer), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.WaitDelay = time.Second
	if err := h.Start(cmd); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", cmd.Args[0], h.Name, err)
	}
	go func() {
		defer close(p.done)
		cmd.Wait() // the process state has the result
	}()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes = append(h.processes, p)
	return p, nil
}

// Pid returns the program's process ID.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output is all it wrote up to now.
func (p *Process) Output() string { return p.out.String() }

// Done returns a channel that is closed when the program has exited.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until the program exits and returns its exit status.
func (p *Process) Wait() int {
	<-p.done
	return exitCode(p.cmd.ProcessState)
}

// Signal sends a signal to the program itself.
func (p *Process) Signal(s syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		return p.cmd.Process.Signal(s)
	}
}

// Stop sends SIGTERM to the program, and kills it with its process group if it has not exited
// within grace. It returns the exit status.
func (p *Process) Stop(grace time.Duration) int {
	if p.Signal(syscall.SIGTERM) == nil {
		select {
		case <-p.done:
		case <-time.After(grace):
		}
	}
	return p.Kill()
}

// Kill kills what remains of the program and its process group.
func (p *Process) Kill() int {
	select {
	case <-p.done: // the ID of its group may have been reused
	default:
		if err := syscall.Kill(-p.Pid(), syscall.SIGKILL); err != nil {
			p.cmd.Process.Kill()
		}
	}
	<-p.done
	p.host.forget(p)
	return exitCode(p.cmd.ProcessState)
}

func (h *Host) forget(p *Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes = slices.DeleteFunc(h.processes, func(other *Process) bool { return other == p })
}

func exitCode(st *os.ProcessState) int {
	if st == nil {
		return -1
	}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return st.ExitCode()
}

// waitError drops what the exit status already says.
func waitError(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// ProcessesIn lists the processes in the network namespaces whose paths on the host match
// pattern. This process, which has threads in some, is left out.
func (h *Host) ProcessesIn(pattern string) (pids []int) {
	inodes := make(map[uint64]bool)
	_ = h.Do(func() error {
		paths, err := filepath.Glob(pattern)
		for _, path := range paths {
			var st syscall.Stat_t
			if syscall.Stat(path, &st) == nil {
				inodes[st.Ino] = true
			}
		}
		return err
	})
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range paths {
		var st syscall.Stat_t
		var pid int
		if syscall.Stat(path, &st) != nil || !inodes[st.Ino] {
			continue
		}
		if _, err := fmt.Sscanf(path, "/proc/%d/", &pid); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}
