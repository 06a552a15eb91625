// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"testing"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestFormsOfPublishing(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		b := l.Sandbox("ben", "--network", web, "-p", "7000-7002:80-82", "-p", "80",
			"-p", lab.Host4+":7100:80", "-p", "["+lab.Host6+"]:7100:80",
			"-p", "127.0.0.1:7101:80", "-p", "[::1]:7101:80")
		for _, port := range []int{80, 81, 82} {
			l.HTTP(b.Host, fmt.Sprint("p", port), port)
		}
		families(t, l, func(l *lab.Lab, f lab.Family) {
			host, loopback, gateway := f.Of(lab.Host4, lab.Host6), f.Of("127.0.0.1", "::1"), l.Gateway(web, f)
			l.Case("range", func(l *lab.Lab) {
				for i := range 3 {
					l.Get(l.Outside, host, 7000+i, fmt.Sprint("p", 80+i), f.Of(lab.Outside4, lab.Outside6))
					l.Get(l.Host, loopback, 7000+i, fmt.Sprint("p", 80+i), gateway)
				}
				l.NoGet(l.Outside, host, 7003)
			})
			l.Case("automatic", func(l *lab.Lab) {
				port := number(l, l.PublishedPort(b, "80/tcp"))
				for _, binding := range l.Inspect(b.Name).NetworkSettings.Ports["80/tcp"] {
					if p := number(l, binding.HostPort); p >= 32768 {
						port = p
					}
				}
				if port < 32768 || port > 60999 {
					l.Errorf("automatic port %d, want one of the ephemeral range", port)
				}
				l.Get(l.Outside, host, port, "p80", f.Of(lab.Outside4, lab.Outside6))
			})
			l.Case("host address", func(l *lab.Lab) {
				l.Get(l.Outside, host, 7100, "p80", f.Of(lab.Outside4, lab.Outside6))
				l.Get(l.Host, host, 7100, "p80", gateway)
				l.NoGet(l.Host, loopback, 7100)
				l.NoGet(l.Host, gateway, 7100)
			})
			l.Case("loopback", func(l *lab.Lab) {
				l.Get(l.Host, loopback, 7101, "p80", gateway)
				l.NoGet(l.Host, host, 7101)
				l.NoGet(l.Outside, host, 7101)
			})
		})
	})
}

func TestChosenPorts(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	l.HTTP(l.Host, "host", 7200)
	a := l.Sandbox("anna", "--network", web, "-p", "7200-7202:80")
	b := l.Sandbox("ben", "--network", web, "-p", "7200-7202:80")
	l.HTTP(a.Host, "anna", 80)
	l.HTTP(b.Host, "ben", 80)
	for _, f := range lab.Families() {
		host := f.Of(lab.Host4, lab.Host6)
		l.Get(l.Outside, host, 7200, "host", "") // a port that the host uses is not chosen
		l.Get(l.Outside, host, number(l, l.PublishedPort(a, "80/tcp")), "anna", "")
		l.Get(l.Outside, host, number(l, l.PublishedPort(b, "80/tcp")), "ben", "")
	}
	l.Refused(1, []string{"7200-7202"}, "sandbox", "create", "--network", web, "-p", "7200-7202:80", "cleo")
	l.Refused(1, []string{"cleo"}, "inspect", "cleo")

	d := l.Sandbox("dora", "--network", web, "-P", "--expose", "80", "--expose", "53/udp", "--expose", "81-82")
	l.HTTP(d.Host, "dora", 80, 81, 82)
	l.UDP(d.Host, "dora", 53)
	for _, f := range lab.Families() {
		host := f.Of(lab.Host4, lab.Host6)
		for _, port := range []string{"80/tcp", "81/tcp", "82/tcp"} {
			l.Get(l.Outside, host, number(l, l.PublishedPort(d, port)), "dora", "")
		}
		l.Ask(l.Outside, host, number(l, l.PublishedPort(d, "53/udp")), "dora", "")
	}
}

func number(l *lab.Lab, port string) int {
	l.Helper()
	n, err := strconv.Atoi(port)
	if err != nil {
		l.Fatal(err)
	}
	return n
}

