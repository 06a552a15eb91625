// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"encoding/binary"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader"
	"github.com/fairlead-net/fairlead/maps"
)

// TestVerifiedSum receives from a device that has verified one checksum, the outer one: the stack of the
// container must verify the inner one itself. A tap says so as a virtual machine's card does.
func TestVerifiedSum(t *testing.T) {
	l := newLab(t, config{})
	defer l.explain()
	v := l.nodes[1]
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		if err := os.MkdirAll("/dev/net", 0o755); err != nil {
			t.Fatal(err)
		}
		l.must(unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))))
	}
	var tap *os.File
	l.must(v.host.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		tap = os.NewFile(uintptr(fd), "tap")
		ifr, err := unix.NewIfreq("tap0")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}))
	defer tap.Close()
	l.ip(v.host, "link set tap0 address 02:00:00:00:00:77 up")
	index := l.ifindex(v.host, "tap0")
	l.must(v.host.Do(func() error {
		_, err := v.datapath.Attach(int(index), loader.FromUplink)
		return err
	}))
	_, err := v.set.Uplinks.Put(maps.Uplink{IfIndex: index})
	l.must(err)
	c, err := v.ctr.ListenPacket("udp4", netip.AddrPortFrom(inside(container+1, false), 7000).String())
	l.must(err)
	defer c.Close()
	receives := func(wrong uint16) bool {
		l.Helper()
		// struct virtio_net_hdr: flags VIRTIO_NET_HDR_F_DATA_VALID, and no more.
		_, err := tap.Write(append([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0}, l.datagram(wrong)...))
		l.must(err)
		c.SetReadDeadline(time.Now().Add(time.Second / 2))
		_, _, err = c.ReadFrom(make([]byte, 100))
		return err == nil
	}
	if !receives(0) {
		t.Error("a datagram with a correct sum was not delivered")
	}
	if receives(1) {
		t.Error("a datagram with a wrong sum was delivered")
	}
}

// datagram returns a frame from the second node to the first's container, in a tunnel, with a UDP
// checksum that is wrong by this much.
func (l *lab) datagram(wrong uint16) []byte {
	l.Helper()
	payload := []byte("some data")
	inner := ipv4(inside(container+2, false), inside(container+1, false), udp(7001, 7000, payload))
	sum := checksum(0, inner[12:20])
	sum = checksum(sum+17+uint32(8+len(payload)), inner[20:])
	binary.BigEndian.PutUint16(inner[26:], ^fold(sum)+wrong)
	mac := func(n uint16) []byte { m := insideMAC(n); return m[:] }
	frame := append(append(append(mac(container+1), mac(container+2)...), 8, 0), inner...)
	vxlan := append([]byte{8, 0, 0, 0, 0, byte(vni >> 8), byte(vni & 0xff), 0}, frame...)
	outer := ipv4(underlay(2, false), underlay(1, false), udp(50000, port, vxlan))
	return append([]byte{2, 0, 0, 0, 0, 0x77, 2, 0, 0, 0, 0, 0x78, 8, 0}, outer...)
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func ipv4(src, dst netip.Addr, payload []byte) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], ^fold(checksum(0, b)))
	return append(b, payload...)
}

// checksum adds the words of b (RFC 1071).
func checksum(sum uint32, b []byte) uint32 {
	for i := range b {
		sum += uint32(b[i]) << (8 * (1 - i&1))
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
