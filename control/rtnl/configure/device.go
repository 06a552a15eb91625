// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Changes counts what had to be changed.
type Changes struct {
	Devices, Addresses, Routes, Sysctls int
}

// Any reports whether anything was changed.
func (c Changes) Any() bool { return c != Changes{} }

// Add adds counts.
func (c *Changes) Add(o Changes) {
	c.Devices += o.Devices
	c.Addresses += o.Addresses
	c.Routes += o.Routes
	c.Sysctls += o.Sysctls
}

// adjust sets alias, MAC and MTU of a device and brings it up, where they differ. A zero MAC or MTU is left to the kernel.
func adjust(c *rtnl.Conn, l rtnl.Link, alias string, mac model.MAC, mtu int) (bool, error) {
	var ch rtnl.LinkChange
	if l.Alias != alias {
		ch.Alias = &alias
	}
	if l.MAC != mac && !mac.IsZero() {
		ch.MAC = &mac
	}
	if l.MTU != mtu && mtu != 0 {
		ch.MTU = &mtu
	}
	if !l.Up {
		up := true
		ch.Up = &up
	}
	if (ch == rtnl.LinkChange{}) {
		return false, nil
	}
	if err := c.SetLink(l.Index, ch); err != nil {
		return true, fmt.Errorf("set up device %q: %w", l.Name, err)
	}
	return true, nil
}

// disableIPv6 is the setting that disables IPv6.
const disableIPv6 = "disable_ipv6"

// addrGenEUI64 is the mode in which the kernel derives link-local addresses from MACs.
const addrGenEUI64 = 0

// ipv6Settings returns the settings of a device that must change, for an end with or without IPv6
// addresses.
func ipv6Settings(l rtnl.Link, v6 bool) []rtnl.Sysctl {
	var settings []rtnl.Sysctl
	set := func(key string, is, want int32) {
		if is != want && is != -1 {
			settings = append(settings, rtnl.Sysctl{
				Family: "ipv6", Device: l.Name, Key: key, Value: strconv.Itoa(int(want)),
			})
		}
	}
	if !v6 {
		set(disableIPv6, l.Conf.DisableIPv6, 1)
		return settings
	}
	set("accept_dad", l.Conf.AcceptDAD, 0)
	set("accept_ra", l.Conf.AcceptRA, 0)
	set("addr_gen_mode", l.Conf.AddrGenMode, addrGenEUI64)
	set(disableIPv6, l.Conf.DisableIPv6, 0)
	return settings
}

// hasAddr reports whether an address is among those of a device, and usable.
func hasAddr(as []rtnl.Addr, p netip.Prefix) bool {
	return slices.ContainsFunc(as, func(a rtnl.Addr) bool {
		return a.Prefix == p && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	})
}
