// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestSameNetwork(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a, b, c := l.Sandbox("anna", "--network", web), l.Sandbox("ben", "--network", web), l.Sandbox("cleo", "--network", web)
		l.HTTP(b.Host, "ben", 80)
		l.UDP(b.Host, "ben", 53)

		families(t, l, func(l *lab.Lab, f lab.Family) {
			before := l.Metrics()
			l.Ping(a.Host, b.IP(f))
			l.Get(a.Host, b.IP(f), 80, "ben", a.IP(f))
			l.Ask(a.Host, b.IP(f), 53, "ben", a.IP(f))
			l.Ping(a.Host, b.IP(f), "-s", "4000") // fragments
			l.Ping(a.Host, b.IP(f), "-s", "4000", "-M", "dont")
			after := l.Metrics()
			if peer := after.Paths()["peer"] - before.Paths()["peer"]; peer < 20 {
				l.Errorf("%v packets took the path peer, want at least 20", peer)
			}
			if stack := after.Paths()["stack"] - before.Paths()["stack"]; stack > 0 {
				l.Errorf("%v packets took the path through the stack", stack)
			}
			if drops := diff(before.Drops(), after.Drops()); len(drops) > 0 {
				l.Errorf("drops: %v", drops)
			}
		})
		t.Run("unused addresses are not answered", func(t *testing.T) {
			l := l.With(t)
			l.NoPing(a.Host, a.IP4.Next().Next().Next().Next().Next().String())
			l.NoPing(a.Host, a.IP6.Next().Next().Next().Next().Next().String())
		})
		t.Run("link-local addresses are answered", func(t *testing.T) {
			l := l.With(t)
			for _, s := range []*lab.Sandbox{b, c} {
				l.Ping(a.Host, linkLocal(l, s.Host)+"%eth0")
			}
			l.Get(a.Host, linkLocal(l, b.Host)+"%eth0", 80, "ben", "")
		})
		t.Run("neighbours have their own MAC", func(t *testing.T) {
			l := l.With(t)
			out := l.Must(a.Host, "ip", "neigh", "show")
			for _, addr := range []string{b.IP4.String(), b.IP6.String()} {
				want := fmt.Sprintf("%s dev eth0 lladdr %s", addr, strings.ToLower(b.MAC))
				if !strings.Contains(out, want) {
					l.Errorf("ip neigh in a does not show %q:\n%s", want, out)
				}
			}
		})
		t.Run("broadcast", func(t *testing.T) { broadcast(l.With(t), a, b, c) })
		t.Run("multicast", func(t *testing.T) { multicast(l.With(t), a, b, c) })
		t.Run("another ethertype", func(t *testing.T) { ethertype(l.With(t), a, b, c) })
		t.Run("bulk", func(t *testing.T) { bulk(l.With(t), a.Host, b) })
	})
}

