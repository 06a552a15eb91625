// SPDX-License-Identifier: Apache-2.0

// Package knobs parses the flags of the daemon, named like those of dockerd, for the default network and for networks and
// sandboxes whose own flags do not say otherwise.
package knobs

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
	"github.com/fairlead-net/fairlead/control/resource/options"
)

// Flags are the flags as given.
type Flags struct {
	bip, cidr, gateway [len(model.Families)]string
	ipv6, icc, masq    bool
	ip                 string
	mtu                int
	options            []string
	dns, search        []string
	dnsOptions         []string
	hostGateway        []string
}

// names are the names of flags that there are for each family.
var names = struct{ bip, cidr, gateway [len(model.Families)]string }{
	[...]string{"bip", "bip6"}, [...]string{"fixed-cidr", "fixed-cidr-v6"}, [...]string{"default-gateway", "default-gateway-v6"},
}

// Register adds the flags to those of a command.
func (o *Flags) Register(f *pflag.FlagSet) {
	for _, family := range model.Families {
		f.StringVar(&o.bip[family], names.bip[family], "", fmt.Sprintf("the host's %v address in the default network, ADDRESS/LENGTH of its subnet (default: a subnet of the pools)", family))
		f.StringVar(&o.cidr[family], names.cidr[family], "", fmt.Sprintf("%v prefix from which the default network allocates addresses; also its subnet, without --%s", family, names.bip[family]))
		f.StringVar(&o.gateway[family], names.gateway[family], "", fmt.Sprintf("next hop of %v default routes in the default network, in the subnet of --%s or --%s", family, names.bip[family], names.cidr[family]))
	}
	f.BoolVar(&o.ipv6, "ipv6", false, "the default network has IPv6 too, with a /64 of the pools unless --bip6 or --fixed-cidr-v6 names a subnet")
	f.BoolVar(&o.icc, "icc", true, "sandboxes in the default network reach each other")
	f.BoolVar(&o.masq, "ip-masq", true, "masquerade what leaves the default network")
	f.StringVar(&o.ip, "ip", "", "host address of published ports of the default network that do not name one (default: all)")
	f.IntVar(&o.mtu, "mtu", model.DefaultMTU, "MTU of the default network, in bytes")
	f.StringArrayVar(&o.options, "default-network-opt", nil, "option of new networks of a driver, DRIVER=KEY=VALUE, unless they are created with the option; repeatable")
	f.StringArrayVar(&o.dns, "dns", nil, "name server of sandboxes without one of their own, in place of the host's; repeatable")
	f.StringArrayVar(&o.search, "dns-search", nil, "domain to search of sandboxes without one of their own; repeatable")
	f.StringArrayVar(&o.dnsOptions, "dns-opt", nil, "option of resolv.conf of sandboxes without one of their own; repeatable")
	f.StringArrayVar(&o.hostGateway, "host-gateway-ip", nil, "address that host-gateway stands for in --add-host; repeatable, one per family (default: the gateway of the sandbox)")
}

// Defaults checks and translates the flags.
func (o *Flags) Defaults() (d model.Defaults, err error) {
	if d.Bridge, err = o.bridge(); err != nil {
		return d, err
	}
	if d.Options, err = o.driverOptions(); err != nil {
		return d, err
	}
	if d.Lookup, err = o.lookup(); err != nil {
		return d, err
	}
	var has [len(model.Families)]bool
	for _, text := range o.hostGateway {
		a, err := parseAddr(text)
		if err != nil {
			return d, fmt.Errorf("--host-gateway-ip %q: want an IP address", text)
		}
		f := model.FamilyOf(a)
		if has[f] {
			return d, fmt.Errorf("--host-gateway-ip: %v is the second address of %v; want one per family", a, f)
		}
		has[f] = true
		d.HostGateway = append(d.HostGateway, a)
	}
	return d, nil
}

// bridge returns the default network.
func (o *Flags) bridge() (model.NetworkSpec, error) {
	spec := model.NetworkSpec{EnableIPv6: o.ipv6}
	for _, f := range model.Families {
		s, err := o.subnet(f)
		switch {
		case err != nil:
			return spec, err
		case !s.Prefix.IsValid():
			continue
		case f == model.V6 && !o.ipv6:
			return spec, fmt.Errorf("--%s and --%s need --ipv6", names.bip[f], names.cidr[f])
		}
		spec.Subnets = append(spec.Subnets, s)
	}
	chosen := map[string]string{}
	if !o.icc {
		chosen[model.OptICC] = "false"
	}
	if !o.masq {
		chosen[model.OptMasquerade] = "false"
	}
	if o.ip != "" {
		chosen[model.OptHostBinding] = o.ip
	}
	if o.mtu != model.DefaultMTU {
		chosen[model.OptMTU] = strconv.Itoa(o.mtu)
	}
	if len(chosen) == 0 {
		return spec, nil
	}
	spec.Options = chosen
	if err := options.Validate(model.NetworkSpec{Driver: model.DriverBridge, EnableIPv6: o.ipv6, Options: chosen}); err != nil {
		return spec, fmt.Errorf("--icc, --ip, --ip-masq, --mtu: %w", err)
	}
	return spec, nil
}

