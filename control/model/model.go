// SPDX-License-Identifier: Apache-2.0

// Package model defines Fairlead's objects as plain values: networks,
// sandboxes, endpoints and published ports. The snapshots of all of them, which the
// reconciler turns into kernel objects, are in package desired. It imports only the
// standard library.
package model

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Names of the predefined networks.
const (
	NetworkBridge = "bridge"
	NetworkHost   = "host"
	NetworkNone   = "none"
)

// ModeContainer is the prefix of the network mode of a sandbox that shares the namespace of
// another one, whose ID follows.
const ModeContainer = "container:"

// Ports of the DNS servers at the gateways.
const (
	PortDNS = 53
	// PortResolver serves the queries of sandboxes to 127.0.0.11, which the datapath redirects.
	PortResolver = 11053
)

// Options of a network, with Docker's or Fairlead's keys, that have a default or that container
// runtimes configure under other names.
const (
	OptICC        = "com.docker.network.bridge.enable_icc"
	OptMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	OptMTU        = "com.docker.network.driver.mtu"
	OptAntiSpoof  = "fairlead.antispoof"
	OptIngress    = "fairlead.bandwidth_in"
	OptEgress     = "fairlead.bandwidth_out"
	OptDNS        = "fairlead.dns"
	OptUntracked  = "fairlead.untracked"
	OptPublish    = "fairlead.publish" // of internal networks
	OptGateway    = "fairlead.gateway" // the sandbox that is the default gateway of the other members
	OptEncrypted  = "encrypted"        // of overlay networks, as Docker's
	OptHostIPv4   = "com.docker.network.host_ipv4"
	OptHostIPv6   = "com.docker.network.host_ipv6"
	OptGateMode4  = "com.docker.network.bridge.gateway_mode_ipv4"
	OptGateMode6  = "com.docker.network.bridge.gateway_mode_ipv6"
)

// Options of a network without a default, with Docker's keys.
const (
	OptVNI = "com.docker.network.driver.overlay.vxlanid_list"

	OptHostBinding = "com.docker.network.bridge.host_binding_ipv4"
	OptIfPrefix    = "com.docker.network.container_iface_prefix"
	OptIPv4        = "com.docker.network.enable_ipv4"
	OptIPv6        = "com.docker.network.enable_ipv6"

	// These have no effect when they are false.
	OptInhibit4      = "com.docker.network.bridge.inhibit_ipv4"
	OptDefaultBridge = "com.docker.network.bridge.default_bridge"
)

// Drivers of addresses besides the default: the one allocates none, for the other a DHCP server on the parent's link does.
const (
	IPAMNull = "null"
	IPAMDHCP = "dhcp"
)

// Gateway modes of a family in a network, as Docker's.
const (
	GatewayNAT         = "nat"             // members are reached from outside only by published ports of the host
	GatewayUnprotected = "nat-unprotected" // also at their own addresses, at every port
	GatewayRouted      = "routed"          // nothing is translated: published are ports of their own addresses
	GatewayIsolated    = "isolated"        // the host has no address in the network
)

// Options of macvlan and ipvlan networks, as Docker's, and Fairlead's own.
const (
	OptParent      = "parent"
	OptMacvlanMode = "macvlan_mode"
	OptIPvlanMode  = "ipvlan_mode"
	OptIPvlanFlag  = "ipvlan_flag"
	OptHostAccess  = "fairlead.host_access"
)

// OptNetwork is the option by which an engine's network names the shared network that it is.
const OptNetwork = "fairlead.network"

// OptionDefaults are the values of options that a network was created without.
var OptionDefaults = map[string]string{
	OptICC:        "true",
	OptMasquerade: "true",
	OptMTU:        strconv.Itoa(DefaultMTU),
	OptAntiSpoof:  "true",
	OptDNS:        "false",
	OptUntracked:  "false",
	OptPublish:    "false",
}

// DefaultMTU is the MTU of a network that does not set one, in bytes.
const DefaultMTU = 1500

// MAC is an Ethernet hardware address.
type MAC [6]byte