// linkLocal returns the link-local address that h's eth0 assigned itself.
func linkLocal(l *lab.Lab, h *world.Host) string {
	l.Helper()
	out := l.Must(h, "ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
	for _, word := range strings.Fields(out) {
		if address, ok := strings.CutSuffix(word, "/64"); ok {
			return address
		}
	}
	l.Fatalf("eth0 has no link-local address:\n%s", out)
	return ""
}

// diff returns the differences between two sets of counters.
func diff(before, after map[string]float64) map[string]float64 {
	d := map[string]float64{}
	for k, v := range after {
		if v != before[k] {
			d[k] = v - before[k]
		}
	}
	return d
}

// broadcast expects IPv4 broadcasts at every other member.
func broadcast(l *lab.Lab, from *lab.Sandbox, others ...*lab.Sandbox) {
	for _, group := range []string{"255.255.255.255", broadcastOf(l, from)} {
		var heard []net.PacketConn
		for _, o := range others {
			heard = append(heard, listenUDP(l, o.Host, "udp4", ":5000"))
		}
		r := l.Run(from.Host, "sh", "-c", "printf hello | socat - UDP4-DATAGRAM:"+group+":5000,broadcast")
		if r.Code != 0 {
			l.Errorf("send to %s: %s", group, r.Output())
		}
		for i, c := range heard {
			if got := receive(c); got != "hello" {
				l.Errorf("%s did not receive a broadcast to %s (got %q)", others[i].Name, group, got)
			}
			c.Close()
		}
	}
}

func broadcastOf(l *lab.Lab, s *lab.Sandbox) string {
	for _, e := range l.Inspect(s.Name).NetworkSettings.Networks {
		b := s.IP4.As4()
		mask := net.CIDRMask(e.IPPrefixLen, 32)
		for i := range b {
			b[i] |= ^mask[i]
		}
		return net.IP(b[:]).String()
	}
	return ""
}

// multicast expects datagrams to a group at the other members, in both families.
func multicast(l *lab.Lab, from *lab.Sandbox, others ...*lab.Sandbox) {
	for _, g := range []struct{ network, group, to string }{
		{"udp4", "224.0.0.251", "UDP4-DATAGRAM:224.0.0.251:5353"},
		{"udp6", "ff02::fb", "UDP6-DATAGRAM:[ff02::fb%eth0]:5353"},
	} {
		var heard []net.PacketConn
		for _, o := range others {
			var c *net.UDPConn
			err := o.Do(func() error {
				dev, err := net.InterfaceByName("eth0")
				if err != nil {
					return err
				}
				c, err = net.ListenMulticastUDP(g.network, dev, &net.UDPAddr{IP: net.ParseIP(g.group), Port: 5353})
				return err
			})
			if err != nil {
				l.Fatal(err)
			}
			heard = append(heard, c)
		}
		r := l.Run(from.Host, "sh", "-c", "printf hello | socat - '"+g.to+"'")
		if r.Code != 0 {
			l.Errorf("send to %s: %s", g.group, r.Output())
		}
		for i, c := range heard {
			if got := receive(c); got != "hello" {
				l.Errorf("%s did not receive a datagram to %s (got %q)", others[i].Name, g.group, got)
			}
			c.Close()
		}
	}
}

func listenUDP(l *lab.Lab, h *world.Host, network, address string) net.PacketConn {
	l.Helper()
	c, err := h.ListenPacket(network, address)
	if err != nil {
		l.Fatal(err)
	}
	return c
}

func receive(c net.PacketConn) string {
	b := make([]byte, 100)
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	n, _, err := c.ReadFrom(b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

// etherType is an EtherType reserved for experiments (IEEE 802).
const etherType = 0x88b5

// ethertype expects frames of an unknown protocol at the member they are addressed to,
// unchanged, and at no other.
func ethertype(l *lab.Lab, from, to, other *lab.Sandbox) {
	in, elsewhere := openPacket(l, to.Host), openPacket(l, other.Host)
	defer unix.Close(in.fd)
	defer unix.Close(elsewhere.fd)
	dst, err := net.ParseMAC(to.MAC)
	if err != nil {
		l.Fatal(err)
	}
	src, err := net.ParseMAC(from.MAC)
	if err != nil {
		l.Fatal(err)
	}
	frame := append(append(append([]byte{}, dst...), src...), 0x88, 0xb5)
	frame = append(frame, "no protocol anybody knows, but padded to sixty bytes or so"...)
	sendFrame(l, from.Host, frame)
	if got := in.receive(2000); got != string(frame) {
		l.Errorf("%s got frame %q, want %q", to.Name, got, frame)
	}
	if got := elsewhere.receive(100); got != "" {
		l.Errorf("%s got a frame for %s", other.Name, to.Name)
	}
}

// packet is a packet socket on eth0.
type packet struct{ fd, ifindex int }

func openPacket(l *lab.Lab, h *world.Host) (p packet) {
	l.Helper()
	err := h.Do(func() (err error) {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		p.ifindex = dev.Index
		swapped := uint16(etherType&0xff<<8 | etherType>>8)
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swapped))
		if err != nil {
			return err
		}
		return unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: swapped, Ifindex: p.ifindex})
	})
	if err != nil {
		l.Fatalf("open packet socket on %s: %v", h.Name, err)
	}
	return p
}

// receive returns a frame that arrives within the given number of milliseconds.
func (p packet) receive(timeout int) string {
	ready := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ready, timeout); n != 1 || err != nil {
		return ""
	}
	b := make([]byte, 2000)
	n, _, err := unix.Recvfrom(p.fd, b, 0)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

// bulk expects a TCP transfer to a sandbox with full segments, in both directions.
func bulk(l *lab.Lab, from *world.Host, to *lab.Sandbox) {
	port := 5201
	for _, f := range lab.Families() {
		for _, flag := range []string{"--bidir", "--zerocopy"} {
			transferIperf(l, from, to, f, fmt.Sprint(port), flag)
			port++
		}
	}
}

// transferIperf does one transfer, to a new server: a server that has had a client is busy,
// or does not listen, until it has finished with that.
func transferIperf(l *lab.Lab, from *world.Host, to *lab.Sandbox, f lab.Family, port, flag string) {
	l.Helper()
	iperfServer(l, to.Host, port)
	l.Must(from, "iperf3", "-c", to.IP(f), "-p", port, "-n", "64M", flag)
}

// iperfServer starts a server for one transfer, and waits until it listens.
func iperfServer(l *lab.Lab, h *world.Host, port string, flags ...string) {
	l.Helper()
	server := l.Spawn(h, "iperf3", append([]string{"-s", "-1", "-p", port, "--forceflush"}, flags...)...)
	l.Eventually(lab.Patient, func() error { // a test connection would be its client
		if !strings.Contains(server.Output(), "listening") {
			return errors.New("iperf3 does not listen")
		}
		return nil
	})
}
