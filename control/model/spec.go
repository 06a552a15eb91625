// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Kinds of refusal, tested with errors.Is. The text of the error names the
// object and the remedy. The kind determines the status that a front end returns.
var (
	// ErrNotFound means that no object has that name or ID.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that the name, address or port is in use, or that the object is.
	ErrConflict = errors.New("conflict")
	// ErrVanished means that the namespace of a sandbox no longer exists and will not return by itself.
	ErrVanished = errors.New("network namespace vanished")
	// ErrInvalid means that the request contradicts itself or breaks a rule.
	ErrInvalid = errors.New("invalid")
	// ErrForbidden means that the state or the manager of the object does not allow the change.
	ErrForbidden = errors.New("forbidden")
	// ErrExhausted means that no address, port or index is left.
	ErrExhausted = errors.New("exhausted")
	// ErrNotSupported means that Fairlead or this kernel does not support the feature.
	ErrNotSupported = errors.New("not supported")
	// ErrUnavailable means that the store of the cluster does not answer, which the change needs.
	ErrUnavailable = errors.New("unavailable")
)

// Refusal is an error of one kind with its own text.
type Refusal struct {
	Kind error  // one of the sentinels above
	Text string // complete: names the object and the remedy
}

// Error returns only the text.
func (r *Refusal) Error() string { return r.Text }

// Unwrap returns the kind, for errors.Is(err, ErrConflict) and the like.
func (r *Refusal) Unwrap() error { return r.Kind }

// Refuse returns a refusal whose text names the object and the remedy.
func Refuse(kind error, format string, args ...any) error {
	return &Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// NotConnected returns the refusal of a network that a sandbox is not connected to.
func NotConnected(sandbox, network string) error {
	return Refuse(ErrForbidden, "sandbox %q is not connected to network %s (see: fairlead inspect %s)", sandbox, network, sandbox)
}

// NoNetwork returns the refusal of a name or ID that does not belong to a network.
func NoNetwork(ref string) error {
	return &Refusal{Kind: ErrNotFound, Text: "network " + ref + " not found (see: fairlead network ls)"}
}

// RefuseConfigOnly refuses sandboxes in a network that holds only configuration.
func RefuseConfigOnly(n *Network) error {
	if !n.ConfigOnly {
		return nil
	}
	return Refuse(ErrForbidden, "network %s holds only configuration, and has no sandboxes (create another with it: fairlead network create --config-from %[1]s)", n.Name)
}

// RefuseInSwarm refuses members and services of Fairlead in a network whose addresses a swarm allocates.
func RefuseInSwarm(n *Network) error {
	if n.Swarm == "" {
		return nil
	}
	return Refuse(ErrForbidden, "network %s is one of a swarm of container engines, which allocates its addresses (use: %s run --network, or another network)", n.Name, ByEngine.CLI())
}

// NoSandbox returns the same for sandboxes.
func NoSandbox(ref string) error {
	return &Refusal{Kind: ErrNotFound, Text: "no such sandbox: " + ref + " (see: fairlead ps)"}
}

// EngineNames holds a container engine's names of all objects that it has created here.
type EngineNames struct {
	Engine     string                // its ID
	Networks   map[string]string     // by the network's ID
	Subnets    map[netip.Prefix]bool // of its networks
	Containers map[string]EngineName // by the ID of an endpoint of the container
	Aliases    map[string][]string   // by the ID of an endpoint in a shared network, as far as known
}

// EngineName is the name and ID of a container.
type EngineName struct{ Name, ID string }

// SubnetSpec is one --subnet with its options. A zero Prefix requests a subnet from the
// default pools; if Gateway, IPRange or Aux is set, Prefix must be set.
type SubnetSpec struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	IPRange AddrRange
	Aux     map[string]netip.Addr
	Fixed   bool // see Subnet
}

// NetworkSpec is the request for a network.
type NetworkSpec struct {
	Name       string
	Driver     string // "": bridge
	EngineID   string // the ID that the container engine gave its network
	Engine     string // see Network
	Swarm      string // see Network
	EnableIPv6 bool
	NoIPv4     bool // IPv6 only
	Internal   bool
	Subnets    []SubnetSpec
	IPAM       string            // see Network
	ConfigOnly bool              // see Network
	ConfigFrom string            // name or ID
	Options    map[string]string // -o, Docker's keys
	Labels     map[string]string
}

// EndpointSpec is the request for an endpoint in a network.
type EndpointSpec struct {
	EngineID string // the ID that the container engine gave its endpoint
	Network  string // name, ID or unique ID prefix
	IPv4     netip.Addr
	IPv6     netip.Addr
	// Exact means that no address is chosen in a family for which the spec has none. NoIPv4 and NoIPv6
	// mean that for one family.
	Exact          bool
	NoIPv4, NoIPv6 bool
	MAC            MAC
	IfName         string // in the sandbox; "": the first free of eth0, eth1, …
	Aliases        []string
	Links          []Link
	Bandwidth      Bandwidth
	Sysctls        []Sysctl
	GwPriority     int  // see Endpoint
	Leased         bool // see Endpoint
	// Claim is what the cluster reserved for the endpoint. Required if the network is shared.
	Claim *Claim
	// TakesOver are the IDs of endpoints of this host whose addresses in a shared network the endpoint
	// takes over.
	TakesOver []string
}

// Chooses reports whether an address of a family is chosen if the spec has none.
func (s *EndpointSpec) Chooses(f Family) bool {
	no := s.NoIPv6
	if f == V4 {
		no = s.NoIPv4
	}
	return !no && !s.Exact && !s.Leased
}

// Addr returns the requested address of a family, or the zero Addr if there is none.
func (s *EndpointSpec) Addr(f Family) netip.Addr {
	if f == V4 {
		return s.IPv4
	}
	return s.IPv6
}

// SandboxSpec is the request for a sandbox.
type SandboxSpec struct {
	ID          string // "": generated
	Name        string // "": generated
	NetNS       string // path of an existing namespace; "": Fairlead creates one
	NetworkMode string // "": bridge; host, none, container:REF, or a network
	Endpoint    EndpointSpec
	Hostname    string
	Lookup      Lookup
	Labels      map[string]string
	Command     []string
	AutoRemove  bool
	Sysctls     map[string]string // see Sandbox
	Expose      []PortProto
	PublishAll  bool
	Ports       []PortSpec
}

// PortSpec is one -p, parsed but not resolved. Exactly one of these holds:
// HostCount == 0: the host port is chosen from the ephemeral range;
// HostCount == Count: host port i maps to sandbox port i;
// HostCount > Count == 1: one free port of the range is chosen.
type PortSpec struct {
	HostIP    netip.Addr // zero: all addresses
	HostPort  uint16
	HostCount uint16
	Port      uint16
	Count     uint16
	Proto     Proto
	From      Sources
}

// ServiceSpec is what a user requests of a new service.
type ServiceSpec struct {
	Name     string
	Network  string // name, ID or unique ID prefix
	IPv4     netip.Addr
	IPv6     netip.Addr
	Ports    []PortSpec
	Announce bool // the host addresses of the ports
	Affinity time.Duration
	Labels   map[string]string
}

// NoService is the refusal of a reference that no service has.
func NoService(ref string) error {
	return &Refusal{Kind: ErrNotFound, Text: "no such service: " + ref + " (see: fairlead service ls)"}
}
