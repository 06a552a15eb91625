// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/test/lab"
)

// earlierBuilds are the last commits before tables changed.
var earlierBuilds = []struct {
	commit string
	// converts is set if the tables of this build must be converted for it.
	converts bool
}{
	{"587769b", true},  // its flow entries have the first layout
	{"abe0ab4", false}, // it has fl_publish in place of fl_service and fl_backend
}

// silent is how many connections of each path are idle while builds are exchanged.
const silent = 100

// A build with other tables and another stored state takes over under load, and then the earlier one again: no connection
// is reset or fails, and neither a flow nor a published port is missing afterwards. With tcx it
// takes over from running daemons, with clsact from one that was killed and from one that was
// stopped.
func TestUpgradeAcrossLayouts(t *testing.T) {
	for _, build := range earlierBuilds {
		t.Run(build.commit, func(t *testing.T) {
			earlier := buildEarlier(t, build.commit)
			for _, clsact := range []bool{false, true} {
				t.Run(mode(clsact), func(t *testing.T) {
					acrossLayouts(t, lab.New(t, lab.Config{Clsact: clsact, NoDaemon: true}), earlier, build.converts)
				})
			}
		})
	}
}

// buildEarlier builds the fairlead of a commit from the history.
func buildEarlier(t *testing.T, commit string) (binary string) {
	t.Helper()
	dir := t.TempDir()
	binary = filepath.Join(dir, "bin")
	// As `make build`, so that packages that both builds share are compiled only once.
	script := fmt.Sprintf("git -C ../.. archive %s | tar -x -C %s && cd %[2]s && CGO_ENABLED=0 go build -trimpath -o %s ./cmd/fairlead",
		commit, dir, binary)
	out, err := exec.Command("bash", "-o", "pipefail", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s (in a shallow clone: git fetch --unshallow): %v\n%s", commit, err, out)
	}
	return binary
}

// Tables of flows that get another size under load keep all flows, and know which of them ended meanwhile.
func TestTablesResized(t *testing.T) {
	l := lab.New(t, lab.Config{NoDaemon: true})
	l.StartDaemon()
	paths := bothWays(l)
	for _, size := range []string{"65536", "131072"} {
		l.Config.DaemonArgs = []string{"--ct-max", size}
		kept(l, paths, "resized to "+size, func() { l.StartDaemon() })
		ended(l, "the change to "+size, 0)
	}
}

// A downgrade to a build that reads everything as it is takes nothing from the daemon that runs.
func TestDowngradeToTheSame(t *testing.T) {
	l := lab.New(t, lab.Config{})
	l.Sandbox("ben", "--network", network(l, "web"))
	flags := directories(l)
	left := func() (all []string) {
		for _, dir := range []string{filepath.Dir(filepath.Dir(l.Fairlead("inspect", "--format", "{{.HostsPath}}", "ben"))), flags[1]} {
			err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				all = append(all, path)
				return err
			})
			if err != nil {
				l.Fatal(err)
			}
		}
		return all
	}
	before := left()
	out := l.Fairlead(append([]string{"downgrade", "--to", l.Binary}, flags...)...)
	if !strings.HasPrefix(out, "nothing to convert: ") {
		l.Errorf("fairlead downgrade says %q", out)
	}
	if diff := cmp.Diff(before, left()); diff != "" {
		l.Errorf("files and pins (-before +after):\n%s", diff)
	}
}

func acrossLayouts(t *testing.T, l *lab.Lab, earlier string, converts bool) {
	now := l.Binary
	l.Binary = earlier
	l.StartDaemon()
	paths := bothWays(l)
	kept(l, paths, "upgraded", func() {
		l.Binary = now
		if l.Config.Clsact {
			l.KillDaemon()
		}
		l.StartDaemon()
	})
	ended(l, "the upgrade", 0)
	kept(l, paths, "downgraded", func() {
		if l.Config.Clsact {
			l.StopDaemon()
		}
		l.Binary = earlier // it also cleans up at the end
		handOver(l, now, earlier, converts)
	})
	ended(l, "the downgrade", mostLeft)
}

// bothWays returns paths of each family to a published port and from a sandbox to the outside.
func bothWays(l *lab.Lab) (paths map[string]lab.Path) {
	l.Helper()
	web := network(l, "web")
	b := l.Sandbox("ben", "--network", web, "-p", "8004:84", "-p", "8004:84/udp", "-p", "8006:86", "-p", "8006:86/udp")
	a := l.Sandbox("anna", "--network", web)
	paths = make(map[string]lab.Path)
	for _, f := range lab.Families() {
		port, host, out := fmt.Sprint(8000+int(f)), f.Of(lab.Host4, lab.Host6), f.Of(lab.Outside4, lab.Outside6)
		paths["published port, IPv"+f.String()] = lab.Path{Client: l.Outside, Server: l.Echo(b.Host, 80+int(f)), Address: net.JoinHostPort(host, port)}
		paths["masquerade, IPv"+f.String()] = lab.Path{Client: a.Host, Server: l.Echo(l.Outside, 8000+int(f)), Address: net.JoinHostPort(out, port)}
	}
	return paths
}

