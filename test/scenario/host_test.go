// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// The host is a member of every network.
func TestHostIsAMember(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a := l.Sandbox("anna", "--network", web)
		l.HTTP(a.Host, "anna", 80)
		l.HTTP(l.Host, "host", 8000)
		l.UDP(l.Host, "host", 8001)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			gateway := l.Gateway(web, f)
			l.Ping(a.Host, gateway)
			l.Ping(a.Host, gateway, "-s", "4000")
			l.Get(a.Host, gateway, 8000, "host", a.IP(f))
			l.Ask(a.Host, gateway, 8001, "host", a.IP(f))

			uplink := f.Of(lab.Host4, lab.Host6) // another address of the host
			l.Ping(a.Host, uplink)
			l.Get(a.Host, uplink, 8000, "host", a.IP(f))

			l.Ping(l.Host, a.IP(f))
			l.Ping(l.Host, a.IP(f), "-s", "4000")
			l.Get(l.Host, a.IP(f), 80, "anna", gateway)
		})
		t.Run("bulk", func(t *testing.T) { bulk(l.With(t), l.Host, a) })
	})
}
