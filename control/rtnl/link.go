// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

// ErrExists is returned when a device of that name already exists.
var ErrExists = errors.New("a device of that name already exists")

// ErrNoDevice is returned when a device does not exist.
var ErrNoDevice = errors.New("no such device")

// Conf is a device's sysctls in a link dump; -1 means unknown to this kernel.
type Conf struct {
	Forwarding4      int32
	Forwarding6      int32
	ForceForwarding6 int32
	AcceptRA         int32
	AcceptDAD        int32
	DisableIPv6      int32
	AddrGenMode      int32
}

// Link is a network device.
type Link struct {
	Index     uint32
	PeerIndex uint32 // of a veth: the other end, in any namespace
	PeerNSID  int32  // the ID of the peer's namespace in this one; -1 if it is the same
	Name      string
	Alias     string
	Kind      string // "veth", …; empty for hardware
	Qdisc     string // the kind of the root qdisc
	Master    uint32 // the bridge, or similar, that it is a port of; 0 if none
	MAC       model.MAC
	MTU       int
	Type      uint16 // ARPHRD_
	Group     uint32
	Up        bool // administratively
	Running   bool // operational state is up: packets pass
	Loopback  bool
	Conf      Conf
}

// Ethernet reports whether the device's packets have Ethernet headers.
func (l Link) Ethernet() bool { return l.Type == 1 /* ARPHRD_ETHER */ }

// Ours reports whether the device is Fairlead's, finished or not.
func (l *Link) Ours() bool {
	if strings.HasPrefix(l.Alias, AliasPrefix) {
		return true
	}
	return (l.Group == DeviceGroup || l.Group == deletionGroup) && slices.Contains(deviceKinds, l.Kind) && strings.HasPrefix(l.Name, "fl")
}

// Links lists every device of the host.
func (h *Handle) Links() ([]Link, error) {
	ls, err := h.conn.Links()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return ls, nil
}

// Link looks up a device by index. It returns ErrNoDevice if there is none. As a side effect the
// kernel processes a pending carrier change.
func (h *Handle) Link(index uint32) (Link, error) { return h.conn.link(index, "") }

// LinkByName looks up a device by name. It returns ErrNoDevice if there is none.
func (h *Handle) LinkByName(name string) (Link, error) { return h.conn.link(0, name) }

// Constants of AF_SPEC: indices into the arrays of uapi/linux/ipv6.h (DEVCONF_) and
// uapi/linux/ip.h (IPV4_DEVCONF_), attributes and flags.
const (
	conf4Forwarding      = 0 // IPV4_DEVCONF_FORWARDING - 1
	conf6Forwarding      = 0
	conf6AcceptRA        = 3
	conf6DisableIPv6     = 26
	conf6AcceptDAD       = 27
	conf6ForceForwarding = 59
	inetConf             = 1      // IFLA_INET_CONF
	inet6Conf            = 2      // IFLA_INET6_CONF
	inet6AddrGenMode     = 8      // IFLA_INET6_ADDR_GEN_MODE
	extSkipStats         = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	operUp               = 6      // IF_OPER_UP
)

// Links lists every device.
func (c *Conn) Links() ([]Link, error) {
	msgs, err := c.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK,
		nl.NewIfInfomsg(unix.AF_UNSPEC), u32(unix.IFLA_EXT_MASK, extSkipStats))
	if err != nil {
		return nil, err
	}
	ls := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		if len(m) >= unix.SizeofIfInfomsg {
			ls = append(ls, ParseLink(m))
		}
	}
	return ls, nil
}

func (c *Conn) link(index uint32, name string) (Link, error) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	parts := []nl.NetlinkRequestData{msg, u32(unix.IFLA_EXT_MASK, extSkipStats)}
	if name != "" {
		parts = append(parts, str(unix.IFLA_IFNAME, name))
	}
	m, err := c.get(unix.RTM_GETLINK, unix.RTM_NEWLINK, parts...)
	if errors.Is(err, unix.ENODEV) {
		err = ErrNoDevice
	}
	if err != nil {
		if name != "" {
			return Link{}, fmt.Errorf("look up device %q: %w", name, err)
		}
		return Link{}, fmt.Errorf("look up device %d: %w", index, err)
	}
	return ParseLink(m), nil
}

// ParseLink decodes the body of an RTM_NEWLINK message, which has at least a struct ifinfomsg.
func ParseLink(m []byte) Link {
	flags := binary.NativeEndian.Uint32(m[8:])
	l := Link{
		Type:     binary.NativeEndian.Uint16(m[2:]),
		Index:    binary.NativeEndian.Uint32(m[4:]),
		Up:       flags&unix.IFF_UP != 0,
		Loopback: flags&unix.IFF_LOOPBACK != 0,
		PeerNSID: -1,
		Conf:     Conf{-1, -1, -1, -1, -1, -1, -1},
	}
	eachAttr(m[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = attrString(v)
		case unix.IFLA_QDISC:
			l.Qdisc = attrString(v)
		case unix.IFLA_IFALIAS:
			l.Alias = attrString(v)
		case unix.IFLA_LINK:
			l.PeerIndex = attrU32(v)
		case unix.IFLA_LINK_NETNSID:
			l.PeerNSID = int32(attrU32(v))
		case unix.IFLA_MASTER:
			l.Master = attrU32(v)
		case unix.IFLA_MTU:
			l.MTU = int(attrU32(v))
		case unix.IFLA_GROUP:
			l.Group = attrU32(v)
		case unix.IFLA_OPERSTATE:
			l.Running = len(v) > 0 && v[0] == operUp
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.MAC) {
				l.MAC = model.MAC(v)
			}
		case unix.IFLA_LINKINFO:
			eachAttr(v, func(kind uint16, v []byte) {
				if kind == nl.IFLA_INFO_KIND {
					l.Kind = attrString(v)
				}
			})
		case unix.IFLA_AF_SPEC:
			eachAttr(v, l.Conf.parse)
		}
	})
	return l
}

// parse reads one family's part of IFLA_AF_SPEC.
func (c *Conf) parse(family uint16, v []byte) {
	at := func(b []byte, i int) int32 {
		if len(b) < 4*(i+1) {
			return -1
		}
		return int32(binary.NativeEndian.Uint32(b[4*i:]))
	}
	eachAttr(v, func(kind uint16, v []byte) {
		switch {
		case family == unix.AF_INET && kind == inetConf:
			c.Forwarding4 = at(v, conf4Forwarding)
		case family == unix.AF_INET6 && kind == inet6Conf:
			c.Forwarding6 = at(v, conf6Forwarding)
			c.AcceptRA = at(v, conf6AcceptRA)
			c.DisableIPv6 = at(v, conf6DisableIPv6)
			c.AcceptDAD = at(v, conf6AcceptDAD)
			c.ForceForwarding6 = at(v, conf6ForceForwarding)
		case family == unix.AF_INET6 && kind == inet6AddrGenMode && len(v) > 0:
			c.AddrGenMode = int32(v[0])
		}
	})
}
