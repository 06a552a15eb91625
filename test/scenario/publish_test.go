// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A published port answers clients everywhere, and the backend sees the address of a client
// outside, and its gateway for all clients on the host.
func TestPublishedPort(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web, other := network(l, "web"), network(l, "other")
		b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "5353:53/udp")
		neighbour := l.Sandbox("neighbour", "--network", web)
		stranger := l.Sandbox("stranger", "--network", other)
		l.HTTP(b.Host, "ben", 80)
		l.UDP(b.Host, "ben", 53)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host := f.Of(lab.Host4, lab.Host6)
			gateway := l.Gateway(web, f)
			l.Case("outside", func(l *lab.Lab) {
				outside := f.Of(lab.Outside4, lab.Outside6)
				l.Get(l.Outside, host, 8080, "ben", outside)
				l.Ask(l.Outside, host, 5353, "ben", outside)
			})
			l.Case("host", func(l *lab.Lab) {
				for _, addr := range []string{f.Of("127.0.0.1", "::1"), host, gateway} {
					l.Get(l.Host, addr, 8080, "ben", gateway)
					l.Ask(l.Host, addr, 5353, "ben", gateway)
					noBackendShows(l, addr, 8080, 5353, "udp", "udp"+f.String())
				}
				if f == lab.IPv6 {
					l.Get(l.Host, linkLocal(l, l.Host)+"%eth0", 8080, "ben", gateway)
				}
			})
			l.Case("same network", func(l *lab.Lab) {
				for _, addr := range []string{host, gateway} {
					l.Get(neighbour.Host, addr, 8080, "ben", gateway)
					l.Ask(neighbour.Host, addr, 5353, "ben", gateway)
				}
			})
			l.Case("other network", func(l *lab.Lab) {
				for _, addr := range []string{host, l.Gateway(other, f)} {
					l.Get(stranger.Host, addr, 8080, "ben", gateway)
					l.Ask(stranger.Host, addr, 5353, "ben", gateway)
				}
			})
			l.Case("self", func(l *lab.Lab) {
				for _, addr := range []string{host, gateway} {
					l.Get(b.Host, addr, 8080, "ben", gateway)
					l.Ask(b.Host, addr, 5353, "ben", gateway)
				}
			})
		})
	})
}

// A backend with IPv4 only is also reachable at [::1], which a program gets when it resolves
// localhost.
func TestPublishedPortOfIPv4Only(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(_ *testing.T, l *lab.Lab) {
		l.Fairlead("network", "create", "four")
		b := l.Sandbox("ben", "--network", "four", "-p", "8080:80", "-p", "5353:53/udp")
		if b.IP6.IsValid() {
			l.Fatalf("the backend has %v", b.IP6)
		}
		l.HTTP(b.Host, "ben", 80)
		l.UDP(b.Host, "ben", 53)
		gateway := l.Gateway("four", lab.IPv4)
		for _, addr := range []string{"::1", "127.0.0.1", lab.Host4} {
			l.Get(l.Host, addr, 8080, "ben", gateway)
			l.Ask(l.Host, addr, 5353, "ben", gateway)
			noBackendShows(l, addr, 8080, 5353)
		}
		for _, addr := range []string{"127.0.0.1", lab.Host4} {
			noBackendShows(l, addr, 8080, 5353, "udp", "udp4")
		}
		// Such a socket cannot be redirected there, but its call must not fail because of
		// that.
		c, err := l.Host.ListenPacket("udp6", "")
		if err != nil {
			l.Fatal(err)
		}
		defer c.Close()
		if _, err := c.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.IPv6loopback, Port: 5353}); err != nil {
			l.Error(err)
		}
	})
}

// noBackendShows checks that a program of the host sees the address that it connected to as
// its peer and as the source of replies, not the backend's. sockets are the networks of
// unconnected sockets.
func noBackendShows(l *lab.Lab, address string, tcp, udp int, sockets ...string) {
	l.Helper()
	for network, port := range map[string]int{"tcp": tcp, "udp": udp} {
		want := net.JoinHostPort(address, fmt.Sprint(port))
		c, err := l.Host.Dial(net.Dialer{Timeout: lab.Patient}, network, want)
		if err != nil {
			l.Errorf("connect to %s: %v", want, err)
			continue
		}
		if got := c.RemoteAddr().String(); got != want {
			l.Errorf("the peer of a %s socket connected to %s is %s", network, want, got)
		}
		c.Close()
	}
	want := netip.AddrPortFrom(lab.Address(address), uint16(udp))
	for _, network := range sockets {
		if got := answerer(l, network, want); got != want {
			l.Errorf("the answer to a datagram to %v, on a socket %s, is from %v", want, network, got)
		}
	}
}

// answerer returns the address that answers datagrams from an unconnected socket.
func answerer(l *lab.Lab, network string, to netip.AddrPort) netip.AddrPort {
	l.Helper()
	c, err := l.Host.ListenPacket(network, "")
	if err != nil {
		l.Fatal(err)
	}
	defer c.Close()
	var from net.Addr
	l.Eventually(lab.Patient, func() error {
		c.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(to)) // the read also reports a refusal
		c.SetReadDeadline(time.Now().Add(lab.Brief))
		_, from, err = c.ReadFrom(make([]byte, 100))
		return err
	})
	at := from.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
