// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
)

const patience = 10 * time.Second

// transfer sends n random bytes by TCP from one host to an address of another, and compares them.
func transfer(from, to *world.Host, addr netip.Addr, n int) error {
	data := make([]byte, n)
	if _, err := rand.Read(data); err != nil {
		return err
	}
	ln, err := to.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return err
	}
	defer ln.Close()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	sent := make(chan error, 1)
	go func() {
		c, err := from.Dial(net.Dialer{Timeout: patience}, "tcp", ln.Addr().String())
		if err != nil {
			sent <- err
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Write(data)
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
		io.Copy(io.Discard, c)
	}()
	c, err := ln.Accept()
	if err != nil {
		return errors.Join(err, <-sent)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	return errors.Join(err, <-sent, equal(got, data))
}

// offload is a setting of the devices.
type offload struct{ gso, sums, tunnelled bool }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func (o offload) String() string {
	return fmt.Sprintf("gso=%s sums=%s tunnel_gso=%s", onOff(o.gso), onOff(o.sums), onOff(o.tunnelled))
}

// set applies it to the containers' devices and to the uplinks.
func (l *lab) set(o offload) {
	l.Helper()
	for _, v := range l.nodes[1:] {
		l.run(v.ctr, "ethtool", "-K", "eth0", "tx", onOff(o.sums))
		l.run(v.ctr, "ethtool", "-K", "eth0", "tso", onOff(o.gso && o.sums), "gso", onOff(o.gso))
		l.run(v.host, "ethtool", "-K", "up0", "tx-udp_tnl-segmentation", onOff(o.tunnelled),
			"tx-udp_tnl-csum-segmentation", onOff(o.tunnelled), "gso", onOff(o.tunnelled), "tso", onOff(o.tunnelled))
	}
}

// TestTransfers sends a megabyte each way in both families: 128 transfers, with every far side,
// underlay, and setting of the offloads.
func TestTransfers(t *testing.T) {
	for _, cfg := range []config{{}, {v6: true}, {kernel: true}, {kernel: true, v6: true}} {
		t.Run(cfg.String(), func(t *testing.T) {
			l := newLab(t, cfg)
			defer l.explain()
			for i := range 8 {
				o := offload{i&1 == 0, i&2 == 0, i&4 == 0}
				l.set(o)
				for j := range 4 {
					v6, from := j&1 != 0, uint16(1+j>>1)
					src, dst := l.nodes[from], l.nodes[3-from]
					if err := transfer(src.ctr, dst.ctr, inside(container+dst.number, v6), 1<<20); err != nil {
						t.Errorf("%s: from %d, IPv6 inside %t: %v", o, from, v6, err)
					}
				}
			}
			used := l.counters(l.nodes[1])
			if used["path tunnel"] == 0 || used["path peer"] == 0 {
				t.Errorf("the tunnel was not used: %v", used)
			}
		})
	}
}

// TestHosts sends between a host itself and the container on the other, and between the hosts.
func TestHosts(t *testing.T) {
	for _, cfg := range []config{{}, {v6: true}} {
		t.Run(cfg.String(), func(t *testing.T) {
			l := newLab(t, cfg)
			defer l.explain()
			for _, v6 := range []bool{false, true} {
				for n := uint16(1); n <= 2; n++ {
					here, there := l.nodes[n], l.nodes[3-n]
					for name, err := range map[string]error{
						"host to container":   transfer(here.host, there.ctr, inside(container+there.number, v6), 1<<18),
						"container to host":   transfer(here.ctr, there.host, inside(self+there.number, v6), 1<<18),
						"host to host":        transfer(here.host, there.host, inside(self+there.number, v6), 1<<18),
						"container to own":    transfer(here.ctr, here.host, inside(self+here.number, v6), 1<<18),
						"container to itself": transfer(here.ctr, here.host, inside(gateway, v6), 1<<18),
					} {
						if err != nil {
							t.Errorf("%s, from node %d, IPv6 inside %t: %v", name, n, v6, err)
						}
					}
				}
			}
		})
	}
}

// echo returns what it receives at a UDP port of a host, until the test ends.
func (l *lab) echo(h *world.Host, addr netip.Addr) netip.AddrPort {
	l.Helper()
	c, err := h.ListenPacket("udp", netip.AddrPortFrom(addr, 0).String())
	l.must(err)
	l.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// dialUDP connects a UDP socket that does not fragment.
func (l *lab) dialUDP(h *world.Host, to netip.AddrPort) *net.UDPConn {
	l.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) {
			if to.Addr().Is4() {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			}
		})
		return errors.Join(e, err)
	}}
	c, err := h.Dial(d, "udp", to.String())
	l.must(err)
	l.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// exchange sends a datagram and compares the echo.