// ParseMAC reads a 48-bit hardware address. It refuses multicast and all-zero
// addresses, which no interface may have.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("%q is not a MAC address (want the form 02:42:ac:11:00:02)", s)
	}
	m := MAC(hw)
	if m[0]&1 != 0 {
		return MAC{}, fmt.Errorf("MAC address %q is multicast (the lowest bit of its first byte must be 0)", s)
	}
	if m.IsZero() {
		return MAC{}, fmt.Errorf("MAC address %q is all zero", s)
	}
	return m, nil
}

// IsZero reports whether the address is unset.
func (m MAC) IsZero() bool { return m == MAC{} }

// String formats the address in colon-separated hexadecimal.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText implements [encoding.TextMarshaler].
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := ParseMAC(string(b))
	if err != nil {
		return err
	}
	*m = v
	return nil
}

// MACOf derives a MAC from an IPv4 address like Docker, and from the last 4 bytes of an IPv6
// address, in which neighbours differ. It returns zero for the zero Addr.
func MACOf(ip netip.Addr) MAC {
	if !ip.IsValid() {
		return MAC{}
	}
	a := ip.AsSlice()
	return MAC(append([]byte{0x02, 0x42}, a[len(a)-4:]...))
}

// LinkLocal returns the IPv6 link-local address that the kernel derives from the
// hardware address (modified EUI-64, RFC 4291 appendix A).
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0,
		m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// Proto is the IANA number of an IP protocol with ports.
type Proto uint8

// Protocols with ports.
const (
	TCP  Proto = 6
	UDP  Proto = 17
	SCTP Proto = 132
)

// String returns the lower-case name of the protocol, as in "80/tcp".
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("proto%d", uint8(p))
}

// Subnet is a subnet of a Network, which has at most one per
// address family, unless it is one of macvlan or ipvlan.
type Subnet struct {
	Prefix  netip.Prefix          `json:"prefix"`            // masked
	Gateway netip.Addr            `json:"gateway"`           // zero: none
	IPRange AddrRange             `json:"ip_range,omitzero"` // zero: the whole subnet
	Aux     map[string]netip.Addr `json:"aux,omitempty"`     // name -> reserved address
	Fixed   bool                  `json:"fixed,omitempty"`   // of the default network: the daemon's flags name it
}

// Docker's names of the auxiliary addresses that replace the gateway in the default route of
// sandboxes.
const (
	AuxDefaultGateway4 = "DefaultGatewayIPv4"
	AuxDefaultGateway6 = "DefaultGatewayIPv6"
)

// DefaultGateway returns the next hop of the sandboxes' default route, or the zero Addr if
// they have no default route.
func (s Subnet) DefaultGateway() netip.Addr {
	if a, ok := s.Aux[choose(FamilyOf(s.Prefix.Addr()), AuxDefaultGateway4, AuxDefaultGateway6)]; ok {
		return a
	}
	return s.Gateway
}

