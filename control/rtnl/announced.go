// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"net/netip"
)

const (
	// addrProtocol marks the addresses that Fairlead announces (IFA_PROTO).
	addrProtocol = RouteProtocol
	ifaProto     = 11 // IFA_PROTO, Linux 5.18
)

// AddAnnounced adds an address that this host announces for a service to one of its devices: the kernel
// answers ARP and neighbour solicitations for it, and does not choose it as the source of packets. An
// address that already exists, of whomever, is an error.
func (h *Handle) AddAnnounced(index uint32, a netip.Addr) error {
	return h.conn.addAnnounced(index, netip.PrefixFrom(a, a.BitLen()))
}

// DeleteAnnounced removes such an address. A missing one is not an error.
func (h *Handle) DeleteAnnounced(index uint32, a netip.Addr) error {
	return h.conn.DeleteAddr(index, netip.PrefixFrom(a, a.BitLen()))
}

// RemoveAnnounced removes all addresses that this host announces, except those to keep.
func (h *Handle) RemoveAnnounced(keep func(Addr) bool) error {
	addrs, err := h.Addrs()
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range addrs {
		if a.Announced && !keep(a) {
			errs = append(errs, h.DeleteAnnounced(a.IfIndex, a.Prefix.Addr()))
		}
	}
	return errors.Join(errs...)
}
