// SPDX-License-Identifier: Apache-2.0

package stacked

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// slack is how far the end of an address may be from where it should be: the kernel counts seconds, and stops while the
// host sleeps.
const slack = 5 * time.Second

// SetLease gives a device an IPv4 address that ends by itself, or takes it away if the address is the zero Prefix. Other
// addresses that end are those of earlier leases, and are removed; those that do not end belong to others.
func SetLease(h *netlink.Handle, device uint32, want netip.Prefix, rest time.Duration) (changed int, err error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(device)}}
	have, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return 0, fmt.Errorf("list the addresses of device %d: %w", device, err)
	}
	right := false
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP.To4())
		bits, _ := a.Mask.Size()
		switch ends := a.Flags&unix.IFA_F_PERMANENT == 0; {
		case netip.PrefixFrom(ip, bits) == want:
			off := time.Duration(a.ValidLft)*time.Second - rest
			right = ends && off.Abs() <= slack
		case ends:
			changed++
			if err := h.AddrDel(link, &a); err != nil {
				return changed, fmt.Errorf("remove address %v from device %d: %w", ip, device, err)
			}
		}
	}
	if right || !want.IsValid() || rest <= 0 {
		return changed, nil
	}
	left := int(rest.Seconds()) + 1
	a := netlink.Addr{
		IPNet:    &net.IPNet{IP: want.Addr().AsSlice(), Mask: net.CIDRMask(want.Bits(), want.Addr().BitLen())},
		ValidLft: left, PreferedLft: left,
	}
	if err := h.AddrReplace(link, &a); err != nil {
		return changed + 1, fmt.Errorf("add address %v to device %d: %w", want, device, err)
	}
	return changed + 1, nil
}
