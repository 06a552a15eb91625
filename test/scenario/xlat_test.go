// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// Clients of IPv6 reach a backend that has IPv4 only, from wherever they ask; it sees its
// gateway in their place.
func TestPublishedAcrossFamilies(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(_ *testing.T, l *lab.Lab) {
		l.Fairlead("network", "create", "four")
		web := network(l, "web")
		b := l.Sandbox("ben", "--network", "four", "-p", "8080:80", "-p", "5353:53/udp")
		stranger := l.Sandbox("stranger", "--network", web)
		l.HTTP(b.Host, "ben", 80)
		l.UDP(b.Host, "ben", 53)
		gateway := l.Gateway("four", lab.IPv4)
		l.Case("outside", func(l *lab.Lab) {
			l.Get(l.Outside, lab.Host6, 8080, "ben", gateway)
			l.Ask(l.Outside, lab.Host6, 5353, "ben", gateway)
		})
		l.Case("other network", func(l *lab.Lab) {
			for _, addr := range []string{lab.Host6, l.Gateway(web, lab.IPv6)} {
				l.Get(stranger.Host, addr, 8080, "ben", gateway)
				l.Ask(stranger.Host, addr, 5353, "ben", gateway)
			}
		})
	})
}
