// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// sender sends datagrams from one port to a published one, without a pause, and records the
// backends that answer.
type sender struct {
	c      net.PacketConn
	heard  chan string // the first word of each reply
	ended  chan struct{}
	paused chan struct{}
}

func newSender(l *lab.Lab, h *world.Host, address string, port int) *sender {
	l.Helper()
	// Not connected: a connected host socket stays with the backend that it found when it
	// connected.
	c, err := h.ListenPacket("udp", "")
	if err != nil {
		l.Fatal(err)
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.Address(address), uint16(port)))
	s := &sender{c: c, heard: make(chan string, 1000), ended: make(chan struct{}), paused: make(chan struct{})}
	go func() {
		defer close(s.paused)
		for {
			select {
			case <-s.ended:
				return
			case <-time.After(10 * time.Millisecond):
				c.WriteTo([]byte("hello"), to) // may be refused for a while
			}
		}
	}()
	go func() {
		b := make([]byte, 1500)
		for {
			select {
			case <-s.ended:
				return
			default:
			}
			n, _, err := c.ReadFrom(b)
			if err != nil {
				continue // refused, or closed
			}
			name, _, _ := strings.Cut(string(b[:n]), " ")
			select {
			case s.heard <- name:
			default:
			}
		}
	}()
	l.Cleanup(func() {
		close(s.ended)
		<-s.paused
		c.Close()
	})
	return s
}

// hears expects a reply by name in time.
func (s *sender) hears(l *lab.Lab, name string, within time.Duration) {
	l.Helper()
	deadline := time.After(within)
	others := map[string]int{}
	for {
		select {
		case got := <-s.heard:
			if got == name {
				return
			}
			others[got]++
		case <-deadline:
			l.Errorf("no answer by %s within %v; other answers: %v", name, within, others)
			return
		}
	}
}

// silent expects no reply, after those in flight have arrived.
func (s *sender) silent(l *lab.Lab) {
	l.Helper()
	time.Sleep(500 * time.Millisecond)
	for len(s.heard) > 0 {
		<-s.heard
	}
	select {
	case got := <-s.heard:
		l.Errorf("answered by %s", got)
	case <-time.After(200 * time.Millisecond):
	}
}

// freshFlow is how soon a continuing flow must reach the current backend. A stale flow entry
// would prevent that forever, because the traffic keeps it alive.
const freshFlow = 5 * time.Second

// A sender that never stops reaches the sandbox that publishes the port now, from the same
// source port: stale flows do not prevent that.
func TestFlowsOfThePast(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web", "--subnet", "10.5.0.0/24", "--subnet", "fd00:5::/64")
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host := f.Of(lab.Host4, lab.Host6)
			outside := newSender(l, l.Outside, host, 5400)
			local := newSender(l, l.Host, host, 5400)
			senders := []*sender{outside, local}
			// Before anything is published.
			time.Sleep(100 * time.Millisecond)
			for _, s := range senders {
				s.silent(l)
			}
			var last *lab.Sandbox
			for i, name := range []string{"first", "second", "third"} {
				last = l.Sandbox(name, "--network", web, "--ip", fmt.Sprint("10.5.0.", 10+i), "--ip6", fmt.Sprint("fd00:5::", 10+i), "-p", "5400:53/udp")
				program := l.Answer(last.Host, name, "", 53)
				for _, s := range senders {
					s.hears(l, name, freshFlow)
				}
				if len(flows(l, last.IP(f))) == 0 {
					l.Errorf("no flow to %s is tracked", name)
				}
				l.Remove(last)
				program.Close()
				noFlows(l, last.IP(f))
				for _, s := range senders {
					s.silent(l)
				}
			}
			// The next owner of the address does not inherit them.
			next := l.Sandbox("next", "--network", web, "--ip", last.IP4.String(), "--ip6", last.IP6.String())
			heard := listenUDP(l, next.Host, "udp"+f.String(), ":53")
			defer heard.Close()
			heard.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if n, from, err := heard.ReadFrom(make([]byte, 100)); err == nil {
				l.Errorf("the next owner of %v got %d bytes from %v", last.IP(f), n, from)
			}
			l.Remove(next)
		})
		t.Run("disconnected", func(t *testing.T) {
			l := l.With(t)
			s := newSender(l, l.Outside, lab.Host4, 5401)
			b := l.Sandbox("ben", "--network", web, "-p", "5401:53/udp")
			l.Answer(b.Host, "ben", "", 53)
			s.hears(l, "ben", freshFlow)
			l.Fairlead("network", "disconnect", web, "ben")
			noFlows(l, b.IP4.String())
			s.silent(l)
			l.Fairlead("network", "connect", web, "ben")
			s.hears(l, "ben", freshFlow)
		})
	})
}

