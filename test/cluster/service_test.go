// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/test/lab"
)

// answers connects until every name has answered, at least 10 times, and expects that no other does and
// that each saw the client at this address ("": any).
func answers(l *lab.Lab, h *world.Host, address string, port int, client string, names ...string) {
	l.Helper()
	seen := map[string]bool{}
	for i := 0; i < 10 || len(seen) < len(names) && i < 60; i++ {
		c, err := lab.Greeting(h, address, port)
		if err != nil {
			l.Fatalf("%s: connect to %s port %d: %v", h.Name, address, port, err)
		}
		c.Close()
		if seen[c.Name] = true; client != "" && c.Client != client || !slices.Contains(names, c.Name) {
			l.Fatalf("%s at %s port %d: %s answered %s; want %v and %s", h.Name, address, port, c.Name, c.Client, names, client)
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

// TestEncryptedService is the same in an encrypted network. The hosts receive at different ports.
func TestEncryptedService(t *testing.T) {
	testService(newPair(t).startEncrypted("--wireguard-port", "51900"), "-o", "encrypted")
}

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
	a.Greet(one.Host, "one", 80)
	b.Greet(two.Host, "two", 80)
	here, there := a.Sandbox("here", "--network", "web"), b.Sandbox("there", "--network", "web")
	vip := active(a, "shop", "one", "two").IPv4Address
	if other := active(b, "shop", "one", "two"); other.IPv4Address != vip {
		p.Fatalf("the service is at %s on a, and at %s on b", vip, other.IPv4Address)
	}
	a.Case("members", func(l *lab.Lab) {
		answers(l, here.Host, vip, 80, here.IP4.String(), "one", "two")
		answers(l, there.Host, vip, 80, there.IP4.String(), "one", "two")
		l.PingSoon(there.Host, vip)
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
	a.Case("outside, from one port", func(l *lab.Lab) {
		const first, last = 41000, 41015
		for port := first; port <= last; port++ { // about half of them get the backend on a
			var open []*lab.Greeted
			for _, entry := range []string{addressA, addressB} {
				c, err := lab.GreetingFrom(outside, port, entry, 8080)
				if err != nil {
					l.Errorf("by %s from port %d, with %d connections open: %v", entry, port, len(open), err)
					continue
				}
				defer c.Close()
				if open = append(open, c); c.Client != stranger {
					l.Errorf("by %s from port %d: %s sees %s", entry, port, c.Name, c.Client)
				}
			}
			for i, c := range open {
				if err := c.Works(); err != nil {
					l.Errorf("connection %d from port %d to %s: %v", i, port, c.Name, err)
				}
			}
		}
	})
	a.Case("drain", func(l *lab.Lab) {
		var long *lab.Greeted
		for long == nil || long.Name != "one" {
			c, err := lab.Greeting(there.Host, vip, 80)
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
		if err := long.Works(); err != nil {
			l.Errorf("the connection to the drained backend: %v", err)
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
