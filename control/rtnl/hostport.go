// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/fairlead-net/fairlead/control/model"
)

// HostPort is what a network's host port shall be like.
type HostPort struct {
	NetworkID string
	MAC       model.MAC // of the gateway
	MTU       int
	Addrs     []netip.Prefix // gateway addresses with their subnets' lengths
	IPv6      bool           // the network has IPv6
}

// ConfigureHostPort makes both ends of a host port as they shall be: gw is the
// end with the addresses, dp the datapath's, have the host's addresses now.
// Like ConfigureSandbox it changes only what is not right.
func (h *Handle) ConfigureHostPort(gw, dp Link, have []Addr, want HostPort) (Changes, error) {
	var ch Changes
	settings := append(gatewaySettings(gw, want.IPv6), ipv6Settings(dp, false)...)
	ch.Sysctls = len(settings)
	if err := h.SetSysctls(settings...); err != nil {
		return ch, err
	}
	for _, end := range []struct {
		link  Link
		alias string
		mac   model.MAC
	}{
		{dp, HostPortAlias(want.NetworkID), dp.MAC},
		{gw, GatewayAlias(want.NetworkID), want.MAC},
	} {
		changed, err := h.adjust(end.link, end.alias, end.mac, want.MTU)
		if changed {
			ch.Devices++
		}
		if err != nil {
			return ch, err
		}
	}
	for _, a := range have {
		// A wrong one may be in the way of the right one, as the primary address
		// of the subnet; so for once the delete comes first.
		if a.IfIndex == gw.Index && !slices.Contains(want.Addrs, a.Prefix) && within(a.Prefix, want.Addrs) {
			ch.Addresses++
			if err := h.DeleteAddr(gw.Index, a.Prefix); err != nil {
				return ch, err
			}
		}
	}
	for _, p := range want.Addrs {
		if slices.ContainsFunc(have, func(a Addr) bool { return a.IfIndex == gw.Index && hasAddr([]Addr{a}, p) }) {
			continue
		}
		ch.Addresses++
		if err := h.AddAddr(gw.Index, p); err != nil {
			return ch, err
		}
	}
	return ch, nil
}

// ConfigureHostEnd makes an endpoint's host end as it shall be, and brings it
// up. The alias is not set: it says that the endpoint is finished.
func (h *Handle) ConfigureHostEnd(l Link, mtu int) (Changes, error) {
	var ch Changes
	settings := ipv6Settings(l, false)
	ch.Sysctls = len(settings)
	if err := h.SetSysctls(settings...); err != nil {
		return ch, err
	}
	changed, err := h.adjust(l, l.Alias, l.MAC, mtu)
	if changed {
		ch.Devices++
	}
	return ch, err
}

// adjust gives a device what it lacks of alias, MAC, MTU and being up.
func (h *Handle) adjust(l Link, alias string, mac model.MAC, mtu int) (bool, error) {
	var ch LinkChange
	if l.Alias != alias {
		ch.Alias = &alias
	}
	if l.MAC != mac {
		ch.MAC = &mac
	}
	if l.MTU != mtu {
		ch.MTU = &mtu
	}
	if !l.Up {
		up := true
		ch.Up = &up
	}
	if (ch == LinkChange{}) {
		return false, nil
	}
	if err := h.conn.setLink(l.Index, ch); err != nil {
		return true, fmt.Errorf("set up device %q: %w", l.Name, err)
	}
	return true, nil
}

// gatewaySettings are the settings of a gateway end that are not right. It
// forwards, so that the host's stack can route what the datapath hands it, and
// so that the datapath's route lookups may name it as the way in; other
// devices need not forward. Before force_forwarding (Linux 6.17) the kernel
// forwards IPv6 only with net.ipv6.conf.all.forwarding, which changes what
// every device of the host does, so that is left to the operator.
func gatewaySettings(l Link, v6 bool) []Sysctl {
	settings := ipv6Settings(l, v6)
	set := func(family, key string, is int32) {
		if is != 1 && is != -1 {
			settings = append(settings, Sysctl{Family: family, Device: l.Name, Key: key, Value: strconv.Itoa(1)})
		}
	}
	set("ipv4", "forwarding", l.Conf.Forwarding4)
	// Also without IPv6 of its own: the answers of a port that serves IPv6 clients enter here.
	set("ipv6", "forwarding", l.Conf.Forwarding6)
	if v6 {
		set("ipv6", "force_forwarding", l.Conf.ForceForwarding6)
	}
	return settings
}

// within reports whether p's address belongs to the subnet of one of ps.
func within(p netip.Prefix, ps []netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(q netip.Prefix) bool { return q.Contains(p.Addr()) })
}
