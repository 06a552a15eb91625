// SPDX-License-Identifier: Apache-2.0

// Package lab runs the real fairlead, daemon and command line, in a world of its own: a host,
// and one or two outside hosts at the other ends of its uplinks.
//
//	outside  192.0.2.254  2001:db8:1::fe ── 192.0.2.1   2001:db8:1::1  eth0  host
//	outside2 203.0.113.254 2001:db8:2::fe ── 203.0.113.1 2001:db8:2::1 eth1  (Config.Uplinks: 2)
//
// Outside also has the addresses of "the internet", 198.51.100.1 and 2001:db8:100::1.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/machine"
)

// Addresses of the lab.
const (
	Host4, Host6         = "192.0.2.1", "2001:db8:1::1"
	Outside4, Outside6   = "192.0.2.254", "2001:db8:1::fe"
	SecondHost4          = "203.0.113.1"
	SecondHost6          = "2001:db8:2::1"
	SecondOutside4       = "203.0.113.254"
	SecondOutside6       = "2001:db8:2::fe"
	Internet4, Internet6 = "198.51.100.1", "2001:db8:100::1"

	metricsAddress = "127.0.0.1:9477"
)

// Config describes a lab.
type Config struct {
	Clsact     bool     // attach with clsact filters
	Uplinks    int      // 1 or 2; 0 means 1
	DaemonArgs []string // additional flags
	NoDaemon   bool     // the test starts it
	// DaemonUnder is a command, with its arguments, that replaces itself by the daemon.
	DaemonUnder []string
	// DockerPlugins is the directory of the daemon's socket for Docker, "" for none.
	DockerPlugins string
}

// Lab is a running daemon and the hosts around it.
type Lab struct {
	testing.TB
	Host, Outside, Outside2 *world.Host // Outside2 only with two uplinks
	Config                  Config
	Binary                  string
	Daemon                  *world.Process

	dir       string
	history   *history
	inherited []mount // that the host was made with
}

// New makes a lab whose daemon is ready, unless the test starts it. The lab ends with the
// test, and fails it if anything of Fairlead is left then.
func New(tb testing.TB, cfg Config) *Lab {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Fatal("the lab makes network namespaces and loads programs: run its tests as root")
	}
	l := &Lab{TB: tb, Config: cfg, Binary: Binary(), history: new(history)}
	tb.Cleanup(l.explain)
	if l.Binary == "" {
		tb.Fatal("the package's TestMain does not call lab.Main")
	}
	var err error
	l.dir, err = os.MkdirTemp("", "w") // short: the path of a socket has at most 107 bytes
	l.must(err)
	tb.Cleanup(func() { os.RemoveAll(l.dir) })
	l.Host = l.NewHost("host")
	l.inherited = readMounts(tb, l.mountinfo())
	l.Outside = l.NewHost("outside")
	l.IP(l.Outside, "addr add "+Internet4+"/32 dev lo", "addr add "+Internet6+"/128 dev lo nodad")
	l.Plug()
	if cfg.Uplinks == 2 {
		l.Outside2 = l.NewHost("outside2")
		l.Cable(l.Outside2, "eth1", SecondHost4, SecondHost6, SecondOutside4, SecondOutside6)
	}
	tb.Cleanup(l.close)
	if !cfg.NoDaemon {
		l.StartDaemon()
	}
	return l
}

// NewHost makes an additional host, which ends with the test.
func (l *Lab) NewHost(name string) *world.Host {
	l.Helper()
	h, err := world.New(name)
	l.must(err)
	l.Cleanup(h.Close)
	return h
}

// Plug makes the uplink eth0, with the default routes through it.
func (l *Lab) Plug() {
	l.Helper()
	l.Cable(l.Outside, "eth0", Host4, Host6, Outside4, Outside6)
	l.IP(l.Host, "route add default via "+Outside4, "route add ::/0 via "+Outside6)
}

// Cable connects the host to an outside host.
func (l *Lab) Cable(out *world.Host, device, host4, host6, out4, out6 string) {
	l.Helper()
	l.must(world.Cable(
		world.End{Host: l.Host, Device: device, Addresses: []string{host4 + "/24", host6 + "/64"}},
		world.End{Host: out, Device: "eth0", Addresses: []string{out4 + "/24", out6 + "/64"}},
	))
}

// IP runs commands of ip(8) on h.
func (l *Lab) IP(h *world.Host, commands ...string) {
	l.Helper()
	l.must(h.IP(commands...))
}

// Sysctl sets a value under /proc/sys/net on h.
func (l *Lab) Sysctl(h *world.Host, name, value string) {
	l.Helper()
	l.must(h.Sysctl(name, value))
}

// Dir returns a directory of the lab for files of its programs.
func (l *Lab) Dir(name string) string {
	l.Helper()
	path := filepath.Join(l.dir, name)
	l.must(os.MkdirAll(path, 0o755))
	return path
}

// Socket returns the path of the daemon's socket.
func (l *Lab) Socket() string { return filepath.Join(l.dir, "run", "api.sock") }

