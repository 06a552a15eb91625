// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"cmp"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Uplink is a device through which traffic leaves the host's own stack.
type Uplink struct {
	IfIndex uint32
	Name    string
	IPv4    netip.Addr // to masquerade with; zero: none
	IPv6    netip.Addr
	// Stack: a bridge of containers or guests that others made. What goes there is the
	// host's stack's to forward, where the rules of whoever made it hold.
	Stack bool
}

// FindUplinks chooses the uplinks among the host's devices: with pinned those
// that bear one of the names, else every one that is up, is not a loopback nor
// Fairlead's own, and has a global address or a route (routed says which). A
// device whose packets have no Ethernet header never is: programs there would
// look for one.
func FindUplinks(links []Link, addrs []Addr, routed map[uint32]bool, pinned []string) []Uplink {
	byLink := make(map[uint32][]Addr)
	var spare4, spare6 []Addr // for uplinks that have no address of their own
	for _, a := range addrs {
		if global(a) {
			byLink[a.IfIndex] = append(byLink[a.IfIndex], a)
		}
	}
	var ups []Uplink
	for _, l := range links {
		own := byLink[l.Index]
		if l.Ours() || !l.Up {
			continue
		}
		spare4, spare6 = append(spare4, own...), append(spare6, own...)
		if l.Loopback || !l.Ethernet() {
			continue
		}
		if len(pinned) > 0 && !slices.Contains(pinned, l.Name) {
			continue
		}
		if len(pinned) == 0 && len(own) == 0 && !routed[l.Index] {
			continue
		}
		ups = append(ups, Uplink{
			IfIndex: l.Index, Name: l.Name, IPv4: best(own, true), IPv6: best(own, false),
			Stack: len(pinned) == 0 && isInner(l, links),
		})
	}
	for i := range ups {
		// Unnumbered: the kernel, too, would take another device's address.
		if !ups[i].IPv4.IsValid() {
			ups[i].IPv4 = best(spare4, true)
		}
		if !ups[i].IPv6.IsValid() {
			ups[i].IPv6 = best(spare6, false)
		}
	}
	return ups
}

// isInner reports whether a device is a bridge that leads nowhere but to containers and
// guests: it has no other ports than ends of veth pairs and taps.
func isInner(bridge Link, links []Link) bool {
	return bridge.Kind == "bridge" && !slices.ContainsFunc(links, func(port Link) bool {
		return port.Master == bridge.Index && port.Kind != "veth" && port.Kind != "tun"
	})
}

// MayBeUplink reports whether only its routes can tell if a device is an
// uplink: it is up and has no global address.
func MayBeUplink(l Link, addrs []Addr) bool {
	return l.Up && !l.Loopback && l.Ethernet() && !l.Ours() &&
		!slices.ContainsFunc(addrs, func(a Addr) bool { return a.IfIndex == l.Index && global(a) })
}

// global reports whether packets to elsewhere may bear the address.
func global(a Addr) bool {
	ip := a.Prefix.Addr()
	return a.Scope == unix.RT_SCOPE_UNIVERSE && ip.IsGlobalUnicast() &&
		a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
}

// best is the address of a family to masquerade with. The first one wins, in
// the kernel's order, unless another is of a better class.
func best(as []Addr, is4 bool) netip.Addr {
	var found []Addr
	for _, a := range as {
		if a.Prefix.Addr().Is4() == is4 {
			found = append(found, a)
		}
	}
	if len(found) == 0 {
		return netip.Addr{}
	}
	return slices.MinFunc(found, func(a, b Addr) int { return cmp.Compare(rank(a), rank(b)) }).Prefix.Addr()
}

// rank orders classes of addresses; lower is better. For IPv6 the flag
// SECONDARY means temporary: those go away while flows still use them.
func rank(a Addr) int {
	r := 0
	if a.Flags&unix.IFA_F_DEPRECATED != 0 {
		r += 4
	}
	if ip := a.Prefix.Addr(); ip.Is6() && ip.IsPrivate() {
		r += 2 // unique local: does not reach the internet
	}
	if a.Flags&unix.IFA_F_SECONDARY != 0 {
		r++
	}
	return r
}
