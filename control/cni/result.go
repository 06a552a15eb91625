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

// result returns the result for the runtime. It omits the device on the host, which is of no use
// to other plugins, since packets bypass its queue.
func (c *call) result(n *api.Network, sb api.Sandbox) (*current.Result, error) {
	ep, ok := sb.NetworkSettings.Networks[c.Name]
	if !ok {
		return nil, refuse(types.ErrInternal, "the daemon's answer lacks the interface in network %s", c.Name)
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

// addAddress adds an address of the interface, if there is one, and the default route if it uses
// the interface.
func addAddress(res *current.Result, addr string, length int, gateway string, defaultRoute bool) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return // "" means none
	}
	gw := net.ParseIP(gateway) // nil means none
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

// checkInterface checks that an interface has what the runtime was given.
func checkInterface(prev *current.Result, ep api.EndpointSettings, ifName string) error {
	for _, i := range prev.Interfaces {
		if i.Name == ifName && i.Sandbox != "" && i.Mac != "" && !strings.EqualFold(i.Mac, ep.MacAddress) {
			return refuse(errConflict, "interface %s has MAC %s, not %s (later plugins must not change it; request it with the capability mac)", ifName, ep.MacAddress, i.Mac)
		}
	}
	have := []string{
		fmt.Sprintf("%s/%d", ep.IPAddress, ep.IPPrefixLen), fmt.Sprintf("%s/%d", ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen),
	}
	for _, ip := range prev.IPs {
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(prev.Interfaces) || prev.Interfaces[*i].Name != ifName) {
			continue // of a chained plugin
		}
		if addr := prefixOf(ip.Address).String(); !slices.Contains(have, addr) {
			return refuse(errConflict, "interface %s has no address %s", ifName, addr)
		}
	}
	return nil
}

// defaultRoutes returns the gateways of the default routes in the result of ADD, except those
// that a later plugin replaced.
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
