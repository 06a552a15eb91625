// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/test/lab"
)

// greet serves TCP connections on a host: a line with a name and the client's address, then an echo of
// each line.
func greet(l *lab.Lab, h *world.Host, name string, port int) {
	l.Helper()
	listener, err := h.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				from := netip.MustParseAddrPort(c.RemoteAddr().String())
				fmt.Fprintln(c, name, from.Addr().Unmap())
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, lines.Text())
				}
			}()
		}
	}()
}

// greeted is a connection to such a server.
type greeted struct {
	net.Conn
	in           *bufio.Reader
	name, client string
}

func connect(h *world.Host, address string, port int) (*greeted, error) {
	c, err := h.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		return nil, err
	}
	g := &greeted{Conn: c, in: bufio.NewReader(c)}
	line, err := g.says("")
	if err == nil {
		_, err = fmt.Sscan(line, &g.name, &g.client)
	}
	return g, err
}

// says sends a line, unless it is "", and returns the next one that arrives.
func (g *greeted) says(line string) (string, error) {
	if err := g.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if line != "" {
		if _, err := fmt.Fprintln(g, line); err != nil {
			return "", err
		}
	}
	return g.in.ReadString('\n')
}

// answers connects until every name has answered, at least 10 times, and expects that no other does and
// that each saw the client at this address ("": any).
func answers(l *lab.Lab, h *world.Host, address string, port int, client string, names ...string) {
	l.Helper()
	seen := map[string]bool{}
	for i := 0; i < 10 || len(seen) < len(names) && i < 60; i++ {
		c, err := connect(h, address, port)
		if err != nil {
			l.Fatalf("%s: connect to %s port %d: %v", h.Name, address, port, err)
		}
		c.Close()
		if seen[c.name] = true; client != "" && c.client != client || !slices.Contains(names, c.name) {
			l.Fatalf("%s at %s port %d: %s answered %s; want %v and %s", h.Name, address, port, c.name, c.client, names, client)
		}
	}
	if len(seen) != len(names) {
		l.Errorf("%s at %s port %d: only %v answered, want %v", h.Name, address, port, seen, names)
	}
}

// service returns a service as a host shows it.
func service(l *lab.Lab, name string) (api.Service, error) {
	r := l.Try("service", "inspect", name)
	if r.Code != 0 {
		return api.Service{}, fmt.Errorf("%s", r.Stderr)
	}
	var list []api.Service
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		return api.Service{}, err
	}
	return list[0], nil
}

// active waits until a host shows these backends as active, and no others.
func active(l *lab.Lab, name string, want ...string) (svc api.Service) {
	l.Helper()
	l.Eventually(10*time.Second, func() (err error) {
		if svc, err = service(l, name); err != nil {
			return err
		}
		var got []string
		for _, b := range svc.Backends {
			if b.State == api.BackendActive {
				got = append(got, b.Name)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("backends: %v, want %v", got, want)
		}
		return nil
	})
	return svc
}

// TestService is a service with a backend on each of two hosts: clients on both, the hosts themselves and
// clients outside, by either host, reach both backends, which see the client's own address. Backends are
// drained and resumed from the other host.
func TestService(t *testing.T) { testService(newPair(t).start()) }

// TestEncryptedService is the same in an encrypted network.
func TestEncryptedService(t *testing.T) { testService(newPair(t).startEncrypted(), "-o", "encrypted") }

func testService(p *pair, options ...string) {
	a, b := p.a, p.b
	outside := a.NewHost("outside")
	const stranger = "10.98.9.1"
	if err := world.Cable(
		world.End{Host: outside, Device: "eth0", Addresses: []string{stranger + "/24"}},
		world.End{Host: p.router, Device: "eth9", Addresses: []string{"10.98.9.254/24"}},
	); err != nil {
		p.Fatal(err)
	}
	a.IP(outside, "route add default via 10.98.9.254")
	a.Fairlead(append([]string{"network", "create", "-d", "overlay", "web"}, options...)...)
	has(b, "web")
	a.Fairlead("service", "create", "--network", "web", "-p", "8080:80", "shop")
	one, two := a.Sandbox("one", "--network", "web", "--network-alias", "shop"), b.Sandbox("two", "--network", "web", "--network-alias", "shop")
	greet(a, one.Host, "one", 80)
	greet(b, two.Host, "two", 80)
	here, there := a.Sandbox("here", "--network", "web"), b.Sandbox("there", "--network", "web")
	vip := active(a, "shop", "one", "two").IPv4Address
	if other := active(b, "shop", "one", "two"); other.IPv4Address != vip {
		p.Fatalf("the service is at %s on a, and at %s on b", vip, other.IPv4Address)
	}
	a.Case("members", func(l *lab.Lab) {
		answers(l, here.Host, vip, 80, here.IP4.String(), "one", "two")
		answers(l, there.Host, vip, 80, there.IP4.String(), "one", "two")
		l.Ping(there.Host, vip)
	})
	a.Case("hosts", func(l *lab.Lab) {
		for _, h := range []*world.Host{a.Host, b.Host} {
			answers(l, h, vip, 80, "", "one", "two")
			answers(l, h, "127.0.0.1", 8080, "", "one", "two")
		}
	})
	a.Case("outside", func(l *lab.Lab) {
		for _, entry := range []string{addressA, addressB} {
			answers(l, outside, entry, 8080, stranger, "one", "two")
		}
	})
	a.Case("drain", func(l *lab.Lab) {
		var long *greeted
		for long == nil || long.name != "one" {
			c, err := connect(there.Host, vip, 80)
			if err != nil {
				l.Fatal(err)
			}
			long = c
		}
		defer long.Close()
		b.Fairlead("service", "drain", "shop", "one")
		active(a, "shop", "two")
		for _, h := range []*world.Host{here.Host, there.Host, a.Host, b.Host} {
			answers(l, h, vip, 80, "", "two")
		}
		answers(l, outside, addressA, 8080, stranger, "two")
		if line, err := long.says("still there?"); err != nil || line != "still there?\n" {
			l.Errorf("the connection to the drained backend: %q, %v", line, err)
		}
		b.Fairlead("service", "resume", "shop", "one")
		active(a, "shop", "one", "two")
		answers(l, here.Host, vip, 80, here.IP4.String(), "one", "two")
	})
	a.Case("a backend is removed", func(l *lab.Lab) {
		b.Remove(two)
		active(a, "shop", "one")
		answers(l, here.Host, vip, 80, here.IP4.String(), "one")
		answers(l, there.Host, vip, 80, there.IP4.String(), "one")
		answers(l, outside, addressB, 8080, stranger, "one")
	})
	// A host without a sandbox in the network serves the port, too.
	b.Remove(there)
	answers(a, outside, addressB, 8080, stranger, "one")
	b.Fairlead("service", "rm", "shop")
	a.Eventually(5*time.Second, func() error {
		if _, err := service(a, "shop"); err == nil {
			return fmt.Errorf("a has the service that was removed on b")
		}
		return nil
	})
}
