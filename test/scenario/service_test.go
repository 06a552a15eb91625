// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/test/lab"
)

// spread connects many times, and returns how often each backend answered.
func spread(l *lab.Lab, h *world.Host, address string, port, times int) map[string]int {
	l.Helper()
	got := map[string]int{}
	for range times {
		c, err := lab.Greeting(h, address, port)
		if err != nil {
			l.Fatalf("%s: connect to %s port %d: %v", h.Name, address, port, err)
		}
		got[c.Name]++
		c.Close()
	}
	return got
}

func wantSpread(l *lab.Lab, got map[string]int, names ...string) {
	l.Helper()
	total := 0
	for _, n := range got {
		total += n
	}
	for _, name := range names {
		// Six standard deviations of a binomial distribution, roughly, with 200 tries.
		if share := float64(got[name]) / float64(total) * float64(len(names)); share < 0.4 || share > 1.6 {
			l.Errorf("%s got %d of %d connections: %v", name, got[name], total, got)
		}
	}
	if len(got) != len(names) {
		l.Errorf("connections went to %v, want %v", got, names)
	}
}

func inspectService(l *lab.Lab, name string) api.Service {
	l.Helper()
	var list []api.Service
	if err := json.Unmarshal([]byte(l.Fairlead("service", "inspect", name)), &list); err != nil || len(list) != 1 {
		l.Fatalf("service inspect: %v", err)
	}
	return list[0]
}

// shop is a network with a service of three backends and a client.
type shop struct {
	*lab.Lab
	client   *lab.Sandbox
	backends []*lab.Sandbox
	vip      map[lab.Family]string
}

func newShop(l *lab.Lab, flags ...string) *shop {
	l.Helper()
	s := &shop{Lab: l}
	l.Fairlead("network", "create", "--ipv6", "-o", "fairlead.dns=true", "shop")
	l.Fairlead(append(append([]string{"service", "create", "--network", "shop"}, flags...), "web")...)
	for _, name := range []string{"b1", "b2", "b3"} {
		b := l.Sandbox(name, "--network", "shop", "--network-alias", "web")
		l.Greet(b.Host, name, 80)
		l.Answer(b.Host, name, "", 53)
		s.backends = append(s.backends, b)
	}
	s.client = l.Sandbox("client", "--network", "shop")
	svc := inspectService(l, "web")
	s.vip = map[lab.Family]string{lab.IPv4: svc.IPv4Address, lab.IPv6: svc.IPv6Address}
	return s
}

