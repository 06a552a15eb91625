// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Compare checks that a device of a sandbox has a name, and that the first default route
// of each gateway's family is via this gateway and the device. The error names what was found
// instead, and the remedy. If IPv6 is disabled on the device, IPv6 gateways are skipped.
func Compare(ns *rtnl.NetNS, device uint32, name string, gateways []netip.Addr) error {
	return ns.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		links, err := c.Links()
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
			return fmt.Errorf("interface %q does not exist", name)
		case is != name:
			return fmt.Errorf("interface %q was renamed to %q (rename it back)", name, is)
		}
		for _, gw := range gateways {
			if gw.Is6() && off {
				continue // the namespace's owner disabled IPv6
			}
			routes, err := c.Routes(rtnl.Family(gw))
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

// checkDefaultRoute checks that the default route is via a gateway and a device.
func checkDefaultRoute(routes []rtnl.Route, gw netip.Addr, device uint32, names map[uint32]string) error {
	i := slices.IndexFunc(routes, func(r rtnl.Route) bool { return r.Dst.Bits() == 0 && r.Table == unix.RT_TABLE_MAIN })
	if i < 0 {
		return fmt.Errorf("there is no default route via %s dev %s", gw, names[device])
	}
	first := routes[i] // the kernel lists routes in the order in which it uses them
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
	return fmt.Errorf("the route \"%s\" is used instead of \"default via %s dev %s\" (remove it; Fairlead then restores its own)", is, gw, names[device])
}