// Network is a set of endpoints that can reach each other. A value is immutable
// once it is in a snapshot; a change creates a new value.
type Network struct {
	ID   string `json:"id"`   // 64 hexadecimal digits
	Name string `json:"name"` // unique
	// OriginalName is the name that an engine-managed network was created with, if it was
	// renamed to match the engine. It still finds the network. "": same as Name.
	OriginalName string     `json:"made_as,omitempty"`
	Created      time.Time  `json:"created"`
	Driver       string     `json:"driver"`
	ManagedBy    Manager    `json:"managed_by"` // Fairlead or an engine
	Local        `json:"-"` // what only this host knows of the network

	// Idle marks a predefined or shared network without endpoints on this host. It has no device
	// and claims no subnet. Its first endpoint reclaims Subnets if they are still free.
	Idle bool `json:"idle,omitempty"`

	EnableIPv4 bool     `json:"enable_ipv4"`
	EnableIPv6 bool     `json:"enable_ipv6"`
	Subnets    []Subnet `json:"subnets,omitempty"`
	GatewayMAC MAC      `json:"gateway_mac,omitzero"` // of the host port
	VNI        uint32   `json:"vni,omitempty"`        // VXLAN network identifier; 0: the network is not shared
	Encrypted  bool     `json:"encrypted,omitempty"`  // nothing of it travels between nodes in clear text
	// Swarm is the ID of the network that a shared network is in a swarm of engines, "" if it is none. The
	// swarm allocates all addresses, so that only its containers are members and no node has an address there.
	Swarm string `json:"swarm,omitempty"`

	Internal        bool       `json:"internal,omitempty"`         // no default route
	PublishInternal bool       `json:"publish_internal,omitempty"` // ports are published although it is internal
	ICC             bool       `json:"icc"`                        // members may reach each other
	Masquerade      bool       `json:"masquerade"`                 // SNAT to the uplink's address
	AntiSpoof       bool       `json:"antispoof"`                  // source MAC and IP must be the endpoint's own
	HostBindingIPv4 netip.Addr `json:"host_binding_ipv4,omitzero"` // default host address of published ports
	EgressIPv4      netip.Addr `json:"egress_ipv4,omitzero"`       // to masquerade with; zero: the uplink's
	EgressIPv6      netip.Addr `json:"egress_ipv6,omitzero"`
	Router          string     `json:"router,omitempty"`    // name of the member by which alone the others reach what is outside; "": the host
	MTU             int        `json:"mtu,omitempty"`       // bytes, of the endpoints' devices
	DNS             bool       `json:"dns,omitempty"`       // DNS is served at the gateway addresses
	Untracked       bool       `json:"untracked,omitempty"` // no conntrack in the sandboxes' namespaces
	Bandwidth       Bandwidth  `json:"bandwidth,omitzero"`  // of endpoints that have no limits of their own
	IfPrefix        string     `json:"if_prefix,omitempty"` // of interface names in sandboxes, followed by a number; "": eth

	// Of macvlan, ipvlan and lan networks: the host's device below the endpoints' devices, "" for one of the network's
	// own; the mode, and the flag of ipvlan.
	Parent string `json:"parent,omitempty"`
	Mode   string `json:"mode,omitempty"`
	Flag   string `json:"flag,omitempty"`
	// HostAccess means that the host has a device of its own on the parent, by which it reaches the members, and they it.
	HostAccess bool `json:"host_access,omitempty"`

	// ConfigOnly means that the network holds only configuration, for networks that name it in ConfigFrom. It is idle for
	// ever, and its Subnets are as the user gave them.
	ConfigOnly bool   `json:"config_only,omitempty"`
	ConfigFrom string `json:"config_from,omitempty"`
	IPAM       string `json:"ipam,omitempty"` // the driver of addresses: "" for the default, IPAMNull or IPAMDHCP

	Options map[string]string `json:"options,omitempty"` // as the user gave them
	Labels  map[string]string `json:"labels,omitempty"`
}

// VLAN returns the device and the VLAN number of a parent that is named like eth0.50.
func (n *Network) VLAN() (device string, vlan int, ok bool) {
	device, number, ok := strings.Cut(n.Parent, ".")
	vlan, err := strconv.Atoi(number)
	return device, vlan, ok && err == nil && device != "" && vlan >= 1 && vlan <= 4094 && strconv.Itoa(vlan) == number
}

// Local is what only one host knows of a network. It is not part of the network's stored record.
type Local struct {
	// Index is the network's number in the datapath: 1..MaxNetworks-1, unique among living networks.
	Index uint32 `json:"index"`
	// Engine is the ID of the engine that last listed the network, or EngineQueried until one
	// has listed it. It is "" if the engine is not one that Fairlead queries.
	Engine string `json:"engine,omitempty"`
	// NodeIPv4 and NodeIPv6 are the host's own addresses in a shared network, whose gateway addresses
	// are the same on every node, or in one with HostAccess. They are zero if the network is idle or neither.
	NodeIPv4 netip.Addr `json:"node_ipv4,omitzero"`
	NodeIPv6 netip.Addr `json:"node_ipv6,omitzero"`
	// EngineNetwork is the ID of the container engine's network that a shared network is on this host,
	// "" if it is none.
	EngineNetwork string `json:"engine_network,omitempty"`
}

// EngineQueried stands for the engine that Fairlead queries for names, before its ID is known.
const EngineQueried = "asked" // as stored

// MaxNetworks bounds Network.Index; it is the size of the datapath's
// per-network tables.
const MaxNetworks = 4096

// EngineRef returns the ID that a container engine knows the network by, or "" if it is not one of an
// engine.
func (n *Network) EngineRef() string {
	if n.ManagedBy == ByEngine {
		return n.ID
	}
	return n.EngineNetwork
}

// Claimed returns the subnets that the network currently claims.
func (n *Network) Claimed() []Subnet {
	if n.Idle {
		return nil
	}
	return n.Subnets
}

