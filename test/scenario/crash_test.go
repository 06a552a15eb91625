// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A daemon that dies at any point of any verb leaves nothing behind that the next one does
// not complete or remove (A46).
func TestDaemonDiesInVerbs(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		network(l, "web")
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		for round := range 6 {
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for i := range 2 {
				wg.Go(func() { verbs(l, fmt.Sprint("r", round, "w", i), stop) })
			}
			time.Sleep(time.Duration(50+random.IntN(400)) * time.Millisecond)
			l.KillDaemon()
			close(stop)
			wg.Wait()
			l.StartDaemon()
			consistent(l)
		}
		for sandbox := range strings.FieldsSeq(l.Fairlead("ps", "--all", "--quiet")) {
			l.Fairlead("rm", "-f", sandbox)
		}
		for n := range strings.FieldsSeq(l.Fairlead("network", "ls", "--quiet", "--filter", "type=custom")) {
			l.Fairlead("network", "rm", n)
		}
		consistent(l)
		if left := l.Devices("fairlead:endpoint:"); len(left) > 0 {
			l.Errorf("endpoints are left: %v", left)
		}
	})
}

// verbs runs verbs until stop, or until the daemon is absent, when any may fail.
func verbs(l *lab.Lab, prefix string, stop <-chan struct{}) {
	for n := 0; ; n++ {
		name := fmt.Sprint(prefix, "n", n)
		for _, args := range [][]string{
			{"network", "create", "--ipv6", name},
			{"sandbox", "create", "--network", name, "-p", "80", "-p", "53/udp", name + "a"},
			{"sandbox", "create", "--network", "web", name + "b"},
			{"publish", "add", name + "a", "-p", "81", "-p", "82"},
			{"update", name + "b", "--bandwidth-in", "100mbit", "--bandwidth-out", "1gbit"},
			{"network", "connect", "--bandwidth-in", "1gbit", name, name + "b"},
			{"publish", "rm", name + "a", "-p", "81"},
			{"update", name + "b", "--network", name, "--bandwidth-in", "none"},
			{"network", "disconnect", "web", name + "b"},
			{"rm", "-f", name + "a"},
		} {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := l.Host.RunCommand(l.Command(ctx, l.Binary, args...))
			cancel()
			if err != nil {
				l.Errorf("%v: %v", args, err)
			}
		}
	}
}

// consistent checks that the kernel has exactly what the daemon reports.
func consistent(l *lab.Lab) {
	l.Helper()
	// A try starts many programs, so a few of them take long on a busy machine.
	l.Eventually(time.Minute, func() error {
		var endpoints, networks, namespaces, limits []string
		// The default network has no sandbox, and therefore no device.
		for id := range strings.FieldsSeq(l.Fairlead("network", "ls", "--quiet", "--no-trunc", "--filter", "type=custom")) {
			networks = append(networks, id)
		}
		for id := range strings.FieldsSeq(l.Fairlead("ps", "--all", "--quiet", "--no-trunc")) {
			sb := l.Inspect(id)
			namespaces = append(namespaces, sb.NetworkSettings.SandboxKey)
			for _, e := range sb.NetworkSettings.Networks {
				endpoints = append(endpoints, e.EndpointID)
				if e.Bandwidth != nil && e.Bandwidth.IngressRate > 0 {
					limits = append(limits, "limit")
				}
			}
			if err := usable(l, sb.Name, sb.NetworkSettings.SandboxKey); err != nil {
				return err
			}
		}
		for _, c := range []struct {
			what      string
			want, got []string
		}{
			{"gateways", networks, aliases(l, "fairlead:gateway:")},
			{"host ports", networks, aliases(l, "fairlead:hostport:")},
			{"endpoints", endpoints, aliases(l, "fairlead:endpoint:")},
			{"namespaces", namespaces, l.Namespaces()},
			{"limits", limits, slices.Repeat([]string{"limit"}, strings.Count(l.Must(l.Host, "tc", "qdisc", "show"), "qdisc tbf 666c:"))},
		} {
			slices.Sort(c.want)
			slices.Sort(c.got)
			if !slices.Equal(c.want, c.got) {
				return fmt.Errorf("%s: the kernel has %v, the daemon says %v", c.what, c.got, c.want)
			}
		}
		return nil
	})
}

// usable checks that a sandbox with a network reaches its gateways.
func usable(l *lab.Lab, name, key string) error {
	h, err := l.Host.Enter(name, key)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, e := range l.Inspect(name).NetworkSettings.Networks {
		for _, gateway := range []string{e.Gateway, e.IPv6Gateway} {
			if gateway == "" {
				continue
			}
			if r := l.Run(h, "ping", "-n", "-c", "1", "-W", "1", gateway); r.Code != 0 {
				return fmt.Errorf("%s does not reach its gateway:\n%s", name, r.Output())
			}
		}
	}
	return nil
}

// aliases returns the IDs in the aliases of the host's devices.
func aliases(l *lab.Lab, prefix string) (ids []string) {
	l.Helper()
	for line := range strings.Lines(l.Must(l.Host, "ip", "-details", "-oneline", "link", "show")) {
		if _, id, ok := strings.Cut(line, "alias "+prefix); ok {
			ids = append(ids, strings.Fields(strings.ReplaceAll(id, `\`, " "))[0])
		}
	}
	return ids
}
