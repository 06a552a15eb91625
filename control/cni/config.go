// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// keyValid is the key of the list of attachments that GC keeps.
const keyValid = "cni.dev/valid-attachments"

// config is the plugin's part of a network configuration. All of it except the name describes the
// network to be created, if it does not exist.
type config struct {
	types.PluginConf

	// Host is the daemon's socket, unix:///PATH; "" means the default. There is no environment
	// variable for it, since runtimes do not pass their environment to every DEL.
	Host string `json:"host"`
	// Subnets has at most one subnet per family. If it is empty, the daemon allocates from its
	// pools.
	Subnets  []api.IPAMConfig  `json:"subnets"`
	Driver   string            `json:"driver"`   // default bridge; overlay: the network exists in the cluster
	IPv6     bool              `json:"ipv6"`     // from the daemon's pools, if there is no IPv6 subnet
	MTU      int               `json:"mtu"`      // default 1500
	IPMasq   *bool             `json:"ipMasq"`   // default true
	Internal bool              `json:"internal"` // no default route
	Isolated bool              `json:"isolated"` // members cannot reach each other
	Options  map[string]string `json:"options"`  // as in network create

	RuntimeConfig runtimeConfig `json:"runtimeConfig"`

	raw        []byte
	namesValid bool // GC's list exists, possibly empty
}

// runtimeConfig is what the runtime adds for the capabilities that the configuration declares.
type runtimeConfig struct {
	PortMappings []portMapping       `json:"portMappings"`
	IPs          []string            `json:"ips"`
	MAC          string              `json:"mac"`
	Aliases      map[string][]string `json:"aliases"` // by network
	IPRanges     [][]ipRange         `json:"ipRanges"`
	DNS          runtimeDNS          `json:"dns"`
	Bandwidth    json.RawMessage     `json:"bandwidth"`
}

type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// runtimeDNS is the DNS configuration that the runtime wants in the result.
type runtimeDNS struct {
	Servers  []string `json:"servers"`
	Searches []string `json:"searches"`
	Options  []string `json:"options"`
}

// dns returns the DNS configuration, with the runtime's values where it has any.
func (c *config) dns() types.DNS {
	dns, runtime := c.DNS, c.RuntimeConfig.DNS
	if len(runtime.Servers) > 0 {
		dns.Nameservers = runtime.Servers
	}
	if len(runtime.Searches) > 0 {
		dns.Search = runtime.Searches
	}
	if len(runtime.Options) > 0 {
		dns.Options = runtime.Options
	}
	return dns
}

type ipRange struct {
	Subnet     string `json:"subnet"`
	Gateway    string `json:"gateway"`
	RangeStart string `json:"rangeStart"` // default: the first of the subnet
	RangeEnd   string `json:"rangeEnd"`   // default: the last of the subnet
}

// config returns the subnet with its range.
func (r *ipRange) config() (api.IPAMConfig, error) {
	c := api.IPAMConfig{Subnet: r.Subnet, Gateway: r.Gateway}
	if r.RangeStart == "" && r.RangeEnd == "" {
		return c, nil
	}
	subnet, err := netip.ParsePrefix(r.Subnet)
	if err != nil {
		return c, refuse(types.ErrInvalidNetworkConfig, "ipRanges: %q is not a subnet", r.Subnet)
	}
	whole := model.RangeOf(subnet)
	within, err := model.ParseAddrRange(cmp.Or(r.RangeStart, whole.First.String()) + "-" + cmp.Or(r.RangeEnd, whole.Last.String()))
	if err != nil {
		return c, refuse(types.ErrInvalidNetworkConfig, "ipRanges: %v", err)
	}
	c.IPRange = within.String()
	return c, nil
}

// Keys that a configuration may have. Others are refused, so that a misspelt key does not
// silently mean a default.
var (
	configKeys = []string{
		"cniVersion", "name", "type", "capabilities", "ipam", "dns", "args", "prevResult", "runtimeConfig",
		"host", "subnets", "driver", "ipv6", "mtu", "ipMasq", "internal", "isolated", "options",
	}
	runtimeKeys   = []string{"portMappings", "ips", "mac", "aliases", "ipRanges", "dns", "bandwidth"}
	bandwidthKeys = []string{"ingressRate", "ingressBurst", "egressRate", "egressBurst"}
)

// parseConfig parses the configuration. If it is strict, unknown keys are refused.
func parseConfig(b []byte, strict bool) (*config, error) {
	c := &config{raw: b}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(b, &keys); err != nil {
		return nil, refuse(types.ErrDecodingFailure, "network configuration: %v", err)
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, refuse(types.ErrDecodingFailure, "network configuration: %v", err)
	}
	_, c.namesValid = keys[keyValid]
	c.CNIVersion = cmp.Or(c.CNIVersion, "0.1.0") // the default of the specification
	if !strict {
		return c, nil
	}
	var capabilities map[string]json.RawMessage
	if raw, ok := keys["runtimeConfig"]; ok {
		if err := json.Unmarshal(raw, &capabilities); err != nil {
			return nil, refuse(types.ErrDecodingFailure, "network configuration: runtimeConfig: %v", err)
		}
	}
	if err := known("", keys, configKeys); err != nil {
		return nil, err
	}
	if err := known("capability ", capabilities, runtimeKeys); err != nil {
		return nil, err
	}
	if err := c.checkDriver(); err != nil {
		return nil, err
	}
	return c, c.checkDNS()
}