// dirs returns the flags that set the daemon's directories.
func (l *Lab) dirs() []string {
	return []string{
		"--state-dir", filepath.Join(l.dir, "state"),
		"--run-dir", filepath.Join(l.dir, "run"),
		"--bpf-dir", filepath.Join(l.dir, "bpf"),
		"--docker-plugin-dir", l.Config.DockerPlugins,
	}
}

// StartDaemon starts a daemon on the host, in the lab's directories, and waits until it is
// ready. It takes over from a daemon that runs there already.
func (l *Lab) StartDaemon(args ...string) {
	l.Helper()
	command := slices.Concat(l.Config.DaemonUnder, []string{l.Binary}, l.DaemonArgs(args...))
	daemon, err := l.Host.Spawn(command[0], command[1:]...)
	l.must(err)
	old := l.Daemon
	l.Daemon = daemon
	l.Eventually(30*time.Second, func() error {
		select {
		case <-daemon.Done():
			l.Fatalf("the daemon ended:\n%s", short(daemon.Output(), shownLines))
		default:
		}
		if err := world.Listening(l.Socket()); err != nil {
			return err // and no command, which would take more processor time than the daemon has left
		}
		r, err := l.try("status", "--format", "{{.Pid}}")
		if err == nil && r.Code == 0 && r.Stdout != fmt.Sprintln(daemon.Pid()) {
			err = errors.New("the old daemon still serves")
		}
		if err == nil && r.Code != 0 {
			err = errors.New(r.Stderr)
		}
		return err
	})
	if old != nil {
		old.Wait()
		l.ended(old)
	}
}

// DaemonArgs returns the command line of a daemon in the lab's directories, with additional
// flags.
func (l *Lab) DaemonArgs(more ...string) []string {
	args := append(append([]string{"daemon", "--metrics-listen", metricsAddress}, l.dirs()...), l.Config.DaemonArgs...)
	if l.Config.Clsact {
		args = append(args, "--force-clsact")
	}
	return append(args, more...)
}

// KillDaemon kills the daemon, as in a crash.
func (l *Lab) KillDaemon() {
	l.Helper()
	l.Daemon.Kill()
	l.ended(l.Daemon)
	l.Daemon = nil
}

// StopDaemon stops the daemon as systemd would.
func (l *Lab) StopDaemon() {
	l.Helper()
	if code := l.Daemon.Stop(time.Minute); code != 0 {
		l.Errorf("the daemon ended with status %d", code)
	}
	l.ended(l.Daemon)
	l.Daemon = nil
}

// Eventually repeats try until it succeeds. The test fails with its last error if a try that
// began after the limit failed: a try that began in time may take long. The limit is longer
// on a busy machine in proportion to its slowness.
func (l *Lab) Eventually(within time.Duration, try func() error) {
	l.Helper()
	m := machine.Start()
	defer m.Stop()
	for {
		late := m.Over(within)
		began := time.Now()
		err := try()
		if err == nil {
			return
		}
		if late {
			l.Fatalf("not within %v: %v", m.Stretch(within).Round(time.Millisecond), err)
		}
		time.Sleep(min(max(20*time.Millisecond, 2*time.Since(began)), time.Second/5)) // a try may load what it waits for
	}
}

// Timed expects f to take no longer than a time.
func (l *Lab) Timed(what string, within time.Duration, do func()) {
	l.Helper()
	m := machine.Start()
	defer m.Stop()
	do()
	took := m.Took()
	if m.Over(within) {
		l.Errorf("%s took %v, want %v at most (on a machine %.1f times slower than an idle one)", what, took, within, m.Slowness())
		return
	}
	l.Logf("%s took %v", what, took)
}

// With returns the lab for a subtest: its failures are reported to t.
func (l *Lab) With(t testing.TB) *Lab {
	c := *l
	c.TB = t
	return &c
}

// Case runs a part of a test as a subtest.
func (l *Lab) Case(name string, part func(l *Lab)) {
	l.Helper()
	t, ok := l.TB.(*testing.T)
	if !ok {
		l.Fatal("only tests have cases")
	}
	t.Run(name, func(t *testing.T) { part(l.With(t)) })
}

func (l *Lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// try runs a fairlead command on the host.
func (l *Lab) try(args ...string) (world.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return l.Host.RunCommand(l.Command(ctx, l.client(), args...))
}

// Command prepares a program that finds this lab's daemon if it is fairlead or runs fairlead.
func (l *Lab) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := world.Command(ctx, name, args...)
	cmd.Env = append(os.Environ(), "FAIRLEAD_HOST=unix://"+l.Socket())
	return cmd
}

// Try runs a fairlead command on the host.
func (l *Lab) Try(args ...string) world.Result {
	l.Helper()
	r, err := l.try(args...)
	l.must(err)
	return r
}

// Address parses an address that the test itself contains.
func Address(s string) netip.Addr { return netip.MustParseAddr(s) }
