// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

// limited are the options of -p for clients of both families.
func limited(v4, v6 string) string { return ",from=" + v4 + ",from=" + v6 }

// Only the clients that -p names reach a published port, each by its own address, wherever it is; the others are dropped
// and counted. Programs of the host are not limited.
func TestPublishedFrom(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web, other := network(l, "web"), network(l, "other")
		neighbour := l.Sandbox("neighbour", "--network", web)
		stranger := l.Sandbox("stranger", "--network", other)
		of := func(s *lab.Sandbox) string { return limited(s.IP4.String(), s.IP6.String()) }
		outside := limited(lab.Outside4, lab.Outside6)
		b := l.Sandbox("ben", "--network", web,
			"-p", "8080-8081:80-81"+outside, "-p", "8053:53/udp"+outside,
			"-p", "8180:80"+of(neighbour), "-p", "8153:53/udp"+of(neighbour),
			"-p", "8280:80"+of(stranger), "-p", "8253:53/udp"+of(stranger),
			"-p", "8380:80")
		// The backend itself by its own address, and what all of them are seen as.
		l.Fairlead("publish", "add", "ben", "-p", "8480:80"+of(b), "-p", "8580:80"+limited(l.Gateway(web, lab.IPv4), l.Gateway(web, lab.IPv6)))
		l.HTTP(b.Host, "ben", 80, 81)
		l.UDP(b.Host, "ben", 53)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host, gateway := f.Of(lab.Host4, lab.Host6), l.Gateway(web, f)
			refused := func(h *world.Host, ports ...int) {
				l.Helper()
				for _, port := range ports {
					l.Dropped("publish_from", 1, func() {
						if port%100 == 53 {
							l.NoAsk(h, host, port)
						} else {
							l.NoGet(h, host, port)
						}
					})
				}
			}
			l.Case("outside", func(l *lab.Lab) {
				client := f.Of(lab.Outside4, lab.Outside6)
				for _, port := range []int{8080, 8081, 8380} {
					l.Get(l.Outside, host, port, "ben", client)
				}
				l.Ask(l.Outside, host, 8053, "ben", client)
				refused(l.Outside, 8180, 8153, 8280, 8253, 8480, 8580)
			})
			for _, c := range []struct {
				name  string
				at    *lab.Sandbox
				ports []int
				not   []int
			}{
				{"same network", neighbour, []int{8180, 8153, 8380}, []int{8080, 8081, 8053, 8280, 8253, 8580}},
				{"other network", stranger, []int{8280, 8253, 8380}, []int{8080, 8053, 8180, 8153, 8580}},
				{"self", b, []int{8480, 8380}, []int{8080, 8053, 8180, 8580}},
			} {
				l.Case(c.name, func(l *lab.Lab) {
					for _, port := range c.ports {
						if port%100 == 53 {
							l.Ask(c.at.Host, host, port, "ben", gateway)
						} else {
							l.Get(c.at.Host, host, port, "ben", gateway)
							l.Get(c.at.Host, gateway, port, "ben", gateway)
						}
					}
					refused(c.at.Host, c.not...)
				})
			}
			l.Case("host", func(l *lab.Lab) {
				for _, addr := range []string{f.Of("127.0.0.1", "::1"), host, gateway} {
					l.Get(l.Host, addr, 8080, "ben", gateway)
					l.Ask(l.Host, addr, 8053, "ben", gateway)
				}
			})
		})
	})
}

// A client of a family that the backend lacks is judged by its own address.
func TestPublishedFromOtherFamily(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead("network", "create", "four")
	b := l.Sandbox("ben", "--network", "four", "-p", "8080:80,from="+lab.Outside6, "-p", "8081:80,from=0.0.0.0/0", "-p", "8082:80,from=::/0")
	l.HTTP(b.Host, "ben", 80)
	gateway := l.Gateway("four", lab.IPv4)
	l.Get(l.Outside, lab.Host6, 8080, "ben", gateway)
	l.Get(l.Outside, lab.Host6, 8082, "ben", gateway)
	l.Get(l.Outside, lab.Host4, 8081, "ben", lab.Outside4)
	l.Dropped("publish_from", 3, func() {
		l.NoGet(l.Outside, lab.Host4, 8080)
		l.NoGet(l.Outside, lab.Host6, 8081)
		l.NoGet(l.Outside, lab.Host4, 8082)
	})
}

