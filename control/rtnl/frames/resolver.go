// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

var (
	allHosts = model.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes = Member{MAC: model.MAC{0x33, 0x33, 0, 0, 0, 1}, IPv6: netip.MustParseAddr("ff02::1")}
)

// Resolver queries a link for the owners of addresses.
type Resolver struct {
	device uint32
	mac    model.MAC
	from   netip.Addr // the device's own link-local address; zero if it has none
	v6     bool
	fd     int
}

// OpenResolver opens a socket for queries in one family on a device.
func OpenResolver(h *rtnl.Handle, device uint32, mac model.MAC, linkLocal netip.Addr, f model.Family) (*Resolver, error) {
	r := &Resolver{device: device, mac: mac, from: linkLocal, v6: f == model.V6, fd: -1}
	proto := uint16(unix.ETH_P_ARP)
	if r.v6 {
		proto = unix.ETH_P_IPV6
	}
	at := &unix.SockaddrLinklayer{Ifindex: int(device), Protocol: proto<<8 | proto>>8}
	err := h.Do(func() (err error) {
		r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err == nil && r.v6 {
		err = r.filter()
	}
	if err == nil {
		err = unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
	}
	if err == nil {
		err = unix.Bind(r.fd, at)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("listen for the owners of addresses: %w", err)
	}
	return r, nil
}

// filter lets neighbour advertisements through only.
func (r *Resolver) filter() error {
	ins := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 20}, // next header
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 54}, // type
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 136, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(ins)), Filter: &ins[0]})
}

// Close closes the socket.
func (r *Resolver) Close() { _ = unix.Close(r.fd) }

// Receive waits for a frame that names the MAC of an address, 200 ms at most.
func (r *Resolver) Receive() (a netip.Addr, mac model.MAC, ok bool) {
	var b [128]byte
	n, from, err := unix.Recvfrom(r.fd, b[:], 0)
	if err != nil || n < 42 {
		return a, mac, false
	}
	if ll, is := from.(*unix.SockaddrLinklayer); is && ll.Pkttype == unix.PACKET_OUTGOING {
		return a, mac, false
	}
	if !r.v6 {
		a = netip.AddrFrom4([4]byte(b[28:32]))
		return a, model.MAC(b[22:28]), !a.IsUnspecified()
	}
	if n < 78 {
		return a, mac, false
	}
	return netip.AddrFrom16([16]byte(b[62:78])), model.MAC(b[6:12]), true
}

// Ask queries for the owner of an address: the one with this MAC, or, if it is zero, all. The query does not
// name this host as an owner of anything (RFC 5227 section 2.1.1).
func (r *Resolver) Ask(a netip.Addr, to model.MAC) error {
	if r.v6 {
		return r.send(r.solicitation(a, to))
	}
	dst := to
	if to == (model.MAC{}) {
		dst = allHosts
	}
	f := append(ethernet(dst, r.mac, unix.ETH_P_ARP), "\x00\x01\x08\x00\x06\x04\x00\x01"...)
	f = append(append(f, r.mac[:]...), 0, 0, 0, 0)
	return r.send(append(append(f, make([]byte, 6)...), a.AsSlice()...))
}

// solicitation returns a neighbour solicitation (RFC 4861 section 4.3).
func (r *Resolver) solicitation(a netip.Addr, to model.MAC) []byte {
	target := a.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]})
	dst := group
	if to == (model.MAC{}) {
		to = model.MAC{0x33, 0x33, 0xff, target[13], target[14], target[15]}
	} else if r.from.IsValid() {
		dst = a
	}
	body := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	src := netip.IPv6Unspecified() // as duplicate address detection: the answer goes to all nodes
	if r.from.IsValid() {
		src = r.from
		body = append(append(body, 1, 1), r.mac[:]...)
	}
	addrs := append(src.AsSlice(), dst.AsSlice()...)
	pseudo := append(append([]byte(nil), addrs...), 0, 0, 0, byte(len(body)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[2:], checksum(append(pseudo, body...)))
	f := append(ethernet(to, r.mac, unix.ETH_P_IPV6), 0x60, 0, 0, 0, 0, byte(len(body)), unix.IPPROTO_ICMPV6, 255)
	return append(append(f, addrs...), body...)
}

// Tell notifies everybody on the link that this host has an address: by a gratuitous ARP request, or an
// unsolicited neighbour advertisement.
func (r *Resolver) Tell(a netip.Addr) error {
	if r.v6 {
		return r.send(neighbourAdvertisement(a, r.mac, allNodes))
	}
	return r.send(arpAnnouncement(a, r.mac, allHosts))
}

func (r *Resolver) send(frame []byte) error {
	return unix.Sendto(r.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(r.device)})
}
