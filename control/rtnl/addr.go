// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Addr is an address of a device.
type Addr struct {
	IfIndex uint32
	Prefix  netip.Prefix // the address with its length, not masked
	Scope   uint8        // RT_SCOPE_
	Flags   uint32       // IFA_F_
	// Announced: Fairlead announces it for a service. It belongs to whichever host announces it.
	Announced bool
}

// IsGlobal reports whether the address may be used beyond the link, as this host's own.
func (a Addr) IsGlobal() bool {
	ip := a.Prefix.Addr()
	return !a.Announced && a.Scope == unix.RT_SCOPE_UNIVERSE && ip.IsGlobalUnicast() && a.Flags&unix.IFA_F_DADFAILED == 0
}

// Addrs lists the addresses of every device of the host.
func (h *Handle) Addrs() ([]Addr, error) {
	as, err := h.conn.Addrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return as, nil
}

// AddAddr adds an address to a device of the host, without duplicate address detection. An
// address that already exists is not an error.
func (h *Handle) AddAddr(index uint32, p netip.Prefix) error { return h.conn.AddAddr(index, p) }

// AddDeprecatedAddr adds an address like AddAddr. The kernel does not choose an IPv6 address that was
// added so as the source of packets, if the device has another one. IPv4 has no such property.
func (h *Handle) AddDeprecatedAddr(index uint32, p netip.Prefix) error {
	return h.conn.addAddr(index, p, p.Addr().Is6())
}

// DeleteAddr removes an address from a device of the host. A missing address is not an error.
func (h *Handle) DeleteAddr(index uint32, p netip.Prefix) error { return h.conn.DeleteAddr(index, p) }

// DeleteAddr removes an address from a device. A missing address is not an error.
func (c *Conn) DeleteAddr(index uint32, p netip.Prefix) error {
	err := c.do(unix.RTM_DELADDR, 0, addrMsg(index, p), addr(unix.IFA_LOCAL, p.Addr()))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove address %s from device %d: %w", p, index, err)
	}
	return nil
}

// AddAddr adds an address to a device, without duplicate address detection. An address that
// already exists is not an error.
func (c *Conn) AddAddr(index uint32, p netip.Prefix) error { return c.addAddr(index, p, false) }

func (c *Conn) addAddr(index uint32, p netip.Prefix, deprecated bool) error {
	return c.newAddr(unix.NLM_F_REPLACE, index, p, deprecated)
}

// addAnnounced adds an address with the mark of those that are announced. It must not exist.
func (c *Conn) addAnnounced(index uint32, p netip.Prefix) error {
	return c.newAddr(unix.NLM_F_EXCL, index, p, p.Addr().Is6(), nl.NewRtAttr(ifaProto, []byte{addrProtocol}))
}

func (c *Conn) newAddr(flags int, index uint32, p netip.Prefix, deprecated bool, more ...nl.NetlinkRequestData) error {
	msg := addrMsg(index, p)
	parts := []nl.NetlinkRequestData{msg, addr(unix.IFA_LOCAL, p.Addr()), addr(unix.IFA_ADDRESS, p.Addr())}
	if p.Addr().Is6() {
		msg.Flags = unix.IFA_F_NODAD
	} else if p.Bits() < 31 {
		parts = append(parts, addr(unix.IFA_BROADCAST, broadcast(p)))
	}
	if deprecated {
		parts = append(parts, nl.NewRtAttr(unix.IFA_CACHEINFO, lifetimes(0)))
	}
	err := c.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|flags, append(parts, more...)...)
	if errors.Is(err, unix.ENODEV) {
		err = ErrNoDevice
	}
	if err != nil {
		return fmt.Errorf("add address %s to device %d: %w", p, index, err)
	}
	return nil
}

// Delays of AwaitAddrs.
const (
	firstLook, lastLook = 100 * time.Microsecond, 10 * time.Millisecond
	longestWait         = time.Second
)

// AwaitAddrs waits until the kernel delivers packets to addresses that were added to devices that are up. The
// kernel adds the local route of an IPv6 address later, in a workqueue (addrconf_dad_work in net/ipv6/addrconf.c,
// also without duplicate address detection), and drops what arrives before. An address that was removed
// meanwhile, and one for which a second was not enough, are left.
func (c *Conn) AwaitAddrs(addrs []netip.Prefix) error {
	end := time.Now().Add(longestWait)
	for _, p := range addrs {
		for wait := firstLook; p.Addr().Is6(); wait = min(2*wait, lastLook) {
			local, err := c.isLocal(p.Addr())
			if err != nil {
				return fmt.Errorf("look up the route to %s: %w", p.Addr(), err)
			}
			if local || time.Now().After(end) || wait == lastLook && !c.has(p) {
				break
			}
			time.Sleep(wait)
		}
	}
	return nil
}

// has reports whether a device has an address, as far as that can be read.
func (c *Conn) has(p netip.Prefix) bool {
	all, err := c.Addrs()
	return err != nil || slices.ContainsFunc(all, func(a Addr) bool { return a.Prefix == p })
}

// isLocal reports whether packets to an address are for this namespace.
func (c *Conn) isLocal(a netip.Addr) (bool, error) {
	m, err := c.get(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, lookup(a), addr(unix.RTA_DST, a))
	if err != nil && errors.As(err, new(unix.Errno)) {
		return false, nil // no route leads there, or one that rejects packets
	}
	return err == nil && len(m) >= unix.SizeofRtMsg && m[7] == unix.RTN_LOCAL, err
}

// lifetimes returns a struct ifa_cacheinfo with a preferred lifetime in seconds, and an infinite
// valid lifetime.
func lifetimes(preferred uint32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, preferred)
	b = binary.NativeEndian.AppendUint32(b, math.MaxUint32)
	return append(b, make([]byte, 8)...) // timestamps, which the kernel sets
}

func addrMsg(index uint32, p netip.Prefix) *nl.IfAddrmsg {
	msg := nl.NewIfAddrmsg(Family(p.Addr()))
	msg.Index = index
	msg.Prefixlen = uint8(p.Bits())
	if p.Addr().IsLoopback() {
		msg.Scope = unix.RT_SCOPE_HOST
	}
	return msg
}

// broadcast returns the last address of an IPv4 prefix.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | ^uint32(0)>>p.Bits()
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

// Addrs lists the addresses of every device.
func (c *Conn) Addrs() ([]Addr, error) {
	msgs, err := c.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, err
	}
	as := make([]Addr, 0, len(msgs))
	for _, m := range msgs {
		if a, ok := ParseAddr(m); ok {
			as = append(as, a)
		}
	}
	return as, nil
}

// ParseAddr decodes the body of an RTM_NEWADDR message.
func ParseAddr(m []byte) (Addr, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return Addr{}, false
	}
	a := Addr{IfIndex: binary.NativeEndian.Uint32(m[4:]), Flags: uint32(m[2]), Scope: m[3]}
	// For IPv4, LOCAL is the device's own address and ADDRESS may be a peer's. IPv6 omits LOCAL
	// when there is no peer.
	var local, other netip.Addr
	eachAttr(m[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFA_LOCAL:
			local = attrAddr(v)
		case unix.IFA_ADDRESS:
			other = attrAddr(v)
		case unix.IFA_FLAGS:
			a.Flags = attrU32(v)
		case ifaProto:
			a.Announced = len(v) > 0 && v[0] == addrProtocol
		}
	})
	if !local.IsValid() {
		local = other
	}
	a.Prefix = netip.PrefixFrom(local, int(m[1]))
	return a, a.Prefix.IsValid()
}
