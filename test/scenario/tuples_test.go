// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// seers serves a port of a host, TCP and UDP: each line and each datagram is answered with
// its source as the server sees it, the server's name, and its text.
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
					fmt.Fprintf(c, "%s %s %s", plain(c.RemoteAddr()), h.Name, line)
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
			udp.WriteTo(fmt.Appendf(nil, "%s %s %s", plain(from), h.Name, b[:n]), from)
		}
	}()
}

// plain returns an address as netip shows it, IPv4 not mapped.
func plain(a net.Addr) string {
	p := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()).String()
}

// line is a connection (or a datagram socket) to a seer.
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

// says sends a line, which must come back, and returns its source as the server sees it.
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
	source, said, _ := strings.Cut(strings.TrimSuffix(got, "\n"), " ")
	_, said, _ = strings.Cut(said, " ")
	from, err := netip.ParseAddrPort(source)
	if err != nil || said != what {
		l.Fatalf("the answer to %q is %q", what, got)
	}
	return from
}

// talker is a client with a path to a backend.
type talker struct {
	host    *world.Host
	address string
	port    int
}

// Clients of a backend with the same source port, on any path, have different tuples at the
// backend, and the older flow continues.
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

// apart makes two clients talk to the backend from one port.
func apart(l *lab.Lab, network string, pair [2]talker, sport int) {
	l.Helper()
	first := dialFrom(l, pair[0].host, network, pair[0].address, pair[0].port, sport)
	defer lab.Finish(first.Conn)
	one := first.says(l, "first")
	second := dialFrom(l, pair[1].host, network, pair[1].address, pair[1].port, sport)
	defer lab.Finish(second.Conn)
	two := second.says(l, "second")
	if one == two {
		l.Errorf("%s from port %d of %s by %s and of %s by %s: both are %v for the backend", network, sport,
			pair[0].host.Name, pair[0].address, pair[1].host.Name, pair[1].address, one)
	}
	if again := first.says(l, "still"); again != one {
		l.Errorf("the older was %v for the backend and is %v", one, again)
	}
	second.says(l, "too")
	if sport < 1024 && (one.Port() >= 1024 || two.Port() >= 1024) {
		l.Errorf("from the privileged port %d the backend sees %v and %v", sport, one, two)
	}
}

// Servers that trust privileged ports see privileged ports, also of the second sandbox with
// the same one.
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
							l.Errorf("%s from port %d of %s leaves from %d, want an unused one of %v", network, port, s.Name, p, class)
						}
						seen[p] = true
					}
					if !seen[uint16(port)] {
						l.Errorf("%s: no flow kept port %d", network, port)
					}
				}
			}
		})
	})
}

// A proxy that is published in one network also answers clients of another network that it is
// in, and connecting it to that does not interrupt connections. The network it is published in has the higher priority: else
// the ports would move to the other, which is the first by name.
func TestProxyOfManyNetworks(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		edge, apps := network(l, "edge"), network(l, "apps")
		proxy := l.Sandbox("proxy", "--network", "name="+edge+",gw-priority=1", "-p", "443:443", "-p", "443:443/udp")
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

// guestRules makes netfilter masquerade a guest.
const guestRules = `
table %[1]s guests {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		%[1]s saddr %[2]s oifname eth0 masquerade
	}
}
`

// A guest of the host that netfilter masquerades, and a sandbox, connect to one server from
// one port: the later flow gets another port, and the older one continues.
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

// A local route makes a whole prefix local to the host: ports published on every address are
// served there, and ports published on one of its addresses too, while the route exists.
func TestLocalPrefix(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		b, a := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "8080:80/udp"), l.Sandbox("anna", "--network", web)
		seers(l, b.Host, 80)
		seers(l, l.Host, 7070)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			prefix, addr := f.Of("203.0.113.0/24", "2001:db8:aa::/64"), f.Of("203.0.113.7", "2001:db8:aa::7")
			l.IP(l.Outside, "route add "+prefix+" via "+f.Of(lab.Host4, lab.Host6))
			everybody := []*world.Host{l.Outside, l.Host, a.Host}
			for range 2 {
				l.IP(l.Host, "route add local "+prefix+" dev lo")
				for _, h := range everybody {
					answered(l, h, "tcp", addr, 8080, b.Host)
					answered(l, h, "udp", addr, 8080, b.Host)
					dialFrom(l, h, "tcp", addr, 7070, 0).says(l, "the host's own")
				}
				l.IP(l.Host, "route del local "+prefix+" dev lo")
			}
			l.IP(l.Host, "route add local "+prefix+" dev lo")
			c := l.Sandbox("cleo"+f.String(), "--network", web, "-p", net.JoinHostPort(addr, "8081")+":80")
			seers(l, c.Host, 80)
			for _, h := range everybody {
				answered(l, h, "tcp", addr, 8081, c.Host)
			}
			l.Remove(c)
			l.IP(l.Host, "route del local "+prefix+" dev lo")
		})
	})
}

