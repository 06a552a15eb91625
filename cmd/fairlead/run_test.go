// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/cmd/fairlead/enter"
	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/control/model"
)

func TestRunStatus(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -TERM $$": 143, "kill -KILL $$": 137, "exit 125": 125} {
		w := newWorld(t)
		code, _, stderr := w.run("run", "sh", "-c", script)
		if code != want || stderr != "" {
			t.Errorf("%s: got %d, %q; want %d", script, code, stderr, want)
		}
		sb, err := w.fake.Sandbox("made_up")
		if err != nil {
			t.Fatal(err)
		}
		if sb.PID == 0 || sb.PIDStart == 0 || !sb.Exited || sb.ExitCode != want {
			t.Errorf("%s: reported %+v", script, sb)
		}
	}
}

// started checks that one program was started, in a sandbox with its files.
func (w *world) started(name string) {
	w.t.Helper()
	if len(w.places) != 1 {
		w.t.Fatalf("started at %+v", w.places)
	}
	got := w.places[0]
	if f := got.Files; filepath.Base(f.Hosts) != "hosts" || filepath.Base(f.ResolvConf) != "resolv.conf" || filepath.Base(f.Hostname) != "hostname" {
		w.t.Errorf("files %+v", f)
	}
	got.Files = enter.Files{}
	if want := (enter.Place{NetNS: "/run/fairlead/netns/" + name, DaemonPid: 77, Hostname: "h"}); got != want {
		w.t.Errorf("place %+v, want %+v", got, want)
	}
}

func TestRunRequest(t *testing.T) {
	w := newWorld(t)
	w.ok("network", "create", "a")
	w.ok("network", "create", "b")
	w.ok("run", "--rm", "--name", "web", "--hostname", "h", "--network", "a", "--ip", "10.0.0.5", "--mac-address", "02:00:00:00:00:09",
		"--network", "name=b,ip6=fd00::5", "-p", "8080:80", "-P", "--expose", "53/udp", "--label", "k=v", "echo", "-n", "hello")
	if w.out.String() != "hello" {
		t.Errorf("output %q", w.out)
	}
	want := model.SandboxSpec{
		Name: "web", NetworkMode: "a", Hostname: "h", Labels: map[string]string{"k": "v"}, Command: []string{"echo", "-n", "hello"}, AutoRemove: true,
		Endpoint:   model.EndpointSpec{Network: "a", IPv4: netip.MustParseAddr("10.0.0.5"), MAC: model.MAC{2, 0, 0, 0, 0, 9}},
		PublishAll: true, Expose: []model.PortProto{{Port: 53, Count: 1, Proto: model.UDP}},
		Ports: []model.PortSpec{{HostPort: 8080, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP}},
	}
	if diff := cmp.Diff([]model.SandboxSpec{want}, w.fake.Specs, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("spec (-want +got)\n%s", diff)
	}
	join := model.EndpointSpec{Network: "b", IPv6: netip.MustParseAddr("fd00::5")}
	if diff := cmp.Diff([]model.EndpointSpec{join}, w.fake.Connects, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("second network (-want +got)\n%s", diff)
	}
	w.started("web")
	code, _, stderr := w.run("run", "--network", "host", "-p", "80", "true")
	if code != 0 || stderr != "fairlead: warning: Published ports are discarded\n" {
		t.Errorf("warning: got %d, %q", code, stderr)
	}
}

func TestRunLeavesNothingWhenItFails(t *testing.T) {
	dir := t.TempDir()
	script, noInterpreter := filepath.Join(dir, "script"), filepath.Join(dir, "orphan")
	for path, text := range map[string]string{script: "echo no line 1\n", noInterpreter: "#!/no/such/shell\n"} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--network", "bridge", "--network", "nothing", "true"}, 125, "network nothing not found"},
		{[]string{script}, 126, "needs a #! line"},
		{[]string{noInterpreter}, 126, "interpreter"},
		{[]string{"-d", script}, 126, "needs a #! line"},
	} {
		w := newWorld(t)
		code, _, stderr := w.run(append([]string{"run"}, tc.args...)...)
		if code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("%v: got %d, %q", tc.args, code, stderr)
		}
		if n := w.fake.Snapshot().Counts().Sandboxes; n != 0 {
			t.Errorf("%v: %d sandboxes left", tc.args, n)
		}
	}
}

