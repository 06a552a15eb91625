// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/vxlan"
	"github.com/fairlead-net/fairlead/maps"
)

// TestForeignVNI uses a VXLAN device of the kernel on both hosts, with another VNI at the same port and
// between the same addresses: its datagrams are left to the stack.
func TestForeignVNI(t *testing.T) {
	l := newLab(t, config{})
	defer l.explain()
	for _, v := range l.nodes[1:] {
		l.ip(v.host, fmt.Sprintf("link add other type vxlan id 555 dstport %d local %s remote %s", port,
			underlay(v.number, false), underlay(3-v.number, false)),
			fmt.Sprintf("addr add 10.77.0.%d/24 dev other", v.number), "link set other up")
	}
	if err := ping(l.nodes[1].host, netip.MustParseAddr("10.77.0.2"), 3, 56); err != nil {
		t.Error(err)
	}
	if err := transfer(l.nodes[1].ctr, l.nodes[2].ctr, inside(container+2, false), 1<<20); err != nil {
		t.Error(err)
	}
}

// TestAggregatesArrive makes the receiving host aggregate: a router sends it single segments, and a VXLAN
// device, which is not in the path, lets GRO recognise them. What arrives is forwarded to the container
// as it is, through a limit (which segments it), and to a device without offloads.
func TestAggregatesArrive(t *testing.T) {
	for _, way := range []string{"direct", "direct, by IPv6", "limited", "without offloads"} {
		t.Run(way, func(t *testing.T) {
			cfg := config{v6: way == "direct, by IPv6"}
			direct := way == "direct" || cfg.v6
			if !direct {
				cfg.flags = maps.Shaped
			}
			l := newLab(t, cfg)
			defer l.explain()
			to := l.nodes[2]
			l.run(l.router, "ethtool", "-K", "r2", "tso", "off", "gso", "off", "tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off")
			l.run(to.host, "ethtool", "-K", "up0", "gro", "on")
			l.aggregate(to)
			switch way {
			case "limited":
				l.run(to.host, "tc", "qdisc", "add", "dev", "hv", "root", "tbf", "rate", "500mbit", "burst", "3000", "latency", "50ms")
			case "without offloads":
				l.run(to.host, "ethtool", "-K", "hv", "tx", "off", "tso", "off", "gso", "off")
			}
			before := l.counters(to)
			for _, v6 := range []bool{false, true} {
				if err := transfer(l.nodes[1].ctr, to.ctr, inside(container+2, v6), 4<<20); err != nil {
					t.Errorf("IPv6 inside %t: %v", v6, err)
				}
			}
			path := map[bool]string{true: "path peer", false: "path redirect"}[direct]
			if got := l.counters(to)[path] - before[path]; got == 0 || got > 8<<20/1400/2 {
				t.Errorf("8 MB arrived in %d packets: they were not aggregated", got)
			}
		})
	}
}

// aggregate has the kernel of a host aggregate the packets of tunnels, by a device that the daemon would create there.
func (l *lab) aggregate(v *node) {
	l.Helper()
	family := model.V4
	if l.v6 {
		family = model.V6
	}
	var h *rtnl.Handle
	l.must(v.host.Do(func() (err error) {
		h, err = rtnl.New()
		return err
	}))
	devices := vxlan.New(h, port, filepath.Join(l.TempDir(), "tunnels"))
	l.Cleanup(func() {
		l.must(devices.Ensure(nil))
		h.Close()
	})
	l.must(devices.Ensure([]model.Family{family}))
}

