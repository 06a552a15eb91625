// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"net/netip"
)

// Kinds of refusal, tested with errors.Is. The error's own text names the
// thing and the remedy; the kind only tells a face which status to give.
var (
	// ErrNotFound: nothing bears that name or ID.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the name, address or port is taken, or the thing is in use.
	ErrConflict = errors.New("conflict")
	// ErrGone: what the thing was for has ended, and does not come back by itself.
	ErrGone = errors.New("gone")
	// ErrInvalid: the request contradicts itself or the rules.
	ErrInvalid = errors.New("invalid")
	// ErrForbidden: the thing is predefined and cannot be changed.
	ErrForbidden = errors.New("forbidden")
	// ErrExhausted: no address, port or number is left.
	ErrExhausted = errors.New("exhausted")
	// ErrNotSupported: a later capability, or one this kernel lacks.
	ErrNotSupported = errors.New("not supported")
)

// Refusal is an error of one kind with a text of its own.
type Refusal struct {
	Kind error  // one of the sentinels above
	Text string // complete: names the thing and the remedy
}

// Error is the text alone.
func (r *Refusal) Error() string { return r.Text }

// Unwrap makes errors.Is(err, ErrConflict) and the like work.
func (r *Refusal) Unwrap() error { return r.Kind }

// NoNetwork is the refusal of a name or ID that is no network's.
func NoNetwork(ref string) error {
	return &Refusal{Kind: ErrNotFound, Text: "network " + ref + " not found (see: fairlead network ls)"}
}

// NoSandbox is NoNetwork for sandboxes.
func NoSandbox(ref string) error {
	return &Refusal{Kind: ErrNotFound, Text: "no such sandbox: " + ref + " (see: fairlead ps)"}
}

// EngineNames are what a container engine calls what it made here: all that it has.
type EngineNames struct {
	Engine     string                // its ID
	Networks   map[string]string     // by the network's ID
	Subnets    map[netip.Prefix]bool // of its networks
	Containers map[string]EngineName // by the ID of an endpoint of the container's
}

// EngineName is a container's name and ID.
type EngineName struct{ Name, ID string }

// SubnetSpec is one --subnet with what belongs to it. A zero Prefix asks for a
// pool; with Gateway, IPRange or Aux set the Prefix must be set.
type SubnetSpec struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	IPRange AddrRange
	Aux     map[string]netip.Addr
}

// NetworkSpec asks for a network.
type NetworkSpec struct {
	Name       string
	Driver     string // "": bridge
	ForeignID  string // of a container engine's network: it keeps its own ID
	Engine     string // as of a Network
	EnableIPv6 bool
	NoIPv4     bool // IPv6 alone
	Internal   bool
	Subnets    []SubnetSpec
	Options    map[string]string // -o, Docker's keys
	Labels     map[string]string
}

// EndpointSpec asks for an endpoint in a network.
type EndpointSpec struct {
	ForeignID string // of a container engine's endpoint: it keeps its own ID
	Network   string // name, ID or unique ID prefix
	IPv4      netip.Addr
	IPv6      netip.Addr
	// Exact: it gets an address of the families alone that the spec names one of.
	Exact     bool
	MAC       MAC
	IfName    string // inside the sandbox; "": the first free of eth0, eth1, …
	Aliases   []string
	Bandwidth Bandwidth
	Leased    bool // another program gave the addresses, all of them, and is to hear when they are free
}

// SandboxSpec asks for a sandbox.
type SandboxSpec struct {
	Name        string // "": one is made up
	NetNS       string // path of a namespace that exists; "": Fairlead makes one
	NetworkMode string // "": bridge; host, none, container:REF, or a network
	Endpoint    EndpointSpec
	Hostname    string
	Labels      map[string]string
	Command     []string
	AutoRemove  bool
	Expose      []PortProto
	PublishAll  bool
	Ports       []PortSpec
}

// PortSpec is one -p, parsed but not resolved. Exactly one of these holds:
// HostCount == 0: the host port is chosen from the ephemeral range;
// HostCount == Count: host port i leads to sandbox port i;
// HostCount > Count == 1: one free port of the range is chosen.
type PortSpec struct {
	HostIP    netip.Addr // zero: every address
	HostPort  uint16
	HostCount uint16
	Port      uint16
	Count     uint16
	Proto     Proto
}
