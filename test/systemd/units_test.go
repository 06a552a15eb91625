// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// start enables and starts Fairlead and the engine, as docs/operations.md describes, and
// imports the image.
func (m *machine) start() {
	m.Helper()
	m.must("systemctl", "enable", "--now", "docker")
	m.took = m.engineStart()
	m.must("systemctl", "enable", "--now", "fairlead.socket", "fairlead")
	m.WriteImage(m.path("/var/rootfs.tar"))
	m.docker("import", "--change", lab.ImageCommand, "/var/rootfs.tar", image)
}

// engineStart returns how long the engine's last start took.
func (m *machine) engineStart() time.Duration {
	m.Helper()
	return m.moment("docker.service", "ActiveEnter") - m.moment("docker.service", "ExecMainStart")
}

// docker runs a docker command that must succeed.
func (m *machine) docker(args ...string) string {
	m.Helper()
	return m.must(append([]string{"/usr/bin/docker"}, args...)...)
}

// run starts a container in the network web.
func (m *machine) run(name string, flags ...string) {
	m.Helper()
	m.docker(slices.Concat([]string{"run", "-d", "--stop-timeout", "1", "--network", "web", "--name", name, "-e", "NAME=" + name}, flags, []string{image})...)
}

// answers waits until a published port answers from outside.
func (m *machine) answers(port int, name string) {
	m.Helper()
	m.WaitTCP(m.Outside, fmt.Sprintf("%s:%d", lab.Host4, port))
	m.Get(m.Outside, lab.Host4, port, name, lab.Outside4)
}

// within checks that something took at most a time, extended by what a few starts of an
// engine take longer on a busy machine.
func (m *machine) within(what string, limit, took time.Duration) {
	m.Helper()
	if limit = m.watch.Stretch(limit + min(4*m.took, 10*time.Second)); took > limit {
		m.Errorf("%s took %v, want %v at most", what, took, limit)
	} else {
		m.Logf("%s took %v", what, took)
	}
}

// timed calls within with the time that do takes.
func (m *machine) timed(what string, limit time.Duration, do func()) {
	m.Helper()
	began := time.Now()
	do()
	m.within(what, limit, time.Since(began))
}

// awaitDaemon waits until a daemon with another process ID is ready.
func (m *machine) awaitDaemon(old string) {
	m.Helper()
	m.Eventually(patience, func() error {
		if r := m.inside("fairlead", "status", "--format", "{{.Pid}}"); r.Code != 0 || strings.TrimSpace(r.Stdout) == old {
			return fmt.Errorf("no new daemon serves: %s", r.Output())
		}
		return nil
	})
}

// active checks the state of a unit.
func (m *machine) active(unit, state string) {
	m.Helper()
	if got := m.property(unit, "ActiveState"); got != state {
		m.Errorf("%s is %s, want %s", unit, got, state)
	}
}

// The units are correct, an engine's request starts Fairlead, and no connection breaks when
// it is restarted, or killed and brought back.
func TestUnits(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if r := m.inside("systemd-analyze", "verify", "fairlead.service", "fairlead.socket"); r.Code != 0 || r.Output() != "" {
		t.Errorf("systemd-analyze verify: status %d\n%s", r.Code, r.Output())
	}
	m.start()
	for _, unit := range []string{"fairlead.service", "fairlead.socket"} {
		m.active(unit, "active")
		if before := strings.Fields(m.property(unit, "Before")); !slices.Contains(before, "docker.service") {
			t.Errorf("%s is before %q, not before docker.service", unit, before)
		}
	}

	m.must("systemctl", "stop", "fairlead.service")
	m.timed("to make a network when an engine's request starts Fairlead", 3*time.Second, func() {
		m.docker("network", "create", "-d", "fairlead", "web")
	})
	m.active("fairlead.service", "active")
	m.run("ben", "-p", "18080:80", "-p", "7000:7", "-p", "7000:7/udp")
	m.answers(18080, "ben")

	load := m.StartLoad("published port", m.Outside, m.Echo(m.container("ben"), 7), net.JoinHostPort(lab.Host4, "7000"))
	for _, command := range [][]string{
		{"restart", "fairlead"},
		{"kill", "--signal", "KILL", "fairlead"},
	} {
		old := m.property("fairlead.service", "MainPID")
		m.must(append([]string{"systemctl"}, command...)...)
		m.awaitDaemon(old)
	}
	if report := load.Stop(); len(report.Errors) > 0 {
		t.Errorf("connections broke: %q", report.Errors)
	} else {
		t.Log(report)
	}
	m.refused(`systemd listens at "/run/docker/plugins/fairlead.sock"`, "fairlead", "daemon")
	m.must("fairlead", "status")
	m.hangs()
	m.confined()
	m.docker("rm", "-f", "ben")
	m.docker("network", "rm", "web")
	m.must("systemctl", "stop", "fairlead.socket", "fairlead")
	m.Get(m.Outside, lab.Host4, 18090, "anna", lab.Outside4)
	m.must("fairlead", "cleanup")
	m.nothingLeft()

	m.command("/usr/local/bin/absent")
	m.must("systemctl", "start", "fairlead.socket")
	m.timed("to give up a daemon whose program is missing", 8*time.Second, func() {
		m.refused("", "curl", "--unix-socket", "/run/docker/plugins/fairlead.sock", "http://fairlead/Plugin.Activate")
	})
	m.active("fairlead.socket", "failed")
	m.command("/usr/local/bin/fairlead daemon")
	m.must("systemctl", "reset-failed", "fairlead")
	m.must("systemctl", "start", "fairlead.socket", "fairlead")
	m.docker("network", "create", "-d", "fairlead", "web")
}

