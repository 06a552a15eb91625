// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// twoTicks is long enough for the daemon to check everything in a small lab.
const twoTicks = 4500 * time.Millisecond

// Damage inside a sandbox is repaired within five seconds, and is counted; changes by its
// program stay.
func TestRepairsInside(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		b := l.Sandbox("ben", "--network", web, "-p", "8080:7")
		a := l.Sandbox("anna", "--network", web)
		l.Echo(b.Host, 7)
		l.Echo(l.Outside, 7)
		l.Echo(l.Host, 9)
		gateway4, gateway6 := l.Gateway(web, lab.IPv4), l.Gateway(web, lab.IPv6)
		works := func() error { return everything(l, gateway4, gateway6, a, b) }
		l.Eventually(soon, works)
		ip := func(commands ...string) func() { return func() { l.IP(a.Host, commands...) } }
		shows := func(want string, args ...string) func() error {
			return func() error {
				if out := l.Must(a.Host, "ip", args...); !strings.Contains(out, want) {
					return fmt.Errorf("ip %v does not show %q: %s", args, want, out)
				}
				return works()
			}
		}
		// Changes that the program in the sandbox makes.
		own := []string{"addr add 10.99.9.9/32 dev eth0", "route add 198.18.0.0/15 via " + b.IP(lab.IPv4)}
		cases := []struct {
			name, kinds string
			spoil       func()
			works       func() error
		}{
			{"IPv4 address deleted", "address", ip("addr del " + a.IP(lab.IPv4) + "/16 dev eth0"), works},
			{"IPv6 address deleted", "address", ip("addr del " + a.IP(lab.IPv6) + "/64 dev eth0"), works},
			{"IPv4 default route deleted", "route", ip("route del 0.0.0.0/0"), works},
			{"IPv6 default route deleted", "route", ip("route del ::/0"), works},
			{"device down", "device", ip("link set dev eth0 down"), works},
			{"MTU changed", "device", ip("link set dev eth0 mtu 1300"), shows("mtu 1500", "link", "show", "dev", "eth0")},
			{"MAC changed", "device", ip("link set dev eth0 address 02:00:00:00:00:99"), shows(a.MAC, "link", "show", "dev", "eth0")},
			{"loopback down", "device", ip("link set dev lo down"), shows("127.0.0.1/8", "addr", "show", "dev", "lo", "up")},
			{"setting changed", "sysctl", func() { l.Sysctl(a.Host, "ipv6/conf/eth0/accept_ra", "1") }, works},
		}
		for _, tc := range cases {
			l.Case(tc.name, func(l *lab.Lab) { l.Repaired(tc.kinds, tc.spoil, tc.works) })
		}
		l.Case("the program's own stays", func(l *lab.Lab) {
			ip(own...)()
			l.Repaired("address", ip("addr del "+a.IP(lab.IPv6)+"/64 dev eth0"), works)
			for _, err := range []error{shows("10.99.9.9/32", "addr", "show")(), shows("198.18.0.0/15", "route", "show")()} {
				if err != nil {
					l.Error(err)
				}
			}
		})
		l.Case("a default route of the program's own stays", func(l *lab.Lab) {
			via := "default via " + b.IP(lab.IPv4)
			before := l.Metrics().Repairs()
			ip("route replace " + via)() // atomic, so that none is missing when the daemon checks
			time.Sleep(twoTicks)
			if out := l.Must(a.Host, "ip", "-4", "route", "show", "default"); !strings.HasPrefix(out, via) || strings.Count(out, "\n") != 1 {
				l.Errorf("default routes are %q, want only %s", out, via)
			}
			if now := l.Metrics().Repairs(); !maps.Equal(now, before) {
				l.Errorf("repairs are %v, before %v", now, before)
			}
			l.Repaired("route", ip("route del 0.0.0.0/0"), works)
		})
		l.Case("IPv6 is the program's own to switch off", func(l *lab.Lab) {
			for _, device := range []string{"all", "eth0"} {
				before := l.Metrics().Repairs()
				l.Sysctl(a.Host, "ipv6/conf/"+device+"/disable_ipv6", "1")
				time.Sleep(twoTicks)
				if out := l.Must(a.Host, "ip", "-6", "addr", "show", "dev", "eth0"); out != "" {
					l.Errorf("switched off by %s, eth0 has %s", device, out)
				}
				if now := l.Metrics().Repairs(); !maps.Equal(now, before) {
					l.Errorf("switched off by %s: repairs are %v, before %v", device, now, before)
				}
				l.Ping(a.Host, lab.Internet4)
				l.Sysctl(a.Host, "ipv6/conf/"+device+"/disable_ipv6", "0")
				l.Eventually(soon, works)
			}
		})
		l.Case("device deleted", func(l *lab.Lab) { l.Repaired("device", ip("link del dev eth0"), works) })
	})
}

// Repairs of sandboxes do not disturb verbs, and changes by verbs do not count as damage.
func TestVerbsAreNotRepaired(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(_ *testing.T, l *lab.Lab) {
		web, back := network(l, "web"), network(l, "back")
		l.Sandbox("anna", "--network", web)
		for range 10 {
			l.Fairlead("network", "connect", back, "anna")
			l.Fairlead("sandbox", "create", "--network", back, "-p", "8080:80", "ben")
			l.Fairlead("network", "connect", web, "ben")
			l.Fairlead("network", "disconnect", back, "anna")
			l.Fairlead("network", "disconnect", back, "ben")
			l.Fairlead("rm", "-f", "ben")
		}
		time.Sleep(twoTicks)
		for kind, n := range l.Metrics().Repairs() {
			if n != 0 {
				l.Errorf("%v repairs of kind %s, want none", n, kind)
			}
		}
	})
}
