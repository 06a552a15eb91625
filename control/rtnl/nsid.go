// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// NetNSID returns the ID that a namespace has in the connection's own, or -1 if it has none.
func (c *Conn) NetNSID(ns *NetNS) (int32, error) {
	msg := nl.NewRtGenMsg()
	b, err := c.get(unix.RTM_GETNSID, unix.RTM_NEWNSID, msg, u32(netlink.NETNSA_FD, uint32(ns.FD())))
	if err != nil {
		return -1, err
	}
	id := int32(-1)
	eachAttr(b[min(msg.Len(), len(b)):], func(kind uint16, v []byte) {
		if kind == netlink.NETNSA_NSID {
			id = int32(attrU32(v))
		}
	})
	return id, nil
}

// AssignNetNSID assigns a free ID to a namespace that has none in the connection's own.
func (c *Conn) AssignNetNSID(ns *NetNS) error {
	const free = ^uint32(0)
	return c.do(unix.RTM_NEWNSID, 0, nl.NewRtGenMsg(), u32(netlink.NETNSA_FD, uint32(ns.FD())), u32(netlink.NETNSA_NSID, free))
}
