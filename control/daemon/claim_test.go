// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bench/world"
)

const nobody = 65534

// squat takes the daemons' socket name as an unprivileged user, until it is killed.
func squat() error {
	if err := syscall.Setuid(nobody); err != nil {
		return err
	}
	l, err := net.Listen("unix", "@fairlead/daemon")
	if err != nil {
		return err
	}
	fmt.Println("squatting")
	for {
		if _, err := l.Accept(); err != nil {
			return err
		}
	}
}

// beside returns a node with other directories on the same host.
func (n *testNode) beside() *testNode {
	n.Helper()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &testNode{T: n.T, host: n.host, dir: dir}
}

// run runs a verb to completion.
func (n *testNode) run(verb string) world.Result {
	n.Helper()
	result, err := n.host.RunCommand(n.command(verb))
	if err != nil {
		n.Fatal(err)
	}
	return result
}

// A daemon or cleanup of other directories would take the first one's devices for leftovers.
func TestOneDaemonInANetworkNamespace(t *testing.T) {
	n := newNode(t)
	first := n.start()
	devices, pins := n.devices(), n.pinned()
	other := n.beside()
	for _, verb := range []string{"daemon", "cleanup"} {
		result := other.run(verb)
		if result.Code != 1 || strings.Count(result.Stderr, "\n") != 1 {
			t.Errorf("%s beside a daemon: status %d, %q; want a refusal in one line", verb, result.Code, result.Output())
		}
		for _, want := range []string{fmt.Sprintf("process %d,", first.Pid()), filepath.Join(n.dir, "run"), "stop it first"} {
			if !strings.Contains(result.Stderr, want) {
				t.Errorf("%s beside a daemon says %q, without %q", verb, result.Stderr, want)
			}
		}
	}
	if got := n.devices(); !slices.Equal(got, devices) {
		t.Errorf("devices %q beside a refused daemon, want %q", got, devices)
	}
	if diff := cmp.Diff(pins, n.pinned()); diff != "" {
		t.Errorf("a refused daemon replaced programs or maps (-before +after):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(other.dir, "bpf")); !os.IsNotExist(err) {
		t.Errorf("pins of the refused daemon: %v, want none", err)
	}
	first.Kill()
	n.cleanup()
	other.start()
}

// A daemon that is stopped cannot be described fully.
func TestHolderOfFewWords(t *testing.T) {
	n := newNode(t)
	first := n.start()
	if err := first.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	result := n.beside().run("daemon")
	if want := fmt.Sprintf("daemon (process %d) already", first.Pid()); result.Code != 1 || !strings.Contains(result.Stderr, want) {
		t.Errorf("beside a stopped daemon: status %d, %q; want %q", result.Code, result.Output(), want)
	}
}

// Any process may take an abstract socket name.
func TestStrangersDoNotKeepADaemonAway(t *testing.T) {
	n := newNode(t)
	squatter, err := n.host.SpawnCommand(n.command("squat"))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); squatter.Output() == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the squatter does not listen")
		}
	}
	p := n.start()
	if want := fmt.Sprintf("pid=%d uid=%d", squatter.Pid(), nobody); !strings.Contains(p.Output(), want) {
		t.Errorf("the daemon's log does not name the squatter, %q:\n%s", want, p.Output())
	}
}