// A signal before the program runs leaves no sandbox behind, whenever it arrives.
func TestStoppedWhileASandboxIsMade(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	for _, command := range []string{"run --rm touch " + ran, "run touch " + ran, "run -d touch " + ran, "sandbox create box", "run --network a --network b touch " + ran} {
		for _, n := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
			if signal.Ignored(n) {
				continue // nohup started the tests, so run ignores the signal, too
			}
			for when, making := range map[string]func(ctx context.Context){
				"while it is made": func(context.Context) { send(t, n); time.Sleep(50 * time.Millisecond) },
				"and it hangs":     func(ctx context.Context) { send(t, n); <-ctx.Done() },
				"twice, and it hangs": func(ctx context.Context) {
					send(t, n)
					time.Sleep(50 * time.Millisecond) // two pending signals of a kind would be merged
					send(t, n)
					<-ctx.Done()
				},
			} {
				w := newWorld(t)
				w.ok("network", "create", "a")
				w.ok("network", "create", "b")
				w.fake.Making = making
				if when == "and it hangs" {
					w.env.grace = 50 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				code, _, stderr := w.runIn(ctx, strings.Fields(command)...)
				late := ctx.Err()
				cancel()
				if late != nil {
					t.Fatalf("%s, %v %s: the signal has no effect", command, n, when)
				}
				want := "fairlead: stopped by a signal before the sandbox was ready: " + n.String() + "\n"
				if code != 128+int(n) || stderr != want {
					t.Errorf("%s, %v %s: got %d, %q", command, n, when, code, stderr)
				}
				waitFor(t, func() bool { return w.fake.Snapshot().Counts().Sandboxes == 0 })
			}
		}
	}
	if _, err := os.Stat(ran); !os.IsNotExist(err) {
		t.Errorf("a program ran: %v", err)
	}
}

// send sends a signal to this process, and waits until it has arrived.
func send(t *testing.T, n syscall.Signal) {
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, n)
	defer signal.Stop(arrived)
	if err := syscall.Kill(os.Getpid(), n); err != nil {
		t.Error(err)
		return
	}
	<-arrived
}

