// SPDX-License-Identifier: Apache-2.0

// Package uplink selects the devices by which traffic leaves the host, and describes what prevents
// one from working.
package uplink

import (
	"cmp"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Uplink is a device through which traffic leaves the host's own stack.
type Uplink struct {
	IfIndex uint32
	Name    string
	IPv4    netip.Addr // to masquerade with; zero if there is none
	IPv6    netip.Addr
	// Stack: a bridge of containers or guests that another program created. The host's stack
	// forwards what is sent there, so that the creator's firewall rules apply.
	Stack bool
	Below int  // number of further uplinks that its packets leave by
	Kept  bool // currently it has neither address nor route
	// ReceivesBelow: an uplink below this one sees its ingress packets as addressed to the host
	// (an ipvlan device, which has the MAC of the device below).
	ReceivesBelow bool
	LAN           uint32 // index of the network whose members are on its link, 0 if there is none
}

// Rules select uplinks.
type Rules struct {
	Pinned []string        // names; if empty, uplinks are found
	Kept   map[string]bool // names of recent uplinks
	// Devices with routes, of those that nothing else identifies.
	Routed map[uint32]bool
	// Devices of default routes.
	Default []uint32
	// Indices of the networks whose members are on the link of a device, by its name.
	Parents map[string]uint32
}

// Find selects the uplinks among the host's devices: those with pinned names, or else all
// that are not loopbacks or Fairlead's own and have a global address or a route. A device that is
// down is an uplink too, since its programs must be attached before its first packet. A device
// without Ethernet headers never is, since the programs expect them.
func Find(links []rtnl.Link, addrs []rtnl.Addr, rules Rules) []Uplink {
	byLink := make(map[uint32][]rtnl.Addr)
	for _, a := range addrs {
		if a.IsGlobal() {
			byLink[a.IfIndex] = append(byLink[a.IfIndex], a)
		}
	}
	var spare4, spare6 []rtnl.Addr // for uplinks without an address of their own
	var ups []Uplink
	for _, l := range links {
		own := byLink[l.Index]
		if l.Ours() {
			continue
		}
		if l.Up {
			spare4, spare6 = append(spare4, own...), append(spare6, own...)
		}
		if l.Loopback || !l.Ethernet() || !rules.choose(l, links, len(own) > 0) {
			continue
		}
		ups = append(ups, Uplink{
			IfIndex: l.Index, Name: l.Name, IPv4: best(own, model.V4), IPv6: best(own, model.V6),
			Stack: len(rules.Pinned) == 0 && isInner(l, links) && !slices.Contains(rules.Default, l.Index),
			LAN:   rules.Parents[l.Name],
			Kept:  len(rules.Pinned) == 0 && len(own) == 0 && !rules.Routed[l.Index],
		})
	}
	for i := range ups {
		// Unnumbered: like the kernel, use another device's address.
		if !ups[i].IPv4.IsValid() {
			ups[i].IPv4 = best(spare4, model.V4)
		}
		if !ups[i].IPv6.IsValid() {
			ups[i].IPv6 = best(spare6, model.V6)
		}
	}
	stack(ups, links)
	return ups
}

// stack determines which uplinks send and receive by others.
func stack(ups []Uplink, links []rtnl.Link) {
	is := make(map[uint32]bool)
	for _, u := range ups {
		is[u.IfIndex] = true
	}
	by := lowers(links)
	for i, u := range ups {
		ups[i].Below = min(countBelow(u.IfIndex, by, is, maxStack), MaxBelow)
		ups[i].ReceivesBelow = ups[i].Below > 0 && slices.ContainsFunc(links, func(l rtnl.Link) bool {
			return l.Index == u.IfIndex && isIPVLAN(l)
		})
	}
}

func (r *Rules) choose(l rtnl.Link, links []rtnl.Link, addressed bool) bool {
	if r.Parents[l.Name] != 0 {
		return true
	}
	if len(r.Pinned) > 0 {
		return slices.Contains(r.Pinned, l.Name)
	}
	return addressed || r.Routed[l.Index] || r.Kept[l.Name] && !isPort(l, links)
}

// isPort reports whether a device is a port of a bridge or bond: IP packets that arrive there
// belong to the bridge or bond.
func isPort(l rtnl.Link, links []rtnl.Link) bool {
	return l.Master != 0 && slices.ContainsFunc(links, func(m rtnl.Link) bool {
		return m.Index == l.Master && m.Kind != "vrf"
	})
}

// maxStack bounds the depth of stacked devices.
const maxStack = 8

// MaxBelow is the maximum of Uplink.Below (UP_BELOW_MAX).
const MaxBelow = 7

// lowers returns, by device, the devices through which it sends its packets unchanged. VLAN
// devices are excluded, since the tag puts their packets into another segment.
func lowers(links []rtnl.Link) map[uint32][]uint32 {
	all := make(map[uint32][]uint32)
	for _, l := range links {
		if l.Master != 0 {
			all[l.Master] = append(all[l.Master], l.Index)
		}
		if l.PeerNSID == -1 && (isMACVLAN(l) || isIPVLAN(l)) {
			all[l.Index] = append(all[l.Index], l.PeerIndex)
		}
	}
	return all
}

func isMACVLAN(l rtnl.Link) bool { return l.Kind == "macvlan" || l.Kind == "macvtap" }
func isIPVLAN(l rtnl.Link) bool  { return l.Kind == "ipvlan" || l.Kind == "ipvtap" }

// countBelow returns the number of uplinks below a device that a packet leaves by.
func countBelow(index uint32, lowers map[uint32][]uint32, ups map[uint32]bool, depth int) int {
	if depth == 0 {
		return 0
	}
	most := 0
	for _, lower := range lowers[index] {
		n := countBelow(lower, lowers, ups, depth-1)
		if ups[lower] {
			n++
		}
		most = max(most, n)
	}
	return most
}

// isInner reports whether a device is a bridge for containers and guests only: all its ports are
// veth devices or taps.
func isInner(bridge rtnl.Link, links []rtnl.Link) bool {
	return bridge.Kind == "bridge" && !slices.ContainsFunc(links, func(port rtnl.Link) bool {
		return port.Master == bridge.Index && port.Kind != "veth" && port.Kind != "tun"
	})
}

// MayBe reports whether only routes can show that a device is an uplink: it is up, so that
// it can have routes, and has no global address.
func MayBe(l rtnl.Link, addrs []rtnl.Addr) bool {
	return l.Up && !l.Loopback && l.Ethernet() && !l.Ours() &&
		!slices.ContainsFunc(addrs, func(a rtnl.Addr) bool { return a.IfIndex == l.Index && a.IsGlobal() })
}

// best returns the address of a family to masquerade with: the first one, in the kernel's order,
// of the best class.
func best(as []rtnl.Addr, f model.Family) netip.Addr {
	var found []rtnl.Addr
	for _, a := range as {
		if model.FamilyOf(a.Prefix.Addr()) == f {
			found = append(found, a)
		}
	}
	if len(found) == 0 {
		return netip.Addr{}
	}
	return slices.MinFunc(found, func(a, b rtnl.Addr) int { return cmp.Compare(rank(a), rank(b)) }).Prefix.Addr()
}

// rank orders classes of addresses; lower is better. The IPv6 flag SECONDARY means temporary:
// such addresses are removed while flows still use them.
func rank(a rtnl.Addr) int {
	r := 0
	if a.Flags&unix.IFA_F_TENTATIVE != 0 {
		r += 8 // usable soon; flows that use it keep it
	}
	if a.Flags&unix.IFA_F_DEPRECATED != 0 {
		r += 4
	}
	if ip := a.Prefix.Addr(); ip.Is6() && ip.IsPrivate() {
		r += 2 // unique local: not routed on the Internet
	}
	if a.Flags&unix.IFA_F_SECONDARY != 0 {
		r++
	}
	return r
}
