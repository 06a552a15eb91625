// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// Uplink is a device packets leave the host by.
type Uplink struct {
	IfIndex    uint32
	IPv4, IPv6 netip.Addr // to masquerade with when the route names none; zero: none
	Stack      bool       // what goes there is the host's stack's to forward
	Below      int        // uplinks that packets still leave by below this one
}

// String is for logs.
func (u Uplink) String() string { return fmt.Sprintf("uplink if%d %s %s", u.IfIndex, u.IPv4, u.IPv6) }

func (u Uplink) raw() (uint32, bpf.TCUplink) {
	v := bpf.TCUplink{Ip4: toIP(u.IPv4), Ip6: toIP(u.IPv6)}
	if u.Stack {
		v.Flags = uint32(bpf.TCUpFlagUP_STACK)
	}
	v.Flags += uint32(u.Below) * uint32(bpf.TCUpFlagUP_BELOW)
	return u.IfIndex, v
}

func uplinkFrom(ifindex uint32, v bpf.TCUplink) Uplink {
	return Uplink{
		IfIndex: ifindex, IPv4: fromIP(v.Ip4), IPv6: fromIP(v.Ip6),
		Stack: v.Flags&uint32(bpf.TCUpFlagUP_STACK) != 0, Below: int(v.Flags / uint32(bpf.TCUpFlagUP_BELOW)),
	}
}

// Uplinks is fl_uplink: uplinks by device.
type Uplinks struct {
	view[uint32, bpf.TCUplink, Uplink]
}

// Delete removes an uplink; absent is success.
func (t *Uplinks) Delete(ifindex uint32) (deleted bool, err error) { return t.table.Delete(ifindex) }
