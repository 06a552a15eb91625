// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMasquerade(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{Uplinks: 2}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a := l.Sandbox("anna", "--network", web)
		l.HTTP(l.Outside, "outside", 80)
		l.HTTP(l.Outside2, "outside2", 80)
		l.UDP(l.Outside, "outside", 53)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host := f.Of(lab.Host4, lab.Host6)
			for _, to := range []string{f.Of(lab.Outside4, lab.Outside6), f.Of(lab.Internet4, lab.Internet6)} {
				l.Ping(a.Host, to)
				l.Ping(a.Host, to, "-s", "4000")
				l.Get(a.Host, to, 80, "outside", host)
			}
			l.Ask(a.Host, f.Of(lab.Outside4, lab.Outside6), 53, "outside", host)
			second := f.Of(lab.SecondOutside4, lab.SecondOutside6)
			l.Ping(a.Host, second)
			l.Get(a.Host, second, 80, "outside2", f.Of(lab.SecondHost4, lab.SecondHost6))
		})
	})
}

// What a sandbox sends from its published port keeps that port: a peer outside learns from a packet where to reach the
// sandbox (WireGuard, STUN), and two sides that open one TCP connection at the same time get through.
func TestOwnPublishedPort(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a := l.Sandbox("anna", "--network", web, "-p", "6881:6881", "-p", "6881:6881/udp")
		b := l.Sandbox("ben", "--network", web)
		// The peer's firewall lets in what it begins itself.
		l.Must(l.Outside, "nft", "table inet punch { chain input { type filter hook input priority 0; tcp dport 3480 ct state new drop; }; }")
		var again []func()
		for _, f := range lab.Families() {
			peer := netip.MustParseAddr(f.Of(lab.Outside4, lab.Outside6))
			host := netip.AddrPortFrom(netip.MustParseAddr(f.Of(lab.Host4, lab.Host6)), 6881)
			again = append(again, meetUDP(l, a, b, peer, host))
			meetTCP(l, a, netip.AddrPortFrom(peer, 3480), host)
		}
		l.KillDaemon()
		l.StartDaemon()
		for _, f := range again {
			f()
		}
	})
}

// meetUDP sends to servers of peer: from a, at the port that it publishes at host, and from b, at a port that another sandbox
// publishes. It returns a function that continues a's flow.
func meetUDP(l *lab.Lab, a, b *lab.Sandbox, peer netip.Addr, host netip.AddrPort) (again func()) {
	l.Helper()
	at := func(s *lab.Sandbox) netip.AddrPort {
		ip := s.IP4
		if peer.Is6() {
			ip = s.IP6
		}
		return netip.AddrPortFrom(ip, host.Port())
	}
	one, two := netip.AddrPortFrom(peer, 3478), netip.AddrPortFrom(peer, 3479)
	server, other, own := bound(l, l.Outside, one), bound(l, l.Outside, two), bound(l, a.Host, at(a))
	arrives(l, own, server, one, host, "where am I")
	// The server tells another, which begins by itself, and is answered.
	arrives(l, other, own, host, two, "there you are")
	arrives(l, own, other, two, host, "here")
	if from := receives(l, bound(l, b.Host, at(b)), server, one, "and I"); from.Port() == host.Port() {
		l.Errorf("another sandbox sends from %v", from)
	}
	return func() {
		l.Helper()
		arrives(l, server, own, host, one, "still there")
		arrives(l, own, server, one, host, "still here")
	}
}

// meetTCP has a sandbox connect from its own port, published at host, to a peer that connects to it at the same time.
func meetTCP(l *lab.Lab, s *lab.Sandbox, peer, host netip.AddrPort) {
	l.Helper()
	from := netip.AddrPortFrom(s.IP4, host.Port())
	if host.Addr().Is6() {
		from = netip.AddrPortFrom(s.IP6, host.Port())
	}
	deadline := time.Now().Add(10 * time.Second)
	errs := make(chan error, 2)
	go func() { errs <- opens(s.Host, from, peer, deadline) }()
	time.Sleep(100 * time.Millisecond) // the firewall drops its first SYN
	go func() { errs <- opens(l.Outside, peer, host, deadline) }()
	for range 2 {
		if err := <-errs; err != nil {
			l.Errorf("%v and %v connect to each other: %v", from, peer, err)
		}
	}
}

// bound returns a UDP socket of a host.
func bound(l *lab.Lab, h *world.Host, at netip.AddrPort) net.PacketConn {
	l.Helper()
	c, err := h.ListenPacket("udp", at.String())
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { c.Close() })
	return c
}

// receives sends a datagram and returns the source that it has at its receiver.
func receives(l *lab.Lab, from, at net.PacketConn, to netip.AddrPort, text string) netip.AddrPort {
	l.Helper()
	if _, err := from.WriteTo([]byte(text), net.UDPAddrFromAddrPort(to)); err != nil {
		l.Fatal(err)
	}
	if err := at.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		l.Fatal(err)
	}
	b := make([]byte, 100)
	n, source, err := at.ReadFrom(b)
	if err != nil || string(b[:n]) != text {
		l.Fatalf("%q to %v: received %q, %v", text, to, b[:n], err)
	}
	return source.(*net.UDPAddr).AddrPort()
}

// arrives is like receives for a source that is known.
func arrives(l *lab.Lab, from, at net.PacketConn, to, want netip.AddrPort, text string) {
	l.Helper()
	if source := receives(l, from, at, to, text); source != want {
		l.Errorf("%q to %v arrives from %v, want %v", text, to, source, want)
	}
}

// opens connects from a port until the other side, which does the same and listens nowhere, gets through. It exchanges a
// byte with it.
func opens(h *world.Host, from, to netip.AddrPort, deadline time.Time) error {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Deadline: deadline, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); e != nil {
			return e
		}
		return err
	}}
	for {
		c, err := h.Dial(d, "tcp", to.String())
		if err != nil {
			if time.Now().Before(deadline) {
				continue // refused: the other's SYN was not there yet
			}
			return err
		}
		defer c.Close()
		b := []byte{1}
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
		_, err = c.Read(b)
		return err
	}
}
