// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// HostPortSpec is the wanted configuration of a network's host port.
type HostPortSpec struct {
	NetworkID string
	MAC       model.MAC // of the gateway
	MTU       int
	Addrs     []netip.Prefix // gateway addresses with the prefix lengths of their subnets
	IPv6      bool           // the network has IPv6
}

// HostPort configures both ends of a host port: gw is the end with the addresses, dp the
// datapath's end, and have the host's current addresses. It changes only what
// differs.
func HostPort(h *rtnl.Handle, gw, dp rtnl.Link, have []rtnl.Addr, want HostPortSpec) (Changes, error) {
	var ch Changes
	settings := append(gatewaySettings(gw, want.IPv6), ipv6Settings(dp, false)...)
	ch.Sysctls = len(settings)
	if err := h.SetSysctls(settings...); err != nil {
		return ch, err
	}
	for _, end := range []struct {
		link  rtnl.Link
		alias string
		mac   model.MAC
	}{
		{dp, rtnl.HostPortAlias(want.NetworkID), dp.MAC},
		{gw, rtnl.GatewayAlias(want.NetworkID), want.MAC},
	} {
		changed, err := adjust(h.Conn(), end.link, end.alias, end.mac, want.MTU)
		if changed {
			ch.Devices++
		}
		if err != nil {
			return ch, err
		}
	}
	for _, a := range have {
		// A wrong address may prevent the right one from being the primary address of the subnet,
		// so here deletion comes first.
		if a.IfIndex == gw.Index && !slices.Contains(want.Addrs, a.Prefix) && within(a.Prefix, want.Addrs) {
			ch.Addresses++
			if err := h.DeleteAddr(gw.Index, a.Prefix); err != nil {
				return ch, err
			}
		}
	}
	for _, p := range want.Addrs {
		if slices.ContainsFunc(have, func(a rtnl.Addr) bool { return a.IfIndex == gw.Index && hasAddr([]rtnl.Addr{a}, p) }) {
			continue
		}
		ch.Addresses++
		if err := h.AddAddr(gw.Index, p); err != nil {
			return ch, err
		}
	}
	return ch, nil
}

// HostEnd configures an endpoint's host end and brings it up. It does not set the alias,
// which marks the endpoint as finished.
func HostEnd(h *rtnl.Handle, l rtnl.Link, mtu int) (Changes, error) {
	var ch Changes
	settings := ipv6Settings(l, false)
	ch.Sysctls = len(settings)
	if err := h.SetSysctls(settings...); err != nil {
		return ch, err
	}
	changed, err := adjust(h.Conn(), l, l.Alias, l.MAC, mtu)
	if changed {
		ch.Devices++
	}
	return ch, err
}

// gatewaySettings returns the settings of a gateway end that must change. It forwards, so that
// the host's stack can route what the datapath passes to it, and so that the datapath's route
// lookups may use it as the input device; other devices need not forward. Before force_forwarding
// (Linux 6.17) the kernel forwards IPv6 only with net.ipv6.conf.all.forwarding, which affects
// every device of the host, so that is left to the operator.
func gatewaySettings(l rtnl.Link, v6 bool) []rtnl.Sysctl {
	settings := ipv6Settings(l, v6)
	set := func(family, key string, is int32) {
		if is != 1 && is != -1 {
			settings = append(settings, rtnl.Sysctl{Family: family, Device: l.Name, Key: key, Value: strconv.Itoa(1)})
		}
	}
	set("ipv4", "forwarding", l.Conf.Forwarding4)
	// Even without IPv6 addresses: replies from a port that serves IPv6 clients enter here.
	set("ipv6", "forwarding", l.Conf.Forwarding6)
	if v6 {
		set("ipv6", "force_forwarding", l.Conf.ForceForwarding6)
	}
	return settings
}

// within reports whether p's address is in one of the subnets ps.
func within(p netip.Prefix, ps []netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(q netip.Prefix) bool { return q.Contains(p.Addr()) })
}
