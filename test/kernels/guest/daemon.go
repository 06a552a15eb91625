// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	hosts "github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
)

// daemon is a Fairlead daemon.
type daemon struct {
	cmd  *exec.Cmd
	log  string
	over bool
}

// startDaemon starts a daemon in the default directories, and waits until it is ready.
func startDaemon(args ...string) (*daemon, error) { return startDaemonAt(api.DefaultHost, args...) }

// startDaemonAt starts a daemon in the calling thread's namespace, whose socket will be host.
func startDaemonAt(host string, args ...string) (*daemon, error) {
	log, err := os.CreateTemp("", "daemon-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &daemon{cmd: exec.Command("fairlead", append([]string{"daemon", "--log-level", "debug"}, args...)...), log: log.Name()}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	err = eventually(func() error {
		if err := hosts.Listening(strings.TrimPrefix(host, "unix://")); err != nil {
			return err // and no command: its start takes half a second of a processor in an emulator
		}
		_, err := fairleadAt(host, "status")
		return err
	})
	if err != nil {
		return d, fmt.Errorf("wait for the daemon: %w", err)
	}
	return d, nil
}

// kill kills the daemon, as in a crash.
func (d *daemon) kill() error {
	d.over = true
	if err := d.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = d.cmd.Wait() // reports that it was killed
	return nil
}

// stop stops the daemon as an operator does.
func (d *daemon) stop() error {
	d.over = true
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("stop the daemon: %w", err)
	}
	return nil
}

// end stops the daemon if it is running, and prints its log if something failed.
func (d *daemon) end(r *report) {
	if !d.over {
		_ = d.kill()
	}
	if !r.failed {
		return
	}
	text, err := os.ReadFile(d.log)
	if err != nil {
		r.note("%v", err)
		return
	}
	const lines = 40
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	r.note("the daemon's log ends with:\n%s", strings.Join(all[max(0, len(all)-lines):], "\n"))
}

// fairlead runs a command of the client and returns its output.
func fairlead(command string) (string, error) { return fairleadAt(api.DefaultHost, command) }

// fairleadAt runs a command of the client of another daemon.
func fairleadAt(host, command string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("fairlead", strings.Fields(command)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "FAIRLEAD_HOST="+host)
	cmd.WaitDelay = time.Second // for a program that outlives the command
	err := cmd.Run()
	if err != nil {
		return "", fmt.Errorf("fairlead %s: %w: %s%s", command, err, stdout.Bytes(), bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// eventually repeats f, which may fail for a while, until it succeeds.
func eventually(f func() error) error {
	const limit = 3 * time.Minute // a daemon verifies its programs for half a minute
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// inNamespace runs f in the network namespace at a path, on a thread that exits afterwards.
func inNamespace(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}