// answered expects a reply from a port, soon, by a certain seer.
func answered(l *lab.Lab, h *world.Host, network, address string, port int, by *world.Host) {
	l.Helper()
	l.Eventually(lab.Patient, func() error {
		at := net.JoinHostPort(address, fmt.Sprint(port))
		c, err := h.Dial(net.Dialer{Timeout: lab.Brief}, network, at)
		if err != nil {
			return fmt.Errorf("from %s: %w", h.Name, err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(lab.Brief))
		fmt.Fprintln(c, "hello")
		got, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && !strings.HasSuffix(got, " "+by.Name+" hello\n") {
			err = fmt.Errorf("the answer is %q, want one of %s", got, by.Name)
		}
		if err != nil {
			return fmt.Errorf("from %s to %s %s: %w", h.Name, network, at, err)
		}
		return nil
	})
}

// An address that moves to another machine takes its clients along, also those on this host,
// regardless of what is published on it here.
func TestPublishedAddressMoves(t *testing.T) {
	t.Parallel()
	const vip4, vip6 = "192.0.2.77", "2001:db8:1::77"
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		move := func(what string, h *world.Host) {
			l.IP(h, "addr "+what+" "+vip4+"/32 dev eth0", "addr "+what+" "+vip6+"/128 dev eth0 nodad")
			for _, h := range []*world.Host{l.Host, l.Outside} {
				l.IP(h, "neigh flush all")
			}
		}
		move("add", l.Host)
		ports := []string{"--network", web}
		for _, vip := range []string{vip4, vip6} {
			at := net.JoinHostPort(vip, "8080") + ":80"
			ports = append(ports, "-p", at, "-p", at+"/udp")
		}
		b, a := l.Sandbox("ben", ports...), l.Sandbox("anna", "--network", web)
		seers(l, b.Host, 80)
		seers(l, l.Outside, 8080)
		for range 2 {
			for _, f := range lab.Families() {
				for _, network := range []string{"tcp", "udp"} {
					answered(l, l.Host, network, f.Of(vip4, vip6), 8080, b.Host)
					answered(l, a.Host, network, f.Of(vip4, vip6), 8080, b.Host)
				}
			}
			move("del", l.Host)
			move("add", l.Outside)
			// By TCP: a UDP server would answer from its machine's first address.
			for _, f := range lab.Families() {
				answered(l, l.Host, "tcp", f.Of(vip4, vip6), 8080, l.Outside)
				answered(l, a.Host, "tcp", f.Of(vip4, vip6), 8080, l.Outside)
			}
			move("del", l.Outside)
			move("add", l.Host)
		}
	})
}

