// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/test/lab"
)

// A forced removal kills the program of the sandbox and its workers, also those that the program left behind,
// and no program of the host that has a thread in the sandbox.
func TestRemoveSparesVisitors(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead("run", "-d", "--name", "anna", "--network", network(l, "web"), "sh", "-c", "setsid sleep 1000 & exec sleep 1000")
	program := l.Inspect("anna").State
	inside := fmt.Sprintf("/proc/%d/ns/net", program.Pid)
	netns, err := os.Readlink(inside)
	if err != nil {
		l.Fatal(err)
	}
	visitor := l.Visitor(inside)
	l.Fairlead("rm", "-f", "anna")
	if host.ProcessAlive(program.Pid, program.PidStart) {
		l.Error("the program runs")
	}
	select {
	case <-visitor.Done():
		l.Errorf("the visitor ended with status %d", visitor.Wait())
	default:
	}
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		l.Fatal(err)
	}
	for _, path := range paths {
		if in, err := os.Readlink(path); err == nil && in == netns && path != fmt.Sprintf("/proc/%d/ns/net", visitor.Pid()) {
			l.Errorf("%s: a process runs in the namespace of the removed sandbox", path)
		}
	}
}

// The main thread of the daemon stays in the daemon's namespace whatever the verbs do, because tools
// identify namespaces by it.
func TestMainThreadStays(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	path := fmt.Sprintf("/proc/%d/ns/net", l.Daemon.Pid())
	home, err := os.Readlink(path)
	if err != nil {
		l.Fatal(err)
	}
	stop, looked := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				looked <- nil
				return
			default:
			}
			if now, err := os.Readlink(path); err != nil || now != home {
				looked <- fmt.Errorf("the main thread is in %s, want %s (%v)", now, home, err)
				return
			}
		}
	}()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		l.Fairlead("sandbox", "create", "--network", web, "-p", "8080:80", "anna")
		l.Fairlead("rm", "anna")
	}
	close(stop)
	if err := <-looked; err != nil {
		l.Error(err)
	}
}
