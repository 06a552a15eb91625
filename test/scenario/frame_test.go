// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// sendFrame sends a frame from eth0 of h, bypassing its stack.
func sendFrame(l *lab.Lab, h *world.Host, frame []byte) {
	l.Helper()
	p := openPacket(l, h)
	defer unix.Close(p.fd)
	if err := unix.Sendto(p.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.ifindex, Halen: 6}); err != nil {
		l.Fatalf("send frame: %v", err)
	}
}

// udpFrame returns an Ethernet frame with a datagram that contains hello.
func udpFrame(l *lab.Lab, srcMAC, dstMAC string, src, dst netip.AddrPort) []byte {
	l.Helper()
	var frame []byte
	for _, s := range []string{dstMAC, srcMAC} {
		mac, err := net.ParseMAC(s)
		if err != nil {
			l.Fatal(err)
		}
		frame = append(frame, mac...)
	}
	udp := binary.BigEndian.AppendUint16(nil, src.Port())
	udp = binary.BigEndian.AppendUint16(udp, dst.Port())
	udp = binary.BigEndian.AppendUint16(udp, 8+5)
	udp = append(udp, 0, 0)
	udp = append(udp, "hello"...)
	addrs := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo := append(append([]byte{}, addrs...), 0, unix.IPPROTO_UDP, 0, byte(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	if src.Addr().Is4() {
		header := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		header = append(header, addrs...)
		binary.BigEndian.PutUint16(header[10:], checksum(header))
		return append(append(append(frame, 0x08, 0x00), header...), udp...)
	}
	header := append([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}, addrs...)
	return append(append(append(frame, 0x86, 0xdd), header...), udp...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// macOf returns the MAC address of eth0 of h.
func macOf(l *lab.Lab, h *world.Host) (mac string) {
	l.Helper()
	err := h.Do(func() error {
		dev, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = dev.HardwareAddr.String()
		}
		return err
	})
	if err != nil {
		l.Fatal(err)
	}
	return mac
}
