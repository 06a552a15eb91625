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

// toIP returns an address in the kernel's form: IPv4 mapped into IPv6. The zero Addr becomes all
// zeros.
func toIP(a netip.Addr) bpf.TCIp {
	if !a.IsValid() {
		return bpf.TCIp{}
	}
	return bpf.TCIp{B: a.As16()}
}

// fromIP is the reverse of toIP; all zeros become the zero Addr.
func fromIP(ip bpf.TCIp) netip.Addr {
	if ip == (bpf.TCIp{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(ip.B).Unmap()
}

// swap16 converts a port from host to network byte order or back.
func swap16(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// addrPort returns an address and a port in network byte order as one value. The all-zero address
// is ::, not the zero Addr: a flow always has addresses.
func addrPort(ip bpf.TCIp, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(ip.B).Unmap(), swap16(port))
}
