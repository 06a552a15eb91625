// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// Uplink is a device by which packets leave the host.
type Uplink struct {
	IfIndex    uint32
	IPv4, IPv6 netip.Addr // to masquerade with if the route prefers none; zero if absent
	Stack      bool       // the host's stack forwards packets to it
	Below      int        // number of uplinks below this one that packets still pass
	LAN        uint32     // index of the network whose members are on its link; 0: none
}

// String is for logs.
func (u Uplink) String() string { return fmt.Sprintf("uplink if%d %s %s", u.IfIndex, u.IPv4, u.IPv6) }

func (u Uplink) raw() (uint32, bpf.TCUplink) {
	flags := when(u.Stack, uint32(bpf.TCUpFlagUP_STACK)) | when(u.LAN != 0, uint32(bpf.TCUpFlagUP_LAN)) | uint32(u.Below)*uint32(bpf.TCUpFlagUP_BELOW)
	return u.IfIndex, bpf.TCUplink{Ip4: bpf.IPOf(u.IPv4), Ip6: bpf.IPOf(u.IPv6), Flags: flags, Lan: u.LAN}
}

func uplinkFrom(ifindex uint32, v bpf.TCUplink) Uplink {
	return Uplink{
		IfIndex: ifindex, IPv4: v.Ip4.Addr(), IPv6: v.Ip6.Addr(),
		Stack: v.Flags&uint32(bpf.TCUpFlagUP_STACK) != 0, Below: int(v.Flags % uint32(bpf.TCUpFlagUP_LAN) / uint32(bpf.TCUpFlagUP_BELOW)),
		LAN: v.Lan,
	}
}

// Uplinks is fl_uplink: uplinks by device.
type Uplinks struct {
	view[uint32, bpf.TCUplink, Uplink]
}

// Delete removes an uplink; absent is success.
func (t *Uplinks) Delete(ifindex uint32) (deleted bool, err error) {
	return t.view.Delete(Uplink{IfIndex: ifindex})
}
