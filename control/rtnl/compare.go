// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// CompareSandbox wants a device of a sandbox to bear a name, and the default routes
// through these gateways to lead through it before all others. An error says what is
// there instead, and what to do. Where IPv6 was switched off, none is wanted.
func CompareSandbox(ns *NetNS, device uint32, name string, gateways []netip.Addr) error {
	return ns.Do(func() error {
		c, err := dial()
		if err != nil {
			return err
		}
		defer c.close()
		links, err := c.links()
		if err != nil {
			return err
		}
		names, off := make(map[uint32]string, len(links)), false
		for _, l := range links {
			names[l.Index] = l.Name
			off = off || l.Index == device && l.Conf.DisableIPv6 == 1
		}
		switch is, ok := names[device]; {
		case !ok:
			return fmt.Errorf("interface %q is not there", name)
		case is != name:
			return fmt.Errorf("interface %q is called %q now (give it its name again)", name, is)
		}
		for _, gw := range gateways {
			if gw.Is6() && off {
				continue // the namespace's owner wants no IPv6
			}
			routes, err := c.routes(family(gw))
			if err != nil {
				return err
			}
			if err := checkDefaultRoute(routes, gw, device, names); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkDefaultRoute wants the default route to be through a gateway and a device.
func checkDefaultRoute(routes []Route, gw netip.Addr, device uint32, names map[uint32]string) error {
	i := slices.IndexFunc(routes, func(r Route) bool { return r.Dst.Bits() == 0 && r.Table == unix.RT_TABLE_MAIN })
	if i < 0 {
		return fmt.Errorf("there is no default route via %s dev %s", gw, names[device])
	}
	first := routes[i] // the kernel lists them in the order in which it asks them
	if first.Gateway == gw && slices.Equal(first.Devices, []uint32{device}) {
		return nil
	}
	is := "default"
	if first.Gateway.IsValid() {
		is += " via " + first.Gateway.String()
	}
	for _, d := range first.Devices {
		is += " dev " + names[d]
	}
	return fmt.Errorf("the route \"%s\" has taken the place of \"default via %s dev %s\" (remove it: Fairlead makes its own again)", is, gw, names[device])
}