// subnet returns the subnet of a family that the flags name; without a prefix, if they do not.
func (o *Flags) subnet(f model.Family) (s model.SubnetSpec, err error) {
	bip, cidr, gateway := o.bip[f], o.cidr[f], o.gateway[f]
	if bip != "" {
		p, err := parsePrefix(bip, f)
		if err != nil {
			return s, fmt.Errorf("--%s %q: want the %v address of the host and the length of its subnet, as in %s", names.bip[f], bip, f, example[f])
		}
		s.Prefix, s.Gateway = p.Masked(), p.Addr()
	}
	if cidr != "" {
		p, err := parsePrefix(cidr, f)
		if err != nil {
			return s, fmt.Errorf("--%s %q: want %v ADDRESS/LENGTH", names.cidr[f], cidr, f)
		}
		p = p.Masked()
		if s.IPRange = model.RangeOf(p); !s.Prefix.IsValid() {
			s.Prefix = p
		}
	}
	if gateway != "" {
		a, err := parseAddr(gateway)
		switch {
		case err != nil || model.FamilyOf(a) != f:
			return s, fmt.Errorf("--%s %q is not an %v address", names.gateway[f], gateway, f)
		case !s.Prefix.IsValid():
			return s, fmt.Errorf("--%s needs the subnet of the default network (give --%s or --%s)", names.gateway[f], names.bip[f], names.cidr[f])
		case a == s.Gateway:
			return s, fmt.Errorf("--%s is the host's own address of --%s (leave it out)", names.gateway[f], names.bip[f])
		}
		s.Aux = map[string]netip.Addr{[...]string{model.AuxDefaultGateway4, model.AuxDefaultGateway6}[f]: a}
	}
	if !s.Prefix.IsValid() {
		return s, nil
	}
	s.Fixed = true
	err = resource.ValidateSubnet(s)
	if err == nil {
		_, err = ipam.ForSubnet(model.Subnet(s))
	}
	if err != nil {
		return s, fmt.Errorf("--%s, --%s, --%s: %w", names.bip[f], names.cidr[f], names.gateway[f], err)
	}
	return s, nil
}

// example are values of --bip and --bip6.
var example = [len(model.Families)]string{"192.168.5.1/24", "fd00:5::1/64"}

func parsePrefix(text string, f model.Family) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err == nil && (p.Addr().Is4In6() || model.FamilyOf(p.Addr()) != f) {
		err = fmt.Errorf("%v is not an %v prefix", p, f)
	}
	return p, err
}

func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err == nil && (a.IsUnspecified() || a.IsMulticast() || a.Zone() != "") {
		err = fmt.Errorf("%v does not belong to an interface", a)
	}
	return a.Unmap(), err
}

func (o *Flags) driverOptions() (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for _, text := range o.options {
		driver, option, ok := strings.Cut(text, "=")
		key, value, has := strings.Cut(option, "=")
		if !ok || !has || key == "" {
			return nil, fmt.Errorf("--default-network-opt %q: want DRIVER=KEY=VALUE, as in bridge=%s=1400", text, model.OptMTU)
		}
		if d, ok := model.DriverNamed(driver); !ok || d.Predefined {
			return nil, fmt.Errorf("--default-network-opt %q: %q is not a driver of networks (want bridge, macvlan, ipvlan, lan or overlay)", text, driver)
		}
		if all[driver] == nil {
			all[driver] = map[string]string{}
		}
		all[driver][key] = value
	}
	for driver, chosen := range all {
		if err := options.Validate(model.NetworkSpec{Driver: driver, Options: chosen}); err != nil {
			return nil, fmt.Errorf("--default-network-opt: %w", err)
		}
	}
	return all, nil
}

func (o *Flags) lookup() (model.Lookup, error) {
	l := model.Lookup{Search: o.search, Options: o.dnsOptions}
	for _, text := range o.dns {
		a, err := netip.ParseAddr(text)
		if err != nil || a.IsUnspecified() {
			return l, fmt.Errorf("--dns %q is not the IP address of a name server", text)
		}
		l.Servers = append(l.Servers, a)
	}
	return l, model.CheckLookup(l)
}
