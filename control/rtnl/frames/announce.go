// SPDX-License-Identifier: Apache-2.0

// Package frames sends frames by packet sockets on the host's devices, and receives the answers: announcements of addresses,
// queries for the owners of addresses, and queries for multicast groups.
package frames

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Member is a member of a network.
type Member struct {
	MAC  model.MAC
	IPv6 netip.Addr // zero if it has none
}

// Announce notifies members of a network that an address has a new MAC, by ARP (RFC 5227 section
// 3) or an unsolicited neighbour advertisement (RFC 4861 section 7.2.6). gateway is the host
// device in the network. Each member gets a frame of its own, so that the owner of the address
// does not detect a conflict. Members without IPv6 are not notified of IPv6 addresses.
func Announce(h *rtnl.Handle, gateway uint32, ip netip.Addr, mac model.MAC, to []Member) error {
	fd, err := packetSocket(h)
	if err != nil {
		return fmt.Errorf("announce %s: %w", ip, err)
	}
	defer unix.Close(fd)
	at := &unix.SockaddrLinklayer{Ifindex: int(gateway)}
	for _, m := range to {
		var frame []byte
		switch {
		case ip.Is4():
			frame = arpAnnouncement(ip, mac, m.MAC)
		case m.IPv6.IsValid():
			frame = neighbourAdvertisement(ip, mac, m)
		default:
			continue
		}
		if err := unix.Sendto(fd, frame, 0, at); err != nil {
			return fmt.Errorf("announce %s to %s: %w", ip, m.MAC, err)
		}
	}
	return nil
}

// packetSocket opens a socket that sends frames and receives nothing.
func packetSocket(h *rtnl.Handle) (fd int, err error) {
	fd = -1
	err = h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// send sends one frame by a device.
func send(h *rtnl.Handle, device uint32, frame []byte) error {
	fd, err := packetSocket(h)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(device)})
}

func ethernet(to, from model.MAC, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append(make([]byte, 0, 128), to[:]...), from[:]...), kind)
}

func arpAnnouncement(ip netip.Addr, mac, to model.MAC) []byte {
	const ethernetIPv4 = "\x00\x01\x08\x00\x06\x04"
	const request = "\x00\x01"
	f := append(ethernet(to, mac, unix.ETH_P_ARP), ethernetIPv4+request...)
	f = append(append(f, mac[:]...), ip.AsSlice()...)
	return append(append(f, make([]byte, len(mac))...), ip.AsSlice()...)
}

func neighbourAdvertisement(ip netip.Addr, mac model.MAC, to Member) []byte {
	const (
		advertisement = "\x88\x00\x00\x00"
		override      = "\x20\x00\x00\x00"
		targetMAC     = "\x02\x01" // an option of 8 bytes
		hopLimit      = 255
		length        = 32
	)
	body := append([]byte(advertisement+override), ip.AsSlice()...)
	body = append(append(body, targetMAC...), mac[:]...)
	addrs := append(ip.AsSlice(), to.IPv6.AsSlice()...)
	pseudo := append(append([]byte(nil), addrs...), 0, 0, 0, length, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[2:], checksum(append(pseudo, body...)))
	f := append(ethernet(to.MAC, mac, unix.ETH_P_IPV6), 0x60, 0, 0, 0, 0, length, unix.IPPROTO_ICMPV6, hopLimit)
	return append(append(f, addrs...), body...)
}

// checksum returns the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
