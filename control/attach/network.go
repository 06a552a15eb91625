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

// MTU returns a network's MTU in bytes.
func MTU(n *api.Network) int {
	if n.MTU != 0 {
		return n.MTU
	}
	if mtu, err := strconv.Atoi(n.Options[model.OptMTU]); err == nil {
		return mtu
	}
	return model.DefaultMTU
}

// HasDNS reports whether DNS is enabled in a network.
func HasDNS(n *api.Network) bool { return len(dnsGateways(n)) > 0 }

// NameServers returns the gateways at which a network's DNS is served, if any.
func NameServers(n *api.Network) []string {
	return slices.DeleteFunc(dnsGateways(n), func(gateway string) bool { return slices.Contains(n.Unserved, gateway) })
}

// dnsGateways returns the gateways at which a network's DNS should be served.
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

// IPv6Only reports whether all of a runtime's subnets are IPv6 subnets, which results in a network
// without IPv4.
func IPv6Only(subnets []api.IPAMConfig) bool {
	for _, s := range subnets {
		if p, err := netip.ParsePrefix(s.Subnet); err != nil || p.Addr().Is4() {
			return false
		}
	}
	return len(subnets) > 0
}

// NoSharedNetwork refuses to create a network that the hosts of a cluster share: the container of one host
// must not decide what it is.
func NoSharedNetwork(name string) error {
	return model.Refuse(model.ErrNotFound, "network %s does not exist in the cluster (create it first, on any host, with: fairlead network create -d overlay %[1]s)", name)
}

// CheckMatches returns an error if an existing network differs from the runtime's configuration.
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
		is, should := cmp.Or(have.Options[k], model.OptionDefaults[k]), want.Options[k]
		switch k {
		case model.OptMTU:
			is = strconv.Itoa(MTU(have))
		case model.OptEncrypted: // needs no value
			is, should = strconv.FormatBool(have.Encrypted), cmp.Or(should, "true")
		}
		if is != should {
			return differ(have, "option "+k, is, should)
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
			continue // the daemon chooses the subnet
		case err != nil:
			return model.Refuse(model.ErrInvalid, "%q is not a subnet", w.Subnet)
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

// within returns the range that addresses are allocated from: the IP range or, without one,
// the whole subnet. A range can be written in several ways.
func within(c api.IPAMConfig) model.AddrRange {
	r, err := model.ParseAddrRange(cmp.Or(c.IPRange, c.Subnet))
	if err != nil {
		return model.AddrRange{} // only the runtime's range can be invalid, and then it differs
	}
	return r
}

func differ(n *api.Network, what, is, should string) error {
	return model.Refuse(model.ErrConflict, "network %s has %s %q, the configuration says %q (change one of them, or its name)", n.Name, what, is, should)
}

func subnetNames(configs []api.IPAMConfig) string {
	var names []string
	for _, c := range configs {
		names = append(names, c.Subnet)
	}
	return strings.Join(names, ", ")
}
