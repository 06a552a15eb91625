// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// TestOwnTunnels has sandboxes on two hosts that reach each other by tunnels of their own, and send through these as
// much as the kernel puts into aggregates.
func TestOwnTunnels(t *testing.T) {
	p := newPair(t).start()
	a, b := p.a, p.b
	a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "web")
	has(b, "web")
	one, two := a.Sandbox("one", "--network", "web"), b.Sandbox("two", "--network", "web")
	b.Greet(two.Host, "two", 80)
	for i, f := range lab.Families() {
		a.PingSoon(one.Host, two.IP(f))
		a.Case("VXLAN over IPv"+f.String(), func(l *lab.Lab) {
			for n, at := range []*lab.Sandbox{one, two} {
				from, to := one.IP(f), two.IP(f)
				if n == 1 {
					from, to = to, from
				}
				l.IP(at.Host, fmt.Sprintf("link add own%d mtu 1330 type vxlan id %d dstport %d local %s remote %s udp6zerocsumrx", i, 7+i, 4790+i, from, to),
					fmt.Sprintf("addr add 10.88.%d.%d/24 dev own%d", i, n+1, i), fmt.Sprintf("link set own%d up", i))
			}
			c, err := one.Host.Dial(net.Dialer{Timeout: 5 * time.Second}, "tcp", fmt.Sprintf("10.88.%d.2:80", i))
			if err != nil {
				l.Fatal(err)
			}
			defer c.Close()
			echoMuch(l, c)
			if n := a.Metrics().Drops()["tunnel_failed"] + b.Metrics().Drops()["tunnel_failed"]; n > 0 {
				l.Errorf("%v packets were dropped", n)
			}
		})
	}
}
