// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// labelNetwork is the label of a network that was created from a configuration.
const labelNetwork = "fairlead.cni"

// networkCreate returns the request to create the network of the configuration.
func (c *call) networkCreate(lease *current.Result) (api.NetworkCreate, error) {
	n := api.NetworkCreate{
		Name: c.Name, Driver: cmp.Or(c.Driver, model.DriverBridge), Internal: c.Internal,
		Options: map[string]string{}, Labels: map[string]string{labelNetwork: "true"},
	}
	for k, v := range c.Options {
		n.Options[k] = v
	}
	if c.MTU != 0 {
		n.Options[model.OptMTU] = strconv.Itoa(c.MTU)
	}
	if c.IPMasq != nil {
		n.Options[model.OptMasquerade] = strconv.FormatBool(*c.IPMasq)
	}
	if c.Isolated {
		n.Options[model.OptICC] = "false"
	}
	if c.IPv6 {
		n.EnableIPv6 = &c.IPv6
	}
	subnets, err := c.subnets(lease)
	if len(subnets) > 0 {
		n.IPAM = &api.IPAM{Config: subnets}
	}
	if no := false; attach.IPv6Only(subnets) {
		n.EnableIPv4 = &no
	}
	return n, err
}

// subnets returns the subnets of the IPAM plugin, or else of the configuration and the runtime.
func (c *call) subnets(lease *current.Result) ([]api.IPAMConfig, error) {
	if lease != nil {
		return leased(lease), nil
	}
	subnets := slices.Clone(c.Subnets)
	for _, set := range c.RuntimeConfig.IPRanges {
		for _, r := range set {
			s, err := r.config()
			if err != nil {
				return nil, err
			}
			subnets = append(subnets, s)
		}
	}
	return subnets, nil
}

// leased returns the subnets of an IPAM plugin's addresses.
func leased(lease *current.Result) []api.IPAMConfig {
	var subnets []api.IPAMConfig
	for _, ip := range lease.IPs {
		s := api.IPAMConfig{Subnet: prefixOf(ip.Address).Masked().String()}
		if ip.Gateway != nil {
			s.Gateway = ip.Gateway.String()
		}
		subnets = append(subnets, s)
	}
	return subnets
}

func prefixOf(n net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	length, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), length)
}
