// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// A daemon that sees no cgroup2, or only a part of the host's cgroups, starts. Its log, the warnings
// of a sandbox with published ports, and doctor say that programs of the host do not reach them.
func TestHiddenCgroupIsWarnedOf(t *testing.T) {
	const hidden = `mount -t tmpfs none /sys/fs/cgroup && `
	for name, tt := range map[string]struct {
		before    []string // what runs the daemon
		text, log string   // "": nothing is wrong
	}{
		"root": {nil, "", ""},
		"none": {
			[]string{"unshare", "--mount", "sh", "-c", hidden + `exec "$0" "$@"`},
			"cgroup2 is not mounted", "attach programs of host sockets: cgroup2 is not mounted",
		},
		"part": {
			[]string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec unshare --cgroup --mount "$@"`, partOfCgroups(t), "sh", "-c",
				hidden + `mount -t cgroup2 none /sys/fs/cgroup && exec setpriv --inh-caps=-dac_read_search --bounding-set=-dac_read_search "$0" "$@"`},
			"cgroup2 at /sys/fs/cgroup shows a part", "start the daemon in the host's cgroup namespace",
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.before = tt.before
			p := n.start()
			if log := p.Output(); (tt.log != "" || strings.Contains(log, "cgroup")) && !strings.Contains(log, tt.log) {
				t.Errorf("no %q in the log:\n%s", tt.log, log)
			}
			warned := func(name string, ports ...model.PortSpec) string {
				t.Helper()
				c, err := n.client().CreateSandbox(t.Context(), name, api.NewSandboxCreate(model.SandboxSpec{Ports: ports}))
				if err != nil {
					t.Fatal(err)
				}
				return strings.Join(c.Warnings, "\n")
			}
			if got := warned("quiet"); got != "" {
				t.Errorf("without a port: %q", got)
			}
			got := warned("web", model.PortSpec{Port: 80, Count: 1, HostPort: 8080, HostCount: 1, Proto: model.TCP})
			if (got == "") != (tt.text == "") || !strings.Contains(got, tt.text) {
				t.Errorf("with a port: %q, want %q", got, tt.text)
			}
			report := n.doctor()
			if missing := strings.Contains(report, "not reachable through 127.0.0.1"); missing != (tt.text != "") || !strings.Contains(report, tt.text) {
				t.Errorf("doctor does not say %q:\n%s", tt.text, report)
			}
		})
	}
}

// partOfCgroups is a cgroup of the test's own.
func partOfCgroups(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			dir, err := os.MkdirTemp(f[1], "fl-daemon-test-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { removeCgroup(t, dir) })
			return dir
		}
	}
	t.Fatal("cgroup2 is not mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
	return ""
}

// removeCgroup removes a cgroup once its processes are gone.
func removeCgroup(t *testing.T, dir string) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
	}
}
