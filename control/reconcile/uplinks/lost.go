// SPDX-License-Identifier: Apache-2.0

package uplinks

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// lostAddrs are addresses that the host no longer has.
type lostAddrs map[netip.Addr]lostAddr

type lostAddr struct {
	device uint32 // that had it
	since  time.Time
}

func (m *lostAddrs) add(a netip.Addr, device uint32) {
	if *m == nil {
		*m = make(lostAddrs)
	}
	(*m)[a] = lostAddr{device, time.Now()}
}

// expired removes the addresses that are back from m, and removes and returns those that were
// lost for longer than linger.
func (m lostAddrs) expired(now map[netip.Addr]uint32, links []rtnl.Link, linger time.Duration) (list []netip.Addr) {
	for a, lost := range m {
		if _, ok := now[a]; ok {
			delete(m, a)
			continue
		}
		if isDown(links, func(l rtnl.Link) bool { return l.Index == lost.device }) {
			m[a] = lostAddr{lost.device, time.Now()}
		} else if time.Since(lost.since) > linger {
			delete(m, a)
			list = append(list, a)
		}
	}
	return list
}

// addrs returns these addresses, marked as tentative.
func (m lostAddrs) addrs() []rtnl.Addr {
	list := make([]rtnl.Addr, 0, len(m))
	for a, lost := range m {
		list = append(list, rtnl.Addr{
			IfIndex: lost.device, Prefix: netip.PrefixFrom(a, a.BitLen()),
			Scope: unix.RT_SCOPE_UNIVERSE, Flags: unix.IFA_F_TENTATIVE,
		})
	}
	slices.SortFunc(list, func(a, b rtnl.Addr) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	return list
}

func isDown(links []rtnl.Link, which func(rtnl.Link) bool) bool {
	return slices.ContainsFunc(links, func(l rtnl.Link) bool { return !l.Up && which(l) })
}