// In gateway mode routed the ports of a sandbox's own address have the clients of -p, and those in mode nat-unprotected all.
func TestPublishedFromRouted(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	routed, open := gatewayMode(l, "routed", "routed", "routed"), gatewayMode(l, "open", "nat-unprotected", "nat-unprotected")
	carl := l.Sandbox("carl", "--network", network(l, "plain"))
	of := limited(carl.IP4.String(), carl.IP6.String())
	rosa := l.Sandbox("rosa", "--network", routed, "-p", "80"+limited(lab.Outside4, lab.Outside6), "-p", "81"+of, "-p", "82")
	olga := l.Sandbox("olga", "--network", open, "-p", "8080:80"+of)
	l.HTTP(rosa.Host, "rosa", 80, 81, 82)
	l.HTTP(olga.Host, "olga", 80)
	l.Refused(1, []string{"port 80/tcp is open at the sandbox's own address for other clients", "network routed"}, "publish", "add", "rosa", "-p", "8080:80")
	l.Refused(1, []string{"port 81-83/tcp is open"}, "publish", "add", "rosa", "-p", "8080-8082:81-83"+of)
	l.Refused(1, []string{"port 90/tcp is open"}, "sandbox", "create", "--network", routed, "-p", "90", "-p", "91:90"+of, "cleo")
	families(t, l, func(l *lab.Lab, f lab.Family) {
		host, outside := f.Of(lab.Host4, lab.Host6), f.Of(lab.Outside4, lab.Outside6)
		for _, s := range []*lab.Sandbox{rosa, olga} {
			l.IP(l.Outside, "route add "+s.IP(f)+" via "+host)
		}
		l.Get(l.Outside, rosa.IP(f), 80, "rosa", outside)
		l.Get(l.Outside, rosa.IP(f), 82, "rosa", outside)
		l.Dropped("publish_from", 1, func() { l.NoGet(l.Outside, rosa.IP(f), 81) })
		l.Get(carl.Host, rosa.IP(f), 81, "rosa", l.Gateway(routed, f))
		l.Dropped("publish_from", 1, func() { l.NoGet(carl.Host, rosa.IP(f), 80) })
		l.Get(l.Outside, olga.IP(f), 80, "olga", outside)
		l.Dropped("publish_from", 1, func() { l.NoGet(l.Outside, host, 8080) })
		l.Get(carl.Host, host, 8080, "olga", l.Gateway(open, f))
	})
}

