// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Packets of a network leave with the address that its options name, which the host has or which is only routed to it, also after
// the daemon was killed; other networks have the uplink's. Published ports stay where they are.
func TestChosenEgress(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		second := map[lab.Family]string{lab.IPv4: "192.0.2.7", lab.IPv6: "2001:db8:1::7"}
		routed := map[lab.Family]string{lab.IPv4: "198.51.100.9", lab.IPv6: "2001:db8:9::9"}
		l.IP(l.Host, "addr add "+second[lab.IPv4]+"/32 dev eth0", "addr add "+second[lab.IPv6]+"/128 dev eth0 nodad preferred_lft 0")
		l.IP(l.Outside, "route add "+routed[lab.IPv4]+" via "+lab.Host4, "route add "+routed[lab.IPv6]+" via "+lab.Host6)
		from := func(a map[lab.Family]string) []string {
			return []string{"-o", model.OptHostIPv4 + "=" + a[lab.IPv4], "-o", model.OptHostIPv6 + "=" + a[lab.IPv6]}
		}
		l.HTTP(l.Outside, "out", 80)
		l.UDP(l.Outside, "out", 53)
		l.Greet(l.Outside, "out", 7)
		members := map[string]*lab.Sandbox{
			"plain":  l.Sandbox("ann", "--network", network(l, "plain")),
			"second": l.Sandbox("ben", "--network", network(l, "second", from(second)...), "-p", "8080:80"),
			"routed": l.Sandbox("cat", "--network", network(l, "routed", from(routed)...)),
		}
		l.HTTP(members["second"].Host, "ben", 80)
		type key struct {
			name string
			f    lab.Family
		}
		held := map[key]*lab.Greeted{}
		right := func(l *lab.Lab, name string, f lab.Family) {
			l.Helper()
			want := map[string]string{"plain": f.Of(lab.Host4, lab.Host6), "second": second[f], "routed": routed[f]}[name]
			l.Get(members[name].Host, f.Of(lab.Outside4, lab.Outside6), 80, "out", want)
			l.Ask(members[name].Host, f.Of(lab.Outside4, lab.Outside6), 53, "out", want)
		}
		families(t, l, func(l *lab.Lab, f lab.Family) {
			out := f.Of(lab.Outside4, lab.Outside6)
			for name, b := range members {
				l.Case(name, func(l *lab.Lab) {
					right(l, name, f)
					l.Ping(b.Host, out)
					g, err := lab.GreetingFrom(b.Host, 40000, out, 7) // each has the address to itself
					if err != nil {
						l.Fatal(err)
					}
					held[key{name, f}] = g
				})
			}
			l.Get(l.Outside, f.Of(lab.Host4, lab.Host6), 8080, "ben", out)
			l.Case("the host, from the gateway's address", func(l *lab.Lab) {
				d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(l.Gateway("second", f))}}
				c, err := l.Host.Dial(d, "tcp", net.JoinHostPort(out, "7"))
				if err != nil {
					l.Fatal(err)
				}
				defer c.Close()
				if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || strings.TrimSpace(line) != "out "+second[f] {
					l.Errorf("the server saw %q, %v", line, err)
				}
			})
		})
		l.KillDaemon()
		right(l, "routed", lab.IPv4)
		l.StartDaemon()
		families(t, l, func(l *lab.Lab, f lab.Family) {
			for name := range members {
				l.Case(name+" after a kill", func(l *lab.Lab) {
					right(l, name, f)
					if err := held[key{name, f}].Works(); err != nil {
						l.Error(err)
					}
				})
			}
		})
	})
}
