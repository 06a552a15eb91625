// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

// Veth specifies a pair of devices.
type Veth struct {
	Name     string    // on the host
	MAC      model.MAC // zero for a random one
	PeerName string
	PeerMAC  model.MAC // zero for a random one
	PeerNS   *NetNS    // nil for the host
	MTU      int
}

// CreateVeth creates a pair, both ends down and marked as Fairlead's by their group, and returns
// the host end. It returns ErrExists if a name is taken at either end.
func (h *Handle) CreateVeth(v Veth) (Link, error) {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.PeerName))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU)))
	if !v.PeerMAC.IsZero() {
		peer.AddRtAttr(unix.IFLA_ADDRESS, v.PeerMAC[:])
	}
	if v.PeerNS != nil {
		peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(v.PeerNS.FD())))
	} else {
		peer.AddRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(DeviceGroup))
	}
	parts := []nl.NetlinkRequestData{
		nl.NewIfInfomsg(unix.AF_UNSPEC),
		str(unix.IFLA_IFNAME, v.Name),
		u32(unix.IFLA_MTU, uint32(v.MTU)),
		u32(unix.IFLA_GROUP, DeviceGroup),
		info,
	}
	if !v.MAC.IsZero() {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_ADDRESS, v.MAC[:]))
	}
	err := h.conn.do(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...)
	if errors.Is(err, unix.EEXIST) {
		err = ErrExists
	}
	if err != nil {
		return Link{}, fmt.Errorf("create veth %q to %q: %w", v.Name, v.PeerName, err)
	}
	return h.LinkByName(v.Name)
}
