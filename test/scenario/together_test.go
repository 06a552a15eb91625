// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// Many clients change shared networks, networks of their own and services at the same time, and programs come and
// go. Nothing that they do is taken for damage, and nothing is left of it.
func TestVerbsAtTheSameTime(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	for _, n := range []string{"one", "two"} {
		network(l, n)
	}
	network(l, "bare", "-o", "fairlead.untracked=true")
	stays := l.Sandbox("stays", "--network", "one", "--network-alias", "web")
	l.Fairlead("network", "connect", "two", "stays")
	client := l.Sandbox("client", "--network", "one")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	do := func(args ...string) {
		r, err := l.Host.RunCommand(l.Command(t.Context(), l.Binary, args...))
		if err != nil || r.Code != 0 {
			l.Errorf("%v: %v\n%s", args, err, r.Output())
		}
	}
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			shared := func() string { return []string{"one", "two", "bare", "bridge"}[rnd.IntN(4)] }
			for round := range 3 {
				name := fmt.Sprint("c", i, "r", round)
				switch (i + round) % 5 {
				case 0: // its own network
					do("network", "create", "--ipv6", name)
					do("sandbox", "create", "--network", name, "-p", "80", "-p", "53/udp", name)
					n := []string{"one", "two"}[rnd.IntN(2)]
					do("network", "connect", "--alias", "web", n, name)
					do("rm", "-f", name)
					do("network", "rm", name)
				case 1: // a program
					do("run", "--rm", "--network", shared(), "-p", "90", "true")
				case 2: // a service, and members of it
					n := []string{"one", "two"}[rnd.IntN(2)]
					do("service", "create", "--network", n, "-p", "7000", name)
					do("sandbox", "create", "--network", n, "--network-alias", name, name)
					do("rm", "-f", name)
					do("service", "rm", name)
				case 3:
					do("sandbox", "create", "--network", shared(), "-p", "80", name)
					do("rm", "-f", name)
				case 4: // refused, and taken back
					r, err := l.Host.RunCommand(l.Command(t.Context(), l.Binary, "sandbox", "create", "--netns", "/run/netns/none", "--network", shared(), name))
					if err != nil || r.Code == 0 {
						l.Errorf("a sandbox without a namespace: %v\n%s", err, r.Output())
					}
				}
			}
		})
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		clients.Wait()
	}()
	for running := true; running; {
		l.Ping(client.Host, stays.IP4.String())
		select {
		case <-done:
			running = false
		default:
		}
	}
	consistent(l)
	for kind, n := range l.Metrics().Repairs() {
		if n > 0 {
			l.Errorf("%v repairs of kind %s", n, kind)
		}
	}
	for line := range strings.Lines(l.Daemon.Output()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") || strings.Contains(line, "leftover") {
			l.Errorf("logged: %s", line)
		}
	}
	l.Fairlead("doctor")
}