// occupy binds a port on h, of "tcp4", "udp6" and the like.
func occupy(h *world.Host, network, address string, port int) (io.Closer, error) {
	at := net.JoinHostPort(address, fmt.Sprint(port))
	if network[:3] == "udp" {
		return h.ListenPacket(network, at)
	}
	return h.Listen(network, at)
}

// A port that the host uses cannot be published, and the host cannot bind a published port.
func TestPortConflicts(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	port := 7300
	for _, proto := range []string{"tcp", "udp"} {
		for _, f := range lab.Families() {
			for _, address := range []string{f.Of("0.0.0.0", "::"), f.Of(lab.Host4, lab.Host6), f.Of("127.0.0.1", "::1")} {
				port++
				l.Case(fmt.Sprintf("%s %s", proto, address), func(l *lab.Lab) {
					portConflict(l, web, proto, f, address, port)
				})
			}
		}
	}
	l.Case("another sandbox", func(l *lab.Lab) {
		l.Fairlead("sandbox", "create", "--network", web, "-p", "7400:80", "first")
		for _, publish := range []string{"7400:81", lab.Host4 + ":7400:80", "[::1]:7400:80", "7399-7401:80-82"} {
			l.Refused(1, []string{"port is already allocated", "first"}, "sandbox", "create", "--network", web, "-p", publish, "second")
			l.Refused(1, []string{"second"}, "inspect", "second")
		}
		l.Fairlead("sandbox", "create", "--network", web, "-p", "7400:80/udp", "second")
		l.Fairlead("rm", "first", "second")
	})
	l.Case("other addresses stay free", func(l *lab.Lab) {
		l.Fairlead("sandbox", "create", "--network", web, "-p", lab.Host4+":7500:80", "third")
		for _, other := range []struct{ network, address string }{{"tcp4", "127.0.0.1"}, {"tcp6", "::1"}, {"udp4", "0.0.0.0"}} {
			c, err := occupy(l.Host, other.network, other.address, 7500)
			if err != nil {
				l.Errorf("published at %s only: %v", lab.Host4, err)
				continue
			}
			c.Close()
		}
		if _, err := occupy(l.Host, "tcp4", "0.0.0.0", 7500); !errors.Is(err, syscall.EADDRINUSE) {
			l.Errorf("bind every IPv4 address: %v, want %v", err, syscall.EADDRINUSE)
		}
		l.Fairlead("rm", "third")
	})
}

// portConflict tries the host first, then the publish.
func portConflict(l *lab.Lab, web, proto string, f lab.Family, address string, port int) {
	l.Helper()
	publish := fmt.Sprintf("%d:80/%s", port, proto)
	create := []string{"sandbox", "create", "--network", web, "-p", publish, "ben"}
	holder, err := occupy(l.Host, proto+f.String(), address, port)
	if err != nil {
		l.Fatal(err)
	}
	l.Refused(1, []string{fmt.Sprint(port), "address already in use", "choose another host port"}, create...)
	l.Refused(1, []string{"ben"}, "inspect", "ben")
	holder.Close()
	l.Fairlead(create...)
	for _, g := range lab.Families() {
		for _, other := range []string{g.Of("0.0.0.0", "::"), g.Of(lab.Host4, lab.Host6), g.Of("127.0.0.1", "::1")} {
			c, err := occupy(l.Host, proto+g.String(), other, port)
			if !errors.Is(err, syscall.EADDRINUSE) {
				l.Errorf("bind %s port %d while it is published: %v, want %v", other, port, err, syscall.EADDRINUSE)
			}
			if err == nil {
				c.Close()
			}
		}
	}
	l.Fairlead("rm", "ben")
	holder, err = occupy(l.Host, proto+f.String(), address, port)
	if err != nil {
		l.Errorf("after rm: %v", err)
		return
	}
	holder.Close()
}

