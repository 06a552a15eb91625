// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

// Attributes of a neighbour (linux/neighbour.h).
const (
	ndaDst    = 1 // NDA_DST
	ndaLLAddr = 2 // NDA_LLADDR
)

// ChangeNeighbour updates the MAC of an address in the neighbour cache of the host's stack. A
// missing entry is not an error.
func (h *Handle) ChangeNeighbour(device uint32, ip netip.Addr, mac model.MAC) error {
	msg := &netlink.Ndmsg{Family: uint8(Family(ip)), Index: device, State: netlink.NUD_STALE}
	err := h.conn.do(unix.RTM_NEWNEIGH, unix.NLM_F_REPLACE, msg, addr(ndaDst, ip), nl.NewRtAttr(ndaLLAddr, mac[:]))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("change neighbour %s of device %d: %w", ip, device, err)
	}
	return nil
}
