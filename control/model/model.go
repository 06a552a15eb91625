// SPDX-License-Identifier: Apache-2.0

// Package model holds Fairlead's vocabulary as plain values: networks,
// sandboxes, endpoints, published ports, and the immutable [Snapshot] of all
// of them that the reconciler turns into kernel objects. It imports the
// standard library only.
package model

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Names of the networks that exist from the first start.
const (
	NetworkBridge = "bridge"
	NetworkHost   = "host"
	NetworkNone   = "none"
)

// Drivers of a Network, by Docker's names.
const (
	DriverBridge = "bridge"
	DriverHost   = "host"
	DriverNull   = "null"
)

// Options of a network, Docker's keys and Fairlead's, that runtimes of containers have
// words of their own for.
const (
	OptICC        = "com.docker.network.bridge.enable_icc"
	OptMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	OptMTU        = "com.docker.network.driver.mtu"
	OptDNS        = "fairlead.dns"
	OptUntracked  = "fairlead.untracked"
)

// DefaultMTU is the MTU of a network that names none, in bytes.
const DefaultMTU = 1500

// MAC is an Ethernet hardware address.
type MAC [6]byte

// ParseMAC reads a 48-bit hardware address. It refuses multicast and all-zero
// addresses, which no interface may bear.
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

// String renders the address in colon-separated hexadecimal.
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

// LinkLocal is the IPv6 link-local address the kernel derives from the
// hardware address (modified EUI-64, RFC 4291 appendix A).
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0,
		m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// Proto is an IP protocol number (IANA) that ports belong to.
type Proto uint8

// The protocols that can be published.
const (
	TCP  Proto = 6
	UDP  Proto = 17
	SCTP Proto = 132
)

// String is the lower-case name of the protocol, as in "80/tcp".
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

// Subnet is one address pool of a Network. A Network has at most one per
// address family.
type Subnet struct {
	Prefix  netip.Prefix          `json:"prefix"`            // masked
	Gateway netip.Addr            `json:"gateway"`           // zero: none
	IPRange AddrRange             `json:"ip_range,omitzero"` // zero: the whole subnet
	Aux     map[string]netip.Addr `json:"aux,omitempty"`     // name -> reserved address
}

// Names of auxiliary addresses, of Docker's, that the default route of sandboxes leads
// to instead of the gateway.
const (
	AuxDefaultGateway4 = "DefaultGatewayIPv4"
	AuxDefaultGateway6 = "DefaultGatewayIPv6"
)

// DefaultGateway is the address that the default route of sandboxes leads to; the zero
// Addr: they have none.
func (s Subnet) DefaultGateway() netip.Addr {
	name := AuxDefaultGateway6
	if s.Prefix.Addr().Is4() {
		name = AuxDefaultGateway4
	}
	if a, ok := s.Aux[name]; ok {
		return a
	}
	return s.Gateway
}

// Network is a set of endpoints that reach each other. A value is immutable
// once it is in a Snapshot; a change makes a new value.
type Network struct {
	ID   string `json:"id"`   // 64 hexadecimal digits
	Name string `json:"name"` // unique
	// OriginalName is the name that an engine's network was made with, which finds it too,
	// once it is called as the engine calls it; "": Name.
	OriginalName string    `json:"made_as,omitempty"`
	Index        uint32    `json:"index"` // 1..MaxNetworks-1: the datapath's number, unique among living networks
	Created      time.Time `json:"created"`
	Driver       string    `json:"driver"`
	// Foreign: a container engine's. It chooses the addresses, and it alone joins
	// sandboxes to it.
	Foreign bool `json:"foreign,omitempty"`
	// Engine is the ID of the engine that last had it in its list of networks;
	// EngineAsked until one had; "": one that is not asked, as far as is known.
	Engine string `json:"engine,omitempty"`

	// Idle: a predefined network without endpoints. Its subnets are those that it gets again if
	// they are still free; until then it has no device and claims nothing.
	Idle bool `json:"idle,omitempty"`

	EnableIPv4 bool     `json:"enable_ipv4"`
	EnableIPv6 bool     `json:"enable_ipv6"`
	Subnets    []Subnet `json:"subnets,omitempty"`
	GatewayMAC MAC      `json:"gateway_mac,omitzero"` // of the host port

	Internal        bool       `json:"internal,omitempty"`         // no way out
	ICC             bool       `json:"icc"`                        // members may reach each other
	Masquerade      bool       `json:"masquerade"`                 // SNAT to the uplink's address on the way out
	AntiSpoof       bool       `json:"antispoof"`                  // source MAC and IP must be the endpoint's own
	HostBindingIPv4 netip.Addr `json:"host_binding_ipv4,omitzero"` // default host address of published ports
	MTU             int        `json:"mtu,omitempty"`              // bytes, of the endpoints' devices
	DNS             bool       `json:"dns,omitempty"`              // names are served at the gateway addresses
	Untracked       bool       `json:"untracked,omitempty"`        // no conntrack in the sandboxes' namespaces
	IfPrefix        string     `json:"if_prefix,omitempty"`        // of interface names in sandboxes, before a number; "": eth

	Options map[string]string `json:"options,omitempty"` // as the user gave them
	Labels  map[string]string `json:"labels,omitempty"`
}

