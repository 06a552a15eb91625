// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/test/lab"
)

// A run that is stopped early, at any moment, leaves no sandbox behind.
func TestRunStopped(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	for _, flags := range [][]string{{"--rm"}, {"--rm", "-d"}, {"-d", "--network", network(l, "a"), "--network", network(l, "b")}} {
		for _, n := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			for after := time.Duration(0); after <= 120*time.Millisecond; after += 8 * time.Millisecond {
				cmd := l.Command(context.Background(), l.Binary, append(append([]string{"run"}, flags...), "sleep", "60")...)
				p, err := l.Host.SpawnCommand(cmd)
				if err != nil {
					l.Fatal(err)
				}
				time.Sleep(after)
				p.Signal(n) // it may have exited
				p.Wait()
				if id := strings.TrimSpace(p.Output()); len(id) == 64 { // with -d: it was already ready
					l.Fairlead("rm", "-f", id)
				}
				l.Eventually(soon, func() error {
					if left := l.Fairlead("ps", "--all"); strings.Count(left, "\n") > 0 {
						return fmt.Errorf("run %v stopped by %v after %v left\n%s", flags, n, after, left)
					}
					return nil
				})
			}
		}
	}
}

// A program in a sandbox behaves as if a shell had started it.
func TestRun(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	network(l, "web")
	l.Case("exit status", func(l *lab.Lab) {
		for _, tc := range []struct {
			code    int
			command []string
		}{
			{0, []string{"true"}},
			{7, []string{"sh", "-c", "exit 7"}},
			{128 + 15, []string{"sh", "-c", "kill -TERM $$"}},
			{128 + 9, []string{"sh", "-c", "kill -KILL $$"}},
			{127, []string{"no-such-program"}},
			{127, []string{"/no/such/program"}},
			{126, []string{"/etc/passwd"}},
			{126, []string{"/etc"}},
		} {
			r := l.Try(append([]string{"run", "--rm", "--network", "web"}, tc.command...)...)
			if r.Code != tc.code {
				l.Errorf("run %v: status %d, want %d\n%s", tc.command, r.Code, tc.code, r.Output())
			}
		}
		l.Refused(125, []string{"nowhere"}, "run", "--rm", "--network", "nowhere", "true")
		if left := l.Fairlead("ps", "--all", "--quiet"); left != "" {
			l.Errorf("sandboxes are left: %s", left)
		}
	})
	l.Case("output and loopback", func(l *lab.Lab) {
		for _, f := range lab.Families() {
			l.Fairlead("run", "--rm", "--network", "web", "ping", "-n", "-c", "1", "-W", "1", f.Of("127.0.0.1", "::1"))
		}
		script := `echo out; echo err >&2; socat -u TCP-LISTEN:9,bind=127.0.0.1 - &
			echo over loopback | socat -u - TCP:127.0.0.1:9,retry=100,interval=0.1; wait`
		for _, network := range []string{"web", "none"} {
			r := l.Try("run", "--rm", "--network", network, "sh", "-c", script)
			if r.Code != 0 || r.Stdout != "out\nover loopback\n" || r.Stderr != "err\n" {
				l.Errorf("run --network %s: %+v", network, r)
			}
		}
	})
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
		l.Case(fmt.Sprint("signal ", s), func(l *lab.Lab) {
			script := fmt.Sprintf(`trap 'echo got it; exit 33' %d; echo ready; while :; do sleep 0.05; done`, s)
			p := background(l, "run", "--rm", "--network", "web", "sh", "-c", script)
			says(l, p, "ready")
			if err := p.Signal(s); err != nil {
				l.Fatal(err)
			}
			if code := status(l, p); code != 33 || !strings.Contains(p.Output(), "got it") {
				l.Errorf("status %d, output %q, want 33 and that the program received the signal", code, p.Output())
			}
		})
	}
	l.Case("terminal", terminal)
	l.Case("detached", detached)
	if left := l.Fairlead("ps", "--all", "--quiet"); left != "" {
		l.Errorf("sandboxes are left: %s", left)
	}
}