// TestForwardedAggregates sends through a container that forwards: what was decapsulated leaves its host
// by the gateway, masqueraded, and enters another tunnel.
func TestForwardedAggregates(t *testing.T) {
	l := newLab(t, config{})
	defer l.explain()
	from, by := l.nodes[1], l.nodes[2]
	l.run(l.router, "ethtool", "-K", "r2", "tso", "off", "gso", "off", "tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off")
	l.run(by.host, "ethtool", "-K", "up0", "gro", "on")
	l.aggregate(by)
	e := maps.Endpoint{}
	for _, have := range by.set.Endpoints.List() {
		if have.IfIndex == by.hv {
			e = have
		}
	}
	e.Flags &^= maps.AntiSpoof
	_, err := by.set.Endpoints.Put(e)
	l.must(err)
	l.plainTunnels()
	outside := netip.MustParseAddr("198.51.100.1")
	l.ip(l.router, "addr add 198.51.100.1/32 dev lo")
	l.ip(from.ctr, fmt.Sprintf("route add 198.51.100.1 via %s", inside(container+2, false)))
	if err := transfer(from.ctr, l.router, outside, 4<<20); err != nil {
		t.Errorf("by the gateway of another node: %v", err)
	}
	// Back to the first node: the container sends to the host's own address there.
	l.ip(from.ctr, fmt.Sprintf("route add %s via %s", inside(self+1, false), inside(container+2, false)))
	if err := transfer(from.ctr, from.host, inside(self+1, false), 1<<20); err != nil {
		t.Errorf("into another tunnel: %v", err)
	}
	if c := l.counters(by); c["drop tunnel_failed"] != 0 {
		t.Errorf("dropped: %v", c)
	}
}

// tunnelled makes a VXLAN device in a container, whose other end is in the other container.
func (l *lab) tunnelled(v *node) {
	l.Helper()
	l.ip(v.ctr, fmt.Sprintf("link add own mtu 1350 type vxlan id 7 dstport 4790 local %s remote %s dev eth0",
		inside(container+v.number, false), inside(container+3-v.number, false)),
		fmt.Sprintf("addr add 10.88.0.%d/24 dev own", v.number), "link set own up")
}

// plainTunnels turns off the offload of tunnels at the containers' devices, as must be done for a network of
// the overlay: an aggregate in two tunnels cannot be segmented.
func (l *lab) plainTunnels() {
	l.Helper()
	for _, v := range l.nodes[1:] {
		l.run(v.ctr, "ethtool", "-K", "eth0", "tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off")
	}
}

// TestNestedTunnels sends through a VXLAN tunnel between containers.
func TestNestedTunnels(t *testing.T) {
	for _, cfg := range []config{{}, {v6: true}, {kernel: true}} {
		t.Run(cfg.String(), func(t *testing.T) {
			l := newLab(t, cfg)
			defer l.explain()
			l.plainTunnels()
			for _, v := range l.nodes[1:] {
				l.tunnelled(v)
			}
			for n := 1; n <= 2; n++ {
				if err := transfer(l.nodes[n].ctr, l.nodes[3-n].ctr, netip.AddrFrom4([4]byte{10, 88, 0, byte(3 - n)}), 1<<20); err != nil {
					t.Errorf("from %d: %v", n, err)
				}
			}
		})
	}
}

// TestNestedAggregates shows that an aggregate in two tunnels is dropped under a reason.
func TestNestedAggregates(t *testing.T) {
	l := newLab(t, config{})
	for _, v := range l.nodes[1:] {
		l.tunnelled(v)
	}
	transfer(l.nodes[1].ctr, l.nodes[2].ctr, netip.MustParseAddr("10.88.0.2"), 1<<16)
	if c := l.counters(l.nodes[1]); c["drop tunnel_failed"] == 0 {
		t.Errorf("no aggregate was dropped: %v", c)
	}
}

// TestFragmentedTunnel receives from a kernel's VXLAN device whose datagrams are fragmented on the way:
// they are dropped and counted, and what fits arrives.
func TestFragmentedTunnel(t *testing.T) {
	l := newLab(t, config{kernel: true})
	defer l.explain()
	l.ip(l.nodes[2].host, "link set up0 mtu 1400")
	if err := ping(l.nodes[2].ctr, inside(container+1, false), 3, 56); err != nil {
		t.Error(err)
	}
	if err := ping(l.nodes[2].ctr, inside(container+1, false), 1, 1400, "-M", "dont"); err == nil {
		t.Error("a fragmented datagram was delivered")
	}
	if c := l.counters(l.nodes[1]); c["drop tunnel_fragment"] == 0 {
		t.Errorf("not counted: %v", c)
	}
}

// TestSegments sends 65 507 bytes by one call, which the kernel splits into datagrams (UDP_SEGMENT), and
// counts what arrives.
func TestSegments(t *testing.T) {
	const size = 1300
	for _, cfg := range []config{{}, {v6: true}, {kernel: true}} {
		for _, gso := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s tunnel_gso=%s", cfg, onOff(gso)), func(t *testing.T) {
				l := newLab(t, cfg)
				defer l.explain()
				l.set(offload{gso: true, sums: true, tunnelled: gso})
				for _, v6 := range []bool{false, true} {
					if err := l.segments(v6, size, 65507); err != nil {
						t.Errorf("IPv6 inside %t: %v", v6, err)
					}
				}
			})
		}
	}
}

