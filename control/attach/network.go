// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// defaults are what a network has that was made without the option.
var defaults = map[string]string{model.OptICC: "true", model.OptMasquerade: "true", model.OptMTU: strconv.Itoa(model.DefaultMTU), model.OptDNS: "false", model.OptUntracked: "false"}

// MTU is a network's.
func MTU(n *api.Network) int {
	if mtu, err := strconv.Atoi(n.Options[model.OptMTU]); err == nil {
		return mtu
	}
	return model.DefaultMTU
}

// HasDNS reports whether a network's names are to be served.
func HasDNS(n *api.Network) bool { return len(dnsGateways(n)) > 0 }

// NameServers are where a network's names are served; none, if they are not.
func NameServers(n *api.Network) []string {
	return slices.DeleteFunc(dnsGateways(n), func(gateway string) bool { return slices.Contains(n.Unserved, gateway) })
}

// dnsGateways are the gateways where a network's names are to be served.
func dnsGateways(n *api.Network) []string {
	servers := []string{}
	if served, _ := strconv.ParseBool(n.Options[model.OptDNS]); served {
		for _, c := range n.IPAM.Config {
			if c.Gateway != "" {
				servers = append(servers, c.Gateway)
			}
		}
	}
	return servers
}

// IPv6Only reports whether a runtime's subnets are of IPv6 alone, and so the network.
func IPv6Only(subnets []api.IPAMConfig) bool {
	for _, s := range subnets {
		if p, err := netip.ParsePrefix(s.Subnet); err != nil || p.Addr().Is4() {
			return false
		}
	}
	return len(subnets) > 0
}

// CheckMatches tells in what an existing network is not what the runtime says of it.
func CheckMatches(have *api.Network, want api.NetworkCreate) error {
	if have.Driver != want.Driver {
		return differ(have, "driver", have.Driver, want.Driver)
	}
	if have.Internal != want.Internal {
		return differ(have, "internal", strconv.FormatBool(have.Internal), strconv.FormatBool(want.Internal))
	}
	if want.EnableIPv6 != nil && *want.EnableIPv6 && !have.EnableIPv6 {
		return differ(have, "IPv6", "false", "true")
	}
	for _, k := range slices.Sorted(maps.Keys(want.Options)) {
		if is := cmp.Or(have.Options[k], defaults[k]); is != want.Options[k] {
			return differ(have, "option "+k, is, want.Options[k])
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
			return refuse(model.ErrInvalid, "%q is not a subnet", w.Subnet)
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
		return model.AddrRange{} // of the runtime's: the daemon's is none
	}
	return r
}

func differ(n *api.Network, what, is, should string) error {
	return refuse(model.ErrConflict, "network %s has %s %q, the configuration says %q (change one of them, or its name)", n.Name, what, is, should)
}

func subnetNames(configs []api.IPAMConfig) string {
	var names []string
	for _, c := range configs {
		names = append(names, c.Subnet)
	}
	return strings.Join(names, ", ")
}
