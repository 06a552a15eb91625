// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

// With fairlead.publish the published ports of an internal network answer as others do, and its members send nothing else
// out of it, also when the daemon is killed and replaced.
func TestInternalPublished(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		l.HTTP(l.Outside, "outside", 80)
		l.HTTP(l.Host, "host", 8090)
		option := model.OptPublish + "=true"
		in, plain := network(l, "in", "--internal", "-o", option), network(l, "plain")
		l.Fairlead("network", "create", "--internal", "-o", option, "four")
		ben := l.Sandbox("ben", "--network", in, "-p", "8080:80", "-p", "8053:53/udp", "-p", "8081:81,from=198.18.0.0/15,from=2001:db8:ffff::/48")
		dora := l.Sandbox("dora", "--network", "four", "-p", "8180:80")
		neighbour, stranger := l.Sandbox("neighbour", "--network", in), l.Sandbox("stranger", "--network", plain)
		l.HTTP(ben.Host, "ben", 80, 81)
		l.UDP(ben.Host, "ben", 53)
		l.HTTP(dora.Host, "dora", 80)
		right := func(l *lab.Lab, f lab.Family) {
			l.Helper()
			host, outside, gateway := f.Of(lab.Host4, lab.Host6), f.Of(lab.Outside4, lab.Outside6), l.Gateway(in, f)
			l.Get(l.Outside, host, 8080, "ben", outside)
			l.Ask(l.Outside, host, 8053, "ben", outside)
			l.Dropped("publish_from", 1, func() { l.NoGet(l.Outside, host, 8081) })
			for _, addr := range []string{f.Of("127.0.0.1", "::1"), host, gateway} {
				l.Get(l.Host, addr, 8080, "ben", gateway)
				l.Ask(l.Host, addr, 8053, "ben", gateway)
			}
			l.Get(stranger.Host, host, 8080, "ben", gateway)
			l.Get(neighbour.Host, ben.IP(f), 80, "ben", neighbour.IP(f))
			l.Get(l.Outside, host, 8180, "dora", f.Of(outside, l.Gateway("four", lab.IPv4)))
			for _, s := range []*lab.Sandbox{ben, neighbour} {
				l.Dropped("internal", 2, func() {
					l.NoGet(s.Host, outside, 80)
					l.NoGet(s.Host, host, 8090)
					l.NoPing(s.Host, outside)
				})
				l.Dropped("isolated", 1, func() { l.NoGet(s.Host, stranger.IP(f), 80) })
			}
		}
		families(t, l, right)
		l.KillDaemon()
		l.StartDaemon()
		families(t, l, right)
		// Another network has the default route, if ben is in one.
		l.Fairlead("network", "connect", plain, "ben")
		for _, f := range lab.Families() {
			l.Get(ben.Host, f.Of(lab.Outside4, lab.Outside6), 80, "outside", "")
			l.Get(l.Outside, f.Of(lab.Host4, lab.Host6), 8080, "ben", "")
		}
		l.Fairlead("network", "disconnect", plain, "ben")
		for _, f := range lab.Families() {
			l.Get(l.Outside, f.Of(lab.Host4, lab.Host6), 8080, "ben", f.Of(lab.Outside4, lab.Outside6))
			l.Dropped("internal", 1, func() { l.NoGet(ben.Host, f.Of(lab.Outside4, lab.Outside6), 80) })
		}
	})
}

// Without the option nothing is published, and the warning names it. Where it cannot be, it is refused.
func TestInternalNotPublished(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	in := network(l, "in", "--internal")
	r := l.Try("sandbox", "create", "--network", in, "-p", "8080:80", "ben")
	if r.Code != 0 || !strings.Contains(r.Stderr, model.OptPublish+"=true") {
		t.Errorf("status %d, %s", r.Code, r.Output())
	}
	l.HTTP(l.Entered("ben").Host, "ben", 80)
	for _, f := range lab.Families() {
		l.NoGet(l.Outside, f.Of(lab.Host4, lab.Host6), 8080)
		l.NoGet(l.Host, f.Of("127.0.0.1", "::1"), 8080)
	}
	l.Refused(1, []string{model.OptPublish + " is for internal networks"}, "network", "create", "-o", model.OptPublish+"=true", "x")
	l.Refused(1, []string{"gateway mode routed"}, "network", "create", "--internal", "-o", model.OptPublish+"=true", "-o", model.OptGateMode4+"=routed", "x")
	l.Refused(1, []string{"x"}, "network", "inspect", "x")
}
