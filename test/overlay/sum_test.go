// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestVerifiedSum receives a datagram whose outer checksum the host has verified (GRO does): the stack of the
// container must verify the inner one itself.
func TestVerifiedSum(t *testing.T) {
	l := newLab(t, config{})
	defer l.explain()
	v := l.nodes[1]
	l.run(l.router, "ethtool", "-K", "r1", "tso", "off") // else the pair has no use for GRO
	l.run(v.host, "ethtool", "-K", "up0", "gro", "on")
	c, err := v.ctr.ListenPacket("udp4", netip.AddrPortFrom(inside(container+1, false), 7000).String())
	l.must(err)
	defer c.Close()
	var dev *net.Interface
	l.must(v.host.Do(func() (err error) {
		dev, err = net.InterfaceByName("up0")
		return err
	}))
	wire := unix.SockaddrLinklayer{Protocol: 8, Ifindex: int(l.ifindex(l.router, "r1"))} // ETH_P_IP, NBO
	receives := func(wrong uint16) bool {
		l.Helper()
		frame := slices.Concat(dev.HardwareAddr, []byte{2, 0, 0, 0, 0, 0x78, 8, 0}, l.datagram(wrong))
		l.must(l.router.Do(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, frame, 0, &wire)
		}))
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

// datagram returns a packet from the second node, with a frame for the first's container, whose UDP
// checksum is wrong by this much. The outer checksum is right.
func (l *lab) datagram(wrong uint16) []byte {
	l.Helper()
	inner := ipv4(inside(container+2, false), inside(container+1, false), udp(7001, 7000, []byte("some data")))
	setSum(inner, wrong)
	mac := func(n uint16) []byte { m := insideMAC(n); return m[:] }
	vxlan := slices.Concat([]byte{8, 0, 0, 0, 0, byte(vni >> 8), byte(vni & 0xff), 0}, mac(container+1), mac(container+2), []byte{8, 0}, inner)
	outer := ipv4(underlay(2, false), underlay(1, false), udp(50000, port, vxlan))
	setSum(outer, 0)
	return outer
}

// setSum sets the UDP checksum of a packet, wrong by this much.
func setSum(packet []byte, wrong uint16) {
	sum := checksum(0, packet[12:20])
	sum = checksum(sum+17+uint32(len(packet)-20), packet[20:])
	binary.BigEndian.PutUint16(packet[26:], ^fold(sum)+wrong)
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
