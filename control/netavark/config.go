// SPDX-License-Identifier: Apache-2.0

package netavark

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// labelNetwork is the label of a network that podman created. Its value is podman's ID.
const labelNetwork = "fairlead.netavark"

// Options of podman network create that are specific to this driver, or have another meaning for
// the daemon. All others are passed to the daemon.
const (
	optHost    = "fairlead.host"   // the daemon's socket, unix:///PATH
	optDriver  = "fairlead.driver" // default bridge; overlay: the network exists in the cluster
	optMTU     = "mtu"
	optIsolate = "isolate"
)

// network is podman's configuration of a network.
type network struct {
	Name        string            `json:"name"`
	ID          string            `json:"id"`
	Interface   string            `json:"network_interface"`
	Subnets     []subnet          `json:"subnets"`
	Routes      []json.RawMessage `json:"routes"`
	IPv6        bool              `json:"ipv6_enabled"`
	Internal    bool              `json:"internal"`
	DNS         bool              `json:"dns_enabled"`
	DNSServers  []string          `json:"network_dns_servers"`
	Options     map[string]string `json:"options"`
	IPAMOptions map[string]string `json:"ipam_options"`

	raw map[string]json.RawMessage
}

type subnet struct {
	Subnet  string `json:"subnet"`
	Gateway string `json:"gateway,omitempty"`
	// LeaseRange is used by podman only, which allocates the addresses.
	LeaseRange json.RawMessage `json:"lease_range,omitempty"`
}

func parseNetwork(b []byte) (*network, error) {
	n := &network{}
	if err := json.Unmarshal(b, n); err != nil {
		return nil, refuse("network configuration: %v", err)
	}
	if err := json.Unmarshal(b, &n.raw); err != nil {
		return nil, refuse("network configuration: %v", err)
	}
	if n.Name == "" || n.ID == "" {
		return nil, refuse("network configuration: name %q and id %q are both required", n.Name, n.ID)
	}
	return n, nil
}

// create returns the request that creates the network. podman completes the configuration of its
// user: with --ipv6, an IPv6 subnet is complemented by one of IPv4, as in podman's own bridge
// networks. If the configuration is complete, the listed subnets are all.
func (n *network) create(complete bool) (api.NetworkCreate, error) {
	want := api.NetworkCreate{
		Name: n.Name, Driver: model.DriverBridge, Internal: n.Internal,
		Options: map[string]string{}, Labels: map[string]string{labelNetwork: n.ID},
	}
	shared := n.Options[optDriver] == model.DriverOverlay
	switch driver := n.IPAMOptions["driver"]; {
	case n.Interface != "":
		return want, refuse("network %s: interface name %q is not supported, since there is no bridge (omit it)", n.Name, n.Interface)
	case len(n.Routes) > 0:
		return want, refuse("network %s: routes are not supported (omit them)", n.Name)
	case len(n.DNSServers) > 0:
		return want, refuse("network %s: DNS servers of a network are not supported (remove them with podman network update --dns-drop)", n.Name)
	case driver != "" && driver != ipamLocal && !(shared && driver == ipamNone):
		return want, refuse("network %s: IPAM driver %q is not supported (omit it)", n.Name, driver)
	}
	ipv6 := n.IPv6
	for _, s := range n.Subnets {
		p, err := netip.ParsePrefix(s.Subnet)
		if err != nil {
			return want, refuse("network %s: %q is not a subnet", n.Name, s.Subnet)
		}
		if want.IPAM == nil {
			want.IPAM = &api.IPAM{}
		}
		want.IPAM.Config = append(want.IPAM.Config, api.IPAMConfig{Subnet: s.Subnet, Gateway: s.Gateway})
		ipv6 = ipv6 || p.Addr().Is6()
	}
	if ipv6 {
		want.EnableIPv6 = &ipv6
	}
	if no := false; want.IPAM != nil && attach.IPv6Only(want.IPAM.Config) && (complete || !n.IPv6) {
		want.EnableIPv4 = &no
	}
	if n.DNS {
		want.Options[model.OptDNS] = "true"
	}
	for _, k := range slices.Sorted(maps.Keys(n.Options)) {
		v := n.Options[k]
		switch k {
		case optHost:
		case optDriver:
			if v != model.DriverBridge && !shared {
				return want, refuse("network %s: option %s=%s is not supported (use %s or %s)", n.Name, k, v, model.DriverBridge, model.DriverOverlay)
			}
			want.Driver = v
		case optMTU:
			want.Options[model.OptMTU] = v
		case optIsolate:
			if isolate, err := strconv.ParseBool(v); v != "strict" && (err != nil || !isolate) {
				return want, refuse("network %s: option isolate=%s is not supported, since networks are always isolated from each other (omit it)", n.Name, v)
			}
		default:
			want.Options[k] = v
		}
	}
	return want, nil
}

// podman's IPAM drivers.
const (
	ipamLocal = "host-local" // podman allocates the addresses
	ipamNone  = "none"
)

