// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// From outside only published ports are reachable, at the addresses where they are published.
func TestOnlyPublishedIsReached(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "127.0.0.1:5000:5000/udp", "-p", "[::1]:5000:5000/udp",
			"-p", "127.0.0.1:5353:53/udp", "-p", "[::1]:5353:53/udp")
		l.HTTP(b.Host, "ben", 80)
		l.UDP(b.Host, "ben", 53)
		// The kernel's own protection is off, so that only Fairlead's is active.
		l.Sysctl(l.Host, "ipv4/conf/all/route_localnet", "1")
		mac := macOf(l, l.Host)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host, outside := f.Of(lab.Host4, lab.Host6), f.Of(lab.Outside4, lab.Outside6)
			gateway := l.Gateway(web, f)
			for _, target := range []string{b.IP(f), gateway} {
				l.IP(l.Outside, "route add "+target+" via "+host)
			}
			l.Dropped("direct", 2, func() { l.NoPing(l.Outside, b.IP(f)) })
			l.Dropped("direct", 1, func() { l.NoGet(l.Outside, b.IP(f), 80) })
			l.Dropped("direct", 1, func() { l.NoGet(l.Outside, b.IP(f), 8080) })
			l.Get(l.Outside, host, 8080, "ben", outside)
			// A gateway's address is one of the host's own, which the host answers for.
			l.Ping(l.Outside, gateway)
			l.Get(l.Outside, gateway, 8080, "ben", outside)
			l.NoGet(l.Outside, gateway, 80)

			loopback := f.Of("127.0.0.1", "::1")
			l.Ask(l.Host, loopback, 5353, "ben", gateway)
			l.NoAsk(l.Outside, host, 5353)
			l.Dropped("direct", 2, func() { l.NoAsk(l.Outside, b.IP(f), 53) })

			heard := listenUDP(l, b.Host, "udp"+f.String(), ":5000")
			defer heard.Close()
			l.Dropped("loopback", 1, func() {
				sendFrame(l, l.Outside, udpFrame(l, macOf(l, l.Outside), mac,
					netip.AddrPortFrom(lab.Address(outside), 5000), netip.AddrPortFrom(lab.Address(loopback), 5000)))
			})
			heard.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if n, from, err := heard.ReadFrom(make([]byte, 100)); err == nil {
				l.Errorf("a datagram of %d bytes from %v arrived through a loopback address", n, from)
			}
			c, err := l.Host.Dial(net.Dialer{}, "udp", net.JoinHostPort(loopback, "5000"))
			if err != nil {
				l.Fatal(err)
			}
			defer c.Close()
			c.Write([]byte("hello"))
			if got := receive(heard); got != "hello" {
				l.Errorf("the host itself does not reach the port on its loopback: %q", got)
			}
		})
	})
}

const (
	far4, far6 = "198.18.0.2", "2001:db8:18::2"
	farMTU     = 1300
)

// farHost is behind Outside, which routes, over a link with a small MTU.
func farHost(l *lab.Lab) *world.Host {
	l.Helper()
	far := l.NewHost("far")
	err := world.Cable(
		world.End{Host: l.Outside, Device: "far", Addresses: []string{"198.18.0.1/24", "2001:db8:18::1/64"}},
		world.End{Host: far, Device: "eth0", Addresses: []string{far4 + "/24", far6 + "/64"}},
	)
	if err != nil {
		l.Fatal(err)
	}
	l.Sysctl(l.Outside, "ipv4/ip_forward", "1")
	l.Sysctl(l.Outside, "ipv6/conf/all/forwarding", "1")
	l.IP(l.Outside, fmt.Sprintf("link set far mtu %d", farMTU))
	// It announces segments that do not fit on the link, so that routers on the path have to
	// notify the senders.
	l.IP(far, fmt.Sprintf("link set eth0 mtu %d", farMTU),
		"route add default via 198.18.0.1 advmss 1460", "route add ::/0 via 2001:db8:18::1 advmss 1440")
	return far
}

