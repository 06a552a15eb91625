// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMasquerade(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{Uplinks: 2}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a := l.Sandbox("anna", "--network", web)
		l.HTTP(l.Outside, "outside", 80)
		l.HTTP(l.Outside2, "outside2", 80)
		l.UDP(l.Outside, "outside", 53)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host := f.Of(lab.Host4, lab.Host6)
			for _, to := range []string{f.Of(lab.Outside4, lab.Outside6), f.Of(lab.Internet4, lab.Internet6)} {
				l.Ping(a.Host, to)
				l.Ping(a.Host, to, "-s", "4000")
				l.Get(a.Host, to, 80, "outside", host)
			}
			l.Ask(a.Host, f.Of(lab.Outside4, lab.Outside6), 53, "outside", host)
			second := f.Of(lab.SecondOutside4, lab.SecondOutside6)
			l.Ping(a.Host, second)
			l.Get(a.Host, second, 80, "outside2", f.Of(lab.SecondHost4, lab.SecondHost6))
		})
	})
}