// completed returns the configuration, completed by what the daemon allocated or has. The cluster
// allocates the addresses of a network that hosts share.
func (n *network) completed(have *api.Network) ([]byte, error) {
	subnets, configs, ipam := []subnet{}, have.IPAM.Config, ipamLocal
	if have.Driver == model.DriverOverlay {
		configs, ipam = nil, ipamNone
	}
	for _, c := range configs {
		s := subnet{Subnet: c.Subnet, Gateway: c.Gateway}
		if i := slices.IndexFunc(n.Subnets, func(given subnet) bool { return given.Subnet == c.Subnet }); i >= 0 {
			s.LeaseRange = n.Subnets[i].LeaseRange
		}
		subnets = append(subnets, s)
	}
	for key, value := range map[string]any{
		"subnets": subnets, "ipv6_enabled": have.EnableIPv6, "dns_enabled": attach.HasDNS(have),
		"ipam_options": map[string]string{"driver": ipam},
	} {
		b, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		n.raw[key] = b
	}
	return json.Marshal(n.raw)
}

// attachment is podman's request for one interface of one container.
type attachment struct {
	ContainerID   string        `json:"container_id"`
	ContainerName string        `json:"container_name"`
	PortMappings  []portMapping `json:"port_mappings"`
	Network       network       `json:"network"`
	Options       struct {
		Aliases       []string          `json:"aliases"`
		InterfaceName string            `json:"interface_name"`
		StaticIPs     []string          `json:"static_ips"`
		StaticMAC     string            `json:"static_mac"`
		Options       map[string]string `json:"options"`
	} `json:"network_options"`
}

type portMapping struct {
	ContainerPort int    `json:"container_port"`
	HostIP        string `json:"host_ip"`
	HostPort      int    `json:"host_port"`
	Protocol      string `json:"protocol"` // several, separated by commas; default tcp
	Range         int    `json:"range"`    // number of ports; default 1
}

func parseAttachment(b []byte) (*attachment, error) {
	a := &attachment{}
	if err := json.Unmarshal(b, a); err != nil {
		return nil, refuse("request: %v", err)
	}
	for _, need := range []struct{ key, value string }{
		{"container_id", a.ContainerID}, {"container_name", a.ContainerName},
		{"network.name", a.Network.Name}, {"network_options.interface_name", a.Options.InterfaceName},
	} {
		if need.value == "" {
			return nil, refuse("request without %s", need.key)
		}
	}
	return a, nil
}

// sandboxSpec returns the specification of the container's sandbox with its first network.
func (a *attachment) sandboxSpec(netns string) (model.SandboxSpec, error) {
	spec := model.SandboxSpec{
		NetNS: netns, NetworkMode: a.Network.Name,
		// CNI runtimes, including podman 4, use this label for the name.
		Labels:   map[string]string{LabelContainer: a.ContainerID, "io.kubernetes.pod.name": a.ContainerName},
		Endpoint: model.EndpointSpec{Network: a.Network.Name, IfName: a.Options.InterfaceName, Aliases: a.aliases()},
	}
	for _, k := range slices.Sorted(maps.Keys(a.Options.Options)) {
		return spec, refuse("network %s: option %s=%s of a container is not supported (omit it)", a.Network.Name, k, a.Options.Options[k])
	}
	err := model.CheckAliases(a.Options.Aliases)
	if err != nil {
		return spec, err
	}
	if a.Options.StaticMAC != "" {
		if spec.Endpoint.MAC, err = model.ParseMAC(a.Options.StaticMAC); err != nil {
			return spec, refuse("%v", err)
		}
	}
	if spec.Endpoint.IPv4, spec.Endpoint.IPv6, err = attach.Addresses(a.Options.StaticIPs); err != nil {
		return spec, err
	}
	for _, m := range a.PortMappings {
		for proto := range strings.SplitSeq(m.Protocol, ",") {
			p, err := attach.Port(m.HostIP, m.HostPort, m.ContainerPort, max(1, m.Range), proto)
			if err != nil {
				return spec, err
			}
			spec.Ports = append(spec.Ports, p)
		}
	}
	return spec, nil
}

// aliases returns the names in addition to the sandbox's, which may differ from the container's.
func (a *attachment) aliases() []string {
	all := append(slices.Clone(a.Options.Aliases), a.ContainerName)
	slices.Sort(all)
	return slices.Compact(all)
}

// statusBlock is netavark's status of a container.
type statusBlock struct {
	DNSSearchDomains []string                    `json:"dns_search_domains"`
	DNSServerIPs     []string                    `json:"dns_server_ips"`
	Interfaces       map[string]networkInterface `json:"interfaces"`
}

type networkInterface struct {
	MACAddress string       `json:"mac_address"`
	Subnets    []netAddress `json:"subnets"`
}

type netAddress struct {
	IPNet   string `json:"ipnet"`
	Gateway string `json:"gateway,omitempty"`
}

func status(n *api.Network, sb api.Sandbox, ifName string) ([]byte, error) {
	ep := sb.NetworkSettings.Networks[n.Name]
	made := networkInterface{MACAddress: ep.MacAddress}
	for _, addr := range []struct {
		ip, gateway string
		length      int
	}{{ep.IPAddress, ep.Gateway, ep.IPPrefixLen}, {ep.GlobalIPv6Address, ep.IPv6Gateway, ep.GlobalIPv6PrefixLen}} {
		if addr.ip == "" {
			continue
		}
		if n.Internal {
			addr.gateway = "" // no default route
		}
		made.Subnets = append(made.Subnets, netAddress{addr.ip + "/" + strconv.Itoa(addr.length), addr.gateway})
	}
	return json.Marshal(statusBlock{[]string{}, attach.NameServers(n), map[string]networkInterface{ifName: made}})
}
