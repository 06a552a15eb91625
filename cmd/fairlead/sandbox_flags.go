// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/csv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// attachment is a network to connect a sandbox to, with its addresses.
type attachment struct {
	network string
	ip, ip6 netip.Addr
	mac     model.MAC
	aliases []string
	links   []string
	gwPrio  int
	limits  model.Bandwidth
	ifName  string
	sysctls []model.Sysctl
}

// setOpt applies a driver option, KEY=VALUE.
func (a *attachment) setOpt(opt string) error {
	key, value, _ := strings.Cut(opt, "=")
	spec := model.EndpointSpec{IfName: a.ifName, Sysctls: a.sysctls}
	if err := api.ApplyDriverOpt(&spec, key, value); err != nil {
		return usageError{err}
	}
	a.ifName, a.sysctls = spec.IfName, spec.Sysctls
	return nil
}

func (a *attachment) setIP(ip, ip6 string) error {
	var err error
	if ip != "" {
		if a.ip, err = netip.ParseAddr(ip); err != nil || !a.ip.Is4() {
			return usagef("--ip %q is not an IPv4 address", ip)
		}
	}
	if ip6 != "" {
		if a.ip6, err = netip.ParseAddr(ip6); err != nil || !a.ip6.Is6() || a.ip6.Is4In6() || a.ip6.Zone() != "" {
			return usagef("--ip6 %q is not an IPv6 address", ip6)
		}
	}
	return nil
}

func (a *attachment) setMAC(mac string) error {
	if mac == "" {
		return nil
	}
	var err error
	if a.mac, err = model.ParseMAC(mac); err != nil {
		return usageError{err}
	}
	return nil
}

func (a *attachment) spec() model.EndpointSpec {
	spec := model.EndpointSpec{Network: a.network, IPv4: a.ip, IPv6: a.ip6, MAC: a.mac, Aliases: a.aliases, GwPriority: a.gwPrio, Bandwidth: a.limits, IfName: a.ifName, Sysctls: a.sysctls}
	for _, link := range a.links {
		spec.Links = append(spec.Links, api.ParseLink(link))
	}
	return spec
}

func (a *attachment) config() *api.EndpointConfig { return api.NewEndpointConfig(a.spec()) }

// sandboxFlags are the flags that run and sandbox create share.
type sandboxFlags struct {
	networks   []string
	ip, ip6    string
	mac        string
	aliases    []string
	publish    []string
	publishAll bool
	expose     []string
	hostname   string
	lookup     lookupFlags
	links      []string
	limits     limitFlags
	labels     []string
	sysctls    []string
}

func (o *sandboxFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.networks, "network", nil,
		`network to join, or host, none, container:NAME; repeatable; also as name=NET,ip=…,ip6=…,mac-address=…,alias=…,gw-priority=…,bandwidth-in=…,driver-opt=… (default "bridge")`)
	f.StringVar(&o.ip, "ip", "", "IPv4 address in the first network (default: a free one)")
	f.StringVar(&o.ip6, "ip6", "", "IPv6 address in the first network (default: a free one)")
	f.StringVar(&o.mac, "mac-address", "", "MAC address in the first network (default: generated)")
	f.StringArrayVar(&o.aliases, "network-alias", nil, "name in the first network beside the sandbox's own; also that of a service, or *.NAME for all names below; repeatable")
	f.StringArrayVarP(&o.publish, "publish", "p", nil, "publish a port: [IP:][HOST[-HOST]:]PORT[-PORT][/tcp|udp|sctp][,from=PREFIX…], the clients that reach it")
	f.BoolVarP(&o.publishAll, "publish-all", "P", false, "publish all exposed ports on free host ports")
	f.StringArrayVar(&o.expose, "expose", nil, "expose a port: PORT[-PORT][/tcp|udp|sctp]")
	f.StringVar(&o.hostname, "hostname", "", "host name of the program (default: the first 12 digits of the sandbox's ID)")
	f.StringArrayVar(&o.links, "link", nil, "another sandbox in the first network, under an alias that only this one knows: NAME[:ALIAS]; repeatable")
	o.limits.register(f, "in the first network; default: that of the network")
	o.lookup.register(cmd)
	f.StringArrayVar(&o.labels, "label", nil, "label, KEY[=VALUE]")
	f.StringArrayVar(&o.sysctls, "sysctl", nil, "setting of the sandbox's network namespace, NAME=VALUE as in net.ipv4.ip_forward=1; repeatable")
	for former, flag := range map[string]string{"net": "network", "net-alias": "network-alias", "dns-opt": "dns-option"} { // as in Docker
		f.Var(f.Lookup(flag).Value, former, "former name of --"+flag)
		f.Lookup(former).Hidden = true
	}
}

