// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

// gatewayMode makes a network with a gateway mode for each family.
func gatewayMode(l *lab.Lab, name, v4, v6 string) string {
	l.Helper()
	return network(l, name, "-o", model.OptGateMode4+"="+v4, "-o", model.OptGateMode6+"="+v6)
}

// What reaches a sandbox from a host outside that has a route to it, from other networks and from the host, by the
// gateway mode of its network.
func TestGatewayModes(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.HTTP(l.Outside, "outside", 80)
	carl := l.Sandbox("carl", "--network", network(l, "plain"))
	cleo := l.Sandbox("cleo", "--network", network(l, "inside", "--internal"))
	open, routed := gatewayMode(l, "open", "nat-unprotected", "nat-unprotected"), gatewayMode(l, "routed", "routed", "routed")
	olga := l.Sandbox("olga", "--network", open, "-p", "8080:80")
	rosa := l.Sandbox("rosa", "--network", routed, "-p", "8081:80")
	rita := l.Sandbox("rita", "--network", routed, "-p", "8081:80") // routed ports need none of the host
	for _, s := range []*lab.Sandbox{carl, olga, rosa, rita} {
		l.HTTP(s.Host, s.Name, 80, 81)
	}
	l.HTTP(l.Host, "host", 8081)
	families(t, l, func(l *lab.Lab, f lab.Family) {
		host, outside := f.Of(lab.Host4, lab.Host6), f.Of(lab.Outside4, lab.Outside6)
		for _, s := range []*lab.Sandbox{carl, olga, rosa, rita} {
			l.IP(l.Outside, "route add "+s.IP(f)+" via "+host)
		}
		l.Case("nat", func(l *lab.Lab) {
			l.Dropped("direct", 1, func() { l.NoGet(l.Outside, carl.IP(f), 80) })
			l.Dropped("isolated", 1, func() { l.NoGet(rosa.Host, carl.IP(f), 80) })
		})
		l.Case("nat-unprotected", func(l *lab.Lab) {
			l.Ping(l.Outside, olga.IP(f))
			l.Get(l.Outside, olga.IP(f), 80, "olga", outside)
			l.Get(l.Outside, olga.IP(f), 81, "olga", outside)
			l.Get(l.Outside, host, 8080, "olga", outside)
			l.Get(l.Host, host, 8080, "olga", l.Gateway(open, f))
			l.Get(olga.Host, outside, 80, "outside", host)
			l.Ping(carl.Host, olga.IP(f))
			l.Get(carl.Host, olga.IP(f), 81, "olga", l.Gateway(open, f))
			l.Get(rosa.Host, olga.IP(f), 81, "olga", rosa.IP(f))
			l.NoGet(cleo.Host, olga.IP(f), 80)
		})
		l.Case("routed", func(l *lab.Lab) {
			l.Ping(l.Outside, rosa.IP(f))
			l.Get(l.Outside, rosa.IP(f), 80, "rosa", outside)
			l.Get(l.Outside, rita.IP(f), 80, "rita", outside)
			l.Dropped("direct", 1, func() { l.NoGet(l.Outside, rosa.IP(f), 81) })
			l.Get(l.Outside, host, 8081, "host", outside)
			l.Get(l.Host, rosa.IP(f), 81, "rosa", l.Gateway(routed, f))
			l.Get(rita.Host, rosa.IP(f), 81, "rosa", rita.IP(f))
			l.Get(rosa.Host, outside, 80, "outside", rosa.IP(f))
			l.Ping(rosa.Host, outside)
			l.Ping(carl.Host, rosa.IP(f))
			l.Get(carl.Host, rosa.IP(f), 80, "rosa", l.Gateway(routed, f))
			l.Dropped("isolated", 1, func() { l.NoGet(carl.Host, rosa.IP(f), 81) })
			l.NoGet(cleo.Host, rosa.IP(f), 80)
		})
	})
	l.Case("published later", func(l *lab.Lab) {
		l.Fairlead("publish", "add", "rosa", "-p", "9000:81")
		l.Get(l.Outside, rosa.IP(lab.IPv6), 81, "rosa", lab.Outside6)
		l.Fairlead("publish", "rm", "rosa", "-p", "9000:81")
		l.NoGet(l.Outside, rosa.IP(lab.IPv6), 81)
		// A port that is published twice is open until both are removed.
		l.Fairlead("publish", "add", "rosa", "-p", "9001:80")
		for _, p := range []string{"8081:80", "9001:80"} {
			l.Get(l.Outside, rosa.IP(lab.IPv6), 80, "rosa", lab.Outside6)
			l.Fairlead("publish", "rm", "rosa", "-p", p)
		}
		l.NoGet(l.Outside, rosa.IP(lab.IPv6), 80)
	})
}

// The usual case: IPv4 is translated, IPv6 is not.
func TestGatewayModeOfOneFamily(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.HTTP(l.Outside, "outside", 80)
	mixed := gatewayMode(l, "mixed", "nat", "routed")
	mia := l.Sandbox("mia", "--network", mixed, "-p", "8080:80")
	l.HTTP(mia.Host, "mia", 80)
	v4, v6 := lab.IPv4, lab.IPv6
	l.IP(l.Outside, "route add "+mia.IP(v4)+" via "+lab.Host4, "route add "+mia.IP(v6)+" via "+lab.Host6)
	reached := func(l *lab.Lab) {
		l.Helper()
		l.Get(l.Outside, lab.Host4, 8080, "mia", lab.Outside4)
		l.Dropped("direct", 1, func() { l.NoGet(l.Outside, mia.IP(v4), 80) })
		l.Get(mia.Host, lab.Outside4, 80, "outside", lab.Host4)
		l.NoGet(l.Outside, lab.Host6, 8080)
		l.Get(l.Outside, mia.IP(v6), 80, "mia", lab.Outside6)
		l.Get(mia.Host, lab.Outside6, 80, "outside", mia.IP(v6))
	}
	reached(l)
	if got, want := l.Fairlead("port", "mia"), "80/tcp -> ["+mia.IP(v6)+"]:80\n80/tcp -> 0.0.0.0:8080"; got != want {
		l.Errorf("the ports are %q, want %q", got, want)
	}
	// The daemon is killed, and replaced by another version.
	l.Echo(mia.Host, 7)
	l.Fairlead("publish", "add", "mia", "-p", "7:7")
	c, err := l.Outside.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp", net.JoinHostPort(mia.IP(v6), "7"))
	if err != nil {
		l.Fatal(err)
	}
	defer c.Close()
	said := func(text string) {
		l.Helper()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		got := make([]byte, len(text))
		if _, err := c.Write([]byte(text)); err != nil {
			l.Error(err)
		} else if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
			l.Errorf("the echo of %q is %q: %v", text, got, err)
		}
	}
	said("before")
	l.KillDaemon()
	said("without a daemon")
	l.Get(l.Outside, mia.IP(v6), 80, "mia", lab.Outside6)
	l.StartDaemon()
	said("afterwards")
	reached(l)
	l.StartDaemon("--snat-ports", "20000-24999") // another program, as of another version
	said("with other programs")
	reached(l)
}