// Subnet returns the network's subnet of an address family, the first one, if there is one.
func (n *Network) Subnet(f Family) (Subnet, bool) {
	for _, s := range n.Subnets {
		if FamilyOf(s.Prefix.Addr()) == f {
			return s, true
		}
	}
	return Subnet{}, false
}

// SubnetsOf returns the network's subnets of an address family: at most one, unless it is one of macvlan or ipvlan.
func (n *Network) SubnetsOf(f Family) (list []Subnet) {
	for _, s := range n.Subnets {
		if FamilyOf(s.Prefix.Addr()) == f {
			list = append(list, s)
		}
	}
	return list
}

// SubnetWith returns the network's subnet that contains an address, if there is one.
func (n *Network) SubnetWith(a netip.Addr) (Subnet, bool) {
	for _, s := range n.Subnets {
		if s.Prefix.Contains(a) {
			return s, true
		}
	}
	return Subnet{}, false
}

// DefaultGateway returns the next hop of an endpoint's default route in an address family, or
// the zero Addr if it has none.
func (n *Network) DefaultGateway(ep *Endpoint, f Family) netip.Addr {
	if a := ep.Addr(f); ep.Lease != nil && f == V4 && a.IsValid() && !n.Closed() {
		return ep.Lease.Router
	}
	if s, ok := n.SubnetWith(ep.Addr(f)); ok && !n.Closed() {
		return s.DefaultGateway()
	}
	return netip.Addr{}
}

// Closed reports whether nothing outside of the network gets an answer from its members, not even at published ports: so they
// need no default route. What they send by themselves stays inside of every internal network.
func (n *Network) Closed() bool { return n.Internal && !n.PublishInternal }

// IsRouter reports whether a sandbox is the router of the network's other members. It gets packets while it [Sandbox.Serves].
func (n *Network) IsRouter(sb *Sandbox) bool { return sb != nil && sb.HasName(n.Router) }

// HasDefaultRoute reports whether an endpoint could have the sandbox's default route of a family: the network has a
// gateway, or routes without one.
func (n *Network) HasDefaultRoute(ep *Endpoint, f Family) bool {
	if n.Routes() {
		return !n.Closed() && ep.Addr(f).IsValid()
	}
	return n.DefaultGateway(ep, f).IsValid()
}

// Routes reports whether the network is one of ipvlan that routes: its members need no gateway and ask for no MAC.
func (n *Network) Routes() bool { return n.Mode == ModeL3 || n.Mode == ModeL3S }

// DeviceMTU returns the MTU of the network's devices, in bytes.
func (n *Network) DeviceMTU() int { return cmp.Or(n.MTU, DefaultMTU) }

// NodeAddr returns the host's own address of a family in a shared network, or the zero Addr.
func (n *Network) NodeAddr(f Family) netip.Addr {
	return choose(f, n.NodeIPv4, n.NodeIPv6)
}

// NodeMAC returns the MAC of this node in a shared network: the source of what the host sends to
// members on other nodes, since the MAC of the gateway is the same on every node. It is zero if the
// node has no address in the network.
func (n *Network) NodeMAC() MAC { return MACOf(cmp.Or(n.NodeIPv4, n.NodeIPv6)) }

// NodePrefixes returns the host's own addresses in a shared network with the prefix lengths of
// their subnets.
func (n *Network) NodePrefixes() []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range n.Subnets {
		if a := n.NodeAddr(FamilyOf(s.Prefix.Addr())); a.IsValid() {
			ps = append(ps, netip.PrefixFrom(a, s.Prefix.Bits()))
		}
	}
	return ps
}

// GatewayPrefixes returns the gateway addresses with the prefix lengths of their subnets.
func (n *Network) GatewayPrefixes() []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range n.Subnets {
		if s.Gateway.IsValid() {
			ps = append(ps, netip.PrefixFrom(s.Gateway, s.Prefix.Bits()))
		}
	}
	return ps
}

// PortProto is a port of a protocol, or a range of ports if Count > 1.
type PortProto struct {
	Port  uint16 `json:"port"`
	Count uint16 `json:"count"` // ports Port … Port+Count-1; at least 1
	Proto Proto  `json:"proto"`
}