// checkDriver refuses drivers whose networks containers do not join, and addresses that the cluster does
// not allocate.
func (c *config) checkDriver() error {
	switch {
	case c.Driver != "" && c.Driver != model.DriverBridge && c.Driver != model.DriverOverlay:
		return refuse(types.ErrInvalidNetworkConfig, "driver %q is not %s or %s", c.Driver, model.DriverBridge, model.DriverOverlay)
	case c.Driver == model.DriverOverlay && c.IPAM.Type != "":
		return refuse(types.ErrInvalidNetworkConfig, "ipam: the addresses of a network with driver %s are allocated by the cluster, not by %s (omit ipam)", c.Driver, c.IPAM.Type)
	}
	return nil
}

// checkDNS refuses servers that are not IP addresses.
func (c *config) checkDNS() error {
	for _, server := range append(slices.Clone(c.DNS.Nameservers), c.RuntimeConfig.DNS.Servers...) {
		if _, err := netip.ParseAddr(server); err != nil {
			return refuse(types.ErrInvalidNetworkConfig, "DNS server %q is not an IP address", server)
		}
	}
	return nil
}

// known refuses keys that are not among those wanted. The specification requires the key and the
// value in the message.
func known(what string, have map[string]json.RawMessage, want []string) error {
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if !slices.Contains(want, key) && !strings.HasPrefix(key, "cni.dev/") {
			return refuse(types.ErrUnsupportedField, "%s%q: %s is not supported (known are %s)", what, key, have[key], strings.Join(want, ", "))
		}
	}
	return nil
}

// previous returns the result of ADD.
func (c *config) previous() (*current.Result, error) {
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, refuse(types.ErrDecodingFailure, "prevResult: %v", err)
	}
	if c.PrevResult == nil {
		return nil, refuse(types.ErrInvalidNetworkConfig, "CHECK without prevResult in the configuration")
	}
	prev, err := current.GetResult(c.PrevResult)
	if err != nil {
		return nil, refuse(types.ErrDecodingFailure, "prevResult: %v", err)
	}
	if slices.Contains(prev.Interfaces, nil) || slices.Contains(prev.IPs, nil) || slices.Contains(prev.Routes, nil) {
		return nil, refuse(types.ErrDecodingFailure, "prevResult: null instead of an interface, address or route")
	}
	return prev, nil
}

// args are the CNI_ARGS that the plugin uses.
type args struct {
	types.CommonArgs
	IP                types.UnmarshallableString
	MAC               types.UnmarshallableString
	K8S_POD_NAME      types.UnmarshallableString // names defined by runtimes
	K8S_POD_NAMESPACE types.UnmarshallableString
}

func parseArgs(s string) (args, error) {
	var a args
	if err := types.LoadArgs(s, &a); err != nil {
		return a, refuse(types.ErrInvalidEnvironmentVariables, "CNI_%v", err)
	}
	return a, nil
}

// labels returns labels that show users which pod, or which container of podman, a sandbox
// belongs to.
func (a *args) labels() map[string]string {
	labels := map[string]string{}
	if a.K8S_POD_NAME != "" {
		labels["io.kubernetes.pod.name"] = string(a.K8S_POD_NAME)
	}
	if a.K8S_POD_NAMESPACE != "" {
		labels["io.kubernetes.pod.namespace"] = string(a.K8S_POD_NAMESPACE)
	}
	return labels
}

// endpointSpec returns the specification of the interface. Addresses of an IPAM plugin take
// precedence over the runtime's, which that plugin received too.
func (c *call) endpointSpec(a args, lease *current.Result) (spec model.EndpointSpec, err error) {
	spec = model.EndpointSpec{Network: c.Name, IfName: c.IfName, Aliases: c.aliases(a)}
	if err := model.CheckAliases(c.RuntimeConfig.Aliases[c.Name]); err != nil {
		return spec, err
	}
	if mac := cmp.Or(c.RuntimeConfig.MAC, string(a.MAC)); mac != "" {
		if spec.MAC, err = model.ParseMAC(mac); err != nil {
			return spec, refuse(types.ErrInvalidNetworkConfig, "%v", err)
		}
	}
	if spec.Bandwidth, err = c.RuntimeConfig.bandwidth(); err != nil {
		return spec, err
	}
	wanted := c.RuntimeConfig.IPs
	if a.IP != "" && len(wanted) == 0 {
		wanted = []string{string(a.IP)}
	}
	if lease != nil {
		wanted, spec.Leased = nil, true
		for _, ip := range lease.IPs {
			wanted = append(wanted, ip.Address.IP.String())
		}
	}
	spec.IPv4, spec.IPv6, err = attach.Addresses(wanted)
	return spec, err
}

// aliases returns the names of the container in the network: its name in the runtime and the
// beginning of its ID, which differs from the sandbox's. Predefined networks have no names.
func (c *call) aliases(a args) []string {
	list := slices.Clone(c.RuntimeConfig.Aliases[c.Name])
	switch c.Name {
	case model.NetworkBridge, model.NetworkHost, model.NetworkNone, "default":
		return list
	}
	for _, name := range []string{string(a.K8S_POD_NAME), shortID(c.ContainerID)} {
		if name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// ports returns the published ports.
func (r *runtimeConfig) ports() ([]model.PortSpec, error) {
	var specs []model.PortSpec
	for _, m := range r.PortMappings {
		spec, err := attach.Port(m.HostIP, m.HostPort, m.ContainerPort, 1, m.Protocol)
		if err != nil {
			return nil, refuse(types.ErrInvalidNetworkConfig, "port mapping: %v", err)
		}
		specs = append(specs, spec)
	}
	return specs, nil
}
