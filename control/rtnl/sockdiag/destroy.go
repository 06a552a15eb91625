// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Offsets in struct inet_diag_msg and, 4 further on, in struct inet_diag_req_v2, of struct inet_diag_sockid
// (include/uapi/linux/inet_diag.h): ports and addresses in network byte order, an interface, the cookie.
const (
	idOffset, idSize                     = 4, 48
	idRemotePort, idRemoteAddr, idCookie = 2, 20, 40
)

// Socket is a connected UDP socket.
type Socket struct {
	family byte
	id     [idSize]byte
}

// ConnectedUDP returns the connected UDP sockets in the calling thread's namespace.
func ConnectedUDP() ([]Socket, error) {
	var all []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := request(unix.NLM_F_DUMP, nl.SOCK_DIAG_BY_FAMILY, family, unix.IPPROTO_UDP, 1<<netlink.TCP_ESTABLISHED, nil)
		if err != nil {
			return nil, fmt.Errorf("list UDP sockets: %w", err)
		}
		for _, m := range msgs {
			if len(m) >= idOffset+idSize {
				all = append(all, Socket{family, [idSize]byte(m[idOffset:])})
			}
		}
	}
	return all, nil
}

// Cookie returns the cookie, which bpf_get_socket_cookie returns, too.
func (s Socket) Cookie() uint64 {
	low, high := binary.NativeEndian.Uint32(s.id[idCookie:]), binary.NativeEndian.Uint32(s.id[idCookie+4:])
	return uint64(high)<<32 | uint64(low)
}

// Remote returns to what the socket is connected.
func (s Socket) Remote() netip.AddrPort {
	port := binary.BigEndian.Uint16(s.id[idRemotePort:])
	if s.family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s.id[idRemoteAddr:])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s.id[idRemoteAddr:])).Unmap(), port)
}

// sockDestroy is SOCK_DESTROY (include/uapi/linux/sock_diag.h).
const sockDestroy = 21

// Destroy ends the socket: its program gets ECONNABORTED. The kernel needs CONFIG_INET_DIAG_DESTROY (net/ipv4/udp_diag.c),
// without which the error is EOPNOTSUPP. It is ENOENT if the socket was closed by now.
func (s Socket) Destroy() error {
	_, err := request(unix.NLM_F_ACK, sockDestroy, s.family, unix.IPPROTO_UDP, 1<<netlink.TCP_ESTABLISHED, s.id[:])
	if err != nil {
		return fmt.Errorf("end the UDP socket that is connected to %v: %w", s.Remote(), err)
	}
	return nil
}

// request sends a struct inet_diag_req_v2 for sockets in a set of states, or the one with an id.
func request(flags, kind int, family, protocol uint8, states uint32, id []byte) ([][]byte, error) {
	body := make([]byte, 8+idSize)
	body[0], body[1] = family, protocol
	binary.NativeEndian.PutUint32(body[4:], states)
	copy(body[8:], id)
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddRawData(body)
	return req.Execute(unix.NETLINK_INET_DIAG, 0)
}
