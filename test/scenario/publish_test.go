// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A published port answers clients everywhere, and the backend sees the
// client's own address.
func TestPublishedPort(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web, other := network(l, "web"), network(l, "other")
		b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "5353:53/udp")
		neighbour := l.Sandbox("neighbour", "--network", web)
		stranger := l.Sandbox("stranger", "--network", other)
		l.HTTP(b.Host, "ben", 80)
		l.UDP(b.Host, "ben", 53)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host := f.Of(lab.Host4, lab.Host6)
			gateway := l.Gateway(web, f)
			l.Case("outside", func(l *lab.Lab) {
				outside := f.Of(lab.Outside4, lab.Outside6)
				l.Get(l.Outside, host, 8080, "ben", outside)
				l.Ask(l.Outside, host, 5353, "ben", outside)
			})
			l.Case("host", func(l *lab.Lab) {
				for _, addr := range []string{f.Of("127.0.0.1", "::1"), host, gateway} {
					l.Get(l.Host, addr, 8080, "ben", gateway)
					l.Ask(l.Host, addr, 5353, "ben", gateway)
				}
			})
			l.Case("same network", func(l *lab.Lab) {
				for _, addr := range []string{host, gateway} {
					l.Get(neighbour.Host, addr, 8080, "ben", neighbour.IP(f))
					l.Ask(neighbour.Host, addr, 5353, "ben", neighbour.IP(f))
				}
			})
			l.Case("other network", func(l *lab.Lab) {
				for _, addr := range []string{host, l.Gateway(other, f)} {
					l.Get(stranger.Host, addr, 8080, "ben", stranger.IP(f))
					l.Ask(stranger.Host, addr, 5353, "ben", stranger.IP(f))
				}
			})
			l.Case("self", func(l *lab.Lab) {
				for _, addr := range []string{host, gateway} {
					l.Get(b.Host, addr, 8080, "ben", gateway)
					l.Ask(b.Host, addr, 5353, "ben", gateway)
				}
			})
		})
	})
}