// EngineAsked stands for the engine that Fairlead asks for names, before its ID is known.
const EngineAsked = "asked"

// MaxNetworks bounds Network.Index; it is the size of the datapath's
// per-network tables.
const MaxNetworks = 4096

// HasDatapath reports whether the network has devices and table entries: host
// and none have not.
func (n *Network) HasDatapath() bool { return n.Driver == DriverBridge }

// Claimed are the subnets that are the network's now.
func (n *Network) Claimed() []Subnet {
	if n.Idle {
		return nil
	}
	return n.Subnets
}

// Subnet returns the network's subnet of an address family, if it has one.
func (n *Network) Subnet(is4 bool) (Subnet, bool) {
	for _, s := range n.Subnets {
		if s.Prefix.Addr().Is4() == is4 {
			return s, true
		}
	}
	return Subnet{}, false
}

// DefaultGateway is where an endpoint's default route of an address family leads; zero: it has
// none.
func (n *Network) DefaultGateway(ep *Endpoint, is4 bool) netip.Addr {
	if s, ok := n.Subnet(is4); ok && !n.Internal && ep.Addr(is4).IsValid() {
		return s.DefaultGateway()
	}
	return netip.Addr{}
}

// PortProto is a port of a protocol, or a range of them when Count > 1.
type PortProto struct {
	Port  uint16 `json:"port"`
	Count uint16 `json:"count"` // ports Port … Port+Count-1; at least 1
	Proto Proto  `json:"proto"`
}

// InterfacePrefix begins the names of interfaces in sandboxes that nobody chose.
func (n *Network) InterfacePrefix() string { return cmp.Or(n.IfPrefix, "eth") }

// HasName reports whether the network is found by a name.
func (n *Network) HasName(name string) bool { return hasName(name, n.Name, n.OriginalName) }

func hasName(name, now, original string) bool { return name != "" && (name == now || name == original) }