func TestRunDetached(t *testing.T) {
	w := newWorld(t)
	out := w.ok("run", "-d", "--name", "bg", "sh", "-c", "echo started; exec sleep 60")
	sb, err := w.fake.Sandbox("bg")
	if err != nil {
		t.Fatal(err)
	}
	if out != sb.ID+"\n" {
		t.Errorf("printed %q, want the ID %s", out, sb.ID)
	}
	if !host.ProcessAlive(sb.PID, sb.PIDStart) {
		t.Fatalf("process %d does not run", sb.PID)
	}
	if sid, err := syscall.Getpgid(sb.PID); err != nil || sid != sb.PID {
		t.Errorf("process group %d, %v; want a session of its own", sid, err)
	}
	log := filepath.Join(w.fake.State.RunDir, "logs", sb.ID[:12]+".log")
	waitFor(t, func() bool { b, _ := os.ReadFile(log); return string(b) == "started\n" })
	if code, _, stderr := w.run("rm", "bg"); code != 1 || !strings.Contains(stderr, "still runs; stop it first or use --force") {
		t.Errorf("rm: got %d, %q", code, stderr)
	}
	w.ok("rm", "-f", "bg")
	if host.ProcessAlive(sb.PID, sb.PIDStart) {
		t.Error("the program survived rm -f")
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not happen within 5 s")
}

// runUntilTerminated starts run with a program, and returns once the program runs. end makes
// the program exit with status 4; done receives the exit status of run.
func (w *world) runUntilTerminated(flags ...string) (pid int, end func(), done <-chan int) {
	w.t.Helper()
	dir := w.t.TempDir()
	started, stop := filepath.Join(dir, "started"), filepath.Join(dir, "stop")
	code := make(chan int)
	args := append([]string{"run"}, flags...)
	args = append(args, "sh", "-c", "echo $$ >"+started+"; while [ ! -e "+stop+" ]; do sleep 0.02; done; exit 4")
	go func() {
		c, _, _ := w.run(args...)
		code <- c
	}()
	waitFor(w.t, func() bool {
		b, _ := os.ReadFile(started) // may not exist yet
		n, err := fmt.Sscanf(string(b), "%d\n", &pid)
		return n == 1 && err == nil
	})
	return pid, func() {
		if err := os.WriteFile(stop, nil, 0o644); err != nil {
			w.t.Fatal(err)
		}
	}, code
}

func TestReportsSurviveARestartOfTheDaemon(t *testing.T) {
	w := newWorld(t)
	w.env.retryFor = time.Minute
	pid, end, done := w.runUntilTerminated("--name", "long")
	w.stop()
	end()
	waitFor(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	time.Sleep(100 * time.Millisecond) // so that it is reported while no daemon runs
	w.serve()
	if code := <-done; code != 4 {
		t.Errorf("exit status %d, stderr %q", code, w.err)
	}
	if sb, err := w.fake.Sandbox("long"); err != nil || !sb.Exited || sb.ExitCode != 4 || sb.PID == 0 {
		t.Errorf("reported %+v, %v", sb, err)
	}
}

func TestTheProgramsStatusCountsWithoutADaemonToo(t *testing.T) {
	w := newWorld(t)
	w.env.retryFor = 100 * time.Millisecond
	_, end, done := w.runUntilTerminated()
	w.stop()
	end()
	if code := <-done; code != 4 || !strings.Contains(w.err.String(), "warning: sandbox made_up: the daemon does not know that the program ended") {
		t.Errorf("got %d, %q", code, w.err)
	}
	w.serve()
}

func TestSignalsReachTheProgram(t *testing.T) {
	w := newWorld(t)
	ready := filepath.Join(t.TempDir(), "ready")
	done := make(chan int)
	go func() {
		code, _, _ := w.run("run", "sh", "-c", "trap 'exit 9' USR1; touch "+ready+"; while :; do sleep 0.05; done")
		done <- code
	}()
	waitFor(t, func() bool { _, err := os.Stat(ready); return err == nil })
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != 9 {
		t.Errorf("exit status %d, want the trap's 9", code)
	}
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	w.ok("sandbox", "create", "--netns", "/proc/self/ns/net", "--hostname", "h", "box")
	if got := w.fake.Specs[0]; got.NetNS != "/proc/self/ns/net" || got.Name != "box" {
		t.Errorf("spec %+v", got)
	}
	code, out, stderr := w.run("exec", "box", "sh", "-c", "echo in; echo err >&2; exit 5", "--help")
	if code != 5 || out != "in\n" || stderr != "err\n" {
		t.Errorf("got %d, %q, %q", code, out, stderr)
	}
	w.started("box")
}

// run and exec accept Docker's flags for running a program.
func TestProgramFlags(t *testing.T) {
	w := newWorld(t)
	w.ok("sandbox", "create", "box")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "here"), []byte("#!/bin/sh\npwd\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEPT", "kept")
	for _, verb := range [][]string{{"run", "--rm"}, {"exec"}} {
		run := func(flags []string, command ...string) (int, string, string) {
			args := append(verb[:len(verb):len(verb)], flags...)
			if verb[0] == "exec" {
				args = append(args, "box")
			}
			return w.run(append(args, command...)...)
		}
		for _, tc := range []struct {
			flags   []string
			command []string
			want    string
		}{
			{[]string{"-i", "-e", "A=1", "-e", "A=2", "-e", "KEPT", "-e", "NONE", "-e", "EMPTY="}, []string{"sh", "-c", "echo $A $KEPT ${NONE-none} ${EMPTY-unset}"}, "2 kept none\n"},
			{[]string{"-w", "/"}, []string{"pwd"}, "/\n"},
			{[]string{"-w", dir}, []string{"./here"}, dir + "\n"},
			{[]string{"-u", "1234:4321"}, []string{"sh", "-c", "id -u; id -g; id -G; echo $HOME"}, "1234\n4321\n4321\n/\n"},
			{[]string{"-u", "nobody"}, []string{"sh", "-c", "id -un"}, "nobody\n"},
			{[]string{"-u", "nobody:daemon", "-e", "HOME=/x"}, []string{"sh", "-c", "id -gn; echo $HOME"}, "daemon\n/x\n"},
		} {
			if code, out, stderr := run(tc.flags, tc.command...); code != 0 || out != tc.want || stderr != "" {
				t.Errorf("%v %v: got %d, %q, %q; want %q", verb, tc.flags, code, out, stderr, tc.want)
			}
		}
		for _, tc := range []struct{ flag, value, want string }{
			{"-t", "", "not a terminal"}, {"-w", "here", "not the absolute path"}, {"-w", "/etc/passwd", "not the absolute path"},
			{"-e", "=x", "no name"}, {"-u", "no-such-user", "no such user (give a name"}, {"-u", "4294967296", "no such user (give a name"},
			{"-u", "-1", "no such user (give a name"}, {"-u", "nobody:no-such-group", "no such group"},
		} {
			flags := []string{tc.flag}
			if tc.value != "" {
				flags = append(flags, tc.value)
			}
			if code, _, stderr := run(flags, "true"); code != 125 || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%v %v: got %d, %q", verb, flags, code, stderr)
			}
		}
	}
}

func TestFindProgram(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/x": 0o644, "b/x": 0o755, "a/y": 0o644, "here": 0o755} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "a/here"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	path := filepath.Join(dir, "a") + ":" + filepath.Join(dir, "b") + ":"
	for name, want := range map[string]string{
		"x": filepath.Join(dir, "b/x"), "y": "126", "z": "127", "here": "./here", "./here": "./here", "a/x": "126", "a/z": "127", "a": "127", "": "127",
	} {
		got, err := findProgram(name, path)
		if err != nil {
			got = strconv.Itoa(err.(*exitError).code)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
