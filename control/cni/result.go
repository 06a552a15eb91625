// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/attach"
)

// result tells the runtime what was made. The device on the host is not shown: it
// is no place for other plugins, as packets do not pass its queue.
func (c *call) result(n *api.Network, sb api.Sandbox) (*current.Result, error) {
	ep, ok := sb.NetworkSettings.Networks[c.Name]
	if !ok {
		return nil, refuse(types.ErrInternal, "the daemon does not show the interface in network %s", c.Name)
	}
	res := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{{Name: ep.InterfaceName, Mac: ep.MacAddress, Mtu: attach.MTU(n), Sandbox: c.NetNS}},
		Routes:     []*types.Route{},
		DNS:        c.dns(),
	}
	if len(res.DNS.Nameservers) == 0 {
		res.DNS.Nameservers = attach.NameServers(n)
	}
	addAddress(res, ep.IPAddress, ep.IPPrefixLen, ep.Gateway, ep.DefaultRoute)
	addAddress(res, ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway, ep.DefaultRoute)
	return res, nil
}

// addAddress adds an address of the interface, if there is one, and the default
// route if that leads through it.
func addAddress(res *current.Result, addr string, length int, gateway string, defaultRoute bool) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return // "": none
	}
	gw := net.ParseIP(gateway) // nil: none
	bits := ip.BitLen()
	res.IPs = append(res.IPs, &current.IPConfig{
		Interface: current.Int(0), Gateway: gw,
		Address: net.IPNet{IP: net.IP(ip.AsSlice()), Mask: net.CIDRMask(length, bits)},
	})
	if defaultRoute && gw != nil {
		all := net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}
		res.Routes = append(res.Routes, &types.Route{Dst: all, GW: gw})
	}
}

// sameInterface wants an interface to have what the runtime was told.
func sameInterface(prev *current.Result, ep api.EndpointSettings, ifName string) error {
	for _, i := range prev.Interfaces {
		if i.Name == ifName && i.Sandbox != "" && i.Mac != "" && !strings.EqualFold(i.Mac, ep.MacAddress) {
			return refuse(errConflict, "interface %s has MAC %s, not %s (a plugin that comes later may not change it: ask for it with the capability mac)", ifName, ep.MacAddress, i.Mac)
		}
	}
	have := []string{
		fmt.Sprintf("%s/%d", ep.IPAddress, ep.IPPrefixLen), fmt.Sprintf("%s/%d", ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen),
	}
	for _, ip := range prev.IPs {
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(prev.Interfaces) || prev.Interfaces[*i].Name != ifName) {
			continue // a chained plugin's
		}
		if addr := prefixOf(ip.Address).String(); !slices.Contains(have, addr) {
			return refuse(errConflict, "interface %s has no address %s", ifName, addr)
		}
	}
	return nil
}

// defaultRoutes are the gateways of those that the runtime was told of. A plugin that
// comes later may have led them elsewhere.
func defaultRoutes(prev *current.Result, ep api.EndpointSettings) []netip.Addr {
	var gateways []netip.Addr
	for _, r := range prev.Routes {
		length, _ := r.Dst.Mask.Size()
		gw, _ := netip.AddrFromSlice(r.GW)
		gw = gw.Unmap()
		if length == 0 && gw.IsValid() && slices.Contains([]string{ep.Gateway, ep.IPv6Gateway}, gw.String()) {
			gateways = append(gateways, gw)
		}
	}
	return gateways
}
