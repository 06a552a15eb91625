// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestIsolation(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		one, two := network(l, "one"), network(l, "two")
		a, b := l.Sandbox("anna", "--network", one), l.Sandbox("ben", "--network", two)
		l.HTTP(b.Host, "ben", 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			l.Dropped("isolated", 2, func() { l.NoPing(a.Host, b.IP(f)) })
			l.Dropped("isolated", 1, func() { l.NoGet(a.Host, b.IP(f), 80) })
		})
		t.Run("connected to both", func(t *testing.T) {
			l := l.With(t)
			l.Fairlead("network", "connect", two, "anna")
			for _, f := range lab.Families() {
				l.Get(a.Host, b.IP(f), 80, "ben", "")
			}
			l.Fairlead("network", "disconnect", two, "anna")
			for _, f := range lab.Families() {
				l.NoGet(a.Host, b.IP(f), 80)
			}
		})
	})
}

func TestInternalNetwork(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		inside := network(l, "inside", "--internal")
		a, b := l.Sandbox("anna", "--network", inside), l.Sandbox("ben", "--network", inside, "-p", "8080:80")
		l.HTTP(b.Host, "ben", 80)
		l.HTTP(l.Outside, "outside", 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			l.Get(a.Host, b.IP(f), 80, "ben", a.IP(f))
			l.NoGet(a.Host, f.Of(lab.Outside4, lab.Outside6), 80)
			l.NoPing(a.Host, f.Of(lab.Internet4, lab.Internet6))
			// Nor with a route of its own.
			gateway := l.Gateway(inside, f)
			l.IP(a.Host, "route replace "+f.Of("0.0.0.0/0", "::/0")+" via "+gateway+" dev eth0")
			l.Dropped("internal", 2, func() { l.NoPing(a.Host, f.Of(lab.Internet4, lab.Internet6)) })
			l.NoGet(l.Outside, f.Of(lab.Host4, lab.Host6), 8080)
			l.Ping(a.Host, gateway)
			l.Ping(l.Host, a.IP(f))
		})
		// The host is not a member of an isolated one, and not reached with a route either.
		isolated := network(l, "isolated", "--internal", "-o", model.OptGateMode4+"=isolated", "-o", model.OptGateMode6+"=isolated")
		c, d := l.Sandbox("cleo", "--network", isolated), l.Sandbox("dora", "--network", isolated, "-p", "8081:80")
		l.HTTP(d.Host, "dora", 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			l.Get(c.Host, d.IP(f), 80, "dora", c.IP(f))
			l.IP(c.Host, "route replace "+f.Of("0.0.0.0/0", "::/0")+" dev eth0")
			l.NoPing(c.Host, f.Of(lab.Host4, lab.Host6))
			l.NoPing(l.Host, c.IP(f))
			l.NoGet(l.Outside, f.Of(lab.Host4, lab.Host6), 8081)
		})
		if out := l.Fairlead("network", "inspect", "-f", "{{json .IPAM.Config}}", isolated); strings.Contains(out, "Gateway") {
			l.Errorf("an isolated network has the gateways %s", out)
		}
	})
}

func TestICCOff(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web", "-o", "com.docker.network.bridge.enable_icc=false")
		a, b := l.Sandbox("anna", "--network", web), l.Sandbox("ben", "--network", web)
		l.HTTP(b.Host, "ben", 80)
		l.HTTP(l.Outside, "outside", 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			l.Dropped("icc", 2, func() { l.NoPing(a.Host, b.IP(f)) })
			l.Dropped("icc", 1, func() { l.NoGet(a.Host, b.IP(f), 80) })
			l.Ping(a.Host, l.Gateway(web, f))
			l.Ping(l.Host, a.IP(f))
			l.Get(a.Host, f.Of(lab.Outside4, lab.Outside6), 80, "outside", f.Of(lab.Host4, lab.Host6))
		})
	})
}