// InterfacePrefix returns the prefix of automatic interface names in sandboxes.
func (n *Network) InterfacePrefix() string { return cmp.Or(n.IfPrefix, "eth") }

// OnHostIPv6 reports whether the host is a member of the network with IPv6.
func (n *Network) OnHostIPv6() bool {
	s, ok := n.Subnet(V6)
	return n.EnableIPv6 && ok && s.Gateway.IsValid()
}

// GatewayMode returns the gateway mode of a family that options request.
func GatewayMode(options map[string]string, f Family) string {
	return cmp.Or(options[choose(f, OptGateMode4, OptGateMode6)], GatewayNAT)
}

// Isolated reports whether options request a network in which the host has no address of a family.
func Isolated(options map[string]string, f Family) bool {
	return GatewayMode(options, f) == GatewayIsolated
}

// Routed reports whether packets of a family enter and leave the network untranslated.
func (n *Network) Routed(f Family) bool { return GatewayMode(n.Options, f) == GatewayRouted }

// OnHost returns a binding at the addresses of the host where the network publishes it, and whether there are any: it
// publishes no port of a family that is routed there.
func (n *Network) OnHost(b PortBinding) (PortBinding, bool) {
	at := func(f Family) bool {
		if _, ok := n.Subnet(f); !ok {
			f = f.Other() // see Backend
		}
		return !n.Routed(f)
	}
	switch {
	case b.HostIP.IsValid():
		return b, at(FamilyOf(b.HostIP))
	case at(V4) && !at(V6):
		b.HostIP = netip.IPv4Unspecified()
	case at(V6) && !at(V4):
		b.HostIP = netip.IPv6Unspecified()
	}
	return b, at(V4) || at(V6)
}

// HasName reports whether name is the current or original name of the network.
func (n *Network) HasName(name string) bool { return hasName(name, n.Name, n.OriginalName) }

// HasHostPort reports whether the network, which may be nil, should have a device of its own on the host.
func (n *Network) HasHostPort() bool { return n != nil && n.Has().OnHost != NoDevice && !n.Idle }

// SameDevices reports whether another version of the network differs at most in what its devices and entries do not
// depend on: its names, and what engines know of it.
func (n *Network) SameDevices(o *Network) bool {
	a, b := *n, *o
	for _, v := range []*Network{&a, &b} {
		v.Name, v.OriginalName, v.Engine, v.EngineNetwork = "", "", "", ""
	}
	return reflect.DeepEqual(a, b)
}

func hasName(name, now, original string) bool { return name != "" && (name == now || name == original) }

// Sandbox is the network namespace of one container. A value is immutable once it
// is in a snapshot.
type Sandbox struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	OriginalName string    `json:"made_as,omitempty"` // see Network
	Created      time.Time `json:"created"`

	// NetworkMode is host, none, container:<sandbox id>, or the name of the
	// first network.
	NetworkMode string `json:"network_mode"`
	// NetNS is the path of the network namespace; empty with NetworkMode host.
	// With container:<id> it is that sandbox's path.
	NetNS     string  `json:"netns,omitempty"`
	ManagedBy Manager `json:"managed_by"`
	// EngineID is the ID that the engine gave the container of an engine-managed sandbox. It also
	// finds the sandbox. "": not known yet.
	EngineID string `json:"engine_id,omitempty"`

	Hostname   string            `json:"hostname,omitempty"`
	Lookup     Lookup            `json:"lookup,omitzero"`
	Labels     map[string]string `json:"labels,omitempty"`
	Command    []string          `json:"command,omitempty"`
	AutoRemove bool              `json:"auto_remove,omitempty"`
	Sysctls    map[string]string `json:"sysctls,omitempty"` // of the namespace, from its creation on
	Expose     []PortProto       `json:"expose,omitempty"`
	// Ports are the published ports as requested, with automatic host ports
	// filled in. The sandbox's gateway endpoint serves them.
	Ports []PortBinding `json:"ports,omitempty"`

	// The client's reports about the program in the sandbox.
	PID      int    `json:"pid,omitempty"`       // in the daemon's PID namespace; 0: never started
	PIDStart uint64 `json:"pid_start,omitempty"` // field 22 of /proc/PID/stat, against PID reuse
	Exited   bool   `json:"exited,omitempty"`
	ExitCode int    `json:"exit_code,omitempty"`
}