// Sandbox is one container's network namespace. A value is immutable once it
// is in a Snapshot.
type Sandbox struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	OriginalName string    `json:"made_as,omitempty"` // as of a Network
	Created      time.Time `json:"created"`

	// NetworkMode is host, none, container:<sandbox id>, or the name of the
	// first network.
	NetworkMode string `json:"network_mode"`
	// NetNS is the path of the network namespace; empty with NetworkMode host.
	// With container:<id> it is that sandbox's path.
	NetNS string `json:"netns,omitempty"`
	// Owned: Fairlead made the namespace (and removes it), it was not brought
	// by the user with --netns and is not another sandbox's.
	Owned bool `json:"owned,omitempty"`
	// Foreign: the inside is a container engine's. Fairlead makes each endpoint's
	// pair of devices and leaves the inner end on the host; the engine moves it
	// in, names it and configures it.
	Foreign bool `json:"foreign,omitempty"`
	// EngineID is the container's of a foreign sandbox, which finds it too; "": not
	// learnt yet.
	EngineID string `json:"engine_id,omitempty"`

	Hostname   string            `json:"hostname,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Command    []string          `json:"command,omitempty"`
	AutoRemove bool              `json:"auto_remove,omitempty"`
	Expose     []PortProto       `json:"expose,omitempty"`
	// Ports are the published ports as asked for, with automatic host ports
	// filled in; they are served by the sandbox's gateway endpoint.
	Ports []PortBinding `json:"ports,omitempty"`

	// What the client reported of the program it runs in the sandbox.
	PID      int    `json:"pid,omitempty"`       // in the daemon's PID namespace; 0: never started
	PIDStart uint64 `json:"pid_start,omitempty"` // field 22 of /proc/PID/stat, against PID reuse
	Exited   bool   `json:"exited,omitempty"`
	ExitCode int    `json:"exit_code,omitempty"`
}

// HasName reports whether the sandbox is found by a name.
func (s *Sandbox) HasName(name string) bool { return hasName(name, s.Name, s.OriginalName) }

// OfRuntime reports whether a container runtime attached the namespace and is to take
// it away again: the faces to them set a label fairlead.FACE.container.
func (s *Sandbox) OfRuntime() bool {
	for label := range s.Labels {
		if strings.HasPrefix(label, "fairlead.") && strings.HasSuffix(label, ".container") {
			return !s.Owned && !s.Foreign
		}
	}
	return false
}

// Backend returns the address of ep that serves a port published at a host address; the zero Addr
// if none does. For clients of a family that ep lacks the datapath translates to the other, with
// the gateway of the network as their source. A loopback address has clients on the host
// alone, and what connects an IPv4 socket of a program there to IPv6 does not exist.
func (n *Network) Backend(ep *Endpoint, host netip.Addr) netip.Addr {
	if a := ep.Addr(host.Is4()); a.IsValid() {
		return a
	}
	gw, _ := n.Subnet(!host.Is4())
	if !gw.Gateway.IsValid() || host.Is4() && host.IsLoopback() {
		return netip.Addr{}
	}
	return ep.Addr(!host.Is4())
}

// PortBinding is one published port, or a range of Count consecutive ones:
// host port HostPort+i leads to sandbox port Port+i.
type PortBinding struct {
	// HostIP is the host address to listen at. The zero Addr: every address of
	// both families.
	HostIP   netip.Addr `json:"host_ip,omitzero"`
	HostPort uint16     `json:"host_port"`
	Port     uint16     `json:"port"`
	Count    uint16     `json:"count"`
	Proto    Proto      `json:"proto"`
}

// Endpoint is one interface joining one Sandbox to one Network. A value is
// immutable once it is in a Snapshot.
type Endpoint struct {
	ID        string `json:"id"`
	NetworkID string `json:"network_id"`
	SandboxID string `json:"sandbox_id"` // "": addresses are reserved, and no sandbox has joined yet
	// IfName is the name inside the sandbox: eth0, eth1, …, or as asked for; of a foreign
	// one, before the engine takes it.
	IfName  string       `json:"if_name"`
	MAC     MAC          `json:"mac"`
	IPv4    netip.Prefix `json:"ipv4,omitzero"` // address with the subnet's length, not masked
	IPv6    netip.Prefix `json:"ipv6,omitzero"`
	Aliases []string     `json:"aliases,omitempty"`
	// Bandwidth limits it; zero: as fast as it goes.
	Bandwidth Bandwidth `json:"bandwidth,omitzero"`
	// FixedIPv4, FixedIPv6, FixedMAC: the user chose the address.
	FixedIPv4 bool `json:"fixed_ipv4,omitempty"`
	FixedIPv6 bool `json:"fixed_ipv6,omitempty"`
	FixedMAC  bool `json:"fixed_mac,omitempty"`
	// Leased: another program gave the addresses, and who takes the endpoint away tells
	// it that they are free. So nobody does who does not know of it.
	Leased bool `json:"leased,omitempty"`
	// Order is the endpoint's place in the order of attachment to its sandbox.
	Order int `json:"order"`
	// Gateway: the sandbox's default route leads through this endpoint, and its
	// published ports are served by it.
	Gateway bool `json:"gateway,omitempty"`
	// GatewayIPv4Only: an engine told that another endpoint, maybe another driver's, is the way
	// out for IPv6, and serves published ports at the host's IPv6 addresses.
	GatewayIPv4Only bool `json:"only4,omitempty"`
	// Reserved is when an engine asked for the endpoint; zero for Fairlead's own.
	Reserved time.Time `json:"reserved,omitzero"`
}

// Addr returns the endpoint's address of a family; the zero Addr if it has none.
func (e *Endpoint) Addr(is4 bool) netip.Addr {
	if is4 {
		return e.IPv4.Addr()
	}
	return e.IPv6.Addr()
}

// InnerEnd is where the inner end of a foreign sandbox's endpoint is.
type InnerEnd int

// The places of an inner end.
const (
	InnerGone   InnerEnd = iota // with the engine's namespace, and the host end too
	InnerOnHost                 // the engine has not taken it yet, or gave it back
	InnerTaken                  // in the engine's namespace
)

// AddressPool is a subnet that a container engine asked for, before any network
// has it or for another driver's, and the addresses it took. A value is
// immutable once it is in a Snapshot.
type AddressPool struct {
	ID      string       `json:"id"` // the subnet as text
	Prefix  netip.Prefix `json:"prefix"`
	IPRange AddrRange    `json:"ip_range,omitzero"` // zero: the whole subnet
	Taken   []netip.Addr `json:"taken,omitempty"`   // in the order of taking
	Engine  string       `json:"engine,omitempty"`  // as of a Network
}

// Publish is a resolved published port: a PortBinding bound to the endpoint
// that serves it. A value is immutable once it is in a Snapshot.
type Publish struct {
	ID         uint32 // unique among living publishes; the datapath's number, never 0
	EndpointID string
	PortBinding
}

// Snapshot is all desired state of this node. Neither it nor anything it
// points to changes after it was handed out; two snapshots share the objects
// that did not change, so pointer equality tells what did.
type Snapshot struct {
	Rev       uint64
	Networks  map[string]*Network  // by ID
	Sandboxes map[string]*Sandbox  // by ID
	Endpoints map[string]*Endpoint // by ID
	Publishes map[uint32]*Publish  // by ID
	Pools     map[string]*AddressPool
}
