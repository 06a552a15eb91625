// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// TestReservedVNI sends frames with the VNI of the device that makes the kernel aggregate: from a machine that is not a node, by the
// uplink, and by a device that is not an uplink. No program of the host receives them: its firewall would not
// expect what is inside.
func TestReservedVNI(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %t", v6), func(t *testing.T) {
			l := newLab(t, config{v6: v6})
			defer l.explain()
			to := l.nodes[2]
			l.aggregate(to)
			other := l.newHost("other")
			l.must(world.Cable(
				world.End{Host: to.host, Device: "lan0", Addresses: []string{"10.97.0.2/24", "fd97::2/64"}},
				world.End{Host: other, Device: "eth0", Addresses: []string{"10.97.0.1/24", "fd97::1/64"}},
			))
			l.ip(to.host, "addr add 10.66.0.2/32 dev lo", "addr add fd66::2/128 dev lo nodad")
			beside := map[bool]string{false: "10.97.0.2", true: "fd97::2"}[v6]
			for from, remote := range map[*world.Host]string{l.router: underlay(2, v6).String(), other: beside} {
				for _, address := range []string{"10.66.0.2", "fd66::2"} {
					l.reserved(from, remote)
					if got := l.heard(to.host, from, address, "reserved"); got {
						t.Errorf("from %s, a datagram to %s in the tunnel arrived", from.Name, address)
					}
					l.ip(from, "link del reserved")
				}
			}
			if err := transfer(l.nodes[1].ctr, to.ctr, inside(container+2, false), 1<<20); err != nil {
				t.Error(err)
			}
		})
	}
}

// reserved makes a VXLAN device with the reserved VNI, whose frames are for every receiver.
func (l *lab) reserved(from *world.Host, remote string) {
	l.Helper()
	const everyone = "ff:ff:ff:ff:ff:ff"
	l.ip(from, fmt.Sprintf("link add reserved type vxlan id 16777215 dstport %d remote %s", port, remote),
		"addr add 10.66.0.1/24 dev reserved", "addr add fd66::1/64 dev reserved nodad", "link set reserved up",
		"neigh add 10.66.0.2 lladdr "+everyone+" dev reserved", "neigh add fd66::2 lladdr "+everyone+" dev reserved")
}

// heard reports whether a datagram from one host reaches a socket of another.
func (l *lab) heard(at, from *world.Host, address, by string) bool {
	l.Helper()
	socket, err := at.ListenPacket("udp", net.JoinHostPort(address, "7777"))
	l.must(err)
	defer socket.Close()
	c, err := from.Dial(net.Dialer{}, "udp", net.JoinHostPort(address, "7777"))
	l.must(err)
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	l.must(err)
	l.must(socket.SetReadDeadline(time.Now().Add(300 * time.Millisecond)))
	_, _, err = socket.ReadFrom(make([]byte, 64))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		l.Fatal(err)
	}
	return err == nil
}
