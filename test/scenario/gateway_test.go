// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

// gated is a network whose members leave it by way of sandbox vpn, which is in network exit, too, and masquerades what it
// forwards. Outside sees the addresses that exit chose.
type gated struct {
	member, served, resolving *lab.Sandbox
	resolver                  *lab.Resolver
	exit                      map[lab.Family]string
}

// vpn makes the gateway: as a container with a tunnel, it forwards and translates by itself.
func (g *gated) vpn(l *lab.Lab) *lab.Sandbox {
	l.Helper()
	l.Fairlead("sandbox", "create", "--network", "exit", "--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "net.ipv6.conf.all.forwarding=1", "vpn")
	l.Fairlead("network", "connect", "gated", "vpn")
	return g.forwards(l)
}

func (g *gated) forwards(l *lab.Lab) *lab.Sandbox {
	l.Helper()
	vpn := l.Entered("vpn")
	l.Must(vpn.Host, "nft", `table inet vpn { chain out { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }; }`)
	return vpn
}

// seen returns how many packets of members arrived outside.
func (g *gated) seen(l *lab.Lab) string {
	l.Helper()
	return l.Must(l.Outside, "nft", "list", "counter", "inet", "seen", "members")
}

func newGated(l *lab.Lab) *gated {
	l.Helper()
	g := &gated{exit: map[lab.Family]string{lab.IPv4: "192.0.2.7", lab.IPv6: "2001:db8:1::7"}}
	l.IP(l.Host, "addr add "+g.exit[lab.IPv4]+"/32 dev eth0", "addr add "+g.exit[lab.IPv6]+"/128 dev eth0 nodad preferred_lft 0")
	l.Must(l.Outside, "nft", `table inet seen { counter members { }; chain in { type filter hook prerouting priority -300;
		tcp dport { 80, 53 } tcp flags & (syn | ack) == syn counter name members; udp dport { 53, 5353 } counter name members;
		icmp type echo-request counter name members; icmpv6 type echo-request counter name members; }; }`)
	l.HTTP(l.Outside, "out", 80)
	l.UDP(l.Outside, "out", 5353)
	g.resolver = l.Resolver()
	network(l, "exit", "-o", model.OptHostIPv4+"="+g.exit[lab.IPv4], "-o", model.OptHostIPv6+"="+g.exit[lab.IPv6])
	network(l, "gated", "-o", model.OptGateway+"=vpn")
	g.member = l.Sandbox("member", "--network", "gated")
	g.served = l.Sandbox("served", "--network", "gated", "-p", "8080:80")
	g.resolving = l.Sandbox("resolving", "--network", "gated", "--dns", lab.Outside4)
	l.HTTP(g.served.Host, "served", 80)
	return g
}

// inside checks what does not depend on the gateway: published ports, members, names, the network's own addresses.
func (g *gated) inside(l *lab.Lab, f lab.Family) {
	l.Helper()
	l.Get(l.Outside, f.Of(lab.Host4, lab.Host6), 8080, "served", f.Of(lab.Outside4, lab.Outside6))
	l.Get(l.Host, f.Of("127.0.0.1", "::1"), 8080, "served", "")
	l.Get(g.member.Host, g.served.IP(f), 80, "served", g.member.IP(f))
	l.Ping(g.member.Host, l.Gateway("gated", f))
	if got := g.dig(l, g.member, "served", f); !strings.Contains(got, g.served.IP(f)) {
		l.Errorf("the name server answers %q", got)
	}
}

func (g *gated) dig(l *lab.Lab, from *lab.Sandbox, name string, f lab.Family) string {
	l.Helper()
	return l.Run(from.Host, "dig", "+time=2", "+tries=1", "@127.0.0.11", name, f.Of("A", "AAAA")).Stdout
}

// works checks that members leave the network by way of the gateway.
func (g *gated) works(l *lab.Lab, f lab.Family) {
	l.Helper()
	out := f.Of(lab.Outside4, lab.Outside6)
	for _, s := range []*lab.Sandbox{g.member, g.served} {
		l.Get(s.Host, out, 80, "out", g.exit[f])
		l.Ask(s.Host, out, 5353, "out", g.exit[f])
		l.Ping(s.Host, out)
	}
	asked := g.resolver.Asked.Load()
	if got := g.dig(l, g.member, "example.com", f); !strings.Contains(got, "REFUSED") || g.resolver.Asked.Load() != asked {
		l.Errorf("the host queried for a member: %s", got)
	}
	if got := g.dig(l, g.resolving, "example.com", f); !strings.Contains(got, "NOERROR") || g.resolver.Asked.Load() == asked {
		l.Errorf("the member's own server was not queried: %s", got)
	}
	g.inside(l, f)
}

// closed checks that nothing of members arrives outside.
func (g *gated) closed(l *lab.Lab, f lab.Family) {
	l.Helper()
	out, before, asked := f.Of(lab.Outside4, lab.Outside6), g.seen(l), g.resolver.Asked.Load()
	l.Dropped("no_gateway", 8, func() {
		for _, s := range []*lab.Sandbox{g.member, g.served} {
			l.NoGet(s.Host, out, 80)
			l.NoAsk(s.Host, out, 5353)
			l.NoPing(s.Host, out)
		}
		for _, s := range []*lab.Sandbox{g.member, g.resolving} {
			if got := g.dig(l, s, "example.com", f); strings.Contains(got, "NOERROR") {
				l.Errorf("the name server answers %s", got)
			}
		}
	})
	if now := g.seen(l); now != before || g.resolver.Asked.Load() != asked {
		l.Errorf("outside saw %s, and before %s", now, before)
	}
	g.inside(l, f)
}

// shows checks what inspect, status and doctor say of the gateway: "" if it serves.
func (g *gated) shows(l *lab.Lab, want string) {
	l.Helper()
	st := l.Network("gated").Status.Gateway
	if st == nil || st.Sandbox != "vpn" || (want == "") != (st.Error == "") || !strings.Contains(st.Error, want) {
		l.Errorf("inspect shows %+v, want %q", st, want)
	}
	for _, verb := range []string{"status", "doctor"} {
		if got := l.Fairlead(verb); strings.Contains(got, "without gateway vpn") != (want != "") || !strings.Contains(got, want) {
			l.Errorf("%s says %s, want %q", verb, got, want)
		}
	}
}

// Members of a network with fairlead.gateway reach the outside only through that sandbox, in both families: while it does not exist, is not
// connected or was removed, none of their packets leave the host, and published ports keep answering. The daemon may be killed.
func TestGateway(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		g := newGated(l)
		g.shows(l, "it does not exist")
		families(t, l, g.closed)
		vpn := g.vpn(l)
		families(t, l, g.works)
		g.shows(l, "")
		l.KillDaemon()
		for _, f := range lab.Families() {
			l.Get(g.member.Host, f.Of(lab.Outside4, lab.Outside6), 80, "out", g.exit[f])
			l.Get(l.Outside, f.Of(lab.Host4, lab.Host6), 8080, "served", "")
		}
		l.StartDaemon()
		families(t, l, g.works)
		l.Refused(1, []string{"network gated has gateway vpn by its name", "disconnect it first"}, "rename", "vpn", "other")
		l.Fairlead("network", "disconnect", "gated", "vpn")
		g.shows(l, "it is not connected")
		families(t, l, g.closed)
		l.KillDaemon()
		for _, f := range lab.Families() {
			before := g.seen(l)
			l.NoGet(g.member.Host, f.Of(lab.Outside4, lab.Outside6), 80)
			if now := g.seen(l); now != before {
				l.Errorf("outside saw %s, and before %s", now, before)
			}
		}
		l.StartDaemon()
		families(t, l, g.closed)
		l.Fairlead("network", "connect", "gated", "vpn")
		families(t, l, g.works)
		// Established connections do not leave by the host, either.
		c, err := g.member.Dial(net.Dialer{Timeout: 5 * time.Second}, "tcp", lab.Outside4+":80")
		if err != nil {
			l.Fatal(err)
		}
		defer c.Close()
		l.Remove(vpn)
		before := g.seen(l)
		l.Dropped("no_gateway", 1, func() {
			_, _ = fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if n, err := c.Read(make([]byte, 1)); err == nil {
				l.Errorf("%d bytes were received", n)
			}
		})
		if now := g.seen(l); now != before {
			l.Errorf("outside saw %s, and before %s", now, before)
		}
		families(t, l, g.closed)
		g.vpn(l)
		families(t, l, g.works)
	})
}

// While the gateway's program does not run, its namespace and what that forwards still exist, but nothing gets there.
func TestGatewayExits(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	g := newGated(l)
	l.Fairlead("run", "-d", "--name", "vpn", "--network", "exit", "--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "net.ipv6.conf.all.forwarding=1", "sleep", "10000")
	l.Fairlead("network", "connect", "gated", "vpn")
	g.forwards(l)
	families(t, l, g.works)
	l.Must(l.Host, "kill", "-9", fmt.Sprint(l.Inspect("vpn").State.Pid))
	l.Eventually(20*time.Second, func() error {
		if st := l.Network("gated").Status.Gateway; st.Error == "" {
			return errors.New("the gateway serves still")
		}
		return nil
	})
	g.shows(l, "its program does not run")
	families(t, l, g.closed)
	l.KillDaemon()
	l.StartDaemon()
	families(t, l, g.closed)
}