// HasName reports whether name is the current or original name of the sandbox.
func (s *Sandbox) HasName(name string) bool { return hasName(name, s.Name, s.OriginalName) }

// SharesNetNS reports whether the sandbox is in the namespace of another one.
func (s *Sandbox) SharesNetNS() bool { return SharesNetNS(s.NetworkMode) }

// SharesNetNS reports whether a network mode is that of a sandbox that shares the network namespace
// of another.
func SharesNetNS(mode string) bool { return strings.HasPrefix(mode, ModeContainer) }

// OwnsNetNS reports whether Fairlead creates and removes the sandbox's namespace.
func (s *Sandbox) OwnsNetNS() bool {
	return s.ManagedBy == ByFairlead && s.NetNS != "" && !s.SharesNetNS()
}

// Backend returns the address of ep that serves a port published at a host address, or the zero
// Addr if none does. If ep lacks the family of the host address, the datapath translates to the
// other family and uses the network's gateway address as the source. That is not possible
// at an IPv4 loopback address: its clients are on the host, and an IPv4 socket
// cannot be connected to IPv6. Nothing is translated to a family that is routed.
func (n *Network) Backend(ep *Endpoint, host netip.Addr) netip.Addr {
	f := FamilyOf(host)
	if a := ep.Addr(f); a.IsValid() {
		if n.Routed(f) {
			return netip.Addr{}
		}
		return a
	}
	gw, _ := n.Subnet(f.Other())
	if !gw.Gateway.IsValid() || f == V4 && host.IsLoopback() || n.Routed(f.Other()) {
		return netip.Addr{}
	}
	return ep.Addr(f.Other())
}

// Opening is a port that a publish opens, the first one of a range.
type Opening struct {
	Host    netip.Addr // the address at which it is open
	Port    uint16
	Backend netip.Addr // the address of the endpoint that serves it
	Direct  bool       // Host is the endpoint's own address, of a family that is routed: nothing is translated
}

