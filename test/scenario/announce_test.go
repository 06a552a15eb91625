// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// TestAnnounceAlone is a service at an address that the only host answers for. Its own addresses are never
// touched; what is announced is removed with the service, and by cleanup.
func TestAnnounceAlone(t *testing.T) {
	l := lab.New(t, lab.Config{})
	const v4, v6 = "192.0.2.80", "2001:db8:1::80"
	l.Fairlead("network", "create", "--ipv6", "web")
	for _, refused := range []struct {
		texts []string
		args  []string
	}{
		{[]string{"198.51.100.7", "choose an address in 192.0.2.0/24 of eth0"}, []string{"-p", "198.51.100.7:80:80", "--announce"}},
		{[]string{"2001:db8:99::7", "choose an address in 2001:db8:1::/64 of eth0"}, []string{"-p", "[2001:db8:99::7]:80:80", "--announce"}},
		{[]string{"192.0.2.1", "itself", "leave out --announce"}, []string{"-p", "192.0.2.1:80:80", "--announce"}},
		{[]string{"give -p ADDRESS"}, []string{"-p", "80:80", "--announce"}},
		{[]string{"give -p ADDRESS"}, []string{"--announce"}},
		{[]string{"failed to bind"}, []string{"-p", v4 + ":80:80"}}, // without --announce the host must have it
	} {
		l.Refused(1, refused.texts, append([]string{"service", "create", "--network", "web", "shop"}, refused.args...)...)
	}
	l.Fairlead("service", "create", "--network", "web", "-p", v4+":8080:80", "-p", "["+v6+"]:8080:80", "--announce", "shop")
	backend := l.Sandbox("backend", "--network", "web", "--network-alias", "shop")
	l.Greet(backend.Host, "backend", 80)
	reached := func(when string) {
		t.Helper()
		for address, client := range map[string]string{v4: lab.Outside4, v6: lab.Outside6} {
			var g *lab.Greeted
			l.Eventually(5*time.Second, func() (err error) {
				g, err = lab.Greeting(l.Outside, address, 8080)
				return err
			})
			if g.Client != client {
				t.Errorf("%s: the backend sees %s at %s, want %s", when, g.Client, address, client)
			}
			g.Close()
		}
	}
	reached("at first")
	if text := l.Fairlead("service", "ls", "--format", "{{.Announced}}"); text != v4+"@*, "+v6+"@*" {
		t.Errorf("announced: %q", text)
	}
	// What the host sends still has its own address.
	r, err := l.Host.Run(context.Background(), "ip", "route", "get", lab.Internet4)
	if err != nil || !strings.Contains(r.Stdout, "src "+lab.Host4) {
		t.Errorf("route: %v %s", err, r.Output())
	}
	l.KillDaemon()
	reached("without the daemon")
	l.StartDaemon()
	reached("after the restart")
	has := func(want int) {
		t.Helper()
		l.Eventually(5*time.Second, func() error {
			r, err := l.Host.Run(context.Background(), "ip", "-o", "addr", "show", "dev", "eth0")
			if n := strings.Count(r.Stdout, v4+"/") + strings.Count(r.Stdout, v6+"/"); err == nil && n != want {
				return fmt.Errorf("%d announced addresses, want %d: %s", n, want, r.Stdout)
			}
			if !strings.Contains(r.Stdout, lab.Host4+"/24") || !strings.Contains(r.Stdout, lab.Host6+"/64") {
				t.Fatalf("the host's own addresses: %s", r.Stdout)
			}
			return err
		})
	}
	has(2)
	l.Fairlead("service", "rm", "shop")
	has(0)
	l.Fairlead("service", "create", "--network", "web", "-p", v4+":8080:80", "-p", "["+v6+"]:8080:80", "--announce", "shop")
	has(2)
	reached("again")
	l.StopDaemon()
	has(2)
	l.RunCleanup()
	has(0)
}