// handOver starts the daemon of the earlier build when `fairlead downgrade` of this one says so.
func handOver(l *lab.Lab, now, earlier string, converts bool) {
	l.Helper()
	says := "converted the stored state; start the daemon of " + earlier + " now"
	if converts {
		says = ", the stored state; start the daemon of " + earlier + " now"
	}
	command := l.Spawn(l.Host, now, append([]string{"downgrade", "--to", earlier}, directories(l)...)...)
	l.Eventually(10*time.Second, func() error {
		if out := command.Output(); !strings.Contains(out, says) {
			return fmt.Errorf("fairlead downgrade says %q, want %q", out, says)
		}
		return nil
	})
	l.StartDaemon()
	if code := command.Wait(); code != 0 {
		l.Errorf("fairlead downgrade: status %d\n%s", code, command.Output())
	}
}

// mostLeft is how many connections of some thousand may end in the moment of a downgrade without
// the earlier build, which does not copy again, learning of it (docs/operations.md).
const mostLeft = 3

// ended checks that at most some flows are established after an event, of connections that were all closed:
// the entry of one whose end was not noticed would stay for five days. Those of flows that were never confirmed
// stay for minutes.
func ended(l *lab.Lab, event string, most int) {
	l.Helper()
	l.Eventually(5*time.Second, func() error {
		var flows []string
		for line := range strings.Lines(l.Fairlead("ct", "ls", "--format", "{{.Expires}} {{.State}} {{.Source}} {{.Destination}}")) {
			expires, flow, _ := strings.Cut(strings.TrimSpace(line), " ")
			left, err := time.ParseDuration(expires)
			if err != nil {
				return err
			}
			if strings.HasPrefix(flow, "established") && left > time.Hour {
				flows = append(flows, flow)
			}
		}
		if len(flows) > most {
			return fmt.Errorf("%d flows are established after %s though all have ended, want at most %d:\n%s",
				len(flows), event, most, strings.Join(flows, "\n"))
		}
		return nil
	})
}

// directories returns the flags that set the directories of the daemon's pins and state.
func directories(l *lab.Lab) (flags []string) {
	args := l.DaemonArgs()
	for _, flag := range []string{"--bpf-dir", "--state-dir", "--run-dir"} {
		i := slices.Index(args, flag)
		flags = append(flags, args[i:i+2]...)
	}
	return flags
}

// kept checks that an event does not lose any connection or datagram. A connection whose
// handshake coincides with the change of programs and tables may have to retransmit a
// segment.
func kept(l *lab.Lab, paths map[string]lab.Path, event string, do func()) {
	l.Helper()
	idle := openIdle(l, paths)
	loads := l.StartLoads(paths)
	do()
	time.Sleep(time.Second)
	idle.alive(l, event)
	idle.close()
	for name, load := range loads {
		report := load.Stop()
		l.Logf("%s, %s: %v", event, name, report)
		for _, e := range report.Errors {
			l.Errorf("%s, %s: %s", event, name, e)
		}
		if report.Lost > 0 {
			l.Errorf("%s, %s: %d datagrams were lost", event, name, report.Lost)
		}
	}
}

// idle holds connections that wait.
type idle []net.Conn

// openIdle opens some connections on each path.
func openIdle(l *lab.Lab, paths map[string]lab.Path) (all idle) {
	l.Helper()
	for name, p := range paths {
		for range silent {
			c, err := p.Client.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp", p.Address)
			if err != nil {
				l.Fatalf("idle connection, %s: %v", name, err)
			}
			all = append(all, c)
		}
	}
	l.Cleanup(all.close)
	all.alive(l, "at once") // the handshake is done on both sides
	return all
}

func (all idle) close() {
	for _, c := range all {
		c.Close()
	}
}

// alive expects every connection to echo. It writes to all before it reads, so that it waits for the
// servers once.
func (all idle) alive(l *lab.Lab, event string) {
	l.Helper()
	text := func(i int) string { return fmt.Sprintf("%8d", i) }
	writes := make([]error, len(all))
	for i, c := range all {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		_, writes[i] = c.Write([]byte(text(i)))
	}
	dead := 0
	for i, c := range all {
		in, err := make([]byte, 8), writes[i]
		if err == nil {
			_, err = io.ReadFull(c, in)
		}
		if err != nil || string(in) != text(i) {
			dead++
			if dead <= 3 {
				l.Errorf("%s, idle connection from %s to %s: echo %q, %v", event, c.LocalAddr(), c.RemoteAddr(), in, err)
			}
		}
	}
	if dead > 0 {
		l.Errorf("%s: %d of %d idle connections are dead", event, dead, len(all))
	}
}
