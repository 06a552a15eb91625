// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// findProgram finds a command like a shell: in PATH unless the name has a slash.
func findProgram(name, path string) (string, error) {
	if name == "" {
		return "", &exitError{exitNotFound, errors.New("the command is empty")}
	}
	if strings.Contains(name, "/") {
		err := executable(name)
		switch {
		case err == nil:
			return name, nil
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return "", &exitError{exitNotFound, fmt.Errorf("%s: no such file", name)}
		}
		return "", &exitError{exitNotExecutable, err}
	}
	var denied error
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "." // POSIX: an empty entry is the current directory
		}
		file := filepath.Join(dir, name)
		if !strings.Contains(file, "/") {
			file = "./" + file
		}
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if denied == nil && errors.Is(err, fs.ErrPermission) {
			denied = err
		}
	}
	if denied != nil {
		return "", &exitError{exitNotExecutable, denied}
	}
	return "", &exitError{exitNotFound, fmt.Errorf("%s: command not found in PATH", name)}
}

// executable returns an error unless this user may execute the file.
func executable(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s: is a directory", file)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s: not executable: %w", file, err)
	}
	return nil
}

// startError returns an error with the exit status for a program that did not start.
func startError(name string, err error) error {
	var pathErr *fs.PathError
	if !errors.As(err, &pathErr) || pathErr.Op != "fork/exec" {
		if errors.Is(err, syscall.EPERM) {
			err = fmt.Errorf("%w (entering a sandbox needs root)", err)
		}
		return &exitError{exitFailed, fmt.Errorf("enter sandbox: %w", err)}
	}
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return &exitError{exitNotExecutable, fmt.Errorf("%s: not a program (a script needs a #! line)", name)}
	case errors.Is(err, syscall.ENOENT):
		return &exitError{exitNotExecutable, fmt.Errorf("%s: its interpreter does not exist", name)}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.E2BIG), errors.Is(err, syscall.ETXTBSY):
		return &exitError{exitNotExecutable, fmt.Errorf("%s: %w", name, pathErr.Err)}
	}
	return &exitError{exitFailed, fmt.Errorf("start %s: %w", name, pathErr.Err)}
}

// status converts the result of Wait to an exit status, like a shell.
func status(err error) (int, error) {
	var exit *exec.ExitError
	if err == nil {
		return 0, nil
	}
	if !errors.As(err, &exit) {
		return exitFailed, fmt.Errorf("wait for the program: %w", err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitSignal + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// programExit returns the error for a program's exit status, or nil for 0.
func programExit(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// relay catches signals from its creation on, and forwards them to the program once
// that runs.
type relay struct {
	signals chan os.Signal
	held    syscall.Signal // first terminating signal during hold; 0: none
	stop    chan struct{}
	done    chan struct{}
}

// newRelay starts catching signals. Signals that the parent ignored (nohup) stay ignored,
// and those of job control keep their effect on this process.
func newRelay() *relay {
	r := &relay{signals: make(chan os.Signal, 64), stop: make(chan struct{}), done: make(chan struct{})}
	for n := syscall.Signal(1); n <= 64; n++ {
		switch n {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, // cannot be caught, or concern this process only
			unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGSYS, 32, 33:
			continue
		}
		if !signal.Ignored(n) {
			signal.Notify(r.signals, n)
		}
	}
	return r
}

// forward forwards signals to the process until close.
func (r *relay) forward(p *os.Process) {
	go func() {
		defer close(r.done)
		for {
			select {
			case s := <-r.signals:
				if !fromTerminal(s) {
					_ = p.Signal(s) // the process may have ended
				}
			case <-r.stop:
				return
			}
		}
	}()
}

// hold runs do, which should not be interrupted. After a terminating signal it cancels do
// when the grace period has passed; a second signal cancels it at once.
func (r *relay) hold(ctx context.Context, grace time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case s := <-r.signals:
				n, ends := endsPrograms(s)
				if !ends {
					continue
				}
				if r.held != 0 {
					cancel()
					continue
				}
				r.held = n
				defer time.AfterFunc(grace, cancel).Stop()
			case <-done:
				return
			}
		}
	}()
	err := do(ctx)
	close(done)
	<-stopped
	return err
}

func endsPrograms(s os.Signal) (syscall.Signal, bool) {
	n, ok := s.(syscall.Signal)
	return n, ok && n != unix.SIGWINCH && n != unix.SIGCONT
}

// pending returns a terminating signal that arrived before the program was started.
func (r *relay) pending() (syscall.Signal, bool) {
	if r.held != 0 {
		return r.held, true
	}
	for {
		select {
		case s := <-r.signals:
			if n, ends := endsPrograms(s); ends {
				return n, true
			}
		default:
			return 0, false
		}
	}
}

// close stops catching signals. forwarding reports whether forward was called.
func (r *relay) close(forwarding bool) {
	signal.Stop(r.signals)
	if forwarding {
		close(r.stop)
		<-r.done
	}
}

// fromTerminal reports whether the terminal sends this signal to the whole foreground
// process group, so that the program receives it anyway.
func fromTerminal(s os.Signal) bool {
	if s != unix.SIGINT && s != unix.SIGQUIT && s != unix.SIGWINCH {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false // no controlling terminal
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
