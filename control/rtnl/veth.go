// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

// Modes of generating IPv6 link-local addresses.
const (
	addrGenEUI64 = 0
	addrGenNone  = 1
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
		peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(v.PeerNS.fd())))
	} else {
		peer.AddRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(deviceGroup))
	}
	parts := []nl.NetlinkRequestData{
		nl.NewIfInfomsg(unix.AF_UNSPEC),
		str(unix.IFLA_IFNAME, v.Name),
		u32(unix.IFLA_MTU, uint32(v.MTU)),
		u32(unix.IFLA_GROUP, deviceGroup),
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

// LinkChange lists changes of a device. Nil fields are not changed.
type LinkChange struct {
	Alias       *string
	MAC         *model.MAC
	MTU         *int
	Up          *bool
	AddrGenMode *uint8
}

// SetLink changes a device of the host.
func (h *Handle) SetLink(index uint32, ch LinkChange) error {
	if err := h.conn.setLink(index, ch); err != nil {
		return fmt.Errorf("change device %d: %w", index, err)
	}
	return nil
}

// SetAlias sets the alias of a device of the host.
func (h *Handle) SetAlias(index uint32, alias string) error {
	return h.SetLink(index, LinkChange{Alias: &alias})
}

// SetUp brings a device of the host up.
func (h *Handle) SetUp(index uint32) error {
	up := true
	return h.SetLink(index, LinkChange{Up: &up})
}

func (c *conn) setLink(index uint32, ch LinkChange) error {
	// The kernel applies AF_SPEC after the flags, but the mode must be set
	// before the device comes up.
	if ch.AddrGenMode != nil {
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(index)
		spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
		spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(inet6AddrGenMode, nl.Uint8Attr(*ch.AddrGenMode))
		err := c.do(unix.RTM_SETLINK, 0, msg, spec)
		// EAFNOSUPPORT: the kernel has no IPv6, so there is no mode to set.
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return linkError(err)
		}
	}
	if ch.Alias == nil && ch.MAC == nil && ch.MTU == nil && ch.Up == nil {
		return nil
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	parts := []nl.NetlinkRequestData{msg}
	if ch.Alias != nil {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(*ch.Alias)))
	}
	if ch.MAC != nil {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_ADDRESS, ch.MAC[:]))
	}
	if ch.MTU != nil {
		parts = append(parts, u32(unix.IFLA_MTU, uint32(*ch.MTU)))
	}
	if ch.Up != nil {
		msg.Change = unix.IFF_UP
		if *ch.Up {
			msg.Flags = unix.IFF_UP
		}
	}
	return linkError(c.do(unix.RTM_SETLINK, 0, parts...))
}

func linkError(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return ErrNoDevice
	}
	return err
}