// hangs stops the daemon's process (SIGSTOP), and expects a new daemon, and traffic all the
// while.
func (m *machine) hangs() {
	m.Helper()
	m.dropIn("watchdog", "WatchdogSec=5")
	old := m.property("fairlead.service", "MainPID")
	m.must("systemctl", "restart", "fairlead")
	m.awaitDaemon(old)
	old = m.property("fairlead.service", "MainPID")
	m.must("kill", "-STOP", old)
	m.answers(18080, "ben")
	m.timed("a network, asked of a daemon that hangs", 10*time.Second, func() {
		m.docker("network", "create", "-d", "fairlead", "other")
	})
	m.awaitDaemon(old)
	m.answers(18080, "ben")
	m.docker("network", "rm", "other")
}

// nothingLeft checks that only Fairlead's state remains.
func (m *machine) nothingLeft() {
	m.Helper()
	left := m.must("sh", "-c", "ls -d /run/fairlead /sys/fs/bpf/fairlead /run/docker/plugins/fairlead.sock 2>/dev/null; ip -oneline link | grep 'alias fairlead' || :")
	if left != "" {
		m.Errorf("after cleanup there is\n%s", left)
	}
}

// confined checks that everything the daemon does works under the unit's restrictions.
func (m *machine) confined() {
	m.Helper()
	status := m.must("sh", "-c", "cat /proc/$(systemctl show --property MainPID --value fairlead)/status")
	const sysModule = 16 // CAP_SYS_MODULE, which other processes on the machine have
	var bounds uint64
	_, text, _ := strings.Cut(status, "\nCapBnd:")
	if _, err := fmt.Sscanf(text, "%x", &bounds); err != nil || bounds&(1<<sysModule) != 0 || !strings.Contains(status, "\nNoNewPrivs:\t1\n") {
		m.Errorf("the daemon is not confined:\n%s", status)
	}
	m.must("fairlead", "network", "create", "--ipv6", "-o", "fairlead.dns=true", "lan")
	m.must("fairlead", "sandbox", "create", "--network", "lan", "-p", "18090:80", "anna")
	m.must("systemd-run", "--unit", "theirs", "--property", "Type=exec", "--property", "PrivateNetwork=yes", "sleep", "infinity")
	theirs := "/proc/" + m.property("theirs", "MainPID") + "/ns/net"
	m.must("fairlead", "sandbox", "create", "--network", "lan", "--netns", theirs, "otto")
	m.HTTP(m.enter("anna", m.must("fairlead", "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", "anna")), "anna", 80)
	m.Get(m.Outside, lab.Host4, 18090, "anna", lab.Outside4)
	gateway := m.must("fairlead", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "lan")
	if got := m.must("nsenter", "--net="+theirs, "busybox", "nslookup", "anna", gateway); !strings.Contains(got, "Name:\tanna") {
		m.Errorf("the name anna resolves to %q", got)
	}
	m.must("fairlead", "run", "--rm", "--network", "lan", "ping", "-c", "1", "-W", "5", gateway)
	m.must("nsenter", "--net="+theirs, "ip", "route", "delete", "default")
	m.Eventually(patience, func() error {
		if r := m.inside("nsenter", "--net="+theirs, "ip", "route", "show", "default"); r.Stdout == "" {
			return errors.New("the default route that was removed is not repaired")
		}
		return nil
	})
	m.must("fairlead", "rm", "-f", "otto")
	m.must("systemctl", "stop", "theirs")
	m.must("curl", "--silent", "--fail", "--noproxy", "*", "http://127.0.0.1:9477/metrics")
	for line := range strings.Lines(m.must("journalctl", "--unit", "fairlead", "--output", "cat")) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") && !strings.Contains(line, "repaired what others broke") {
			m.Errorf("the daemon says: %s", line)
		}
	}
}

