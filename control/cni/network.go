// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// labelNetwork is the label of a network that was made from a configuration.
const labelNetwork = "fairlead.cni"

// Options of a network that have a key of their own in the configuration.
const (
	optICC        = "com.docker.network.bridge.enable_icc"
	optMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optMTU        = "com.docker.network.driver.mtu"
)

// defaults are what a network has that was made without the option.
var defaults = map[string]string{optICC: "true", optMasquerade: "true", optMTU: strconv.Itoa(model.DefaultMTU)}

// findNetwork finds the network of the configuration.
func (c *call) findNetwork(ctx context.Context) (*api.Network, error) {
	list, err := c.Networks(ctx, api.Filters{"name": {"^" + regexp.QuoteMeta(c.Name) + "$"}})
	for i := range list {
		if list[i].Name == c.Name {
			return &list[i], nil
		}
	}
	return nil, cmp.Or(err, c.noNetwork())
}

// noNetwork says that the network is not there.
func (c *call) noNetwork() error {
	return &model.Refusal{Kind: model.ErrNotFound, Text: "network " + c.Name + " not found"}
}

// networkCreate is what the configuration says of the network.
func (c *call) networkCreate(lease *current.Result) (api.NetworkCreate, error) {
	n := api.NetworkCreate{
		Name: c.Name, Driver: model.DriverBridge, Internal: c.Internal,
		Options: map[string]string{}, Labels: map[string]string{labelNetwork: "true"},
	}
	for k, v := range c.Options {
		n.Options[k] = v
	}
	if c.MTU != 0 {
		n.Options[optMTU] = strconv.Itoa(c.MTU)
	}
	if c.IPMasq != nil {
		n.Options[optMasquerade] = strconv.FormatBool(*c.IPMasq)
	}
	if c.Isolated {
		n.Options[optICC] = "false"
	}
	if c.IPv6 {
		n.EnableIPv6 = &c.IPv6
	}
	subnets, err := c.subnets(lease)
	if len(subnets) > 0 {
		n.IPAM = &api.IPAM{Config: subnets}
	}
	return n, err
}

// subnets are the IPAM plugin's, the configuration's, or the runtime's.
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

// leased are the subnets of an IPAM plugin's addresses.
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

// differs tells in what an existing network is not what the configuration says.
func differs(have *api.Network, want api.NetworkCreate) error {
	if have.Driver != want.Driver {
		return differ(have, "driver", have.Driver, want.Driver)
	}
	if have.Internal != want.Internal {
		return differ(have, "internal", strconv.FormatBool(have.Internal), strconv.FormatBool(want.Internal))
	}
	for k, v := range want.Options {
		if is := cmp.Or(have.Options[k], defaults[k]); is != v {
			return differ(have, "option "+k, is, v)
		}
	}
	if want.IPAM == nil {
		return nil
	}
	return subnetsDiffer(have, want.IPAM.Config)
}

func subnetsDiffer(have *api.Network, want []api.IPAMConfig) error {
	for _, w := range want {
		subnet, err := netip.ParsePrefix(w.Subnet)
		switch {
		case w.Subnet == "" || err == nil && subnet.Addr().IsUnspecified():
			continue // whichever the daemon chose
		case err != nil:
			return refuse(types.ErrInvalidNetworkConfig, "%q is not a subnet", w.Subnet)
		}
		i := slices.IndexFunc(have.IPAM.Config, func(h api.IPAMConfig) bool { return h.Subnet == subnet.String() })
		if i < 0 {
			return differ(have, "subnets", subnetNames(have.IPAM.Config), w.Subnet)
		}
		h := have.IPAM.Config[i]
		if gateway, _ := netip.ParseAddr(w.Gateway); w.Gateway != "" && gateway.String() != h.Gateway {
			return differ(have, "gateway", h.Gateway, w.Gateway)
		}
		if is, should := within(h), within(w); w.IPRange != "" && is != should {
			return differ(have, "ipRange", h.IPRange, w.IPRange)
		}
	}
	return nil
}

// within is the range that addresses are chosen from: the whole subnet, if none is
// given. There are several ways to write it.
func within(c api.IPAMConfig) model.AddrRange {
	r, err := model.ParseAddrRange(cmp.Or(c.IPRange, c.Subnet))
	if err != nil {
		return model.AddrRange{} // of the configuration's: the daemon's is none
	}
	return r
}

func differ(n *api.Network, what, is, should string) error {
	return refuse(errConflict, "network %s has %s %q, the configuration says %q (change one of them, or its name)", n.Name, what, is, should)
}

func subnetNames(configs []api.IPAMConfig) (names string) {
	for i, c := range configs {
		if i > 0 {
			names += ", "
		}
		names += c.Subnet
	}
	return names
}
