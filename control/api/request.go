// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
)

// Spec translates the request. It refuses features that are not supported.
func (c *NetworkCreate) Spec() (model.NetworkSpec, error) {
	spec := model.NetworkSpec{Name: c.Name, Driver: c.Driver, Internal: c.Internal, Options: c.Options, Labels: c.Labels}
	switch {
	case c.Scope != "" && c.Scope != ScopeOf(&model.Network{Driver: c.Driver}):
		return spec, model.Refuse(model.ErrNotSupported, "scope %q is not available with this driver; use %q", c.Scope, ScopeOf(&model.Network{Driver: c.Driver}))
	case c.Ingress:
		return spec, model.Refuse(model.ErrNotSupported, "ingress networks are not available (leave the field out)")
	case c.ConfigOnly && (c.Attachable || c.Scope != ""):
		return spec, model.Refuse(model.ErrForbidden, "a configuration network is neither attachable nor has it a scope (give that to the networks that use it)")
	}
	if spec.ConfigOnly = c.ConfigOnly; c.ConfigFrom != nil {
		spec.ConfigFrom = c.ConfigFrom.Network
	}
	spec.EnableIPv6 = c.EnableIPv6 != nil && *c.EnableIPv6
	spec.NoIPv4 = c.EnableIPv4 != nil && !*c.EnableIPv4
	if c.IPAM == nil {
		return spec, nil
	}
	switch d := c.IPAM.Driver; d {
	case "", "default":
	case model.IPAMNull, model.IPAMDHCP:
		spec.IPAM = d
	default:
		return spec, model.Refuse(model.ErrInvalid, "unknown IPAM driver %q (want default, null or dhcp)", d)
	}
	for _, key := range slices.Sorted(maps.Keys(c.IPAM.Options)) {
		return spec, model.Refuse(model.ErrInvalid, "unknown IPAM option %q: the drivers default, null and dhcp have none (leave it out)", key)
	}
	for _, conf := range c.IPAM.Config {
		subnet, err := conf.spec()
		if err != nil {
			return spec, err
		}
		spec.Subnets = append(spec.Subnets, subnet)
	}
	return spec, nil
}

// ScopeOf returns where a network exists: on this host, or on all hosts of the cluster.
func ScopeOf(n *model.Network) string {
	if n.Has().Shared {
		return "global"
	}
	return "local"
}

func (c *IPAMConfig) spec() (s model.SubnetSpec, err error) {
	if s.Prefix, err = parsePrefix("subnet", c.Subnet); err != nil {
		return s, err
	}
	if s.IPRange, err = model.ParseAddrRange(c.IPRange); err != nil {
		return s, model.Refuse(model.ErrInvalid, "invalid IP range: %v", err)
	}
	if s.Gateway, err = parseAddr("gateway", c.Gateway); err != nil {
		return s, err
	}
	for name, a := range c.AuxiliaryAddresses {
		addr, err := parseAddr("auxiliary address "+name, a)
		if err != nil {
			return s, err
		}
		if s.Aux == nil {
			s.Aux = map[string]netip.Addr{}
		}
		s.Aux[name] = addr
	}
	return s, nil
}

// parsePrefix parses a prefix without host bits. "" is the zero Prefix.
func parsePrefix(what, s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, model.Refuse(model.ErrInvalid, "invalid %s %q: want ADDRESS/LENGTH, as in 10.1.0.0/16 or fd00:1::/64", what, s)
	}
	if p != p.Masked() {
		return p, model.Refuse(model.ErrInvalid, "invalid %s %s: it should be %s", what, s, p.Masked())
	}
	return p, nil
}

func parseAddr(what, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, model.Refuse(model.ErrInvalid, "invalid %s %q: not an IP address", what, s)
	}
	return a.Unmap(), nil
}

// Spec translates the configuration of an endpoint in a network; nil is the default.
func (c *EndpointConfig) Spec(network string) (model.EndpointSpec, error) {
	spec := model.EndpointSpec{Network: network}
	if c == nil {
		return spec, nil
	}
	spec.Aliases, spec.IfName, spec.Bandwidth, spec.GwPriority = c.Aliases, c.InterfaceName, c.Bandwidth.spec(), c.GwPriority
	spec.Links = parseLinks(c.Links)
	for key, value := range c.DriverOpts {
		if err := ApplyDriverOpt(&spec, key, value); err != nil {
			return spec, err
		}
	}
	if c.MacAddress != "" {
		mac, err := model.ParseMAC(c.MacAddress)
		if err != nil {
			return spec, model.Refuse(model.ErrInvalid, "%v", err)
		}
		spec.MAC = mac
	}
	if c.IPAMConfig == nil {
		return spec, nil
	}
	var err error
	if spec.IPv4, err = parseAddr("IPv4 address", c.IPAMConfig.IPv4Address); err != nil {
		return spec, err
	}
	if spec.IPv6, err = parseAddr("IPv6 address", c.IPAMConfig.IPv6Address); err != nil {
		return spec, err
	}
	if spec.IPv4.IsValid() && !spec.IPv4.Is4() {
		return spec, model.Refuse(model.ErrInvalid, "invalid IPv4 address %q: that is IPv6", spec.IPv4)
	}
	if spec.IPv6.IsValid() && spec.IPv6.Is4() {
		return spec, model.Refuse(model.ErrInvalid, "invalid IPv6 address %q: that is IPv4", spec.IPv6)
	}
	spec.Leased = c.IPAMConfig.Leased
	return spec, nil
}