// container returns a host with a container's network namespace.
func (m *machine) container(name string) *world.Host {
	m.Helper()
	return m.enter(name, m.docker("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name))
}

// enter returns a host with the network namespace at a path of the machine.
func (m *machine) enter(name, path string) *world.Host {
	m.Helper()
	h, err := m.Host.Enter(name, m.path(path))
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(h.Close)
	return h
}

// After a reboot everything is restored, in the units' own order, whether Fairlead can start
// or not: if it cannot, the engine starts all the same, and reports why its containers do not
// start, until the problem is fixed.
func TestBoot(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.start()
	m.docker("network", "create", "-d", "fairlead", "web")
	m.run("ben", "--restart", "always", "-p", "18080:80")
	m.answers(18080, "ben")

	m.reboot()
	m.answers(18080, "ben")
	ready, asked := m.moment("fairlead.service", "ActiveEnter"), m.moment("docker.service", "ExecMainStart")
	if ready > asked {
		t.Errorf("the engine was started %v before Fairlead was ready", ready-asked)
	}
	m.within("Fairlead's start at boot", 3*time.Second, ready-m.moment("fairlead.service", "ExecMainStart"))
	m.within("the engine's start at boot", 3*time.Second, m.engineStart())
	if got := m.must("stat", "--format", "%A %U %G", "/run/fairlead/api.sock"); got != "srw-rw---- root fairlead" {
		t.Errorf("the API's socket is %q", got)
	}

	m.command("/usr/local/bin/fairlead daemon --state-dir /proc/nowhere")
	m.reboot()
	m.within("the engine's start at boot while Fairlead cannot start", 3*time.Second, m.engineStart())
	m.within("all that the engine waited for", 4*time.Second, m.moment("docker.service", "ActiveEnter")-m.moment("sockets.target", "ActiveEnter"))
	m.timed("a container that needs Fairlead", 3*time.Second, func() {
		m.refused("fairlead cannot start: --state-dir", "/usr/bin/docker", "start", "ben")
	})
	m.command("/usr/local/bin/fairlead daemon --bogus")
	m.must("systemctl", "stop", "fairlead.service") // otherwise it would report another reason
	m.timed("the engine's restart while Fairlead cannot start", 4*time.Second, func() {
		m.must("systemctl", "restart", "docker")
	})
	m.timed("a container that needs Fairlead", 3*time.Second, func() {
		m.refused("fairlead cannot start: unknown flag: --bogus", "/usr/bin/docker", "start", "ben")
	})
	engine := m.property("docker.service", "MainPID")
	m.command("/usr/local/bin/fairlead daemon")
	m.must("systemctl", "restart", "fairlead")
	m.docker("start", "ben")
	m.answers(18080, "ben")
	if now := m.property("docker.service", "MainPID"); now != engine {
		t.Errorf("the engine was process %s and is now %s: it was restarted", engine, now)
	}
}

// command sets the command that starts the daemon from now on.
func (m *machine) command(command string) {
	m.Helper()
	m.dropIn("command", "ExecStart=\nExecStart="+command)
}

// dropIn changes the service with a drop-in file.
func (m *machine) dropIn(name, lines string) {
	m.Helper()
	dir := m.path("/etc/systemd/system/fairlead.service.d")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".conf"), []byte("[Service]\n"+lines+"\n"), 0o644)
	}
	if err != nil {
		m.Fatal(err)
	}
	m.must("systemctl", "daemon-reload")
}

// refused expects a command to fail with a message that contains the text.
func (m *machine) refused(text string, command ...string) {
	m.Helper()
	if r := m.inside(command...); r.Code == 0 || !strings.Contains(r.Stderr, text) {
		m.Errorf("%s: status %d, want a message with %q\n%s", strings.Join(command, " "), r.Code, text, r.Output())
	}
}