// Openings returns what a binding opens at a host address, or without one at all addresses of each family. An internal
// network publishes nothing, unless it has the option for that.
func (n *Network) Openings(ep *Endpoint, b PortBinding) (list []Opening) {
	if n.Closed() {
		return nil
	}
	hosts := []netip.Addr{b.HostIP}
	if !b.HostIP.IsValid() {
		hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, host := range hosts {
		if o := n.opening(ep, host, b); o.Backend.IsValid() {
			list = append(list, o)
		}
	}
	return list
}

// opening returns what a binding opens at a host address. It has no Backend if that is nothing.
func (n *Network) opening(ep *Endpoint, host netip.Addr, b PortBinding) Opening {
	if own := ep.Addr(FamilyOf(host)); own.IsValid() && n.Routed(FamilyOf(host)) {
		return Opening{Host: own, Port: b.Port, Backend: own, Direct: true}
	}
	return Opening{Host: host, Port: b.HostPort, Backend: n.Backend(ep, host)}
}

// Serves reports whether ep serves a port published at a host address, unless the network is internal.
func (n *Network) Serves(ep *Endpoint, host netip.Addr) bool {
	return n.opening(ep, host, PortBinding{}).Backend.IsValid()
}

// PortBinding is one published port, or a range of Count consecutive ones:
// host port HostPort+i maps to sandbox port Port+i.
type PortBinding struct {
	// HostIP is the host address of the port. The zero Addr stands for all addresses of
	// both families.
	HostIP   netip.Addr `json:"host_ip,omitzero"`
	HostPort uint16     `json:"host_port"`
	Port     uint16     `json:"port"`
	Count    uint16     `json:"count"`
	Proto    Proto      `json:"proto"`
	From     Sources    `json:"from,omitempty"`
}

// Endpoint is an interface that attaches a Sandbox to a Network. A value is
// immutable once it is in a snapshot.
type Endpoint struct {
	ID        string `json:"id"`
	NetworkID string `json:"network_id"`
	SandboxID string `json:"sandbox_id"` // "": addresses are reserved, and no sandbox has joined yet
	// IfName is the interface name in the sandbox: eth0, eth1, …, or as requested. In a
	// sandbox of an engine it is the name on the host, before the engine moves the interface.
	IfName  string       `json:"if_name"`
	MAC     MAC          `json:"mac"`
	IPv4    netip.Prefix `json:"ipv4,omitzero"` // address with the subnet's prefix length, not masked
	IPv6    netip.Prefix `json:"ipv6,omitzero"`
	Aliases []string     `json:"aliases,omitempty"`
	Links   []Link       `json:"links,omitempty"`
	// Bandwidth limits the interface. Zero means no limit.
	Bandwidth Bandwidth `json:"bandwidth,omitzero"`
	Sysctls   []Sysctl  `json:"sysctls,omitempty"`
	// FixedIPv4, FixedIPv6 and FixedMAC mean that the user chose the address.
	FixedIPv4 bool `json:"fixed_ipv4,omitempty"`
	FixedIPv6 bool `json:"fixed_ipv6,omitempty"`
	FixedMAC  bool `json:"fixed_mac,omitempty"`
	// Lease is set in networks with IPAM driver dhcp. IPv4 is its address while it is valid.
	Lease *Lease `json:"lease,omitempty"`
	// Leased means that another program (an IPAM plugin) allocated the addresses. Only code
	// that then releases them at that program may remove the endpoint.
	Leased bool `json:"leased,omitempty"`
	// Leaving means that the endpoint is about to be removed, and serves nothing new as a backend.
	Leaving bool `json:"leaving,omitempty"`
	// GwPriority ranks the endpoint among those of the sandbox that could have its default routes, highest first.
	GwPriority int `json:"gw_priority,omitempty"`
	// Order is the endpoint's place in the order of attachment to its sandbox.
	Order int `json:"order"`
	// DefaultRoute4 and DefaultRoute6 mean that the sandbox's default route of the family uses this
	// endpoint, if its network has one, and that it serves published ports at the host's addresses of
	// the family. A sandbox has one such endpoint. If an engine manages the sandbox, it may have two:
	// the engine may use another endpoint, possibly of another driver, for IPv6.
	DefaultRoute4 bool `json:"default_route4,omitempty"`
	DefaultRoute6 bool `json:"default_route6,omitempty"`
	// Reserved is when an engine requested the endpoint. It is zero if Fairlead manages the
	// endpoint.
	Reserved time.Time `json:"reserved,omitzero"`
}

// Addr returns the endpoint's address of a family, or the zero Addr if it has none.
func (e *Endpoint) Addr(f Family) netip.Addr {
	if f == V4 {
		return e.IPv4.Addr()
	}
	return e.IPv6.Addr()
}

// DefaultRoute reports whether the sandbox's default route of a family uses this endpoint, if
// its network has one.
func (e *Endpoint) DefaultRoute(f Family) bool {
	if f == V4 {
		return e.DefaultRoute4
	}
	return e.DefaultRoute6
}

// IsGateway reports whether a default route of the sandbox uses this endpoint. Only gateways
// serve published ports.
func (e *Endpoint) IsGateway() bool { return e.DefaultRoute4 || e.DefaultRoute6 }

// InnerEnd is the location of the inner end of an engine-managed endpoint.
type InnerEnd int

// Locations of an inner end.
const (
	InnerDeleted InnerEnd = iota // deleted with the engine's namespace, and the host end too
	InnerOnHost                  // not moved by the engine yet, or moved back
	InnerTaken                   // in the engine's namespace
)

// AddressPool is a subnet that a container engine requested, before it creates a
// network or for a network of another driver, with the allocated addresses. A value is
// immutable once it is in a snapshot.
type AddressPool struct {
	ID      string       `json:"id"` // the subnet as text
	Prefix  netip.Prefix `json:"prefix"`
	IPRange AddrRange    `json:"ip_range,omitzero"` // zero: the whole subnet
	Taken   []netip.Addr `json:"taken,omitempty"`   // in the order of allocation
	Engine  string       `json:"engine,omitempty"`  // see Network
	// NetworkID is the ID of the shared network whose subnet this is, or "". Its addresses are those of
	// the network's endpoints, not in Taken.
	NetworkID string `json:"network_id,omitempty"`
}

// Publish is a resolved published port: a PortBinding and the endpoint
// that serves it. A value is immutable once it is in a snapshot.
type Publish struct {
	ID         uint32 // unique among living publishes; the datapath's number, never 0
	EndpointID string
	PortBinding
}
