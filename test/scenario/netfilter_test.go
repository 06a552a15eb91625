// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// A container of Docker's own network, and the host's addresses there.
const (
	theirs4, theirs6   = "172.17.0.2", "fd00:17::2"
	docker04, docker06 = "172.17.0.1", "fd00:17::1"
)

// dockerRules makes netfilter publish ports as Docker does: 8100 is redirected to the
// container's 80, and 8190 to its 90.
const dockerRules = `
table %[1]s docker {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		fib daddr type local meta l4proto { tcp, udp } th dport { 8100, 8190 } dnat to %[2]s : th dport map { 8100 : 80, 8190 : 90 }
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		%[1]s saddr %[2]s oifname != docker0 masquerade
	}
}
`

// newTheirs makes a container behind docker0 whose ports netfilter publishes.
func newTheirs(l *lab.Lab) *world.Host {
	l.Helper()
	for _, sysctl := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		l.Sysctl(l.Host, sysctl, "1")
	}
	theirs := l.NewHost("theirs")
	if err := world.Cable(world.End{Host: l.Host, Device: "theirs"},
		world.End{Host: theirs, Device: "eth0", Addresses: []string{theirs4 + "/24", theirs6 + "/64"}}); err != nil {
		l.Fatal(err)
	}
	l.IP(l.Host, "link add docker0 type bridge", "link set theirs master docker0", "link set docker0 up",
		"addr add "+docker04+"/24 dev docker0", "addr add "+docker06+"/64 dev docker0 nodad")
	l.IP(theirs, "route add default via "+docker04, "route add ::/0 via "+docker06)
	var rules strings.Builder
	for _, f := range lab.Families() {
		fmt.Fprintf(&rules, dockerRules, f.Of("ip", "ip6"), f.Of(theirs4, theirs6))
	}
	l.Must(l.Host, "nft", "-f", l.Write("docker.nft", rules.String()))
	return theirs
}

// A sandbox reaches what netfilter publishes at the host's address, as for Docker's own
// networks. Only the replies come in.
func TestPortsOfNetfilter(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{NoDaemon: true}, func(t *testing.T, l *lab.Lab) {
		theirs := newTheirs(l)
		l.StartDaemon()
		a := l.Sandbox("anna", "--network", network(l, "web"))
		l.HTTP(theirs, "theirs", 80)
		l.UDP(theirs, "theirs", 80)
		l.HTTP(a.Host, "anna", 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host := f.Of(lab.Host4, lab.Host6)
			docker0 := f.Of(docker04, docker06)
			l.Get(a.Host, f.Of(theirs4, theirs6), 80, "theirs", a.IP(f)) // forwarded, whatever the rules
			l.Get(a.Host, host, 8100, "theirs", a.IP(f))
			l.Ask(a.Host, host, 8100, "theirs", a.IP(f))
			l.Get(a.Host, docker0, 8100, "theirs", a.IP(f))
			l.Dropped("direct", 2, func() { l.NoPing(theirs, a.IP(f)) })
			l.Dropped("direct", 1, func() { l.NoGet(theirs, a.IP(f), 80) })
			onlyAnswers(l, f, theirs, a)
		})
	})
}

// onlyAnswers checks that a sandbox with an open flow gets its replies, also in fragments,
// and no other datagram of the same ports or the same sender.
func onlyAnswers(l *lab.Lab, f lab.Family, theirs *world.Host, a *lab.Sandbox) {
	l.Helper()
	network := "udp" + f.String()
	ours, server, other := listenUDP(l, a.Host, network, ":4000"), listenUDP(l, theirs, network, ":90"), listenUDP(l, theirs, network, ":91")
	for _, c := range []net.PacketConn{ours, server, other} {
		defer c.Close()
	}
	published := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.Address(f.Of(lab.Host4, lab.Host6)), 8190))
	if _, err := ours.WriteTo([]byte("hello"), published); err != nil {
		l.Fatal(err)
	}
	b := make([]byte, 5000)
	server.SetReadDeadline(time.Now().Add(lab.Patient))
	_, client, err := server.ReadFrom(b)
	if err != nil {
		l.Fatalf("the request does not arrive: %v", err)
	}
	answered := func(what []byte) {
		l.Helper()
		if _, err := server.WriteTo(what, client); err != nil {
			l.Fatal(err)
		}
		ours.SetReadDeadline(time.Now().Add(lab.Patient))
		n, from, err := ours.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], what) || from.String() != published.String() {
			l.Errorf("got %d bytes from %v, %v; want an answer of %d bytes from %v", n, from, err, len(what), published)
		}
	}
	answered([]byte("answer"))
	answered(bytes.Repeat([]byte("long"), 1000))

	l.Dropped("direct", 1, func() { other.WriteTo([]byte("another port"), client) })
	l.Dropped("direct", 2, func() {
		unasked := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.Address(a.IP(f)), 4001))
		for range 2 {
			server.WriteTo([]byte("a flow of its own"), unasked)
		}
	})
	l.Dropped("direct", 1, func() {
		sendFrame(l, l.Outside, udpFrame(l, macOf(l, l.Outside), macOf(l, l.Host),
			netip.AddrPortFrom(lab.Address(f.Of(lab.Outside4, lab.Outside6)), 90), netip.AddrPortFrom(lab.Address(a.IP(f)), 4000)))
	})
	ours.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, from, err := ours.ReadFrom(b); err == nil {
		l.Errorf("a datagram from %v arrived: %q", from, b[:n])
	}
	answered([]byte("answer"))
}

// A host that does not forward anything, like Docker's by default for other traffic, forwards
// what sandboxes send and receive: packets bypass the rules for forwarding, also when their
// neighbour is not known yet.
func TestHostForwardsNothing(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		l.Must(l.Host, "nft", "-f", l.Write("forward.nft", "table inet none { chain forward { type filter hook forward priority 0; policy drop; }; }"))
		web, other := network(l, "web"), network(l, "other")
		a, b := l.Sandbox("anna", "--network", other), l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "5353:53/udp")
		l.HTTP(b.Host, "ben", 80)
		l.UDP(b.Host, "ben", 53)
		l.HTTP(l.Outside, "outside", 80)
		l.UDP(l.Outside, "outside", 53)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host, outside := f.Of(lab.Host4, lab.Host6), f.Of(lab.Outside4, lab.Outside6)
			unknown := func() { l.Must(l.Host, "ip", "neigh", "flush", "dev", "eth0") }
			unknown()
			l.Get(l.Outside, host, 8080, "ben", outside)
			l.Ask(l.Outside, host, 5353, "ben", outside)
			unknown()
			l.Get(a.Host, outside, 80, "outside", host)
			unknown()
			l.Ask(a.Host, outside, 53, "outside", host)
			unknown()
			l.Ping(a.Host, outside)
			l.Ping(a.Host, outside, "-s", "4000") // fragments
			l.Get(a.Host, host, 8080, "ben", l.Gateway(web, f))
			l.Ping(a.Host, l.Gateway(other, f))
		})
	})
}
