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
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/test/lab"
)

// The demo succeeds, and leaves the machine unchanged, also after Ctrl-C and when a step
// fails. It runs in a place that nothing else changes meanwhile; around it, other processes
// make and remove mounts and namespaces.
func TestDemo(t *testing.T) {
	l := newPlace(t)
	before := l.state()
	out, code := l.demo("", 0)
	if code != 0 || strings.Contains(out, "FAIL") || !strings.Contains(out, "steps passed") {
		l.Errorf("status %d\n%s", code, out)
	}
	l.asBefore(before)
}

func TestDemoInterrupted(t *testing.T) {
	for _, c := range []struct {
		at     string
		signal syscall.Signal
	}{
		{"fairlead daemon &", syscall.SIGINT},
		{"iperf3 -c", syscall.SIGTERM},
		{"iperf3 --forceflush", syscall.SIGINT}, // with two hosts
	} {
		t.Run(fmt.Sprint(c.signal, " at ", c.at), func(t *testing.T) {
			l := newPlace(t)
			before := l.state()
			out, code := l.demo(c.at, c.signal)
			if code == 0 || !strings.Contains(out, "interrupted; everything is removed") {
				l.Errorf("status %d, want a message that it was interrupted\n%s", code, out)
			}
			l.asBefore(before)
		})
	}
}

func TestDemoFails(t *testing.T) {
	l := newPlace(t)
	broken := filepath.Join(l.Dir("broken"), "iperf3")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.Must(l.Host, "sh", "-c", "mount --bind "+broken+" $(command -v iperf3)") // on this host only
	l.Cleanup(func() { l.Must(l.Host, "sh", "-c", "umount $(command -v iperf3)") })
	before := l.state()
	out, code := l.demo("", 0)
	if code != 1 || !strings.Contains(out, "FAIL") || !strings.Contains(out, "steps of the demo failed") {
		l.Errorf("status %d, want a message that a step failed\n%s", code, out)
	}
	l.asBefore(before)
}

// place is a lab's host with private copies of all that a demo can change: the directories of
// daemons, one for temporary files, and a cgroup.
type place struct {
	*lab.Lab
	temporary string
	cgroup    *os.File
}

func newPlace(t *testing.T) *place {
	t.Helper()
	lab.Neighbours(t)
	lab.EmbeddedStore(t)
	l := &place{Lab: lab.New(t, lab.Config{NoDaemon: true})}
	l.temporary = l.Dir("tmp")
	root := cgroupRoot(t)
	path, err := os.MkdirTemp(root, "fairlead-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(path); err != nil { // fails if a program is in it
			t.Error(err)
		}
	})
	if l.cgroup, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.cgroup.Close() })
	for _, line := range []string{
		"mount --bind " + path + " " + root,
		"mount -t tmpfs tmpfs /run", "mount -t tmpfs tmpfs /var/lib", "mount -t bpf bpf /sys/fs/bpf",
	} {
		l.Must(l.Host, "sh", "-c", line)
	}
	return l
}

// demo runs fairlead demo, and sends it a signal once it has written a text, or no signal if
// that is "".
func (l *place) demo(at string, s syscall.Signal) (output string, code int) {
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
	cmd.Env = append(os.Environ(), "TMPDIR="+l.temporary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(l.cgroup.Fd())}
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

// state returns what the demo must not change, by subject: what another tool could observe of
// the host, and what else it could leave behind.
func (l *place) state() map[string]string {
	l.Helper()
	state := hostState(l.Lab)
	state["files"] = l.Must(l.Host, "ls", "-R", "/run", "/var/lib", "/sys/fs/bpf", l.temporary)
	processes, err := os.ReadFile(filepath.Join(l.cgroup.Name(), "cgroup.procs"))
	if err != nil {
		l.Fatal(err)
	}
	state["processes"] = string(processes)
	state["programs"] = l.programs()
	return state
}

// programs lists the programs attached to the cgroup. The others are removed with their
// devices.
func (l *place) programs() string {
	l.Helper()
	var list strings.Builder
	for _, hook := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
	} {
		r, err := link.QueryPrograms(link.QueryOptions{Target: int(l.cgroup.Fd()), Attach: hook})
		if err != nil {
			l.Fatal(err)
		}
		for _, p := range r.Programs {
			fmt.Fprintln(&list, hook, p.ID)
		}
	}
	return list.String()
}

func (l *place) asBefore(before map[string]string) {
	l.Helper()
	var d string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) { // the kernel frees them asynchronously
		if d = cmp.Diff(before, l.state()); d == "" || time.Now().After(deadline) {
			break
		}
	}
	if d != "" {
		l.Errorf("the machine is not as it was (-before +after):\n%s", d)
	}
}
