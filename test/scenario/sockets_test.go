// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// A connected UDP socket of a host program gets an error when what it is connected to has gone, whatever removes it, and the
// program reaches the successor when it connects again. Sockets that are connected to others continue.
func TestHostSocketsOfFormerBackends(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	echoDatagrams(l, l.Sandbox("stays", "--network", web, "-p", "7001:7000/udp").Host, 7000)
	serve := func() {
		echoDatagrams(l, l.Sandbox("ben", "--network", web, "-p", "7000:7000/udp").Host, 7000)
	}
	families(t, l, func(l *lab.Lab, f lab.Family) {
		for _, how := range [][]string{
			{"rm", "-f", "ben"}, {"publish", "rm", "ben", "-p", "7000:7000/udp"}, {"network", "disconnect", web, "ben"},
		} {
			l.Case(how[0], func(l *lab.Lab) {
				serve()
				var sockets []net.Conn
				for _, address := range []string{f.Of("127.0.0.1", "::1"), f.Of(lab.Host4, lab.Host6)} {
					sockets = append(sockets, connected(l, address, 7000))
				}
				other := connected(l, f.Of("127.0.0.1", "::1"), 7001)
				l.Fairlead(how...)
				for _, c := range sockets {
					aborted(l, c)
				}
				if err := echoed(other); err != nil {
					l.Errorf("a socket that is connected to another sandbox: %v", err)
				}
				if how[0] != "rm" {
					l.Fairlead("rm", "-f", "ben")
				}
				l.Sandbox("between", "--network", web) // takes the address
				serve()
				connected(l, f.Of("127.0.0.1", "::1"), 7000)
				l.Fairlead("rm", "-f", "ben", "between")
			})
		}
		l.Case("service", func(l *lab.Lab) {
			echoDatagrams(l, l.Sandbox("first", "--network", web, "--network-alias", "shop").Host, 7000)
			l.Fairlead("service", "create", "--network", web, "-p", "7002:7000/udp", "shop")
			c := connected(l, f.Of("127.0.0.1", "::1"), 7002)
			echoDatagrams(l, l.Sandbox("second", "--network", web, "--network-alias", "shop").Host, 7000)
			if err := echoed(c); err != nil {
				l.Errorf("a socket whose service has another backend, too: %v", err)
			}
			l.Fairlead("rm", "-f", "first")
			aborted(l, c)
			connected(l, f.Of("127.0.0.1", "::1"), 7002)
			l.Fairlead("service", "rm", "shop")
			l.Fairlead("rm", "-f", "second")
		})
	})
}

// connected returns a socket of the host that is connected, and has had an answer.
func connected(l *lab.Lab, address string, port int) net.Conn {
	l.Helper()
	c, err := l.Host.Dial(net.Dialer{}, "udp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { c.Close() })
	if err := echoed(c); err != nil {
		l.Fatalf("%v: %v", c.RemoteAddr(), err)
	}
	return c
}

// aborted expects the error of a socket whose backend has gone.
func aborted(l *lab.Lab, c net.Conn) {
	l.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 100)); !errors.Is(err, unix.ECONNABORTED) {
		l.Errorf("a socket that is connected to %v: %v, want ECONNABORTED", c.RemoteAddr(), err)
	}
}

func echoed(c net.Conn) error {
	c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 100))
	return err
}

// echoDatagrams sends back each datagram that arrives at a port of a host.
func echoDatagrams(l *lab.Lab, h *world.Host, port int) {
	l.Helper()
	pc, err := h.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
}
