// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks Fairlead's routes (rtm_protocol).
const RouteProtocol = 76

// Route is a unicast route.
type Route struct {
	Dst      netip.Prefix // 0.0.0.0/0 or ::/0 for a default route
	Gateway  netip.Addr
	Devices  []uint32 // more than one for a multipath route
	Table    uint32
	Protocol uint8
	Priority uint32
}

// Routes calls fn for every unicast route of the host, until it returns false.
func (h *Handle) Routes(fn func(Route) bool) error {
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := h.conn.Routes(fam)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if !fn(r) {
				return nil
			}
		}
	}
	return nil
}

// Addresses that nothing has and only a default route covers: one of RFC 7600, and one of a block
// that IANA has not allocated.
var (
	probeDst4 = netip.MustParseAddr("192.0.0.8")
	probeDst6 = netip.MustParseAddr("2000::1")
)

// maxDefaultBits is 1, because two routes with a prefix length of 1 are a default route as well.
const maxDefaultBits = 1

// DefaultDevices lists the devices of the default routes that the host's own packets take. It
// looks up one address per family, however many routes there are.
func (h *Handle) DefaultDevices() ([]uint32, error) {
	var devices []uint32
	for _, dst := range []netip.Addr{probeDst4, probeDst6} {
		r, err := h.conn.matchRoute(dst)
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up default route: %w", err)
		}
		if r.Dst.Bits() <= maxDefaultBits {
			devices = append(devices, r.Devices...)
		}
	}
	return devices, nil
}

// Hop is how the host's own packets to an address leave.
type Hop struct {
	Device  uint32
	Gateway netip.Addr
	Source  netip.Addr // that the kernel prefers
	MTU     int        // of the route, or learned for the address; 0: that of the device
}

// HopTo looks up the route that packets to an address take. It returns the zero Hop if there is none.
func (h *Handle) HopTo(dst netip.Addr) (Hop, error) {
	msg := lookup(dst)
	m, err := h.conn.get(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, msg, addr(unix.RTA_DST, dst))
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return Hop{}, nil
	}
	if err != nil {
		return Hop{}, fmt.Errorf("look up the route to %s: %w", dst, err)
	}
	var hop Hop
	if len(m) < unix.SizeofRtMsg || m[7] != unix.RTN_UNICAST {
		return hop, nil
	}
	eachAttr(m[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_OIF:
			hop.Device = attrU32(v)
		case unix.RTA_GATEWAY:
			hop.Gateway = attrAddr(v)
		case unix.RTA_PREFSRC:
			hop.Source = attrAddr(v)
		case unix.RTA_METRICS:
			eachAttr(v, func(kind uint16, v []byte) {
				if kind == unix.RTAX_MTU {
					hop.MTU = int(attrU32(v))
				}
			})
		}
	})
	return hop, nil
}

// DefaultSources returns the addresses that the host's packets to the outside have, zero for a family
// without a default route.
func (h *Handle) DefaultSources() (v4, v6 netip.Addr, err error) {
	hop4, err := h.HopTo(probeDst4)
	if err != nil {
		return v4, v6, err
	}
	hop6, err := h.HopTo(probeDst6)
	return hop4.Source, hop6.Source, err
}

// lookup returns the request for the route to an address.
func lookup(dst netip.Addr) *nl.RtMsg {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len = uint8(Family(dst)), uint8(dst.BitLen())
	msg.Table, msg.Scope, msg.Protocol, msg.Type = 0, 0, 0, 0
	return msg
}

// matchRoute finds the unicast route that packets to dst take. It returns an empty Route if the
// route is of another kind.
func (c *Conn) matchRoute(dst netip.Addr) (Route, error) {
	msg := lookup(dst)
	msg.Flags = unix.RTM_F_FIB_MATCH
	m, err := c.get(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, msg, addr(unix.RTA_DST, dst))
	if err != nil {
		return Route{}, err
	}
	r, _ := parseRoute(m)
	return r, nil
}

// Routes lists the unicast routes of an address family (AF_INET, AF_INET6), in the order in which
// the kernel uses them.
func (c *Conn) Routes(fam int) ([]Route, error) {
	msg := nl.NewRtMsg()
	msg.Family = uint8(fam)
	msg.Table, msg.Scope, msg.Protocol, msg.Type = 0, 0, 0, 0
	msgs, err := c.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, msg)
	if err != nil {
		return nil, err
	}
	var rs []Route
	for _, m := range msgs {
		if r, ok := parseRoute(m); ok {
			rs = append(rs, r)
		}
	}
	return rs, nil
}

// ReplaceDefault sets the default route of the gateway's family.
func (c *Conn) ReplaceDefault(gw netip.Addr, device uint32) error {
	msg := nl.NewRtMsg()
	msg.Family = uint8(Family(gw))
	msg.Protocol = RouteProtocol
	err := c.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		msg, addr(unix.RTA_GATEWAY, gw), u32(unix.RTA_OIF, device))
	if err != nil {
		return fmt.Errorf("set default route via %s: %w", gw, err)
	}
	return nil
}

// DeleteDefault removes a default route of Fairlead's. A missing route is not an error.
func (c *Conn) DeleteDefault(r Route) error {
	msg := nl.NewRtDelMsg()
	msg.Family = uint8(Family(r.Dst.Addr()))
	msg.Protocol = RouteProtocol
	msg.Table = unix.RT_TABLE_MAIN
	parts := []nl.NetlinkRequestData{msg, u32(unix.RTA_PRIORITY, r.Priority)}
	if r.Gateway.IsValid() {
		parts = append(parts, addr(unix.RTA_GATEWAY, r.Gateway))
	}
	if len(r.Devices) == 1 {
		parts = append(parts, u32(unix.RTA_OIF, r.Devices[0]))
	}
	err := c.do(unix.RTM_DELROUTE, 0, parts...)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove default route via %s: %w", r.Gateway, err)
	}
	return nil
}

func parseRoute(m []byte) (Route, bool) {
	if len(m) < unix.SizeofRtMsg || m[7] != unix.RTN_UNICAST {
		return Route{}, false
	}
	r := Route{Table: uint32(m[4]), Protocol: m[5]}
	dst := netip.IPv4Unspecified()
	if m[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	cloned := binary.NativeEndian.Uint32(m[8:])&unix.RTM_F_CLONED != 0
	eachAttr(m[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_DST:
			dst = attrAddr(v)
		case unix.RTA_GATEWAY:
			r.Gateway = attrAddr(v)
		case unix.RTA_OIF:
			r.Devices = append(r.Devices, attrU32(v))
		case unix.RTA_TABLE:
			r.Table = attrU32(v)
		case unix.RTA_PRIORITY:
			r.Priority = attrU32(v)
		case unix.RTA_MULTIPATH:
			r.Devices = append(r.Devices, nextHops(v)...)
		}
	})
	r.Dst = netip.PrefixFrom(dst, int(m[1]))
	return r, !cloned && r.Dst.IsValid()
}

// nextHops returns the devices in RTA_MULTIPATH, an array of struct rtnexthop, each with
// attributes.
func nextHops(b []byte) []uint32 {
	var devs []uint32
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			break
		}
		devs = append(devs, binary.NativeEndian.Uint32(b[4:]))
		b = b[min(len(b), (n+3)&^3):]
	}
	return devs
}
