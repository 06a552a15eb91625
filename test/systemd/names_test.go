// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Queries that are sent while the daemon is restarted, killed or replaced, by any protocol, are answered by the next one. systemd
// keeps only what is in use, and nothing after a stop.
func TestNamesWhileRestarted(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		boot func(*testing.T) *machine
	}{
		{"this machine", newMachine},
		{"trixie", func(t *testing.T) *machine { // its systemd sets FDSTORE
			m := newDebian(t, "trixie")
			m.install()
			return m
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { namesWhileRestarted(t, tc.boot(t)) })
	}
}

func namesWhileRestarted(t *testing.T, m *machine) {
	m.must("systemctl", "daemon-reload")
	m.must("systemctl", "start", "fairlead.socket", "fairlead")
	create := func() (sandbox string, servers []string) {
		m.Helper()
		m.must("fairlead", "network", "create", "--ipv6", "-o", "fairlead.dns=true", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", "web")
		for _, name := range []string{"anna", "ben"} {
			m.must("fairlead", "sandbox", "create", "--network", "web", name)
		}
		return m.must("fairlead", "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", "anna"), []string{"127.0.0.11", "10.77.0.1", "fd77::1"}
	}
	sandbox, servers := create()
	query := func(server string, flags ...string) world.Result {
		m.Helper()
		cmd := world.Command(context.Background(), "nsenter", slices.Concat([]string{"--net=" + m.path(sandbox), "dig", "+tries=1", "+time=40", "+noall", "+answer", "@" + server, "ben", "A"}, flags)...)
		cmd.SysProcAttr = m.cgroup.Attr() // where the programs are attached
		r, err := m.Host.RunCommand(cmd)
		if err != nil {
			t.Error(err)
		}
		return r
	}
	answered := func(r world.Result) bool { return r.Code == 0 && strings.Contains(r.Stdout, "10.77.0.3") }
	m.storeHas(8)

	// The daemon starts only after the test has sent its queries.
	m.dropIn("gate", "ExecStartPre=sh -c 'while [ -e /run/closed ]; do sleep 0.02; done'")
	closed := m.path("/run/closed")
	for _, exchange := range []struct {
		name, command string
		do            []string
	}{
		{"restart", "", []string{"systemctl", "--no-block", "restart", "fairlead"}},
		{"kill", "", []string{"systemctl", "kill", "--signal", "KILL", "fairlead"}},
		{"other programs", "/usr/local/bin/fairlead daemon --force-clsact", []string{"systemctl", "--no-block", "restart", "fairlead"}},
		{"back", "/usr/local/bin/fairlead daemon", []string{"systemctl", "--no-block", "restart", "fairlead"}},
	} {
		if exchange.command != "" {
			m.command(exchange.command)
		}
		if err := os.WriteFile(closed, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		m.must(exchange.do...)
		m.Eventually(patience, func() error {
			if pid, state := m.property("fairlead", "MainPID"), m.property("fairlead", "SubState"); pid != "0" || state != "start-pre" {
				return fmt.Errorf("the daemon is process %s, and the unit in the state %s", pid, state)
			}
			return nil
		})
		if r := query("127.0.0.11", "+time=1"); r.Code == 0 { // its sender gives up
			t.Errorf("%s: without a daemon: %s", exchange.name, r.Output())
		}
		var all sync.WaitGroup
		var mu sync.Mutex
		early := true
		for _, server := range servers {
			for _, flag := range []string{"+notcp", "+tcp"} {
				all.Go(func() {
					began := time.Now()
					r := query(server, flag)
					mu.Lock()
					defer mu.Unlock()
					if early {
						t.Errorf("%s: %s at %s is answered without a daemon: %s", exchange.name, flag, server, r.Output())
					}
					if !answered(r) {
						t.Errorf("%s: %s at %s: %s", exchange.name, flag, server, r.Output())
					}
					t.Logf("%s: %s at %s: answered after %v", exchange.name, flag, server, time.Since(began))
				})
			}
		}
		time.Sleep(time.Second)
		mu.Lock()
		early = false
		mu.Unlock()
		if err := os.Remove(closed); err != nil {
			t.Fatal(err)
		}
		all.Wait()
		m.must("fairlead", "status")
		m.storeHas(8)
	}

	// What is not used any more receives nothing.
	for range 5 {
		m.must("fairlead", "rm", "-f", "anna", "ben")
		m.must("fairlead", "network", "rm", "web")
		sandbox, servers = create()
		for _, server := range servers {
			for range 4 {
				if r := query(server, "+time=2"); !answered(r) {
					t.Errorf("after the network was created again, at %s: %s", server, r.Output())
				}
			}
		}
	}
	m.storeHas(8)
	m.must("fairlead", "rm", "-f", "anna", "ben")
	m.must("fairlead", "network", "rm", "web")
	m.storeHas(0)
	sandbox, servers = create()
	m.storeHas(8)
	m.must("systemctl", "stop", "fairlead.socket", "fairlead")
	m.storeHas(0)

	// Sockets for which systemd has no room are not kept, which the log reports once.
	m.dropIn("limit", "FileDescriptorStoreMax=3\nEnvironment=FDSTORE=3")
	m.must("systemctl", "start", "fairlead.socket", "fairlead")
	m.storeHas(3)
	m.must("systemctl", "restart", "fairlead")
	m.storeHas(3)
	for _, server := range servers {
		if r := query(server, "+time=2"); !answered(r) {
			t.Errorf("with some sockets kept, at %s: %s", server, r.Output())
		}
	}
	var said int
	for line := range strings.Lines(m.must("journalctl", "--unit", "fairlead", "--output", "cat")) {
		switch {
		case strings.Contains(line, "does not keep all sockets"):
			said++
		case strings.Contains(line, "level=ERROR"), strings.Contains(line, "level=WARN"), strings.Contains(line, "Cannot store"):
			t.Errorf("the journal says: %s", line)
		}
	}
	if said != 2 {
		t.Errorf("two daemons said %d times that there is no room", said)
	}

	// A daemon that cannot be started at all does not keep them either.
	m.command("/usr/local/bin/absent")
	m.must("systemctl", "--no-block", "restart", "fairlead")
	m.Eventually(patience, func() error {
		if state := m.property("fairlead", "ActiveState"); state != "failed" {
			return fmt.Errorf("the unit is %s", state)
		}
		return nil
	})
	m.storeHas(0)
}

// storeHas waits until systemd keeps a number of descriptors for Fairlead.
func (m *machine) storeHas(want int) {
	m.Helper()
	m.Eventually(5*time.Second, func() error {
		if got := m.property("fairlead", "NFileDescriptorStore"); got != fmt.Sprint(want) {
			return fmt.Errorf("systemd keeps %s descriptors, want %d", got, want)
		}
		return nil
	})
}
