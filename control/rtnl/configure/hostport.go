// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/stacked"
)

// HostPortSpec is the wanted configuration of a network's host port.
type HostPortSpec struct {
	NetworkID string
	MAC       model.MAC // of the gateway
	MTU       int
	Addrs     []netip.Prefix // gateway addresses with the prefix lengths of their subnets
	// Own are the host's own addresses in a network whose gateway addresses other hosts have too.
	// Those are then never the source of what the host sends.
	Own  []netip.Prefix
	IPv6 bool // the network has IPv6
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
	n, err := want.setAddrs(h, gw.Index, have)
	ch.Addresses += n
	if err == nil && n > 0 {
		err = h.Conn().AwaitAddrs(slices.Concat(want.Own, want.Addrs))
	}
	return ch, err
}

// setAddrs gives the gateway end its addresses, and returns how many it changed.
func (want *HostPortSpec) setAddrs(h *rtnl.Handle, index uint32, have []rtnl.Addr) (changed int, err error) {
	have = slices.DeleteFunc(slices.Clone(have), func(a rtnl.Addr) bool { return a.IfIndex != index })
	all := slices.Concat(want.Own, want.Addrs) // the first one of a subnet is the source of packets
	renew4 := false
	for _, a := range have {
		// A wrong address may prevent the right one from being the primary address of the subnet,
		// so here deletion comes first.
		if wrong := !slices.Contains(all, a.Prefix) && within(a.Prefix, all); !wrong && !want.precedes(a) {
			continue
		}
		renew4 = renew4 || want.precedes(a) // the kernel may delete the other one with it
		changed++
		if err := h.DeleteAddr(index, a.Prefix); err != nil {
			return changed, err
		}
	}
	for _, p := range all {
		behind := len(want.Own) > 0 && slices.Contains(want.Addrs, p)
		fits := func(a rtnl.Addr) bool {
			return hasAddr([]rtnl.Addr{a}, p) && (p.Addr().Is4() || !behind || a.Flags&unix.IFA_F_DEPRECATED != 0)
		}
		if slices.ContainsFunc(have, fits) && !(renew4 && p.Addr().Is4()) {
			continue
		}
		changed++
		add := h.AddAddr
		if behind {
			add = h.AddDeprecatedAddr
		}
		if err := add(index, p); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// precedes reports whether an address is an IPv4 gateway address that is in front of the host's own.
func (want *HostPortSpec) precedes(a rtnl.Addr) bool {
	return len(want.Own) > 0 && a.Prefix.Addr().Is4() && a.Flags&unix.IFA_F_SECONDARY == 0 && slices.Contains(want.Addrs, a.Prefix) &&
		within(a.Prefix, want.Own)
}

// AccessSpec is the wanted configuration of the device by which the host reaches members that it does not carry packets of.
type AccessSpec struct {
	Alias      string
	IPv4, IPv6 netip.Addr   // the host's own; zero: none
	Members    []netip.Addr // to which it has routes
}

// Access configures the device: addresses without a subnet, which another device may have, and a route to each member.
// have are the host's current addresses.
func Access(h *rtnl.Handle, l rtnl.Link, have []rtnl.Addr, want AccessSpec) (ch Changes, err error) {
	settings := ipv6Settings(l, want.IPv6.IsValid())
	ch.Sysctls = len(settings)
	if err := h.SetSysctls(settings...); err != nil {
		return ch, err
	}
	var own HostPortSpec
	for _, a := range []netip.Addr{want.IPv4, want.IPv6} {
		if a.IsValid() {
			own.Addrs = append(own.Addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	if ch.Addresses, err = own.setAddrs(h, l.Index, have); err != nil {
		return ch, err
	}
	changed, err := adjust(h.Conn(), l, want.Alias, l.MAC, l.MTU)
	if changed {
		ch.Devices++
	}
	if err != nil {
		return ch, err
	}
	ch.Routes, err = stacked.SetRoutes(h.TC(), l.Index, want.Members, want.IPv4, want.IPv6)
	return ch, err
}

// HostEnd configures an endpoint's host end and brings it up. It does not set the alias,
// which marks the endpoint as finished.
func HostEnd(h *rtnl.Handle, l rtnl.Link, mtu int) (Changes, error) { return bare(h, l, l.Alias, mtu) }

// Bare brings up a device of the host, without IPv6 since it has no addresses, and sets its alias.
func Bare(h *rtnl.Handle, l rtnl.Link, alias string) (Changes, error) {
	return bare(h, l, alias, l.MTU)
}

func bare(h *rtnl.Handle, l rtnl.Link, alias string, mtu int) (Changes, error) {
	var ch Changes
	settings := ipv6Settings(l, false)
	ch.Sysctls = len(settings)
	if err := h.SetSysctls(settings...); err != nil {
		return ch, err
	}
	changed, err := adjust(h.Conn(), l, alias, l.MAC, mtu)
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