// With a routing rule for the address of the second uplink, a published port answers through
// that uplink, like the host's own services.
func TestAnswerByPolicy(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{Uplinks: 2}, func(t *testing.T, l *lab.Lab) {
		b := l.Sandbox("ben", "--network", network(l, "web"), "-p", "8080:80", "-p", "8080:80/udp")
		seers(l, b.Host, 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			far := f.Of("198.51.100.99", "2001:db8:99::9")
			l.IP(l.Outside2, "addr add "+far+f.Of("/32 dev lo", "/128 dev lo nodad"))
			second := f.Of(lab.SecondHost4, lab.SecondHost6)
			l.IP(l.Outside2, "route add "+f.Of("192.0.2.0/24", "2001:db8:1::/64")+" via "+second)
			l.IP(l.Host, "route add "+f.Of("0.0.0.0/0", "::/0")+" via "+f.Of(lab.SecondOutside4, lab.SecondOutside6)+" dev eth1 table 200")
			l.Must(l.Host, "ip", "-"+f.String(), "rule", "add", "from", second, "lookup", "200")
			for _, network := range []string{"tcp", "udp"} {
				d := net.Dialer{Timeout: lab.Patient}
				if network == "tcp" {
					d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(far)}
				} else {
					d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(far)}
				}
				c, err := l.Outside2.Dial(d, network, net.JoinHostPort(second, "8080"))
				if err != nil {
					l.Fatalf("%s by the second uplink: %v", network, err)
				}
				defer c.Close()
				if got := (&line{c, bufio.NewReader(c)}).says(l, "hello").Addr().String(); got != far {
					l.Errorf("%s: the backend sees %s, want %s", network, got, far)
				}
			}
		})
	})
}

// A host socket that is not connected, or is bound to a device, is served correctly or
// refused immediately: it reaches one backend by one address at a time, and only through the
// backend's device.
func TestHostSockets(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "8080:80/udp")
		seers(l, b.Host, 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host, loopback := f.Of(lab.Host4, lab.Host6), f.Of("127.0.0.1", "::1")
			l.Case("many addresses", func(l *lab.Lab) {
				c := listenUDP(l, l.Host, "udp"+f.String(), ":0")
				defer c.Close()
				ask := func(address string) error {
					to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.Address(address), 8080))
					if _, err := c.WriteTo([]byte("hello"), to); err != nil {
						return err
					}
					c.SetReadDeadline(time.Now().Add(lab.Patient))
					_, from, err := c.ReadFrom(make([]byte, 100))
					if err == nil && plain(from) != plain(to) {
						err = fmt.Errorf("the answer to %v is from %v", to, from)
					}
					return err
				}
				for range 2 {
					if err := ask(host); err != nil {
						l.Error(err)
					}
					if err := ask(loopback); !errors.Is(err, unix.EADDRINUSE) {
						l.Errorf("asked by a second address, while answers to the first may come: %v, want %v", err, unix.EADDRINUSE)
					}
				}
			})
			l.Case("device", func(l *lab.Lab) {
				gateway := l.Device("fairlead:gateway:" + l.Network(web).ID)
				for _, network := range []string{"tcp", "udp"} {
					if err := askByDevice(l, network, loopback, "lo"); !errors.Is(err, unix.ECONNREFUSED) {
						l.Errorf("%s, bound to lo: %v, want %v", network, err, unix.ECONNREFUSED)
					}
					if err := askByDevice(l, network, host, gateway); err != nil {
						l.Errorf("%s, bound to the network's own device: %v", network, err)
					}
				}
			})
		})
	})
}

// askByDevice queries port 8080 through a socket that is bound to a device.
func askByDevice(l *lab.Lab, network, address, device string) error {
	d := net.Dialer{Timeout: lab.Patient, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); e != nil {
			return e
		}
		return err
	}}
	c, err := l.Host.Dial(d, network, net.JoinHostPort(address, "8080"))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(lab.Patient))
	fmt.Fprintln(c, "hello")
	_, err = c.Read(make([]byte, 100))
	return err
}
