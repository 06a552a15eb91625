// SPDX-License-Identifier: Apache-2.0

package names

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/test/lab"
)

// A client that follows events sees what happens, and goes on when the daemon was killed and started again.
func TestEvents(t *testing.T) {
	t.Parallel()
	n := &names{Lab: lab.New(t, lab.Config{})}
	cmd := n.Command(t.Context(), n.Binary, "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Host.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	sees := func(parts ...string) {
		t.Helper()
		for late := time.After(10 * time.Second); ; {
			select {
			case line := <-lines:
				found := true
				for _, p := range parts {
					found = found && strings.Contains(line, p)
				}
				if found {
					return
				}
			case <-late:
				t.Fatalf("no event with %q", parts)
			}
		}
	}
	var some bytes.Buffer
	filtered := n.Command(t.Context(), n.Binary, "events", "--filter", "type=network", "--filter", "event=connect", "--filter", "event=disconnect", "--filter", "network=web", "--format", "json")
	filtered.Stdout = &some
	if err := n.Host.Start(filtered); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // it says what happens from now on
	n.Fairlead("network", "create", "web")
	sees("network create", "name=web", "type=bridge")
	n.Sandbox("anna", "--network", "web", "-p", "8080:80")
	sees("sandbox create", "name=anna")
	sees("network connect", "sandbox=anna")
	sees("sandbox publish", "host=0.0.0.0:8080", "port=80/tcp")
	n.Must(n.Host, "ip", "address", "flush", "dev", n.Device(rtnl.GatewayAlias(n.Network("web").ID)))
	sees("datapath repair")
	n.KillDaemon()
	n.StartDaemon()
	time.Sleep(time.Second) // for it to notice
	n.Fairlead("publish", "rm", "anna", "-p", "80")
	sees("sandbox unpublish", "name=anna")
	n.Fairlead("rm", "-f", "anna")
	sees("network disconnect", "sandbox=anna")
	sees("sandbox destroy", "name=anna")
	n.Fairlead("network", "rm", "web")
	sees("network destroy", "name=web")
	_ = filtered.Process.Kill()
	_ = filtered.Wait()
	if out := some.String(); strings.Count(out, "\n") != 2 || !strings.Contains(out, `"Action":"connect"`) || !strings.Contains(out, `"Action":"disconnect"`) {
		t.Errorf("filtered, the events are\n%s", out)
	}
}
