// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Clients of one family reach a backend that has only the other, wherever they are; it sees
// its gateway in their place, and inspect reports that.
func TestPublishedAcrossFamilies(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		l.Fairlead("network", "create", "four")
		l.Fairlead("network", "create", "--ipv4=false", "--ipv6", "six")
		across := map[lab.Family]*across{
			lab.IPv6: {name: "ben", net: "four", backend: lab.IPv4, loopback: "[::1]", mtu: farMTU - 20},
			lab.IPv4: {name: "sixtus", net: "six", backend: lab.IPv6, base: 10000, mtu: farMTU + 20},
		}
		web, far := network(l, "web"), farHost(l)
		stranger := l.Sandbox("stranger", "--network", web)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			a := across[f]
			a.publish(l, f)
			a.reached(l, f, web, stranger.Host)
			a.shown(l, f)
			a.carries(l, f, far)
		})
	})
}

// across is a backend with one family only, for clients of the other.
type across struct {
	name, net string
	backend   lab.Family
	loopback  string // where it can be published for the host only
	base      int    // first of its host ports
	mtu       int    // its view of the MTU of the link to a far client
	gateway   string
	*lab.Sandbox
}

func (a *across) publish(l *lab.Lab, f lab.Family) {
	l.Helper()
	host := net.JoinHostPort(f.Of(lab.Host4, lab.Host6), fmt.Sprint(a.base+8082))
	own := net.JoinHostPort(a.backend.Of("0.0.0.0", "::"), fmt.Sprint(a.base+8083))
	flags := []string{"--network", a.net, "-p", host + ":80", "-p", own + ":80"}
	for _, p := range []string{"8080:80", "5353:53/udp", "7000:7", "7001:7001/udp", "7002:7002/udp", "5201:5201", "5202:5202", "9000:9", "9000:9/udp"} {
		port, rest, _ := strings.Cut(p, ":")
		n, err := strconv.Atoi(port)
		if err != nil {
			l.Fatal(err)
		}
		flags = append(flags, "-p", fmt.Sprintf("%d:%s", a.base+n, rest))
	}
	if a.loopback != "" {
		flags = append(flags, "-p", fmt.Sprintf("%s:%d:80", a.loopback, a.base+8081))
	} else {
		// An IPv4 socket of the host cannot be redirected to IPv6.
		l.Refused(1, []string{"cannot be published at 127.0.0.1"}, "sandbox", "create", "--network", a.net, "-p", "127.0.0.1:8099:80", "no")
	}
	a.Sandbox = l.Sandbox(a.name, flags...)
	a.gateway = l.Gateway(a.net, a.backend)
	l.HTTP(a.Host, a.name, 80)
	l.UDP(a.Host, a.name, 53)
	l.Echo(a.Host, 7)
	echoUDP(l, a.Host, "udp"+a.backend.String(), 7001, true)
	echoUDP(l, a.Host, "udp"+a.backend.String(), 7002, false)
}

func (a *across) reached(l *lab.Lab, f lab.Family, web string, stranger *world.Host) {
	l.Helper()
	host := f.Of(lab.Host4, lab.Host6)
	l.Case("outside", func(l *lab.Lab) {
		l.Get(l.Outside, host, a.base+8080, a.name, a.gateway)
		l.Ask(l.Outside, host, a.base+5353, a.name, a.gateway)
		l.Get(l.Outside, a.backend.Of(lab.Host4, lab.Host6), a.base+8080, a.name, a.backend.Of(lab.Outside4, lab.Outside6))
	})
	l.Case("other network", func(l *lab.Lab) {
		for _, addr := range []string{host, l.Gateway(web, f)} {
			l.Get(stranger, addr, a.base+8080, a.name, a.gateway)
			l.Ask(stranger, addr, a.base+5353, a.name, a.gateway)
		}
	})
	l.Case("one address", func(l *lab.Lab) {
		l.Get(l.Outside, host, a.base+8082, a.name, a.gateway)
		l.NoGet(l.Host, l.Gateway(web, f), a.base+8082)
		l.NoGet(l.Outside, host, a.base+8083)
		if a.loopback != "" {
			l.Get(l.Host, strings.Trim(a.loopback, "[]"), a.base+8081, a.name, a.gateway)
			l.NoGet(l.Outside, host, a.base+8081)
		}
	})
}

