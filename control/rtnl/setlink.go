// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// LinkChange lists changes of a device. Nil fields are not changed.
type LinkChange struct {
	Alias *string
	MAC   *model.MAC
	MTU   *int
	Up    *bool
}

// SetLink changes a device of the host.
func (h *Handle) SetLink(index uint32, ch LinkChange) error {
	if err := h.conn.SetLink(index, ch); err != nil {
		return fmt.Errorf("change device %d: %w", index, err)
	}
	return nil
}

// CreateDevice creates a device of the host that is not a pair, down and marked as Fairlead's by its group. data: the
// attributes of its kind, or nil. It returns ErrExists if the name is taken.
func (h *Handle) CreateDevice(kind, name string, mtu int, data *nl.RtAttr) (Link, error) {
	if err := h.CreateDeviceIn(h.ns, kind, name, mtu, data); err != nil {
		return Link{}, err
	}
	return h.LinkByName(name)
}

// CreateDeviceIn is like CreateDevice, but the device is in another namespace. What it sends and receives outside, such as
// the packets of a tunnel, passes the host's.
func (h *Handle) CreateDeviceIn(ns *NetNS, kind, name string, mtu int, data *nl.RtAttr) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	if data != nil {
		info.AddChild(data)
	}
	err := h.conn.do(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC), str(unix.IFLA_IFNAME, name),
		u32(unix.IFLA_MTU, uint32(mtu)), u32(unix.IFLA_GROUP, DeviceGroup), u32(unix.IFLA_NET_NS_FD, uint32(ns.FD())), info)
	if errors.Is(err, unix.EEXIST) {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("create %s device %q: %w", kind, name, err)
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

// SetLink changes a device.
func (c *Conn) SetLink(index uint32, ch LinkChange) error {
	if (ch == LinkChange{}) {
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
