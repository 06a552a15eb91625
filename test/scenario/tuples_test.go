// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// seers serves a port of a host's, TCP and UDP: each line and each datagram is answered with
// whose it is in the server's eyes, and what it says.
func seers(l *lab.Lab, h *world.Host, port int) {
	l.Helper()
	at := fmt.Sprintf(":%d", port)
	tcp, err := h.Listen("tcp", at)
	if err != nil {
		l.Fatal(err)
	}
	udp, err := h.ListenPacket("udp", at)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					fmt.Fprintf(c, "%s %s", plain(c.RemoteAddr()), line)
				}
			}()
		}
	}()
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			udp.WriteTo([]byte(plain(from)+" "+string(b[:n])), from)
		}
	}()
}

// plain is an address as netip shows it, IPv4 not mapped.
func plain(a net.Addr) string {
	p := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()).String()
}

// line is a connection to a seer, or datagrams.
type line struct {
	net.Conn
	in *bufio.Reader
}

// dialFrom connects from a source port, which may be in use for another remote.
func dialFrom(l *lab.Lab, h *world.Host, network, address string, port, sport int) *line {
	l.Helper()
	d := net.Dialer{Timeout: lab.Patient, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); e != nil {
			return e
		}
		return err
	}}
	d.LocalAddr = &net.TCPAddr{Port: sport}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{Port: sport}
	}
	to := net.JoinHostPort(address, fmt.Sprint(port))
	c, err := h.Dial(d, network, to)
	if err != nil {
		l.Fatalf("%s %s from port %d of %s: %v", network, to, sport, h.Name, err)
	}
	l.Cleanup(func() { c.Close() })
	return &line{c, bufio.NewReader(c)}
}

// says has a line say something, which must come back, and returns who said it in the server's eyes.
func (c *line) says(l *lab.Lab, what string) netip.AddrPort {
	l.Helper()
	c.SetDeadline(time.Now().Add(lab.Patient))
	if _, err := io.WriteString(c, what+"\n"); err != nil {
		l.Fatalf("say %q: %v", what, err)
	}
	got, err := c.in.ReadString('\n')
	if err != nil {
		l.Fatalf("%q is not answered: %v", what, err)
	}
	who, said, _ := strings.Cut(strings.TrimSuffix(got, "\n"), " ")
	from, err := netip.ParseAddrPort(who)
	if err != nil || said != what {
		l.Fatalf("the answer to %q is %q", what, got)
	}
	return from
}

// talker is somebody with a way to one backend.
type talker struct {
	host    *world.Host
	address string
	port    int
}

// Whoever asks a backend from one source port, by whichever way, is apart from the others for
// it, and the older one goes on.
func TestTuples(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web, other := network(l, "web"), network(l, "other")
		b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "8080:80/udp", "-p", "9090:80", "-p", "9090:80/udp")
		a, d := l.Sandbox("anna", "--network", web), l.Sandbox("dora", "--network", other)
		seers(l, b.Host, 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host, loopback := f.Of(lab.Host4, lab.Host6), f.Of("127.0.0.1", "::1")
			ways := map[string][]talker{
				"backend itself and host":   {{b.Host, host, 8080}, {l.Host, loopback, 8080}},
				"neighbour and host":        {{a.Host, host, 8080}, {l.Host, host, 9090}},
				"stranger and host":         {{d.Host, host, 8080}, {l.Host, b.IP(f), 80}},
				"neighbour, direct and not": {{a.Host, host, 8080}, {a.Host, b.IP(f), 80}},
				"neighbour and stranger":    {{a.Host, host, 8080}, {d.Host, host, 8080}},
			}
			sport := 20000
			for name, pair := range ways {
				l.Case(name, func(l *lab.Lab) {
					for _, network := range []string{"tcp", "udp"} {
						for _, order := range [][2]talker{{pair[0], pair[1]}, {pair[1], pair[0]}} {
							for _, class := range []int{sport, sport + 20000, 700} {
								apart(l, network, order, class)
								sport++
							}
						}
					}
				})
			}
		})
	})
}

// apart has two talk to the backend from one port.
func apart(l *lab.Lab, network string, who [2]talker, sport int) {
	l.Helper()
	first := dialFrom(l, who[0].host, network, who[0].address, who[0].port, sport)
	defer first.Close()
	one := first.says(l, "first")
	second := dialFrom(l, who[1].host, network, who[1].address, who[1].port, sport)
	defer second.Close()
	two := second.says(l, "second")
	if one == two {
		l.Errorf("%s from port %d of %s by %s and of %s by %s: both are %v for the backend", network, sport,
			who[0].host.Name, who[0].address, who[1].host.Name, who[1].address, one)
	}
	if again := first.says(l, "still"); again != one {
		l.Errorf("the older was %v for the backend and is %v", one, again)
	}
	second.says(l, "too")
	if sport < 1024 && (one.Port() >= 1024 || two.Port() >= 1024) {
		l.Errorf("from the privileged port %d the backend sees %v and %v", sport, one, two)
	}
}

