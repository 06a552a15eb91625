// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
	"github.com/fairlead-net/fairlead/test/lab"
)

// While the network namespace of one sandbox does not open, sandboxes are created, connected, listed and
// removed, and packets flow. The verb that waits completes once the namespace opens.
func TestOtherSandboxesDoNotWait(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web, other := network(l, "web"), network(l, "other")
	a := l.Sandbox("anna", "--network", web)
	l.Sandbox("olga", "--network", other)
	foreign := l.NewHost("foreign")
	l.Fairlead("sandbox", "create", "--netns", foreign.NetNS(), "--network", web, "foreign")

	awaited, release := rtnltest.Hold(t, foreign.NetNS())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	connected := make(chan error, 1)
	go func() {
		r, err := l.Host.RunCommand(l.Command(ctx, l.Binary, "network", "connect", other, "foreign"))
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("status %d: %s", r.Code, r.Output())
		}
		connected <- err
	}()
	awaited()
	time.Sleep(3 * time.Second) // checks of all sandboxes wait, too

	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			name := fmt.Sprint("box", i)
			for _, args := range [][]string{
				{"sandbox", "create", "--network", web, "-p", "80", name},
				{"network", "connect", other, name},
				{"network", "disconnect", web, name},
				{"rm", "-f", name},
			} {
				r, err := l.Host.RunCommand(l.Command(ctx, l.Binary, args...))
				if err != nil || r.Code != 0 {
					l.Errorf("%v: %v\n%s", args, err, r.Output())
				}
			}
		})
	}
	clients.Wait()
	if out := l.Fairlead("ps", "-a", "--format", "{{.Names}}"); !strings.Contains(out, "foreign") || strings.Contains(out, "box") {
		l.Errorf("sandboxes are %q", out)
	}
	if networks := l.Inspect("foreign").NetworkSettings.Networks; len(networks) != 1 {
		l.Errorf("the sandbox is in %d networks before it is connected, want 1", len(networks))
	}
	l.Ping(l.Sandbox("ben", "--network", web).Host, a.IP4.String())
	select {
	case err := <-connected:
		l.Fatalf("connected, although the namespace does not open: %v", err)
	default:
	}

	release()
	if err := <-connected; err != nil {
		l.Fatal(err)
	}
	l.Ping(foreign, a.IP4.String())
	if networks := l.Inspect("foreign").NetworkSettings.Networks; len(networks) != 2 {
		l.Errorf("the sandbox is in %d networks, want 2", len(networks))
	}
	l.Fairlead("rm", "-f", "foreign")
}
