// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Problems describes, one per line, problems of devices that traffic leaves the host by and
// that do not work as uplinks. encrypted means that the host has IPsec policies for outgoing
// packets.
func Problems(links []rtnl.Link, addrs []rtnl.Addr, rules Rules, encrypted bool) []string {
	var list []string
	say := func(device, format string, args ...any) {
		list = append(list, device+": "+fmt.Sprintf(format, args...))
	}
	ups := Find(links, addrs, rules)
	is := func(index uint32) bool {
		return slices.ContainsFunc(ups, func(u Uplink) bool { return u.IfIndex == index })
	}
	for _, name := range rules.Pinned {
		if !slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Name == name }) {
			say(name, "no such device (--uplink)")
		}
	}
	through := slices.Compact(slices.Sorted(slices.Values(rules.Default)))
	for _, l := range links {
		leads, named := slices.Contains(through, l.Index), slices.Contains(rules.Pinned, l.Name)
		switch {
		case l.Ours() || l.Loopback:
		case !l.Ethernet() && (leads || named):
			say(l.Name, "its packets have no Ethernet header: egress traffic is not masqueraded, and ingress traffic goes to the host only (docs/limits.md)")
		case leads && !is(l.Index):
			say(l.Name, "the default route uses it, but --uplink does not name it")
		case is(l.Index) && !l.Up:
			say(l.Name, "it is down")
		case is(l.Index) && isPort(l, links):
			say(l.Name, "it is a port of another device, which should have its addresses")
		}
	}
	if len(links) > 0 && len(ups) == 0 {
		list = append(list, "no uplink found: nothing is masqueraded, and only the host and its sandboxes can reach published ports")
	}
	if encrypted {
		list = append(list, "the host has IPsec policies for outgoing packets, which packets of sandboxes bypass, except in tunnels to other hosts (docs/limits.md)")
	}
	return list
}

// FindProblems returns Problems for the host's current state.
func FindProblems(h *rtnl.Handle, pinned []string) ([]string, error) {
	links, err := h.Links()
	if err != nil {
		return nil, err
	}
	addrs, err := h.Addrs()
	if err != nil {
		return nil, err
	}
	through, err := h.DefaultDevices()
	if err != nil {
		return nil, err
	}
	encrypted, err := encrypts(h)
	if err != nil {
		return nil, err
	}
	rules := Rules{Pinned: pinned, Default: through, Routed: make(map[uint32]bool)}
	for _, device := range through {
		rules.Routed[device] = true
	}
	return Problems(links, addrs, rules, encrypted), nil
}

// encrypts reports whether the host has IPsec policies for outgoing or forwarded packets, other
// than those of a socket. A kernel without IPsec has none.
func encrypts(h *rtnl.Handle) (bool, error) {
	var policies []netlink.XfrmPolicy
	err := h.Do(func() (err error) {
		policies, err = netlink.XfrmPolicyList(netlink.FAMILY_ALL)
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("list IPsec policies: %w", err)
	}
	return slices.ContainsFunc(policies, func(p netlink.XfrmPolicy) bool {
		return p.Dir == netlink.XFRM_DIR_OUT || p.Dir == netlink.XFRM_DIR_FWD
	}), nil
}