func (l *lab) segments(v6 bool, size, total int) error {
	l.Helper()
	if err := ping(l.nodes[1].ctr, inside(container+2, v6), 1, 56); err != nil {
		return err
	}
	to, err := l.nodes[2].ctr.ListenPacket("udp", netip.AddrPortFrom(inside(container+2, v6), 0).String())
	l.must(err)
	defer to.Close()
	to.(*net.UDPConn).SetReadBuffer(1 << 20)
	c := l.dialUDP(l.nodes[1].ctr, to.LocalAddr().(*net.UDPAddr).AddrPort())
	raw, err := c.SyscallConn()
	l.must(err)
	control := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(size))
	data := make([]byte, total)
	for i := range data {
		data[i] = byte(i / size)
	}
	var sendErr error
	l.must(raw.Write(func(fd uintptr) bool {
		_, sendErr = unix.SendmsgN(int(fd), data, control, nil, 0)
		return !errors.Is(sendErr, syscall.EAGAIN)
	}))
	if sendErr != nil {
		return fmt.Errorf("send: %w", sendErr)
	}
	got, want, b := 0, (total+size-1)/size, make([]byte, 1<<16)
	to.SetReadDeadline(time.Now().Add(2 * time.Second))
	for got < want {
		n, _, err := to.ReadFrom(b)
		if err != nil {
			return fmt.Errorf("after %d of %d datagrams: %w", got, want, err)
		}
		if err := equal(b[:n], data[got*size:min((got+1)*size, total)]); err != nil {
			return fmt.Errorf("datagram %d: %w", got, err)
		}
		got++
	}
	return nil
}

// TestBroadcast sends a datagram to the network's broadcast address: the container on the other node
// receives it once.
func TestBroadcast(t *testing.T) {
	for _, cfg := range []config{{}, {v6: true}, {kernel: true}} {
		t.Run(cfg.String(), func(t *testing.T) {
			l := newLab(t, cfg)
			defer l.explain()
			for n := 1; n <= 2; n++ {
				from, to := l.nodes[n], l.nodes[3-n]
				got, err := to.ctr.ListenPacket("udp4", "0.0.0.0:7000")
				l.must(err)
				sender, err := from.ctr.ListenPacket("udp4", "0.0.0.0:7001")
				l.must(err)
				_, err = sender.WriteTo([]byte("to all"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.50.0.255:7000")))
				l.must(err)
				count, b := 0, make([]byte, 100)
				got.SetReadDeadline(time.Now().Add(time.Second))
				for {
					size, _, err := got.ReadFrom(b)
					if err != nil {
						break
					}
					if string(b[:size]) == "to all" {
						count++
					}
				}
				if count != 1 {
					t.Errorf("node %d received %d copies, want 1", to.number, count)
				}
				got.Close()
				sender.Close()
			}
		})
	}
}

// TestNarrowPath sends over a path of which one hop is narrower than the network's MTU allows: the
// containers learn what fits.
func TestNarrowPath(t *testing.T) {
	for _, cfg := range []config{{}, {v6: true}} {
		t.Run(cfg.String(), func(t *testing.T) {
			l := newLab(t, cfg)
			defer l.explain()
			for _, n := range []string{"r1", "r2"} {
				l.ip(l.router, fmt.Sprintf("link set %s mtu 1400", n))
			}
			fits := l.mtu - 100
			for _, v6 := range []bool{false, true} {
				if err := transfer(l.nodes[1].ctr, l.nodes[2].ctr, inside(container+2, v6), 1<<20); err != nil {
					t.Errorf("IPv6 inside %t: %v", v6, err)
				}
				c := l.dialUDP(l.nodes[1].ctr, l.echo(l.nodes[2].ctr, inside(container+2, v6)))
				if err := exchange(c, fits-header(v6)); err != nil {
					t.Errorf("%d bytes, IPv6 inside %t: %v", fits, v6, err)
				}
				if err := exchange(c, fits+1-header(v6)); !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("%d bytes, IPv6 inside %t: %v, want %v", fits+1, v6, err, unix.EMSGSIZE)
				}
			}
		})
	}
}
