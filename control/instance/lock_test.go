// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"bufio"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// holdVariable, when set, turns this test binary into a process that holds the lock of the
// directory in it, as a daemon would.
const holdVariable = "FAIRLEAD_TEST_HOLD_LOCK"

// heldCookie is the cookie of the namespace that hold claims to be in.
const heldCookie = 7

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdVariable); dir != "" {
		os.Exit(hold(dir))
	}
	os.Exit(m.Run())
}

// hold acquires the lock, reports that, and releases it when it is asked to end.
func hold(dir string) int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	l, err := tryLock(dir)
	if err != nil {
		return 1
	}
	if err := l.sign(identity{PID: os.Getpid(), NetNSCookie: heldCookie}); err != nil {
		return 1
	}
	if _, err := os.Stdout.WriteString("held\n"); err != nil {
		return 1
	}
	<-stop
	return 0
}

// startHolder runs hold in a separate process.
func startHolder(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	// The race detector sleeps a second before it lets a process end.
	cmd.Env = append(os.Environ(), holdVariable+"="+dir, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("holder printed %q: %v", line, err)
	}
	return cmd
}

func TestTryLock(t *testing.T) {
	dir := t.TempDir()
	first, err := tryLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(dir); !errors.Is(err, errLocked) {
		t.Fatalf("second lock: %v, want errLocked", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := tryLock(dir)
	if err != nil {
		t.Fatalf("lock after it was released: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

// Cleanup right after the daemon was asked to end waits for it, but not forever.
func TestCleanupWaitsForADaemonThatEnds(t *testing.T) {
	dir := t.TempDir()
	dirs := Dirs{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), BPF: filepath.Join(dir, "bpf")}
	if err := os.MkdirAll(dirs.Run, 0o700); err != nil {
		t.Fatal(err)
	}
	holder, err := tryLock(dirs.Run)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := lockStopped(t.Context(), dirs); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("cleanup beside a daemon: %v, want a refusal that says to stop it", err)
	}
	time.AfterFunc(stopWait/10, func() { _ = holder.Close() })
	ran, unlock, err := lockStopped(t.Context(), dirs)
	if err != nil || ran {
		t.Fatalf("cleanup after a daemon that ends: ran %t, %v", ran, err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

// A daemon that was killed and has no open files may still hold its lock for a moment.
func TestTakeOverFromOneThatEnds(t *testing.T) {
	dir := t.TempDir()
	killed := startHolder(t, dir)
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	defer killed.Wait() // until then its PID is not reused
	still, err := awaitLock(t.Context(), dir, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = still.Close() })
	l, err := takeOver(t.Context(), dir, identity{NetNSCookie: heldCookie}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A daemon of another namespace or bpffs directory is not our predecessor.
func TestTakeOverSparesOtherNodes(t *testing.T) {
	dir := t.TempDir()
	holder := startHolder(t, dir)
	for _, mine := range []identity{{NetNSCookie: heldCookie + 1}, {NetNSCookie: heldCookie, BPFDir: "/elsewhere"}} {
		if _, err := takeOver(t.Context(), dir, mine, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--") {
			t.Errorf("taken over as %+v: %v; want a refusal that names a flag", mine, err)
		}
	}
	if _, err := tryLock(dir); !errors.Is(err, errLocked) {
		t.Errorf("the holder was ended: %v", err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

func TestTakeOverAsksTheHolderToEnd(t *testing.T) {
	t.Run("running", func(t *testing.T) { takesOver(t, nil) })
	t.Run("stopped", func(t *testing.T) { takesOver(t, syscall.SIGSTOP) })
}

// takesOver expects a holder, which may have received a signal before, to end and its lock to be
// acquired.
func takesOver(t *testing.T, before os.Signal) {
	dir := t.TempDir()
	holder := startHolder(t, dir)
	if before != nil {
		if err := holder.Process.Signal(before); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	l, err := takeOver(t.Context(), dir, identity{NetNSCookie: heldCookie}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("took %v: the holder ended late, or the lock was polled late", took)
	}
	if err := holder.Wait(); err != nil {
		t.Errorf("the holder did not end by itself: %v", err)
	}
	if id, err := readIdentity(filepath.Join(dir, lockName)); err != nil || id.NetNSCookie != 7 {
		t.Errorf("identity %+v, %v: want the former holder's until the new one signs", id, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A lock file may contain a PID that another process has now.
func TestTakeOverSparesStrangers(t *testing.T) {
	dir := t.TempDir()
	startHolder(t, dir)
	unrelated := exec.CommandContext(t.Context(), "sleep", "60")
	if err := unrelated.Start(); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&lock{file: file}).sign(identity{PID: unrelated.Process.Pid, NetNSCookie: heldCookie}); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = takeOver(t.Context(), dir, identity{NetNSCookie: heldCookie}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "does not hold it") {
		t.Errorf("takeOver: %v, want a refusal", err)
	}
	if err := unrelated.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the unrelated process was signalled: %v", err)
	}
}

// A holder in another PID namespace has no PID here.
func TestHolderWithoutPID(t *testing.T) {
	if got, want := (holder{runDir: "/run/x"}).String(), `a process in another PID namespace, --run-dir "/run/x"`; got != want {
		t.Errorf("a holder without a PID is %q, want %q", got, want)
	}
}

// The pins of the last daemon are not left behind for another directory, unless they are gone, belong to another
// network namespace, or are those of this daemon.
func TestLastDaemonsPins(t *testing.T) {
	run, former := t.TempDir(), filepath.Join(t.TempDir(), "bpf")
	l, err := tryLock(run)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	check := func(what string, me identity, refused bool) {
		t.Helper()
		err := checkPins(run, me)
		if refused != (err != nil) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && (!strings.Contains(err.Error(), former) || !strings.Contains(err.Error(), "fairlead cleanup")) {
			t.Errorf("%s: %v names neither directory nor remedy", what, err)
		}
	}
	me := identity{NetNSCookie: heldCookie, BPFDir: filepath.Join(t.TempDir(), "bpf")}
	check("no daemon before", me, false)
	if err := l.sign(identity{PID: 1, NetNSCookie: heldCookie, BPFDir: former}); err != nil {
		t.Fatal(err)
	}
	check("no directory", me, false)
	if err := os.Mkdir(former, 0o755); err != nil {
		t.Fatal(err)
	}
	check("no pins", me, false)
	if err := os.Mkdir(filepath.Join(former, "links"), 0o755); err != nil {
		t.Fatal(err)
	}
	check("pins", me, true)
	check("another network namespace", identity{NetNSCookie: heldCookie + 1, BPFDir: me.BPFDir}, false)
	check("the same directory", identity{NetNSCookie: heldCookie, BPFDir: former + "/"}, false)
}