// Driver options of an endpoint, under Docker's names.
const (
	OptIfName  = "com.docker.network.endpoint.ifname"  // same as InterfaceName
	OptSysctls = "com.docker.network.endpoint.sysctls" // see parseSysctls
)

// ApplyDriverOpt applies a driver option of an endpoint.
func ApplyDriverOpt(spec *model.EndpointSpec, key, value string) (err error) {
	switch {
	case key == OptSysctls && len(spec.Sysctls) > 0:
		return model.Refuse(model.ErrInvalid, "driver option %s is given twice (give one list, separated by commas)", key)
	case key == OptSysctls:
		spec.Sysctls, err = parseSysctls(value)
		return err
	case key != OptIfName:
		return model.Refuse(model.ErrInvalid, "unknown driver option %q of an endpoint (known: %s, %s)", key, OptIfName, OptSysctls)
	case value == "":
		return model.Refuse(model.ErrInvalid, "driver option %s has no value (want the name of an interface)", key)
	case spec.IfName != "" && spec.IfName != value:
		return model.Refuse(model.ErrInvalid, "the interface has two names, %s and %s (leave one out)", spec.IfName, value)
	}
	spec.IfName = value
	return nil
}

// DriverOpts returns the driver options of an endpoint that have no field of their own, or nil if there are none.
func DriverOpts(sysctls []model.Sysctl) map[string]string {
	if len(sysctls) == 0 {
		return nil
	}
	return map[string]string{OptSysctls: sysctlsText(sysctls)}
}

func (b *Bandwidth) spec() model.Bandwidth {
	if b == nil {
		return model.Bandwidth{}
	}
	return model.Bandwidth{
		Ingress: model.Limit{Rate: b.IngressRate, Burst: b.IngressBurst},
		Egress:  model.Limit{Rate: b.EgressRate, Burst: b.EgressBurst},
	}
}

// NewBandwidth converts limits, and returns nil if there are none.
func NewBandwidth(b model.Bandwidth) *Bandwidth {
	if b.IsZero() {
		return nil
	}
	return &Bandwidth{
		IngressRate: b.Ingress.Rate, IngressBurst: b.Ingress.Burst,
		EgressRate: b.Egress.Rate, EgressBurst: b.Egress.Burst,
	}
}

// NewEndpointConfig converts a spec to a part of a request. It does not contain the
// network's name.
func NewEndpointConfig(spec model.EndpointSpec) *EndpointConfig {
	c := &EndpointConfig{Aliases: spec.Aliases, Links: LinkTexts(spec.Links), InterfaceName: spec.IfName, GwPriority: spec.GwPriority, Bandwidth: NewBandwidth(spec.Bandwidth), DriverOpts: DriverOpts(spec.Sysctls)}
	if !spec.MAC.IsZero() {
		c.MacAddress = spec.MAC.String()
	}
	if spec.IPv4.IsValid() || spec.IPv6.IsValid() {
		c.IPAMConfig = &EndpointIPAM{IPv4Address: model.AddrText(spec.IPv4), IPv6Address: model.AddrText(spec.IPv6), Leased: spec.Leased}
	}
	return c
}