// spec converts the flags to a request and the networks to connect to afterwards.
func (o *sandboxFlags) spec(cmd *cobra.Command) (model.SandboxSpec, []attachment, error) {
	spec := model.SandboxSpec{Hostname: o.hostname, PublishAll: o.publishAll}
	var err error
	if spec.Lookup, err = o.lookup.parse(); err != nil {
		return spec, nil, err
	}
	if len(o.hostname) > 64 {
		return spec, nil, usagef("--hostname %q is longer than 64 bytes", o.hostname)
	}
	joins, err := o.attachments()
	if err != nil {
		return spec, nil, err
	}
	spec.NetworkMode, spec.Endpoint = joins[0].network, joins[0].spec()
	if err := o.checkShared(joins); err != nil {
		return spec, nil, err
	}
	if spec.Labels, err = keyValues("label", o.labels); err != nil {
		return spec, nil, err
	}
	if spec.Sysctls, err = keyValues("sysctl", o.sysctls); err != nil {
		return spec, nil, err
	}
	for _, s := range o.expose {
		p, err := api.ParseExpose(s)
		if err != nil {
			return spec, nil, usageError{err}
		}
		spec.Expose = append(spec.Expose, p)
	}
	for _, s := range o.publish {
		p, err := api.ParsePublish(s)
		if err != nil {
			return spec, nil, usageError{err}
		}
		spec.Ports = append(spec.Ports, p)
	}
	return spec, joins[1:], nil
}

// attachments returns the networks in order; the first may be a mode.
func (o *sandboxFlags) attachments() ([]attachment, error) {
	values := o.networks
	if len(values) == 0 {
		values = []string{model.NetworkBridge}
	}
	var list []attachment
	for _, v := range values {
		a, err := parseNetwork(v)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(list, func(b attachment) bool { return b.network == a.network }) {
			return nil, usagef("network %q is given twice", a.network)
		}
		list = append(list, a)
	}
	first := &list[0]
	if strings.Contains(values[0], "=") && (o.ip != "" || o.ip6 != "" || o.mac != "" || len(o.aliases) > 0 || o.limits != limitFlags{}) {
		return nil, usagef("give addresses, aliases and limits of network %q within --network %q, not beside it", first.network, values[0])
	}
	first.aliases = append(first.aliases, o.aliases...)
	first.links = o.links
	if o.limits != (limitFlags{}) {
		var err error
		if first.limits, err = o.limits.ofNew(); err != nil {
			return nil, err
		}
	}
	if err := first.setIP(o.ip, o.ip6); err != nil {
		return nil, err
	}
	if err := first.setMAC(o.mac); err != nil {
		return nil, err
	}
	return list, nil
}

// parseNetwork parses one --network: a name, or Docker's list of KEY=VALUE.
func parseNetwork(v string) (attachment, error) {
	if !strings.Contains(v, "=") {
		if v == "" {
			return attachment{}, usagef("--network is empty")
		}
		if v == "default" {
			v = model.NetworkBridge
		}
		return attachment{network: v}, nil
	}
	var a attachment
	var limits limitFlags
	fields, err := csv.NewReader(strings.NewReader(v)).Read() // as Docker does: a field with commas is in quotes
	if err != nil {
		return a, usagef("--network %q: %v (put a field that contains a comma in quotes: \"driver-opt=…\")", v, err)
	}
	for _, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		var err error
		switch key {
		case "name":
			a.network = value
		case "ip":
			err = a.setIP(value, "")
		case "ip6":
			err = a.setIP("", value)
		case "mac-address":
			err = a.setMAC(value)
		case "alias":
			a.aliases = append(a.aliases, value)
		case "gw-priority":
			if a.gwPrio, err = strconv.Atoi(value); err != nil {
				err = usagef("--network %q: gw-priority %q is not a number", v, value)
			}
		case "bandwidth-in":
			limits.in = value
		case "bandwidth-out":
			limits.out = value
		case "driver-opt":
			err = a.setOpt(value)
		case "link-local-ip":
			err = later(key + " in --network")
		default:
			err = usagef("--network %q: unknown field %q (known: name, ip, ip6, mac-address, alias, gw-priority, bandwidth-in, bandwidth-out, driver-opt)", v, key)
		}
		if err != nil {
			return a, err
		}
	}
	if a.network == "" {
		return a, usagef("--network %q has no name=", v)
	}
	a.limits, err = limits.ofNew()
	return a, err
}

// checkShared refuses flags that cannot apply to a shared network namespace.
func (o *sandboxFlags) checkShared(joins []attachment) error {
	for _, a := range joins {
		shared := a.network == model.NetworkHost || a.network == model.NetworkNone || model.SharesNetNS(a.network)
		if shared && len(joins) > 1 {
			return usagef("--network %s cannot be combined with other networks", a.network)
		}
	}
	if mode := joins[0].network; model.SharesNetNS(mode) {
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"hostname", o.hostname != ""}, {"domainname", o.lookup.domainname != ""}, {"link", len(o.links) > 0}, {"dns", len(o.lookup.servers) > 0},
			{"dns-search", len(o.lookup.search) > 0}, {"dns-option", len(o.lookup.options) > 0}, {"add-host", len(o.lookup.hosts) > 0},
			{"ip", o.ip != ""}, {"ip6", o.ip6 != ""}, {"mac-address", o.mac != ""}, {"network-alias", len(o.aliases) > 0}, {"bandwidth-in", o.limits.in != ""}, {"bandwidth-out", o.limits.out != ""},
			{"publish", len(o.publish) > 0}, {"publish-all", o.publishAll}, {"expose", len(o.expose) > 0}, {"sysctl", len(o.sysctls) > 0},
		} {
			if f.set {
				return usagef("--%s cannot be given with --network %s: it belongs to the sandbox whose network is shared", f.name, mode)
			}
		}
	}
	return nil
}
