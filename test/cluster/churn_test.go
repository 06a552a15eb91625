// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// TestChurn has clients that connect to a service all the time, by a host without a backend, while backends are
// created and removed on another host: by rm, with and without a program to kill, and by disconnecting them. No new
// connection fails, of either protocol, and each removal is as quick as the others' answers.
func TestChurn(t *testing.T) {
	const backends = 9
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t).start()
	a, b := p.a, p.b
	outside := a.NewHost("outside")
	if err := world.Cable(
		world.End{Host: outside, Device: "eth0", Addresses: []string{"10.98.9.1/24"}},
		world.End{Host: p.router, Device: "eth9", Addresses: []string{"10.98.9.254/24"}},
	); err != nil {
		p.Fatal(err)
	}
	a.IP(outside, "route add default via 10.98.9.254")
	a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "web")
	has(b, "web")
	a.Fairlead("service", "create", "--network", "web", "-p", "8080:80", "-p", "8080:80/udp", "shop")
	b.Fairlead("network", "create", "--internal", "elsewhere") // so that answers to clients outside leave by web
	here := a.Sandbox("here", "--network", "web")
	stays := b.Sandbox("stays", "--network", "web", "--network-alias", "shop")
	b.Greet(stays.Host, "stays", 80)
	greetUDP(b, stays.Host, 80)
	svc := active(a, "shop", "stays")
	a.Eventually(5*time.Second, func() error { // until its tables have the backend, too
		g, err := lab.Greeting(outside, addressA, 8080)
		if err == nil {
			g.Close()
		}
		return err
	})

	c := clients{until: make(chan struct{})}
	stop := sync.OnceFunc(func() {
		close(c.until)
		c.running.Wait()
	})
	t.Cleanup(stop)
	for _, at := range []struct {
		h       *world.Host
		address string
		port    int
	}{{here.Host, svc.IPv4Address, 80}, {here.Host, svc.IPv6Address, 80}, {a.Host, svc.IPv4Address, 80}, {a.Host, "127.0.0.1", 8080}, {outside, addressA, 8080}} {
		c.running.Go(func() { c.connect(at.h, at.address, at.port) })
	}
	c.running.Go(func() { c.query(here.Host, svc.IPv4Address, 80) })
	c.running.Go(func() { c.query(outside, addressA, 8080) })

	var slowest time.Duration
	for i := range backends {
		name := fmt.Sprint("comes", i)
		c.phase.Store(name + " is created")
		if i%3 == 2 { // a program, of which the daemon knows
			b.Fairlead("run", "-d", "--network", "elsewhere", "--name", name, self, greeter, name)
			b.Eventually(10*time.Second, func() error {
				g, err := lab.Greeting(b.Entered(name).Host, "127.0.0.1", 80)
				if err == nil {
					g.Close()
				}
				return err
			})
		} else {
			sb := b.Sandbox(name, "--network", "elsewhere")
			b.Greet(sb.Host, name, 80)
			greetUDP(b, sb.Host, 80)
		}
		c.phase.Store(name + " is connected")
		b.Fairlead("network", "connect", "--alias", "shop", "web", name)
		c.reached(p, name)
		c.phase.Store(name + " is removed")
		began := time.Now()
		c.removal.Store(&began)
		if i%3 == 1 {
			b.Fairlead("network", "disconnect", "web", name)
		} else {
			b.Fairlead("rm", "-f", name)
		}
		slowest = max(slowest, time.Since(began))
	}
	stop()
	t.Logf("%d connections and %d queries; %d that waited for their server failed with it; the slowest removal took %v",
		c.connected.Load(), c.answered.Load(), c.waited.Load(), slowest)
	if slowest > 3*time.Second {
		t.Errorf("a removal took %v: other hosts did not confirm it", slowest)
	}
	c.failures.Range(func(text, count any) bool {
		t.Errorf("%d times: %s", count.(*atomic.Int64).Load(), text)
		return true
	})
	if t.Failed() {
		for _, l := range []*lab.Lab{a, b} {
			for name, n := range l.Metrics() {
				if n > 0 && strings.HasPrefix(name, "fairlead_dropped_packets_total") {
					t.Logf("%s: %s %v", l.Host.Name, name, n)
				}
			}
		}
	}
}

