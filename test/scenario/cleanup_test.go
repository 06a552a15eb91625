// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/test/lab"
)

// Cleanup removes everything that Fairlead made and nothing else. The lab checks that nothing
// is left; this test checks that the rest is unchanged.
func TestCleanup(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{NoDaemon: true}, func(t *testing.T, l *lab.Lab) {
		l.IP(l.Host, "link add foreign0 type veth peer name foreign1", "link set foreign0 up", "link set foreign1 up",
			"link set foreign0 alias fairlead-like", "addr add 198.18.7.1/24 dev foreign0", "route add 198.18.8.0/24 via 198.18.7.2",
			"link add flforeign type veth peer name flpeer", "route add 203.0.113.128/25 dev foreign0")
		for _, direction := range []string{"ingress", "egress"} {
			for _, device := range []string{"eth0", "foreign0"} {
				l.Run(l.Host, "tc", "qdisc", "add", "dev", device, "clsact") // may exist already
				l.Must(l.Host, "tc", "filter", "add", "dev", device, direction, "prio", "7", "bpf", "bytecode", "1,6 0 0 0")
			}
		}
		foreign := foreignCgroupProgram(t)
		var before map[string]string
		l.Eventually(30*time.Second, func() error { // until the kernel has checked its link-local addresses for duplicates
			if before = hostState(l); strings.Contains(before["addresses"], "tentative") {
				return errors.New("an address is tentative")
			}
			return nil
		})

		l.StartDaemon()
		web := network(l, "web")
		b := l.Sandbox("ben", "--network", web, "-p", "8080:7", "-p", "8080:7/udp")
		c := l.Sandbox("cleo", "--network", web)
		l.Echo(b.Host, 7)
		l.Echo(l.Outside, 7)
		for _, f := range lab.Families() {
			for _, err := range []error{
				l.Reach(lab.Patient, l.Outside, "tcp", f.Of(lab.Host4, lab.Host6), 8080),
				l.Reach(lab.Patient, l.Host, "udp", f.Of(lab.Host4, lab.Host6), 8080),
				l.Reach(lab.Patient, c.Host, "tcp", f.Of(lab.Outside4, lab.Outside6), 7),
			} {
				if err != nil {
					l.Error(err)
				}
			}
		}
		if info, err := foreign.Info(); err != nil || info.Cgroup() == nil || info.Cgroup().CgroupId == 0 {
			l.Errorf("the foreign program of the cgroup is detached: %+v, %v", info, err)
		}
		l.KillDaemon()
		l.RunCleanup()
		if d := cmp.Diff(before, hostState(l)); d != "" {
			l.Errorf("the host is not as it was (-before +after):\n%s", d)
		}
		if info, err := foreign.Info(); err != nil || info.Cgroup() == nil || info.Cgroup().CgroupId == 0 {
			l.Errorf("the foreign program of the cgroup is detached: %+v, %v", info, err)
		}
		l.RunCleanup() // again, with nothing to do
	})
}

// foreignCgroupProgram attaches a program that accepts every connect to the cgroup of
// Fairlead's programs.
func foreignCgroupProgram(t *testing.T) link.Link {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroupRoot(t), Attach: ebpf.AttachCGroupInet4Connect, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// cgroupRoot returns where cgroup2 is mounted.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if mount, kind, _ := strings.Cut(line, " - "); strings.HasPrefix(kind, "cgroup2 ") {
			return strings.Fields(mount)[4]
		}
	}
	t.Fatal("cgroup2 is not mounted")
	return ""
}

// hostState returns what another tool could observe of the host, by subject.
func hostState(l *lab.Lab) map[string]string {
	l.Helper()
	state := map[string]string{}
	for subject, command := range map[string]string{
		"links":      "ip -details link show",
		"addresses":  "ip addr show",
		"IPv4":       "ip -4 route show table all",
		"IPv6":       "ip -6 route show table all",
		"rules":      "ip rule; ip -6 rule",
		"neighbours": "ip neigh show nud permanent; ip neigh show proxy",
		"filters":    "for d in $(ip -brief link | cut -d' ' -f1 | cut -d@ -f1); do tc qdisc show dev $d; tc filter show dev $d ingress; tc filter show dev $d egress; done",
		"firewall":   "nft list ruleset",
	} {
		state[subject] = l.Must(l.Host, "sh", "-c", command)
	}
	made, lost := l.Mounts()
	state["mounts"], state["lost mounts"] = strings.Join(made, "\n"), strings.Join(lost, "\n")
	err := l.Host.Do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if b, err := os.ReadFile(path); err == nil { // some are write-only
				state[path] = string(b)
			}
			return nil
		})
	})
	if err != nil {
		l.Fatal(err)
	}
	for path := range state { // the kernel's own counters
		if strings.HasSuffix(path, "_nr") || strings.HasSuffix(path, "_count") || strings.HasSuffix(path, "stable_secret") {
			delete(state, path)
		}
	}
	return state
}