// background starts a fairlead command.
func background(l *lab.Lab, args ...string) *world.Process {
	l.Helper()
	p, err := l.Host.SpawnCommand(l.Command(context.Background(), l.Binary, args...))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { p.Kill() })
	return p
}

// says waits for an output.
func says(l *lab.Lab, p *world.Process, text string) {
	l.Helper()
	l.Eventually(10*time.Second, func() error {
		if !strings.Contains(p.Output(), text) {
			return fmt.Errorf("output %q, want %q", p.Output(), text)
		}
		return nil
	})
}

// status waits for the exit.
func status(l *lab.Lab, p *world.Process) int {
	l.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		l.Fatalf("the program does not end; its output: %q", p.Output())
	}
	return p.Wait()
}

// terminal runs a program on a terminal, which script(1) makes. The command is started by a
// shell, and some shells do not survive a Ctrl-C that is meant for the command.
func terminal(l *lab.Lab) {
	command := "exec " + l.Binary + ` run --rm --network web sh -c '
		tty; stty size; stty raw; stty -raw; trap "echo interrupted once; exit 5" INT; echo ready; while :; do sleep 0.05; done'`
	cmd := l.Command(context.Background(), "script", "-qec", command, "/dev/null")
	keys, keyboard := io.Pipe()
	cmd.Stdin = keys
	defer keyboard.Close()
	p, err := l.Host.SpawnCommand(cmd)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { p.Kill() })
	says(l, p, "ready")
	if !strings.Contains(p.Output(), "/dev/pts/") || strings.Contains(p.Output(), "not a tty") || strings.Contains(p.Output(), "stty:") {
		l.Errorf("no terminal: %q", p.Output())
	}
	if _, err := keyboard.Write([]byte{3}); err != nil { // Ctrl-C
		l.Fatal(err)
	}
	says(l, p, "interrupted once")
	keyboard.Close()
	if code := status(l, p); code != 5 {
		l.Errorf("status %d, want 5\n%s", code, p.Output())
	}
}

// detached runs a program in the background.
func detached(l *lab.Lab) {
	id := l.Fairlead("run", "-d", "--name", "server", "--network", "web", "-p", "8080:80", "sh", "-c", "echo hello; exec sleep 60")
	if got := l.Inspect("server").ID; got != id {
		l.Errorf("run -d printed %q, the sandbox is %s", id, got)
	}
	l.Eventually(soon, func() error {
		r := l.Run(l.Host, "cat", l.Inspect("server").LogPath)
		if r.Stdout != "hello\n" {
			return fmt.Errorf("log: %q", r.Output())
		}
		return nil
	})
	if got := l.Fairlead("exec", "server", "sh", "-c", "ip -brief addr show dev eth0 | wc -l"); got != "1" {
		l.Errorf("exec does not see the sandbox's device: %q", got)
	}
	if r := l.Try("exec", "server", "sh", "-c", "exit 9"); r.Code != 9 {
		l.Errorf("exec: status %d, want 9", r.Code)
	}
	if got := l.Fairlead("port", "server", "80"); !strings.Contains(got, ":8080") {
		l.Errorf("port: %q", got)
	}
	l.Refused(1, []string{"server"}, "rm", "server") // its program is running
	program := l.Inspect("server").State
	l.Fairlead("rm", "-f", "server")
	// Its parent has exited, so this machine decides which process reaps it, and when.
	if host.ProcessAlive(program.Pid, program.PidStart) {
		l.Errorf("program %d is still running", program.Pid)
	}
	l.Fairlead("run", "-d", "--rm", "echo", "its output goes with it")
	l.Eventually(soon, func() error {
		if logs := l.Must(l.Host, "find", l.Dir("run")+"/logs", "-type", "f"); logs != "" {
			return fmt.Errorf("logs remain: %s", logs)
		}
		return nil
	})
}
