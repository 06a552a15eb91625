// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Clients of IPv6 reach a backend that has IPv4 only, from wherever they ask; it sees its
// gateway in their place, and inspect says so.
func TestPublishedAcrossFamilies(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(_ *testing.T, l *lab.Lab) {
		l.Fairlead("network", "create", "four")
		web, far := network(l, "web"), farHost(l)
		b := l.Sandbox("ben", "--network", "four", "-p", "8080:80", "-p", "5353:53/udp", "-p", "7000:7", "-p", "7001-7002:7001-7002/udp",
			"-p", "5201:5201", "-p", "9000:9", "-p", "9000:9/udp", "-p", "[::1]:8081:80", "-p", "["+lab.Host6+"]:8082:80", "-p", "0.0.0.0:8083:80")
		stranger := l.Sandbox("stranger", "--network", web)
		l.HTTP(b.Host, "ben", 80)
		l.UDP(b.Host, "ben", 53)
		l.Echo(b.Host, 7)
		gateway := l.Gateway("four", lab.IPv4)
		l.Case("outside", func(l *lab.Lab) {
			l.Get(l.Outside, lab.Host6, 8080, "ben", gateway)
			l.Ask(l.Outside, lab.Host6, 5353, "ben", gateway)
			l.Get(l.Outside, lab.Host4, 8080, "ben", lab.Outside4)
		})
		l.Case("other network", func(l *lab.Lab) {
			for _, addr := range []string{lab.Host6, l.Gateway(web, lab.IPv6)} {
				l.Get(stranger.Host, addr, 8080, "ben", gateway)
				l.Ask(stranger.Host, addr, 5353, "ben", gateway)
			}
		})
		l.Case("addresses", func(l *lab.Lab) {
			l.Get(l.Host, "::1", 8081, "ben", gateway)
			l.NoGet(l.Outside, lab.Host6, 8081)
			l.Get(l.Outside, lab.Host6, 8082, "ben", gateway)
			l.Get(l.Host, lab.Host6, 8082, "ben", gateway)
			l.NoGet(l.Outside, lab.Host6, 8083)
		})
		l.Case("shown", func(l *lab.Lab) {
			if got, want := strings.Fields(l.Fairlead("port", "ben", "80")), "0.0.0.0:8080 [::]:8080"; !strings.Contains(strings.Join(got, " "), want) {
				l.Errorf("fairlead port shows %q, want %q among it", got, want)
			}
			for _, p := range l.Inspect("ben").NetworkSettings.Ports["80/tcp"] {
				want := ""
				if strings.Contains(p.HostIP, ":") {
					want = gateway
				}
				if p.ClientSeenAs != want {
					l.Errorf("inspect shows %+v; clients are seen as %q", p, want)
				}
			}
		})
		l.Case("errors", func(l *lab.Lab) {
			for _, network := range []string{"tcp", "udp"} { // nobody listens at port 9
				if err := l.Reach(lab.Brief, l.Outside, network, lab.Host6, 9000); !errors.Is(err, syscall.ECONNREFUSED) {
					l.Errorf("%s: %v, want the backend's refusal", network, err)
				}
			}
		})
		l.Case("datagrams", func(l *lab.Lab) {
			echoUDP(l, b.Host, 7001, true)
			echoUDP(l, b.Host, 7002, false)
			echoes(l, lab.Host6, 7001, 1, 1400, 1452, 1453, 30000)
			echoes(l, lab.Host6, 7002, 1, 1400)
		})
		l.Case("streams", func(l *lab.Lab) {
			l.Spawn(b.Host, "iperf3", "-s", "-4")
			l.WaitTCP(b.Host, "127.0.0.1:5201")
			for _, flags := range []string{"-Z", "-R"} { // in, and out
				l.Must(l.Outside, "iperf3", "-6", "-c", lab.Host6, "-n", "64M", flags)
			}
		})
		l.Case("path MTU", func(l *lab.Lab) {
			transfer(l, far, lab.Host6, 7000)
			if out := l.Must(b.Host, "ip", "route", "get", gateway); !strings.Contains(out, fmt.Sprint("mtu ", farMTU-20)) {
				l.Errorf("the backend does not know the MTU to its gateway: %s", out)
			}
		})
	})
}

// echoUDP echoes datagrams of any size in a sandbox that has IPv4 only, with or without the
// sum that IPv6 demands.
func echoUDP(l *lab.Lab, h *world.Host, port int, sum bool) {
	l.Helper()
	p, err := h.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { p.Close() })
	c := p.(*net.UDPConn)
	raw, err := c.SyscallConn()
	if err == nil && !sum {
		var failed error
		err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) })
		err = errors.Join(err, failed)
	}
	if err != nil {
		l.Fatal(err)
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return // the test has ended
			}
			c.WriteTo(b[:n], from) // what is missing shows
		}
	}()
}

// echoes wants datagrams of these sizes back. The first of a size may be lost, if the server has to be
// told of a smaller MTU.
func echoes(l *lab.Lab, address string, port int, sizes ...int) {
	l.Helper()
	c, err := l.Outside.Dial(net.Dialer{}, "udp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		l.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 1<<16)
	for _, size := range sizes {
		sent := bytes.Repeat([]byte{byte(size), 'x', 'y'}, size/3+1)[:size]
		l.Eventually(lab.Patient, func() error {
			if _, err := c.Write(sent); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(lab.Brief))
			n, err := c.Read(b)
			if err == nil && !bytes.Equal(b[:n], sent) {
				err = errors.New("another answer")
			}
			if err != nil {
				return fmt.Errorf("a datagram of %d bytes to port %d: %w", size, port, err)
			}
			return nil
		})
	}
}
