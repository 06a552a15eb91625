// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

// Bound returns the local addresses of the sockets that have a port in the calling
// thread's namespace: those of TCP that listen, all of UDP.
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