// A port can be published once on each address; automatic ports of a sandbox differ even on
// different addresses.
func TestPortsByAddress(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(_ *testing.T, l *lab.Lab) {
		web := network(l, "web")
		gateway := l.Gateway(web, lab.IPv4)
		at := map[string]string{"127.0.1.2": "ben", "127.0.1.3": "cleo", lab.Host4: "dora"}
		for address, name := range at {
			s := l.Sandbox(name, "--network", web, "-p", address+":7600:80", "-p", address+":7600:53/udp")
			l.HTTP(s.Host, name, 80)
			l.UDP(s.Host, name, 53)
		}
		for address, name := range at {
			l.Get(l.Host, address, 7600, name, gateway)
			l.Ask(l.Host, address, 7600, name, gateway)
			l.Refused(1, []string{"port is already allocated", name}, "sandbox", "create", "--network", web, "-p", address+":7600:80", "eva")
		}
		l.NoGet(l.Host, "127.0.0.1", 7600)
		l.NoGet(l.Host, gateway, 7600)

		f := l.Sandbox("fritz", "--network", web, "-p", "81", "-p", "82", "-p", "127.0.0.1::80", "-p", "[::1]::83")
		l.HTTP(f.Host, "fritz", 80, 81, 82, 83)
		taken := map[string]string{}
		for _, port := range []string{"80/tcp", "81/tcp", "82/tcp", "83/tcp"} {
			published := l.PublishedPort(f, port)
			if other := taken[published]; other != "" {
				l.Errorf("port %s is published for %s and for %s", published, other, port)
			}
			taken[published] = port
			l.Get(l.Host, map[bool]string{true: "::1", false: "127.0.0.1"}[port == "83/tcp"], number(l, published), "fritz", "")
		}
	})
}

// One port can be published at every address of IPv4 by one sandbox and at every address of IPv6 by another, in either
// order. What a program of the host has is still refused, in each family, and withdrawing one leaves the other.
func TestPortsByFamily(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(_ *testing.T, l *lab.Lab) {
		web := network(l, "web")
		for _, s := range []string{"anna", "ben"} {
			b := l.Sandbox(s, "--network", web)
			l.HTTP(b.Host, s, 80)
			l.UDP(b.Host, s, 53)
		}
		all := map[lab.Family]string{lab.IPv4: "0.0.0.0", lab.IPv6: "[::]"}
		outside := map[lab.Family]string{lab.IPv4: lab.Host4, lab.IPv6: lab.Host6}
		for port, first := range map[int]lab.Family{7610: lab.IPv4, 7611: lab.IPv6} {
			second := lab.IPv4
			if first == lab.IPv4 {
				second = lab.IPv6
			}
			publish := func(verb, s string, f lab.Family) {
				l.Fairlead("publish", verb, s, "-p", fmt.Sprintf("%s:%d:80", all[f], port), "-p", fmt.Sprintf("%s:%d:53/udp", all[f], port))
			}
			publish("add", "anna", first)
			publish("add", "ben", second)
			for f, s := range map[lab.Family]string{first: "anna", second: "ben"} {
				l.Get(l.Outside, outside[f], port, s, "")
				l.Ask(l.Outside, outside[f], port, s, "")
			}
			publish("rm", "anna", first)
			l.Get(l.Outside, outside[second], port, "ben", "")
			l.NoGet(l.Outside, outside[first], port)
		}
		for f, address := range map[lab.Family]string{lab.IPv4: "127.0.0.1", lab.IPv6: "[::1]"} {
			other := lab.IPv4
			if f == lab.IPv4 {
				other = lab.IPv6
			}
			port := map[lab.Family]int{lab.IPv4: 7620, lab.IPv6: 7621}[f]
			l.Fairlead("publish", "add", "anna", "-p", fmt.Sprintf("%s:%d:80", all[other], port))
			var program net.Listener
			err := l.Host.Do(func() (err error) {
				program, err = net.Listen("tcp", fmt.Sprint(address, ":", port))
				return err
			})
			if err != nil {
				l.Fatal(err)
			}
			l.Refused(1, []string{"address already in use", "stop the program"}, "publish", "add", "ben", "-p", fmt.Sprintf("%s:%d:80", all[f], port))
			program.Close()
			l.Fairlead("publish", "add", "ben", "-p", fmt.Sprintf("%s:%d:80", all[f], port))
		}
	})
}
