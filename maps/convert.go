// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// MAC is an Ethernet hardware address.
type MAC = [6]byte

func macString(m MAC) string { return net.HardwareAddr(m[:]).String() }

// swap16 converts a port from host to network byte order or back.
func swap16(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// when returns a flag if it is on, and otherwise 0.
func when[F uint16 | uint32](on bool, flag F) F {
	if on {
		return flag
	}
	return 0
}

// addrPort returns an address and a port in network byte order as one value. The all-zero address
// is ::, not the zero Addr: a flow always has addresses.
func addrPort(ip bpf.TCIp, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(ip.B).Unmap(), swap16(port))
}