// A virtual address spreads connections of members and of the host over the backends, which see
// the client.
func TestService(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		s := newShop(l)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			vip := s.vip[f]
			wantSpread(l, spread(l, s.client.Host, vip, 80, 200), "b1", "b2", "b3")
			wantSpread(l, spread(l, l.Host, vip, 80, 100), "b1", "b2", "b3")
			wantSpread(l, spread(l, s.backends[0].Host, vip, 80, 100), "b1", "b2", "b3") // also to itself
			l.Ping(s.client.Host, vip)
			l.Ping(s.client.Host, vip, "-s", "4000")
			l.Ping(l.Host, vip)
			for from, want := range map[*world.Host]string{s.client.Host: s.client.IP(f), l.Host: l.Gateway("shop", f)} {
				c, err := lab.Greeting(from, vip, 80)
				if err != nil {
					l.Fatal(err)
				}
				if c.Client != want {
					l.Errorf("backend sees %s as the client, want %s", c.Client, want)
				}
				c.Close()
			}
			answered := map[string]bool{}
			for range 30 {
				c, err := s.client.Dial(net.Dialer{}, "udp", net.JoinHostPort(vip, "53"))
				if err != nil {
					l.Fatal(err)
				}
				if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
					l.Fatal(err)
				}
				fmt.Fprint(c, "hello")
				b := make([]byte, 100)
				n, err := c.Read(b)
				if err != nil {
					l.Fatalf("datagram to %s: %v", vip, err)
				}
				answered[strings.Fields(string(b[:n]))[0]] = true
				c.Close()
			}
			if len(answered) != 3 {
				l.Errorf("datagrams were answered by %v", answered)
			}
			// A closed port is refused by the backend, for UDP by an ICMP error that is translated.
			if c, err := s.client.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp", net.JoinHostPort(vip, "81")); err == nil || !strings.Contains(err.Error(), "refused") {
				l.Errorf("a closed TCP port: %v, %v", c, err)
			}
			c, err := s.client.Dial(net.Dialer{}, "udp", net.JoinHostPort(vip, "81"))
			if err != nil {
				l.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
				l.Fatal(err)
			}
			fmt.Fprint(c, "hello")
			if _, err := c.Read(make([]byte, 10)); err == nil || !strings.Contains(err.Error(), "refused") {
				l.Errorf("a closed UDP port: %v", err)
			}
		})
		t.Run("names", func(t *testing.T) {
			n := &names{Lab: l.With(t)}
			gw := n.Gateway("shop", lab.IPv4)
			n.want(s.client.Host, "udp", gw, "web.", dns.TypeA, s.vip[lab.IPv4])
			n.want(s.client.Host, "udp", gw, "WEB.shop.", dns.TypeAAAA, s.vip[lab.IPv6])
			for range 20 {
				got, err := question(s.client.Host, "udp", gw, "tasks.web.", dns.TypeA)
				if err != nil || !slices.ContainsFunc(s.backends, func(b *lab.Sandbox) bool { return b.IP4.String() == got }) {
					n.Errorf("tasks.web: %s, %v", got, err)
				}
			}
		})
		t.Run("no backend", func(t *testing.T) {
			l := l.With(t)
			l.Fairlead("service", "create", "--network", "shop", "empty")
			at := inspectService(l, "empty").IPv4Address
			l.Dropped("no_backend", 2, func() {
				if _, err := lab.Greeting(s.client.Host, at, 80); err == nil || !strings.Contains(err.Error(), "refused") {
					l.Errorf("a service without backends: %v", err)
				}
				l.NoPing(s.client.Host, at)
			})
			l.Refused(1, []string{"network shop has"}, "network", "rm", "shop")
			l.Fairlead("service", "rm", "empty")
			l.NoPing(s.client.Host, at)
		})
	})
}

// A published port of a service spreads connections from outside and of the host.
func TestServicePublished(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		s := newShop(l, "-p", "8080:80")
		families(t, l, func(l *lab.Lab, f lab.Family) {
			at := f.Of(lab.Host4, lab.Host6)
			wantSpread(l, spread(l, l.Outside, at, 8080, 150), "b1", "b2", "b3")
			wantSpread(l, spread(l, l.Host, f.Of("127.0.0.1", "::1"), 8080, 150), "b1", "b2", "b3")
			wantSpread(l, spread(l, s.client.Host, at, 8080, 150), "b1", "b2", "b3")
			c, err := lab.Greeting(l.Outside, at, 8080)
			if err != nil {
				l.Fatal(err)
			}
			defer c.Close()
			if want := f.Of(lab.Outside4, lab.Outside6); c.Client != want {
				l.Errorf("backend sees %s, want the client outside, %s", c.Client, want)
			}
		})
		l.Refused(1, []string{`by service "web"`}, "sandbox", "create", "-p", "8080:80", "other")
	})
}

// A connection from the ports of one that ended is a new one: it goes to no backend that is drained.
func TestServicePortsUsedAgain(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		s := newShop(l, "-p", "8080:80")
		families(t, l, func(l *lab.Lab, f lab.Family) {
			port := 30000
			for name, way := range map[string]struct {
				from    *world.Host
				address string
				port    int
			}{
				"member":  {s.client.Host, s.vip[f], 80},
				"host":    {l.Host, s.vip[f], 80},
				"outside": {l.Outside, f.Of(lab.Host4, lab.Host6), 8080},
			} {
				l.Case(name, func(l *lab.Lab) {
					for range 5 {
						port++
						first, err := lab.GreetingFrom(way.from, port, way.address, way.port)
						if err != nil {
							l.Fatal(err)
						}
						lab.Finish(first.Conn)
						l.Fairlead("service", "drain", "web", first.Name)
						again, err := lab.GreetingFrom(way.from, port, way.address, way.port)
						if err != nil {
							l.Fatal(err)
						}
						lab.Finish(again.Conn)
						if again.Name == first.Name {
							l.Errorf("%s is drained and got a connection from port %d", first.Name, port)
						}
						l.Fairlead("service", "resume", "web", first.Name)
					}
				})
			}
		})
	})
}