// The clients of a port stay limited, and connections go on, after a kill of the daemon and when other programs replace its own. A port that was
// removed limits no other.
func TestPublishedFromEndures(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	outside, others := limited(lab.Outside4, lab.Outside6), ",from=198.18.0.0/15,from=2001:db8:ffff::/48"
	ben := l.Sandbox("ben", "--network", network(l, "web"), "-p", "8080:80"+outside, "-p", "8081:80"+others, "-p", "8007:7"+outside)
	l.HTTP(ben.Host, "ben", 80)
	l.Echo(ben.Host, 7)
	for command, want := range map[string]string{
		"port":  "80/tcp -> [::]:8081 from 198.18.0.0/15 2001:db8:ffff::/48",
		"ps -a": "0.0.0.0:8081->80/tcp from 198.18.0.0/15 2001:db8:ffff::/48",
	} {
		args := strings.Fields(command)
		if command == "port" {
			args = append(args, "ben")
		}
		if got := l.Fairlead(args...); !strings.Contains(got, want) {
			t.Errorf("%s: %s; want %s in it", command, got, want)
		}
	}
	shown := l.Inspect("ben")
	for what, ports := range map[string]map[string][]api.PortBinding{"requested": shown.HostConfig.PortBindings, "open": shown.NetworkSettings.Ports} {
		for _, b := range ports["7/tcp"] {
			if want := []string{lab.Outside4 + "/32", lab.Outside6 + "/128"}; !slices.Equal(b.From, want) {
				t.Errorf("%s: %+v, want %v", what, b, want)
			}
		}
	}
	c, err := l.Outside.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp", net.JoinHostPort(lab.Host4, "8007"))
	if err != nil {
		l.Fatal(err)
	}
	defer c.Close()
	said := func(what string) {
		l.Helper()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		got := make([]byte, 5)
		if _, err := c.Write([]byte("hello")); err != nil {
			l.Errorf("%s: %v", what, err)
		} else if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			l.Errorf("%s: the echo is %q: %v", what, got, err)
		}
	}
	right := func(what string) {
		l.Helper()
		said(what)
		for _, f := range lab.Families() {
			host := f.Of(lab.Host4, lab.Host6)
			l.Get(l.Outside, host, 8080, "ben", f.Of(lab.Outside4, lab.Outside6))
			l.NoGet(l.Outside, host, 8081)
		}
	}
	right("at first")
	l.Fairlead("publish", "add", "ben", "-p", "8009:7"+others)
	l.NoGet(l.Outside, lab.Host4, 8009)
	said("after the port was published for others, too")
	l.Fairlead("publish", "rm", "ben", "-p", "8009:7")
	l.KillDaemon()
	right("without a daemon")
	l.StartDaemon()
	right("with the next daemon")
	l.StartDaemon("--snat-ports", "20000-24999") // another program, as of another version
	right("with other programs")
	l.Fairlead("publish", "rm", "ben", "-p", "8081:80")
	l.Fairlead("publish", "add", "ben", "-p", "8081:80")
	for _, f := range lab.Families() {
		l.Get(l.Outside, f.Of(lab.Host4, lab.Host6), 8081, "ben", "")
	}
	l.Refused(1, []string{"port 80/tcp at host port 8080 for clients from 198.18.0.0/15"}, "publish", "rm", "ben", "-p", "8080:80,from=198.18.0.0/15")
	l.Fairlead("publish", "rm", "ben", "-p", "8080:80", "-p", "8007:7"+outside)
	if left := entries(l, "fl_source"); len(left) != 0 {
		l.Errorf("%d prefixes of clients are left", len(left))
	}
}

// Text that is not a prefix, and prefixes of a family from which no client reaches the port, are refused in one line, and nothing is left.
func TestPublishedFromRefusals(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Sandbox("ben", "--network", network(l, "web"))
	l.Fairlead("network", "create", "-o", model.OptHostBinding+"="+lab.Host4, "bound")
	l.Fairlead("network", "create", "--ipv6", "--ipv4=false", "six")
	var many strings.Builder
	for i := range model.MaxSources + 1 {
		fmt.Fprintf(&many, ",from=10.0.%d.0/24", i)
	}
	for _, tt := range []struct {
		code          int
		network, port string
		text          string
	}{
		{2, "web", "8080:80,from=web", "from=web is not a prefix"},
		{2, "web", "8080:80,from=10.0.0.1/8", "give from=10.0.0.0/8"},
		{2, "web", "8080:80,from=10.0.0.0/8,from=10.0.0.0/8", "given twice"},
		{2, "web", "8080:80,for=10.0.0.0/8", "want from=PREFIX"},
		{2, "web", "8080:80" + many.String(), "a port may have 64"},
		{1, "web", lab.Host4 + ":8080:80,from=::/0", "from=::/0 has no client of port 80/tcp, which is published at " + lab.Host4},
		{1, "web", "[" + lab.Host6 + "]:8080:80,from=10.0.0.0/8", "which is published at " + lab.Host6},
		{1, "bound", "8080:80,from=::/0", "network bound publishes for IPv4 only"},
	} {
		l.Refused(tt.code, []string{tt.text}, "sandbox", "create", "--network", tt.network, "-p", tt.port, "cleo")
		l.Refused(125, []string{tt.text}, "run", "--network", tt.network, "-p", tt.port, "--name", "cleo", "true")
		if tt.network == "web" {
			l.Refused(tt.code, []string{tt.text}, "publish", "add", "ben", "-p", tt.port)
		}
	}
	l.Refused(1, []string{"cannot be limited to from=10.0.0.0/8", "service shop"}, "service", "create", "--network", "web", "-p", "8080:80,from=10.0.0.0/8", "shop")
	l.Refused(1, []string{"cleo"}, "inspect", "cleo")
	if left := entries(l, "fl_source"); len(left) != 0 || l.Fairlead("port", "ben") != "" {
		l.Errorf("%d prefixes of clients are left, and ports %s", len(left), l.Fairlead("port", "ben"))
	}
}
