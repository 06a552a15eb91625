// SPDX-License-Identifier: Apache-2.0

package scenario

import (
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

// The demo succeeds, and leaves this machine as it was, also after Ctrl-C. No
// lab runs beside these tests.
func TestDemo(t *testing.T) {
	before := machine(t)
	out, code := demo(t, "", 0)
	if code != 0 || strings.Contains(out, "FAIL") || !strings.Contains(out, "steps as they should be") {
		t.Errorf("status %d\n%s", code, out)
	}
	asBefore(t, before)
}

func TestDemoInterrupted(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		for _, at := range []string{"fairlead daemon &", "iperf3 -c"} {
			t.Run(fmt.Sprint(s, " at ", at), func(t *testing.T) {
				before := machine(t)
				out, code := demo(t, at, s)
				if code == 0 || !strings.Contains(out, "interrupted; everything is removed") {
					t.Errorf("status %d, want that it says it was interrupted\n%s", code, out)
				}
				asBefore(t, before)
			})
		}
	}
}

// demo runs fairlead demo, and sends it a signal once it has written a text;
// "": none.
func demo(t *testing.T, at string, s syscall.Signal) (output string, code int) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd := exec.Command(lab.Binary(), "demo")
	cmd.Stdout, cmd.Stderr = write, write
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer timeout.Stop()
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
				t.Error(err)
			}
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// machine is what the demo must not change, by subject.
func machine(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for subject, command := range map[string]string{
		"links":     "ip -oneline link show | cut -d' ' -f1-3 | sort",
		"addresses": "ip -brief addr show",
		"routes":    "ip -4 route show table all; ip -6 route show table all | grep -v expires",
		"mounts":    "sort /proc/self/mountinfo",
		"files":     "ls -d /run/fairlead* /var/lib/fairlead* /sys/fs/bpf/fairlead* 2>/dev/null; ls " + os.TempDir() + " | grep demo; true",
		"processes": "pgrep -f ^" + lab.Binary() + " ; true",
	} {
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		state[subject] = string(out)
	}
	state["programs"] = programs(t)
	return state
}

// programs are the IDs of the BPF programs that may be Fairlead's and could be
// left: those of the cgroup. The others end with their devices.
func programs(t *testing.T) string {
	t.Helper()
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

func asBefore(t *testing.T, before map[string]string) {
	t.Helper()
	var d string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) { // the kernel frees later
		if d = cmp.Diff(before, machine(t)); d == "" || time.Now().After(deadline) {
			break
		}
	}
	if d != "" {
		t.Errorf("the machine is not as it was (-before +after):\n%s", d)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "fairlead-demo-*")); len(left) > 0 {
		t.Errorf("directories are left: %v", left)
	}
}
