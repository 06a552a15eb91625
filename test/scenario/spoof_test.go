// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

func TestSpoofedSources(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a, b := l.Sandbox("anna", "--network", web), l.Sandbox("ben", "--network", web)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			other := a.IP4
			if f == lab.IPv6 {
				other = a.IP6
			}
			for range 7 {
				other = other.Next()
			}
			l.Ping(a.Host, b.IP(f)) // resolves the neighbour
			length := f.Of("32", "128")
			l.IP(a.Host, fmt.Sprintf("addr add %s/%s dev eth0 %s", other, length, f.Of("", "nodad")))
			l.Dropped("spoofed_ip", 2, func() {
				r := l.Run(a.Host, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "0.3", "-I", other.String(), b.IP(f))
				if r.Code == 0 {
					l.Errorf("a foreign address was answered:\n%s", r.Output())
				}
			})
			l.IP(a.Host, fmt.Sprintf("addr del %s/%s dev eth0", other, length))
			l.Ping(a.Host, b.IP(f))
		})
		families(t, l, func(l *lab.Lab, f lab.Family) {
			heard := listenUDP(l, b.Host, "udp"+f.String(), ":5000")
			defer heard.Close()
			src := netip.AddrPortFrom(lab.Address(a.IP(f)), 5000)
			dst := netip.AddrPortFrom(lab.Address(b.IP(f)), 5000)
			l.Dropped("spoofed_mac", 1, func() {
				sendFrame(l, a.Host, udpFrame(l, "02:00:00:00:00:99", b.MAC, src, dst))
			})
			// The same frame is valid otherwise.
			sendFrame(l, a.Host, udpFrame(l, a.MAC, b.MAC, src, dst))
			if got := receive(heard); got != "hello" {
				l.Errorf("%s did not get a valid frame: %q", b.Name, got)
			}
			heard.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if n, _, err := heard.ReadFrom(make([]byte, 100)); err == nil {
				l.Errorf("%s got a second datagram of %d bytes", b.Name, n)
			}
		})
	})
}
