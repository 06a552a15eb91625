// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// LocalPrefixes lists, sorted, the prefixes that are the host's by a local route only, not by an
// address (ip route add local PREFIX dev lo). addrs are the host's addresses.
func (h *Handle) LocalPrefixes(addrs []Addr) ([]netip.Prefix, error) {
	seen := make(map[netip.Prefix]bool)
	err := h.Do(func() error {
		// A separate socket, since the kernel filters by table only with strict checks.
		c, err := Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.strict(); err != nil {
			return err
		}
		for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
			msg := nl.NewRtMsg()
			msg.Family, msg.Table, msg.Type = uint8(fam), unix.RT_TABLE_LOCAL, unix.RTN_LOCAL
			msg.Scope, msg.Protocol = 0, 0
			msgs, err := c.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, msg)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
				continue // no such table yet, or no such family
			}
			if err != nil {
				return err
			}
			for _, m := range msgs {
				if p, ok := localPrefix(m); ok {
					seen[p] = true
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list local routes: %w", err)
	}
	for _, a := range addrs {
		delete(seen, netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen()))
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Prefix.Compare), nil
}

// localPrefix reads the destination of a local route, unless it is a loopback one.
func localPrefix(m []byte) (p netip.Prefix, ok bool) {
	if len(m) < unix.SizeofRtMsg || m[4] != unix.RT_TABLE_LOCAL || m[7] != unix.RTN_LOCAL {
		return p, false
	}
	eachAttr(m[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		if kind == unix.RTA_DST {
			p = netip.PrefixFrom(attrAddr(v), int(m[1]))
		}
	})
	return p, p.IsValid() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast()
}