func exchange(c net.Conn, size int) error {
	data, got := make([]byte, size), make([]byte, 1<<16)
	if _, err := rand.Read(data); err != nil {
		return err
	}
	if _, err := c.Write(data); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	n, err := c.Read(got)
	if err != nil {
		return err
	}
	return equal(got[:n], data)
}

// header returns the length of the IP and UDP headers.
func header(v6 bool) int {
	if v6 {
		return 48
	}
	return 28
}

// TestSizes echoes datagrams of every size from 1300 to 1500 that must not be fragmented.
func TestSizes(t *testing.T) {
	for _, cfg := range []config{{}, {v6: true}, {kernel: true}, {kernel: true, v6: true}} {
		t.Run(cfg.String(), func(t *testing.T) {
			l := newLab(t, cfg)
			defer l.explain()
			for _, v6 := range []bool{false, true} {
				c := l.dialUDP(l.nodes[1].ctr, l.echo(l.nodes[2].ctr, inside(container+2, v6)))
				for size := 1300; size <= 1500; size++ {
					err := exchange(c, size-header(v6))
					if fits := size <= l.mtu; fits != (err == nil) || !fits && !errors.Is(err, unix.EMSGSIZE) {
						t.Errorf("%d bytes, IPv6 inside %t: %v", size, v6, err)
					}
				}
			}
		})
	}
}

// TestTooBig sends from a container whose MTU is larger than the tunnel's: it learns that of the tunnel
// with the first packet.
func TestTooBig(t *testing.T) {
	for _, cfg := range []config{{containerMTU: 1500}, {containerMTU: 1500, v6: true}} {
		t.Run(cfg.String(), func(t *testing.T) {
			l := newLab(t, cfg)
			defer l.explain()
			for _, v6 := range []bool{false, true} {
				c := l.dialUDP(l.nodes[1].ctr, l.echo(l.nodes[2].ctr, inside(container+2, v6)))
				if err := exchange(c, 1500-header(v6)); err == nil {
					t.Fatal("a packet larger than the tunnel was answered")
				}
				deadline := time.Now().Add(patience)
				for {
					err := exchange(c, l.mtu-header(v6))
					if err == nil {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("a packet that fits: %v", err)
					}
				}
				if err := exchange(c, l.mtu+1-header(v6)); !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("IPv6 inside %t: one byte more than fits: %v, want %v", v6, err, unix.EMSGSIZE)
				}
				if err := transfer(l.nodes[1].ctr, l.nodes[2].ctr, inside(container+2, v6), 1<<20); err != nil {
					t.Errorf("IPv6 inside %t: %v", v6, err)
				}
			}
		})
	}
}

// ping reports whether all of n pings of this size were answered.
func ping(h *world.Host, to netip.Addr, n, size int, more ...string) error {
	args := append([]string{"-c", fmt.Sprint(n), "-i", "0.05", "-W", "2", "-s", fmt.Sprint(size)}, more...)
	r, err := h.Run(context.Background(), "ping", append(args, to.String())...)
	if err != nil || r.Code != 0 {
		return fmt.Errorf("ping %s with %d bytes: %v, status %d: %s", to, size, err, r.Code, r.Output())
	}
	return nil
}

// TestFragments pings with packets of 8 000 bytes, which are six fragments.
func TestFragments(t *testing.T) {
	for _, cfg := range []config{{}, {v6: true}, {kernel: true}, {kernel: true, v6: true}} {
		t.Run(cfg.String(), func(t *testing.T) {
			l := newLab(t, cfg)
			defer l.explain()
			for _, v6 := range []bool{false, true} {
				if err := ping(l.nodes[1].ctr, inside(container+2, v6), 3, 8000); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestFirstPacket pings at once after a start: the first packet waits for the next hop, and is not lost.
func TestFirstPacket(t *testing.T) {
	l := newLab(t, config{})
	defer l.explain()
	if err := ping(l.nodes[1].ctr, inside(container+2, false), 3, 56); err != nil {
		t.Error(err)
	}
}
