// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

package bpf

import "net/netip"

// IPOf returns an address in the programs' form: IPv4 mapped into IPv6. The zero Addr becomes all
// zeros.
func IPOf(a netip.Addr) TCIp {
	if !a.IsValid() {
		return TCIp{}
	}
	return TCIp{B: a.As16()}
}

// Addr is the reverse of IPOf; all zeros become the zero Addr.
func (ip TCIp) Addr() netip.Addr {
	if ip == (TCIp{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(ip.B).Unmap()
}