// clients begin flows all the time, and count those that failed.
type clients struct {
	until               chan struct{}
	running             sync.WaitGroup
	connected, answered atomic.Int64
	last                sync.Map // names of backends that were reached
	phase               atomic.Value
	removal             atomic.Pointer[time.Time] // when the latest one began
	waited              atomic.Int64
	failures            sync.Map // text -> *atomic.Int64
}

func (c *clients) goesOn() bool {
	select {
	case <-c.until:
		return false
	default:
		return true
	}
}

func (c *clients) failed(phase any, text string) {
	n, _ := c.failures.LoadOrStore(fmt.Sprintf("while %v: %s", phase, text), new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

// ended counts a new flow that failed. A flow that began before the removal of its server is not new: on a busy machine it may still wait
// for the server.
func (c *clients) ended(began time.Time, phase any, text string) {
	if removal := c.removal.Load(); removal != nil && began.Before(*removal) {
		c.waited.Add(1)
		return
	}
	c.failed(phase, text)
}

func (c *clients) connect(h *world.Host, address string, port int) {
	for c.goesOn() {
		phase, began := c.phase.Load(), time.Now()
		g, err := lab.Greeting(h, address, port)
		if err != nil {
			c.ended(began, phase, fmt.Sprintf("%s connects to %s: %v", h.Name, address, err))
			continue
		}
		if n, err := g.Repeated(); err != nil || n > 0 {
			c.failed(phase, fmt.Sprintf("%s connects to %s: %d of its packets were lost, %v", h.Name, address, n, err))
		}
		c.connected.Add(1)
		c.last.Store(g.Name, true)
		g.Close()
		time.Sleep(2 * time.Millisecond)
	}
}

// query sends a datagram from a new port each time, and expects an answer.
func (c *clients) query(h *world.Host, address string, port int) {
	for c.goesOn() {
		phase, began := c.phase.Load(), time.Now()
		conn, err := h.Dial(net.Dialer{}, "udp", net.JoinHostPort(address, fmt.Sprint(port)))
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
			if _, err = conn.Write([]byte("hello\n")); err == nil {
				_, err = conn.Read(make([]byte, 100))
			}
			conn.Close()
		}
		if err != nil {
			c.ended(began, phase, fmt.Sprintf("%s queries %s: %v", h.Name, address, err))
			continue
		}
		c.answered.Add(1)
		time.Sleep(5 * time.Millisecond)
	}
}

// reached waits until a backend has had connections.
func (c *clients) reached(p *pair, name string) {
	p.Helper()
	p.a.Eventually(10*time.Second, func() error {
		if _, ok := c.last.Load(name); !ok {
			return fmt.Errorf("no connection reached %s", name)
		}
		return nil
	})
}

// greeter is the argument with which this program is a backend.
const greeter = "greeter"

// greet serves TCP and UDP at port 80, quicker than a program that starts another one for each connection.
func greet(name string) error {
	listener, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	go lab.ServeGreetings(listener, name)
	pc, err := net.ListenPacket("udp", ":80")
	if err != nil {
		return err
	}
	buf := make([]byte, 2000)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err == nil {
			_, err = pc.WriteTo(buf[:n], from)
		}
		if err != nil {
			return err
		}
	}
}

// greetUDP answers each datagram at a port of every address of h with its content.
func greetUDP(l *lab.Lab, h *world.Host, port int) {
	l.Helper()
	answerUDP(l, h, port, func(data []byte, _ net.Addr) []byte { return data })
}

// answerUDP answers each datagram at a port of every address of h.
func answerUDP(l *lab.Lab, h *world.Host, port int, answer func(data []byte, from net.Addr) []byte) {
	l.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		pc, err := h.ListenPacket(network, fmt.Sprintf(":%d", port))
		if err != nil {
			l.Fatal(err)
		}
		l.Cleanup(func() { pc.Close() })
		go func() {
			buf := make([]byte, 2000)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = pc.WriteTo(answer(buf[:n], from), from)
			}
		}()
	}
}
