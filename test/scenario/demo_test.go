// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/test/lab"
)

// The demo succeeds, and leaves the machine as it was, also after Ctrl-C and when
// a step fails. The machine is a lab's host, which nobody else changes meanwhile.
func TestDemo(t *testing.T) {
	l := lab.New(t, lab.Config{NoDaemon: true})
	before := machine(l)
	out, code := demo(l, "", 0)
	if code != 0 || strings.Contains(out, "FAIL") || !strings.Contains(out, "steps as they should be") {
		l.Errorf("status %d\n%s", code, out)
	}
	asBefore(l, before)
}

func TestDemoInterrupted(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		for _, at := range []string{"fairlead daemon &", "iperf3 -c"} {
			t.Run(fmt.Sprint(s, " at ", at), func(t *testing.T) {
				l := lab.New(t, lab.Config{NoDaemon: true})
				before := machine(l)
				out, code := demo(l, at, s)
				if code == 0 || !strings.Contains(out, "interrupted; everything is removed") {
					l.Errorf("status %d, want that it says it was interrupted\n%s", code, out)
				}
				asBefore(l, before)
			})
		}
	}
}

func TestDemoFails(t *testing.T) {
	l := lab.New(t, lab.Config{NoDaemon: true})
	broken := filepath.Join(l.Dir("broken"), "iperf3")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.Must(l.Host, "sh", "-c", "mount --bind "+broken+" $(command -v iperf3)") // on this host only
	l.Cleanup(func() { l.Must(l.Host, "sh", "-c", "umount $(command -v iperf3)") })
	before := machine(l)
	out, code := demo(l, "", 0)
	if code != 1 || !strings.Contains(out, "FAIL") || !strings.Contains(out, "steps of the demo failed") {
		l.Errorf("status %d, want that it says a step failed\n%s", code, out)
	}
	asBefore(l, before)
}

// demo runs fairlead demo, and sends it a signal once it has written a text;
// "": none.
func demo(l *lab.Lab, at string, s syscall.Signal) (output string, code int) {
	l.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		l.Fatal(err)
	}
	defer read.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, lab.Binary(), "demo")
	cmd.Stdout, cmd.Stderr = write, write
	err = l.Host.Start(cmd)
	write.Close()
	if err != nil {
		l.Fatal(err)
	}
	var out strings.Builder
	b := make([]byte, 4096)
	for {
		n, err := read.Read(b)
		if err != nil {
			break
		}
		out.Write(b[:n])
		if at != "" && strings.Contains(out.String(), at) {
			at = ""
			if err := cmd.Process.Signal(s); err != nil {
				l.Error(err)
			}
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.Error(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// machine is what the demo must not change, by subject: what a foreign tool
// could see of the host, and what is the whole machine's.
func machine(l *lab.Lab) map[string]string {
	l.Helper()
	state := hostState(l)
	for subject, command := range map[string]string{
		"files":     "ls -d /run/fairlead* /var/lib/fairlead* /sys/fs/bpf/fairlead* 2>/dev/null; ls " + os.TempDir() + " | grep demo; true",
		"processes": "pgrep -f ^" + lab.Binary() + " ; true",
	} {
		state[subject] = l.Must(l.Host, "sh", "-c", command)
	}
	state["programs"] = programs()
	return state
}

// programs are the IDs of the BPF programs that may be Fairlead's and could be
// left: those of the cgroup. The others end with their devices.
func programs() string {
	var list strings.Builder
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone meanwhile
		}
		info, err := p.Info()
		p.Close()
		if err == nil && info.Name == "connect4" {
			fmt.Fprintln(&list, info.Name, id)
		}
	}
	return list.String()
}

func asBefore(l *lab.Lab, before map[string]string) {
	l.Helper()
	var d string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) { // the kernel frees later
		if d = cmp.Diff(before, machine(l)); d == "" || time.Now().After(deadline) {
			break
		}
	}
	if d != "" {
		l.Errorf("the machine is not as it was (-before +after):\n%s", d)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "fairlead-demo-*")); len(left) > 0 {
		l.Errorf("directories are left: %v", left)
	}
}