// Connections stay where they are when backends are drained, come and go, while new ones never
// fail; a daemon that is killed changes nothing.
func TestServiceChanges(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	s := newShop(l, "-p", "8080:80")
	vip := s.vip[lab.IPv4]
	var open []*lab.Greeted
	for _, from := range []*world.Host{s.client.Host, l.Host, l.Outside} {
		at, port := vip, 80
		if from == l.Outside {
			at, port = lab.Host4, 8080
		}
		for range 20 {
			c, err := lab.Greeting(from, at, port)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			open = append(open, c)
		}
	}
	alive := func(what string, except string) {
		t.Helper()
		for _, c := range open {
			if c.Name == except {
				continue
			}
			if err := c.Works(); err != nil {
				l.Errorf("%s: a connection to %s: %v", what, c.Name, err)
			}
		}
	}
	var stop atomic.Bool
	done := make(chan struct{})
	var tries, failures int
	go func() {
		defer close(done)
		for !stop.Load() {
			tries++
			c, err := lab.Greeting(s.client.Host, vip, 80)
			if err != nil {
				failures++
				t.Logf("a new connection: %v", err)
				continue
			}
			c.Close()
		}
	}()
	for range 10 {
		for _, b := range []string{"b1", "b2", "b3"} {
			l.Fairlead("service", "drain", "web", b)
			got := spread(l, s.client.Host, vip, 80, 10)
			if got[b] != 0 {
				l.Errorf("%s is drained and got %d new connections", b, got[b])
			}
			l.Fairlead("service", "resume", "web", b)
		}
	}
	alive("drained and resumed", "")
	l.KillDaemon()
	alive("without a daemon", "")
	wantSpread(l, spread(l, s.client.Host, vip, 80, 100), "b1", "b2", "b3")
	l.StartDaemon()
	alive("after a restart", "")
	wantSpread(l, spread(l, s.client.Host, vip, 80, 100), "b1", "b2", "b3")
	// A backend that leaves after it was drained breaks its own connections only.
	l.Fairlead("service", "drain", "web", "b3")
	l.Remove(s.backends[2])
	alive("a backend was removed", "b3")
	stop.Store(true)
	<-done
	if failures > 0 || tries < 100 {
		l.Errorf("%d of %d new connections failed", failures, tries)
	}
	t.Logf("%d new connections, %d failed", tries, failures)
	for _, c := range open {
		if c.Name == "b3" && c.Works() == nil {
			l.Errorf("a connection to a backend that was removed still works")
		}
	}
	wantSpread(l, spread(l, s.client.Host, vip, 80, 100), "b1", "b2")
}

// With affinity a client stays with its backend, also when others come and go.
func TestServiceAffinity(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	s := newShop(l, "--affinity", "1m")
	got := spread(l, s.client.Host, s.vip[lab.IPv4], 80, 30)
	if len(got) != 1 {
		t.Fatalf("connections of one client went to %v", got)
	}
	var its string
	for its = range got {
	}
	for _, b := range []string{"b1", "b2", "b3"} {
		if b == its {
			continue
		}
		l.Fairlead("service", "drain", "web", b)
		if again := spread(l, s.client.Host, s.vip[lab.IPv4], 80, 10); again[its] != 10 {
			t.Errorf("without %s connections went to %v, want %s", b, again, its)
		}
		l.Fairlead("service", "resume", "web", b)
	}
	l.Fairlead("service", "drain", "web", its)
	if again := spread(l, s.client.Host, s.vip[lab.IPv4], 80, 10); len(again) != 1 || again[its] != 0 {
		t.Errorf("after its backend was drained connections went to %v", again)
	}
}