// Servers that trust privileged ports see those, also of the second sandbox with one.
func TestPrivilegedPorts(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		boxes := []*lab.Sandbox{l.Sandbox("anna", "--network", web), l.Sandbox("ben", "--network", web), l.Sandbox("cleo", "--network", web)}
		seers(l, l.Outside, 2049)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			for _, network := range []string{"tcp", "udp"} {
				for port, class := range map[int][2]uint16{1000: {600, 1023}, 300: {1, 511}} {
					seen := map[uint16]bool{}
					for _, s := range boxes {
						c := dialFrom(l, s.Host, network, f.Of(lab.Outside4, lab.Outside6), 2049, port)
						p := c.says(l, "mount").Port()
						if p < class[0] || p > class[1] || seen[p] {
							l.Errorf("%s from port %d of %s leaves from %d, want one of %v that nobody has", network, port, s.Name, p, class)
						}
						seen[p] = true
					}
					if !seen[uint16(port)] {
						l.Errorf("%s: nobody kept port %d", network, port)
					}
				}
			}
		})
	})
}

// A proxy that is published by one network answers clients of another that it is in as well, and
// joining that one cuts nothing.
func TestProxyOfManyNetworks(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		edge, apps := network(l, "edge"), network(l, "apps")
		proxy := l.Sandbox("proxy", "--network", edge, "-p", "443:443", "-p", "443:443/udp")
		app := l.Sandbox("app", "--network", apps)
		seers(l, proxy.Host, 443)
		var open []*line
		ask := func(l *lab.Lab) {
			for _, f := range lab.Families() {
				for _, network := range []string{"tcp", "udp"} {
					c := dialFrom(l, app.Host, network, f.Of(lab.Host4, lab.Host6), 443, 0)
					if got, want := c.says(l, "hello").Addr().String(), l.Gateway(edge, f); got != want {
						l.Errorf("the proxy sees %s, want the gateway %s", got, want)
					}
					open = append(open, c)
					out := dialFrom(l, l.Outside, network, f.Of(lab.Host4, lab.Host6), 443, 0)
					if got, want := out.says(l, "hello").Addr().String(), f.Of(lab.Outside4, lab.Outside6); got != want {
						l.Errorf("the proxy sees %s, want %s", got, want)
					}
				}
			}
		}
		ask(l)
		l.Fairlead("network", "connect", apps, "proxy")
		for _, c := range open {
			c.says(l, "still there")
		}
		ask(l)
	})
}

// guestRules has netfilter masquerade a guest.
const guestRules = `
table %[1]s guests {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		%[1]s saddr %[2]s oifname eth0 masquerade
	}
}
`

// A guest of the host that netfilter masquerades, and a sandbox, ask one server from one port: the
// later has another, and the older goes on.
func TestGuestOfOtherNAT(t *testing.T) {
	t.Parallel()
	const guest4, guest6, router4, router6 = "172.22.0.2", "fd22::2", "172.22.0.1", "fd22::1"
	modes(t, lab.Config{NoDaemon: true}, func(t *testing.T, l *lab.Lab) {
		for _, sysctl := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			l.Sysctl(l.Host, sysctl, "1")
		}
		guest := l.NewHost("guest")
		if err := world.Cable(world.End{Host: l.Host, Device: "guest", Addresses: []string{router4 + "/24", router6 + "/64"}},
			world.End{Host: guest, Device: "eth0", Addresses: []string{guest4 + "/24", guest6 + "/64"}}); err != nil {
			l.Fatal(err)
		}
		l.IP(guest, "route add default via "+router4, "route add ::/0 via "+router6)
		l.Must(l.Host, "nft", "-f", l.Write("guest.nft", fmt.Sprintf(guestRules, "ip", guest4)+fmt.Sprintf(guestRules, "ip6", guest6)))
		l.StartDaemon()
		a := l.Sandbox("anna", "--network", network(l, "web"))
		seers(l, l.Outside, 8080)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			server := talker{address: f.Of(lab.Outside4, lab.Outside6), port: 8080}
			sport := 45000
			for _, network := range []string{"tcp", "udp"} {
				for _, order := range [][2]*world.Host{{guest, a.Host}, {a.Host, guest}} {
					sport++
					first, second := server, server
					first.host, second.host = order[0], order[1]
					apart(l, network, [2]talker{first, second}, sport)
				}
			}
		})
	})
}
