// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func newTestHost(t *testing.T, name string) *Host {
	t.Helper()
	h, err := New(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestCable(t *testing.T) {
	a, b := newTestHost(t, "a"), newTestHost(t, "b")
	defer a.Close()
	defer b.Close()
	err := Cable(
		End{a, "eth0", []string{"192.0.2.1/24", "2001:db8::1/64"}},
		End{b, "up0", []string{"192.0.2.2/24", "2001:db8::2/64"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"192.0.2.2", "2001:db8::2"} {
		r, err := a.Run(t.Context(), "ping", "-n", "-c", "1", "-W", "2", address)
		if err != nil || r.Code != 0 {
			t.Errorf("ping %s: status %d, %v\n%s", address, r.Code, err, r.Output())
		}
	}
	l, err := b.Listen("tcp", "192.0.2.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := a.Dial(net.Dialer{Timeout: time.Second}, "tcp", "192.0.2.2:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestEnter(t *testing.T) {
	a, b := newTestHost(t, "a"), newTestHost(t, "b")
	defer a.Close()
	defer b.Close()
	again, err := a.Enter("again", b.NetNS())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Listen("tcp", "127.0.0.1:80"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Listen("tcp", "127.0.0.1:80"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen in the same namespace: %v, want %v", err, syscall.EADDRINUSE)
	}
	if _, err := a.Enter("file", "/etc/passwd"); err == nil {
		t.Error("entered a file that is not a namespace")
	}
}

func TestMountsArePrivate(t *testing.T) {
	h := newTestHost(t, "a")
	defer h.Close()
	dir := t.TempDir()
	r, err := h.Run(t.Context(), "sh", "-c", "mount -t tmpfs lab "+dir+" && touch "+dir+"/file")
	if err != nil || r.Code != 0 {
		t.Fatalf("mount: status %d, %v\n%s", r.Code, err, r.Output())
	}
	if _, err := os.Stat(dir + "/file"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file in a host's mount is visible outside: %v", err)
	}
}

func TestPrograms(t *testing.T) {
	h := newTestHost(t, "a")
	for _, tc := range []struct {
		name    string
		within  time.Duration
		command string
		want    Result
	}{
		{"status", time.Minute, "echo out; echo err >&2; exit 3", Result{"out\n", "err\n", 3}},
		{"signal", time.Minute, "kill -TERM $$", Result{Code: 143}},
		{"timeout", time.Second, "exec sleep 60", Result{Code: 137}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), tc.within)
		r, err := h.Run(ctx, "sh", "-c", tc.command)
		cancel()
		if err != nil || r != tc.want {
			t.Errorf("%s: %+v, %v; want %+v", tc.name, r, err, tc.want)
		}
	}
	if _, err := h.Run(t.Context(), "no-such-program"); err == nil {
		t.Error("a program that does not exist was run")
	}

	stopped, err := h.Spawn("sh", "-c", "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.01; done")
	if err != nil {
		t.Fatal(err)
	}
	for stopped.Output() == "" {
		time.Sleep(time.Millisecond)
	}
	if code := stopped.Stop(5 * time.Second); code != 4 || stopped.Output() != "ready\nbye\n" {
		t.Errorf("stopped program: status %d, output %q", code, stopped.Output())
	}

	left, err := h.Spawn("sh", "-c", "sleep 60 & wait")
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	if code := left.Wait(); code != 137 {
		t.Errorf("program of a closed host: status %d, want 137", code)
	}
}

// The test runs itself with every signal ignored that a runner might ignore.
func TestProgramsHaveDefaultSignals(t *testing.T) {
	const inner = "FAIRLEAD_TEST_SIGNALS_IGNORED"
	if os.Getenv(inner) == "" {
		cmd := exec.Command("sh", "-c", `trap '' HUP INT QUIT PIPE TERM USR1; exec "$0" -test.count=1 -test.run="^$1\$"`, os.Args[0], t.Name())
		cmd.Env = append(os.Environ(), inner+"=yes")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("with signals ignored: %v\n%s", err, out)
		}
		return
	}
	h := newTestHost(t, "a")
	defer h.Close()
	for _, name := range []string{"HUP", "INT", "QUIT", "PIPE", "TERM", "USR1"} {
		r, err := h.Run(t.Context(), "sh", "-c", "trap 'exit 33' "+name+"; kill -"+name+" $$; exit 1")
		if err != nil || r.Code != 33 {
			t.Errorf("SIG%s: %+v, %v; want that the program can trap it", name, r, err)
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil { // still ignored, or the test dies
		t.Error(err)
	}
}
