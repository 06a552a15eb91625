// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

// ErrExists is returned when a device of that name already exists.
var ErrExists = errors.New("a device of that name already exists")

// ErrNoDevice is returned when a device does not exist.
var ErrNoDevice = errors.New("no such device")

// deviceGroup marks Fairlead's devices from their creation. The alias, which cannot be set in the
// same message, marks a finished device.
const deviceGroup = 0x666c

// deletionGroup is the group of devices that are deleted together.
const deletionGroup = 0x666d

// deletedTogether bounds how many devices are deleted together: the kernel holds the RTNL lock
// meanwhile, about 10 ms for each device that has a tcx program.
const deletedTogether = 8

// deletionPoll is the interval at which DeleteLink checks whether the device still exists.
const deletionPoll = 2 * time.Millisecond

// AliasPrefix is the prefix of the aliases of Fairlead's devices.
const AliasPrefix = "fairlead:"

// Aliases of Fairlead's devices: a role, followed by the ID of the object.
const (
	aliasEndpoint = AliasPrefix + "endpoint:" // an endpoint's host end
	aliasGateway  = AliasPrefix + "gateway:"  // a host port's end with the addresses
	aliasHostPort = AliasPrefix + "hostport:" // a host port's end with the program
	aliasSandbox  = AliasPrefix + "sandbox:"  // an endpoint's end in the sandbox
)

// EndpointAlias returns the alias of an endpoint's finished host end.
func EndpointAlias(endpointID string) string { return aliasEndpoint + endpointID }

// GatewayAlias returns the alias of the host port's end that has the addresses.
func GatewayAlias(networkID string) string { return aliasGateway + networkID }

// HostPortAlias returns the alias of the host port's end that has the program.
func HostPortAlias(networkID string) string { return aliasHostPort + networkID }

// SandboxAlias returns the alias of an endpoint's end in the sandbox.
func SandboxAlias(endpointID string) string { return aliasSandbox + endpointID }

// EndpointDevice returns the name of an endpoint's host end.
func EndpointDevice(endpointID string) string { return "fl" + head(endpointID, 12) }

// GatewayDevice returns the name of the host port's end that has the addresses.
func GatewayDevice(networkID string) string { return "flg" + head(networkID, 11) }

// HostPortDevice returns the name of the host port's end that has the program.
func HostPortDevice(networkID string) string { return "flp" + head(networkID, 11) }

func head(s string, n int) string { return s[:min(n, len(s))] }

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
	return (l.Group == deviceGroup || l.Group == deletionGroup) && l.Kind == "veth" && strings.HasPrefix(l.Name, "fl")
}

// Links lists every device of the host.
func (h *Handle) Links() ([]Link, error) {
	ls, err := h.conn.links()
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

// DeleteLink removes a device. A missing device is not an error. It returns when the device can
// no longer be found: the kernel replies only after it has freed the memory, for which it waits
// for all CPUs and for other deletions.
func (h *Handle) DeleteLink(index uint32) error {
	done := make(chan error, 1)
	h.deletions.Go(func() { done <- h.deleteLink(index) })
	look := time.NewTicker(deletionPoll)
	defer look.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-look.C:
			if _, err := h.Link(index); errors.Is(err, ErrNoDevice) {
				return nil
			}
		}
	}
}

// deleteLink uses a socket of its own, since the reply takes long.
func (h *Handle) deleteLink(index uint32) error {
	var c *conn
	err := h.Do(func() (err error) {
		c, err = dial()
		return err
	})
	if err != nil {
		return err
	}
	defer c.close()
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	err = c.do(unix.RTM_DELLINK, 0, msg)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %d: %w", index, err)
	}
	return nil
}

// DeleteLinks removes devices. Missing devices are not an error. Deleting many at once takes
// little longer than deleting one, since the kernel waits for all CPUs after each deletion.
func (h *Handle) DeleteLinks(indices []uint32) error {
	var there []uint32
	for _, index := range indices {
		_, err := h.Link(index)
		if err == nil {
			there = append(there, index)
		} else if !errors.Is(err, ErrNoDevice) {
			return err
		}
	}
	together := len(there) > 1 && h.groupIsFree(deletionGroup)
	var errs []error
	for some := range slices.Chunk(there, deletedTogether) {
		if together {
			errs = append(errs, h.deleteTogether(some))
			continue
		}
		for _, index := range some {
			errs = append(errs, h.DeleteLink(index))
		}
	}
	return errors.Join(errs...)
}

// groupIsFree reports whether a group has no devices other than Fairlead's.
func (h *Handle) groupIsFree(group uint32) bool {
	links, err := h.conn.links()
	return err == nil && !slices.ContainsFunc(links, func(l Link) bool { return l.Group == group && !l.Ours() })
}

// deleteTogether moves the devices into the deletion group and deletes the group.
func (h *Handle) deleteTogether(indices []uint32) error {
	for _, index := range indices {
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(index)
		err := h.conn.do(unix.RTM_SETLINK, 0, msg, u32(unix.IFLA_GROUP, deletionGroup))
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("put device %d into a group: %w", index, err)
		}
	}
	err := h.conn.do(unix.RTM_DELLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), u32(unix.IFLA_GROUP, deletionGroup))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %d devices: %w", len(indices), err)
	}
	return nil
}

// Constants of AF_SPEC: indices into the arrays of uapi/linux/ipv6.h (DEVCONF_) and
// uapi/linux/ip.h (IPV4_DEVCONF_), attributes and flags.
const (
	conf4Forwarding      = 0 // IPV4_DEVCONF_FORWARDING - 1
	conf6Forwarding      = 0
	conf6AcceptRA        = 3
	conf6DisableIPv6     = 26
	conf6AcceptDAD       = 27
	conf6ForceForwarding = 59

	inetConf         = 1 // IFLA_INET_CONF
	inet6Conf        = 2 // IFLA_INET6_CONF
	inet6AddrGenMode = 8 // IFLA_INET6_ADDR_GEN_MODE

	extSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	operUp       = 6      // IF_OPER_UP
)

func (c *conn) links() ([]Link, error) {
	msgs, err := c.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK,
		nl.NewIfInfomsg(unix.AF_UNSPEC), u32(unix.IFLA_EXT_MASK, extSkipStats))
	if err != nil {
		return nil, err
	}
	ls := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		if len(m) >= unix.SizeofIfInfomsg {
			ls = append(ls, parseLink(m))
		}
	}
	return ls, nil
}

func (c *conn) link(index uint32, name string) (Link, error) {
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
	return parseLink(m), nil
}

func parseLink(m []byte) Link {
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
