// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// TestServiceErrors sends what cannot go on from where a backend's answers leave the tunnel: too large for the client's
// route, or with a hop limit of 1. The backend learns why, from the other host, as it does from its own.
func TestServiceErrors(t *testing.T) {
	p := newPair(t).start()
	a, b := p.a, p.b
	outside := p.outside()
	// The routes to it are narrower than the tunnel.
	for _, via := range []string{"10.98.9.1/32 via 10.98.1.254", "fd98:0:0:9::1/128 via fd98:0:0:1::fe"} {
		a.IP(a.Host, "route add "+via+" mtu lock 1290")
	}
	a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "web")
	has(b, "web")
	a.Fairlead("service", "create", "--network", "web", "-p", "8080:80", "-p", "8080:80/udp", "shop")
	back := b.Sandbox("back", "--network", "web", "--network-alias", "shop")
	b.Greet(back.Host, "back", 80)
	here, there := a.Sandbox("here", "--network", "web"), b.Sandbox("there", "--network", "web")
	svc := active(a, "shop", "back")
	for _, f := range lab.Families() {
		vip, entry := f.Of(svc.IPv4Address, svc.IPv6Address), f.Of(addressA, lab.RoutedA6)
		soon(a, outside, entry, 8080)
		soon(a, here.Host, vip, 80)
		a.Case("too big/IPv"+f.String(), func(l *lab.Lab) {
			c, err := outside.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp", net.JoinHostPort(entry, "8080"))
			if err != nil {
				l.Fatal(err)
			}
			defer c.Close()
			echoMuch(l, c)
		})
		// Its packets to clients elsewhere are at their last hop where they are translated.
		// Before that its own node is a router for clients outside.
		limit, counter := f.Of("ipv4/ip_default_ttl", "ipv6/conf/eth0/hop_limit"), f.Of("IcmpInTimeExcds", "Icmp6InTimeExcds")
		for name, from := range map[string]struct {
			h       *world.Host
			address string
			port    int
			ttl     string
		}{"outside": {outside, entry, 8080, "2"}, "elsewhere": {here.Host, vip, 80, "1"}, "here": {there.Host, vip, 80, "1"}} {
			a.Case("hop limit/"+name+"/IPv"+f.String(), func(l *lab.Lab) {
				b.Sysctl(back.Host, limit, from.ttl)
				defer b.Sysctl(back.Host, limit, "64")
				before := snmp(b, back.Host, counter)
				c, err := from.h.Dial(net.Dialer{Timeout: 500 * time.Millisecond}, "tcp", net.JoinHostPort(from.address, strconv.Itoa(from.port)))
				if err == nil {
					c.Close()
					l.Error("connected, with a hop limit of 1 of the answers")
				}
				if n := snmp(b, back.Host, counter) - before; n == 0 {
					l.Error("the backend was not notified that the hop limit is exceeded")
				}
			})
		}
	}
	a.Case("too big, may be fragmented", func(l *lab.Lab) {
		greetUDP(b, back.Host, 80)
		pc, err := outside.Dial(net.Dialer{}, "udp", net.JoinHostPort(addressA, "8080"))
		if err != nil {
			l.Fatal(err)
		}
		defer pc.Close()
		l.Eventually(5*time.Second, func() error {
			_ = pc.SetDeadline(time.Now().Add(time.Second))
			if _, err := pc.Write(make([]byte, 1400)); err != nil {
				return err
			}
			n, err := pc.Read(make([]byte, 2000))
			if err == nil && n != 1400 {
				err = fmt.Errorf("got %d bytes", n)
			}
			return err
		})
	})
}

// outside makes a host behind the router, with the address 10.98.9.1.
func (p *pair) outside() *world.Host {
	p.Helper()
	h := p.a.NewHost("outside")
	if err := world.Cable(
		world.End{Host: h, Device: "eth0", Addresses: []string{"10.98.9.1/24", "fd98:0:0:9::1/64"}},
		world.End{Host: p.router, Device: "eth9", Addresses: []string{"10.98.9.254/24", "fd98:0:0:9::fe/64"}},
	); err != nil {
		p.Fatal(err)
	}
	p.a.IP(h, "route add default via 10.98.9.254", "route add default via fd98:0:0:9::fe")
	return h
}

// soon waits until a service answers.
func soon(l *lab.Lab, h *world.Host, address string, port int) {
	l.Helper()
	l.Eventually(10*time.Second, func() error {
		c, err := lab.Greeting(h, address, port)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// echoMuch sends lines and expects them back, as much as fills many packets.
func echoMuch(l *lab.Lab, c net.Conn) {
	l.Helper()
	const size = 1 << 20
	line := []byte(strings.Repeat("x", 1023) + "\n")
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		for range size / len(line) {
			if _, err := c.Write(line); err != nil {
				return
			}
		}
	}()
	if n, err := io.CopyN(io.Discard, c, size); err != nil {
		l.Errorf("received %d bytes of %d: %v", n, size, err)
	}
}

// snmp returns a counter of h's kernel.
func snmp(l *lab.Lab, h *world.Host, name string) int {
	l.Helper()
	out := l.Must(h, "nstat", "-asz", name)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				l.Fatal(err)
			}
			return n
		}
	}
	l.Fatalf("no counter %s:\n%s", name, out)
	return 0
}