func TestPathMTU(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		narrow := network(l, "narrow", "-o", "com.docker.network.driver.mtu=1300")
		far := farHost(l)
		b := l.Sandbox("ben", "--network", web, "-p", "8080:80")
		a := l.Sandbox("anna", "--network", web)
		n := l.Sandbox("nora", "--network", narrow, "-p", "8081:80")
		l.Echo(b.Host, 80)
		l.Echo(n.Host, 80)
		l.Echo(far, 7)
		l.Echo(l.Outside, 7)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host, farIP, outside := f.Of(lab.Host4, lab.Host6), f.Of(far4, far6), f.Of(lab.Outside4, lab.Outside6)
			l.Case("masquerade", func(l *lab.Lab) {
				tooBig(l, a.Host, farIP, 1400)
				knows(l, a.Host, farIP)
				l.Must(a.Host, "ip", "-"+f.String(), "route", "flush", "cache")
				transfer(l, a.Host, farIP, 7) // TCP discovers the MTU by itself
				knows(l, a.Host, farIP)
			})
			l.Case("published port", func(l *lab.Lab) {
				transfer(l, far, host, 8080)
				knows(l, b.Host, farIP)
			})
			l.Case("narrow network", func(l *lab.Lab) {
				// The sandbox announces segments that do not fit on its network.
				l.IP(n.Host, fmt.Sprintf("route change %s via %s dev eth0 advmss 1440", f.Of("default", "::/0"), l.Gateway(narrow, f)))
				transfer(l, l.Outside, host, 8081)
				transfer(l, n.Host, outside, 7)
			})
		})
	})
}

// tooBig expects an error that a packet does not fit.
func tooBig(l *lab.Lab, h *world.Host, address string, size int) {
	l.Helper()
	r := l.Run(h, "ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", "-M", "do", "-s", fmt.Sprint(size), address)
	if r.Code == 0 || !strings.Contains(r.Output(), fmt.Sprint("mtu = ", farMTU)) && !strings.Contains(r.Output(), fmt.Sprint("mtu=", farMTU)) {
		l.Errorf("%s: ping of %d bytes to %s: status %d, want an error with the MTU\n%s", h.Name, size, address, r.Code, r.Output())
	}
}

// knows expects the kernel of h to know the small MTU.
func knows(l *lab.Lab, h *world.Host, address string) {
	l.Helper()
	out := l.Must(h, "ip", "route", "get", address)
	if !strings.Contains(out, fmt.Sprint("mtu ", farMTU)) {
		l.Errorf("%s does not know the MTU to %s: %s", h.Name, address, out)
	}
}

// transfer sends 128 KiB to an echo server and expects them back.
func transfer(l *lab.Lab, h *world.Host, address string, port int) {
	l.Helper()
	c, err := h.Dial(net.Dialer{Timeout: 2 * time.Second}, "tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		l.Errorf("%v", err)
		return
	}
	defer c.Close()
	const size = 128 << 10
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go c.Write(make([]byte, size)) // the read reports whether it worked
	n, err := io.CopyN(io.Discard, c, size)
	if err != nil {
		l.Errorf("%s: transfer to %s: %v after %d bytes", h.Name, address, err, n)
	}
}

// A traceroute through masquerade shows every hop: the errors are delivered to the sender of
// the packets.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		farHost(l)
		a := l.Sandbox("anna", "--network", web)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			l.IP(l.Outside, "route get "+f.Of(far4, far6))
			want := []string{l.Gateway(web, f), f.Of(lab.Outside4, lab.Outside6), f.Of(far4, far6)}
			for _, kind := range []string{"-U", "-I", "-T"} { // UDP, ICMP, TCP
				hops := trace(l, a.Host, f, kind, f.Of(far4, far6))
				if strings.Join(hops, " ") != strings.Join(want, " ") {
					l.Errorf("traceroute %s: hops %v, want %v", kind, hops, want)
				}
			}
		})
	})
}

// A client outside sees the host as a router on the way to a published port.
func TestTracerouteToPublished(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		a := l.Sandbox("anna", "--network", network(l, "web"), "-p", "8080:80", "-p", "5300:5300/udp")
		l.HTTP(a.Host, "anna", 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host := f.Of(lab.Host4, lab.Host6)
			// The address of the host is that of the hop and of the port: it is shown twice.
			want := []string{host, host}
			for _, kind := range [][]string{{"-T", "-p", "8080"}, {"-U", "-p", "5300"}} {
				if hops := trace(l, l.Outside, f, kind[0], append(kind[1:], host)...); !slices.Equal(hops, want) {
					l.Errorf("traceroute %v: hops %v, want %v", kind, hops, want)
				}
			}
		})
	})
}

// trace returns the addresses that traceroute(8) shows on the path.
func trace(l *lab.Lab, from *world.Host, f lab.Family, kind string, args ...string) []string {
	l.Helper()
	args = append([]string{"-" + f.String(), "-n", "-q", "1", "-w", "5", "-m", "5", kind}, args...)
	var hops []string
	for line := range strings.Lines(l.Must(from, "traceroute", args...)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] != "traceroute" {
			hops = append(hops, fields[1])
		}
	}
	return hops
}
