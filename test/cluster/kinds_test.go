// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// TestServiceKinds is a service across hosts by both families and protocols, and one with affinity, on hosts whose tunnels
// use another port than 4789.
func TestServiceKinds(t *testing.T) {
	p := newPair(t)
	for _, l := range []*lab.Lab{p.a, p.b} {
		l.StartDaemon("--vxlan-port", "4999")
	}
	a, b := p.a, p.b
	a.Eventually(20*time.Second, func() error {
		if up := a.Fairlead("node", "ls", "--format", "{{.Name}} {{.Status}}"); up != "a up\nb up" {
			return fmt.Errorf("nodes: %q", up)
		}
		return nil
	})
	outside := p.outside()
	a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "web")
	has(b, "web")
	a.Fairlead("service", "create", "--network", "web", "-p", "8080:80", "-p", "8080:80/udp", "shop")
	a.Fairlead("service", "create", "--network", "web", "-p", "8081:80", "-p", "8081:80/udp", "--affinity", "1m", "kept")
	alias := []string{"--network", "web", "--network-alias", "shop", "--network-alias", "kept"}
	one, two := a.Sandbox("one", alias...), b.Sandbox("two", alias...)
	for _, s := range []struct {
		l  *lab.Lab
		sb *lab.Sandbox
	}{{a, one}, {b, two}} {
		s.l.Greet(s.sb.Host, s.sb.Name, 80)
		namesUDP(s.l, s.sb.Host, s.sb.Name, 80)
	}
	here, there := a.Sandbox("here", "--network", "web"), b.Sandbox("there", "--network", "web")
	shop := active(a, "shop", "one", "two")
	active(b, "kept", "one", "two")
	for _, f := range lab.Families() {
		stranger, entries := f.Of("10.98.9.1", "fd98:0:0:9::1"), []string{f.Of(addressA, lab.RoutedA6), f.Of(addressB, lab.RoutedB6)}
		for _, c := range []struct {
			h       *world.Host
			address string
			port    int
			client  string
		}{
			{here.Host, f.Of(shop.IPv4Address, shop.IPv6Address), 80, here.IP(f)},
			{there.Host, f.Of(shop.IPv4Address, shop.IPv6Address), 80, there.IP(f)},
			{a.Host, f.Of(shop.IPv4Address, shop.IPv6Address), 80, ""},
			{b.Host, f.Of("127.0.0.1", "::1"), 8080, ""},
			{outside, entries[0], 8080, stranger}, {outside, entries[1], 8080, stranger},
		} {
			a.Case(fmt.Sprintf("%s to %s", c.h.Name, c.address), func(l *lab.Lab) {
				soon(l, c.h, c.address, c.port)
				answers(l, c.h, c.address, c.port, c.client, "one", "two")
				answersUDP(l, c.h, c.address, c.port, c.client, "one", "two")
			})
		}
		a.Case("affinity/IPv"+f.String(), func(l *lab.Lab) {
			soon(l, outside, entries[0], 8081)
			by := ""
			for i := range 12 {
				g, err := lab.Greeting(outside, entries[i%2], 8081)
				if err != nil {
					l.Fatal(err)
				}
				g.Close()
				if by == "" {
					by = g.Name
				}
				if udp, _, err := askName(outside, entries[i%2], 8081); err != nil || udp != by || g.Name != by {
					l.Errorf("connection %d by %s: %s answers, and %s by UDP, %v; want %s", i, entries[i%2], g.Name, udp, err, by)
				}
			}
		})
	}
}

// namesUDP answers each datagram at a port of every address of h with a name and the client's address.
func namesUDP(l *lab.Lab, h *world.Host, name string, port int) {
	l.Helper()
	answerUDP(l, h, port, func(_ []byte, from net.Addr) []byte {
		client := netip.MustParseAddrPort(from.String()).Addr().Unmap()
		return fmt.Appendf(nil, "%s %s", name, client)
	})
}

// askName returns the name and the client of such a server, from a new port.
func askName(h *world.Host, address string, port int) (name, client string, err error) {
	c, err := h.Dial(net.Dialer{}, "udp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write([]byte("name?")); err != nil {
		return "", "", err
	}
	buf := make([]byte, 200)
	n, err := c.Read(buf)
	name, client, _ = strings.Cut(string(buf[:n]), " ")
	return name, client, err
}

// answersUDP is answers for datagrams.
func answersUDP(l *lab.Lab, h *world.Host, address string, port int, client string, names ...string) {
	l.Helper()
	seen := map[string]bool{}
	for i := 0; i < 10 || len(seen) < len(names) && i < 60; i++ {
		name, saw, err := askName(h, address, port)
		if err != nil || client != "" && saw != client {
			l.Fatalf("%s at %s port %d: %q answered %q, %v; want %s", h.Name, address, port, name, saw, err, client)
		}
		seen[name] = true
	}
	if len(seen) != len(names) {
		l.Errorf("%s at %s port %d: only %v answered by UDP, want %v", h.Name, address, port, seen, names)
	}
}
