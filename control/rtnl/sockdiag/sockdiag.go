// SPDX-License-Identifier: Apache-2.0

// Package sockdiag lists the sockets that are bound to a port, and lists and ends connected ones.
package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

// Bound returns the local addresses of the sockets that are bound to a port in the calling
// thread's namespace: listening ones for TCP, all for UDP.
func Bound(proto model.Proto, port uint16) ([]netip.Addr, error) {
	list := netlink.SocketDiagUDP
	if proto == model.TCP {
		list = netlink.SocketDiagTCP
	}
	var addrs []netip.Addr
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := list(family)
		if err != nil {
			return nil, fmt.Errorf("list sockets of %v: %w", proto, err)
		}
		for _, s := range sockets {
			listens := proto != model.TCP || s.State == netlink.TCP_LISTEN
			if addr, ok := netip.AddrFromSlice(s.ID.Source); ok && listens && s.ID.SourcePort == port {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs, nil
}

// tcpBoundInactive selects sockets that are bound and neither listening nor connected
// (TCP_BOUND_INACTIVE, Linux 6.8). They are listed in state TCP_CLOSE, and no others are.
const tcpBoundInactive = 13

// Reserved reports whether a TCP socket in the calling thread's namespace is bound to a port but
// neither listens nor was connected. The caller knows that the port is in use. Kernels before 6.8
// do not list such sockets, so there the answer is true if no listed socket has the port.
func Reserved(port uint16) (bool, error) {
	states, seen := map[uint8]bool{}, false
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := request(unix.NLM_F_DUMP, nl.SOCK_DIAG_BY_FAMILY, family, unix.IPPROTO_TCP, 0xfff|1<<tcpBoundInactive, nil)
		if err != nil {
			return false, fmt.Errorf("list sockets of %v: %w", model.TCP, err)
		}
		for _, m := range msgs {
			// struct inet_diag_msg: byte 1 is the state, the port is at offset 4.
			if len(m) >= 6 && binary.BigEndian.Uint16(m[4:]) == port {
				states[m[1]], seen = true, true
			}
		}
	}
	return states[netlink.TCP_CLOSE] || !seen, nil
}