func (a *across) shown(l *lab.Lab, f lab.Family) {
	l.Helper()
	got := strings.Join(strings.Fields(l.Fairlead("port", a.name, "80")), " ")
	if want := fmt.Sprintf("0.0.0.0:%d [::]:%[1]d", a.base+8080); !strings.Contains(got, want) {
		l.Errorf("fairlead port shows %q, want %q among it", got, want)
	}
	for _, p := range l.Inspect(a.name).NetworkSettings.Ports["80/tcp"] {
		want := ""
		if strings.Contains(p.HostIP, ":") == (f == lab.IPv6) {
			want = a.gateway
		}
		if p.ClientSeenAs != want {
			l.Errorf("inspect shows %+v; clients are seen as %q", p, want)
		}
	}
}

// carries tests everything that can happen to packets of such flows.
func (a *across) carries(l *lab.Lab, f lab.Family, far *world.Host) {
	l.Helper()
	host := f.Of(lab.Host4, lab.Host6)
	l.Case("refusals", func(l *lab.Lab) {
		for _, network := range []string{"tcp", "udp"} { // nothing listens on port 9
			if err := l.Reach(lab.Brief, l.Outside, network, host, a.base+9000); !errors.Is(err, syscall.ECONNREFUSED) {
				l.Errorf("%s: %v, want the backend's refusal", network, err)
			}
		}
	})
	l.Case("datagrams", func(l *lab.Lab) {
		echoes(l, host, a.base+7001, true, 1, 1400, 1452, 1453, 30000)
		echoes(l, host, a.base+7002, false, 1, 1400)
	})
	l.Case("streams", func(l *lab.Lab) {
		for i, flags := range []string{"-Z", "-R"} { // in, and out
			iperfServer(l, a.Host, fmt.Sprint(5201+i), "-"+a.backend.String())
			l.Must(l.Outside, "iperf3", "-"+f.String(), "-c", host, "-p", fmt.Sprint(a.base+5201+i), "-n", "64M", flags)
		}
	})
	l.Case("path MTU", func(l *lab.Lab) {
		transfer(l, far, host, a.base+7000)
		if out := l.Must(a.Host, "ip", "route", "get", a.gateway); !strings.Contains(out, fmt.Sprint("mtu ", a.mtu)) {
			l.Errorf("the backend does not know the MTU to its gateway: %s", out)
		}
	})
}

// withoutSum makes the kernel omit the checksum of datagrams, which IPv4 allows.
func withoutSum(l *lab.Lab, c net.Conn) {
	l.Helper()
	raw, err := c.(*net.UDPConn).SyscallConn()
	var failed error
	if err == nil {
		err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) })
	}
	if err := errors.Join(err, failed); err != nil {
		l.Fatal(err)
	}
}

// echoUDP echoes datagrams of any size, with or without a checksum for IPv4.
func echoUDP(l *lab.Lab, h *world.Host, network string, port int, sum bool) {
	l.Helper()
	p, err := h.ListenPacket(network, fmt.Sprintf(":%d", port))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { p.Close() })
	c := p.(*net.UDPConn)
	if !sum {
		withoutSum(l, c)
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return // the test has ended
			}
			c.WriteTo(b[:n], from) // missing ones are detected
		}
	}()
}

// echoes expects datagrams of these sizes back. The first of a size may be lost if the server
// has to be notified of a smaller MTU.
func echoes(l *lab.Lab, address string, port int, sum bool, sizes ...int) {
	l.Helper()
	c, err := l.Outside.Dial(net.Dialer{}, "udp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		l.Fatal(err)
	}
	defer c.Close()
	if !sum {
		withoutSum(l, c)
	}
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