func TestTrackedFlows(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	a := l.Sandbox("anna", "--network", web, "-p", "8080:7")
	l.Echo(a.Host, 7)
	l.Echo(l.Outside, 7)
	families(t, l, func(l *lab.Lab, f lab.Family) {
		ip := func(address string, port any) string {
			return regexp.QuoteMeta(net.JoinHostPort(address, fmt.Sprint(port)))
		}
		host, outside := f.Of(lab.Host4, lab.Host6), f.Of(lab.Outside4, lab.Outside6)
		out := stream(l, a.Host, outside, 7)
		in := stream(l, l.Outside, host, 8080)
		if err := l.Reach(lab.Patient, a.Host, "udp", outside, 7); err != nil {
			l.Error(err)
		}
		l.Ping(a.Host, outside)
		list := strings.Join(flows(l, a.IP(f)), "\n") + "\n"
		sourceOf := func(c net.Conn) int { return c.LocalAddr().(*net.TCPAddr).Port }
		icmp := f.Of("icmp", "(icmpv6|ipv6-icmp)")
		for _, want := range []string{
			fmt.Sprintf("tcp established %s %s %s %s web", ip(a.IP(f), sourceOf(out)), ip(outside, 7), ip(outside, 7), ip(host, sourceOf(out))),
			fmt.Sprintf("tcp established %s %s %s %s web", ip(outside, sourceOf(in)), ip(host, 8080), ip(a.IP(f), 7), ip(outside, sourceOf(in))),
			fmt.Sprintf(`udp udp_\w+ \S+ %s %s \S+ web`, ip(outside, 7), ip(outside, 7)),
			icmp + ` icmp \S+ \S+ \S+ \S+ web`,
		} {
			if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(list) {
				l.Errorf("ct ls does not show %s:\n%s", want, list)
			}
		}
		for filter, want := range map[string]int{"proto=udp": 1, "state=established": 2, "port=8080": 1, "network=web": 4, "network=bridge": 0} {
			if got := strings.Fields(l.Fairlead("ct", "ls", "-q", "-f", "addr="+a.IP(f), "-f", filter)); len(got) != 3*want {
				l.Errorf("ct ls -f %s: %q, want %d flows", filter, got, want)
			}
		}
		// A closed flow is removed soon, an active one is not.
		out.(*net.TCPConn).SetLinger(0)
		out.Close()
		closed := []string{"ct", "ls", "-q", "-f", "addr=" + a.IP(f), "-f", "port=" + fmt.Sprint(sourceOf(out))}
		l.Eventually(soon, func() error {
			if got := l.Fairlead(append(closed, "-f", "state=close")...); got == "" {
				return fmt.Errorf("no closed flow")
			}
			return nil
		})
		l.Eventually(time.Minute, func() error { // ten seconds, and the tables are walked every thirty
			time.Sleep(500 * time.Millisecond)
			if got := l.Fairlead(closed...); got != "" {
				return fmt.Errorf("still there: %s", got)
			}
			return nil
		})
		talk{in}.echoes(l)
		l.Fairlead("ct", "flush", "-f", "addr="+a.IP(f))
		noFlows(l, a.IP(f))
		in.Close()
	})
}

// stream opens a TCP connection to an echo server and uses it once. It does not send
// keepalives, which would recreate a removed flow.
func stream(l *lab.Lab, h *world.Host, address string, port int) net.Conn {
	l.Helper()
	c, err := h.Dial(net.Dialer{Timeout: 2 * time.Second, KeepAlive: -1}, "tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		l.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		l.Fatal(err)
	}
	c.SetDeadline(time.Time{})
	return c
}