// Spec translates the request for a sandbox of that name, which may be empty.
func (c *SandboxCreate) Spec(name string) (model.SandboxSpec, error) {
	spec := model.SandboxSpec{
		Name: name, NetNS: c.NetNS, NetworkMode: c.HostConfig.NetworkMode, Hostname: c.Hostname,
		Labels: c.Labels, Command: c.Cmd, AutoRemove: c.HostConfig.AutoRemove, PublishAll: c.HostConfig.PublishAllPorts,
		Sysctls: c.HostConfig.Sysctls,
	}
	if spec.NetworkMode == "" {
		spec.NetworkMode = model.NetworkBridge
	}
	err := model.CheckSysctls(spec.Sysctls)
	if err != nil {
		return spec, err
	}
	if spec.Lookup, err = c.lookup(); err != nil {
		return spec, err
	}
	configs := c.NetworkingConfig.EndpointsConfig
	for network, conf := range configs {
		if len(configs) > 1 || network != spec.NetworkMode {
			return spec, model.Refuse(model.ErrInvalid, "NetworkingConfig may have one entry only, for the network %q of NetworkMode; connect the others after the creation", spec.NetworkMode)
		}
		if spec.Endpoint, err = conf.Spec(network); err != nil {
			return spec, err
		}
	}
	if isNetwork(spec.NetworkMode) {
		spec.Endpoint.Network = spec.NetworkMode
	}
	// A fixed order makes the choice of automatic ports repeatable.
	for _, key := range slices.Sorted(maps.Keys(c.ExposedPorts)) {
		p, err := ParseExpose(key)
		if err != nil {
			return spec, model.Refuse(model.ErrInvalid, "%v", err)
		}
		spec.Expose = append(spec.Expose, p)
	}
	spec.Ports, err = portSpecs(c.HostConfig.PortBindings)
	return spec, err
}

// portSpecs translates published ports, in a fixed order.
func portSpecs(bindings map[string][]PortBinding) (specs []model.PortSpec, err error) {
	for _, key := range slices.Sorted(maps.Keys(bindings)) {
		for _, b := range bindings[key] {
			p, err := b.spec(key)
			if err != nil {
				return nil, model.Refuse(model.ErrInvalid, "published port %q: %v", key, err)
			}
			specs = append(specs, p)
		}
	}
	return specs, nil
}

// Specs translates the request, which names at least one port.
func (p *PublishedPorts) Specs() ([]model.PortSpec, error) {
	specs, err := portSpecs(p.PortBindings)
	if err == nil && len(specs) == 0 {
		err = model.Refuse(model.ErrInvalid, "no port is given (give PortBindings)")
	}
	return specs, err
}

func (b *PortBinding) spec(target string) (model.PortSpec, error) {
	var ip netip.Addr
	if b.HostIP != "" {
		var err error
		if ip, err = parseHostIP(b.HostIP); err != nil {
			return model.PortSpec{}, err
		}
	}
	spec, err := portSpec(ip, b.HostPort, target)
	if err == nil {
		spec.From, err = model.ParseSources(b.From)
	}
	return spec, err
}

// isNetwork reports whether a network mode is the name of a network with
// endpoints.
func isNetwork(mode string) bool {
	return mode != model.NetworkHost && mode != model.NetworkNone && !model.SharesNetNS(mode)
}

// NewSandboxCreate converts a spec to a request. It does not contain the name.
func NewSandboxCreate(spec model.SandboxSpec) SandboxCreate {
	c := SandboxCreate{
		Hostname: spec.Hostname, Cmd: spec.Command, Labels: spec.Labels, NetNS: spec.NetNS,
		ExposedPorts: NewExposedPorts(spec.Expose),
		HostConfig: HostConfig{
			NetworkMode: spec.NetworkMode, AutoRemove: spec.AutoRemove,
			PublishAllPorts: spec.PublishAll, PortBindings: NewPortBindings(spec.Ports), Sysctls: spec.Sysctls,
		},
	}
	c.Domainname = spec.Lookup.Domainname
	c.HostConfig.SetLookup(spec.Lookup)
	if ep := *NewEndpointConfig(spec.Endpoint); !reflect.DeepEqual(ep, EndpointConfig{}) {
		c.NetworkingConfig.EndpointsConfig = map[string]EndpointConfig{cmp.Or(spec.NetworkMode, model.NetworkBridge): ep}
	}
	return c
}

// NewExposedPorts returns ports as keys of the form "80/tcp", or nil if there are none.
func NewExposedPorts(ports []model.PortProto) map[string]struct{} {
	var keys map[string]struct{}
	for _, p := range ports {
		if keys == nil {
			keys = map[string]struct{}{}
		}
		keys[formatTarget(p)] = struct{}{}
	}
	return keys
}

// NewPortBindings returns the host sides of published ports by the sandbox's side, or nil if there
// are none.
func NewPortBindings(ports []model.PortSpec) map[string][]PortBinding {
	var bindings map[string][]PortBinding
	for _, p := range ports {
		if bindings == nil {
			bindings = map[string][]PortBinding{}
		}
		key := formatTarget(model.PortProto{Port: p.Port, Count: p.Count, Proto: p.Proto})
		b := PortBinding{HostIP: model.AddrText(p.HostIP), HostPort: portRange{p.HostPort, p.HostCount}.String(), From: p.From.Texts()}
		bindings[key] = append(bindings[key], b)
	}
	return bindings
}
