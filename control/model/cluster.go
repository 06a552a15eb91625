// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// MaxNodes bounds Node.Number; it is the size of the datapath's table of nodes.
const MaxNodes = 4096

// Node is a host of a cluster.
type Node struct {
	ID      string `json:"id"` // 64 hexadecimal digits, chosen at the first start
	Name    string `json:"name"`
	Number  uint16 `json:"number"` // in the datapath: 1..MaxNodes-1, unique in the cluster
	Version string `json:"version,omitempty"`
	// VTEP4 and VTEP6 are the node's addresses in the underlay. One of them is set.
	VTEP4 netip.Addr `json:"vtep4,omitzero"`
	VTEP6 netip.Addr `json:"vtep6,omitzero"`
	Port  uint16     `json:"port"` // UDP port of VXLAN, the same on every node
	// WireGuardKey and WireGuardPort are set once the node has a device that encrypts.
	WireGuardKey  PublicKey `json:"wireguard_key,omitzero"`
	WireGuardPort uint16    `json:"wireguard_port,omitempty"` // UDP
	// MACs are those of the node's uplinks, separated by commas, by which others know the node that has an address.
	MACs string `json:"macs,omitempty"`
}

// VTEP returns the node's address of a family in the underlay, or the zero Addr if it has none.
func (n *Node) VTEP(f Family) netip.Addr {
	return choose(f, n.VTEP4, n.VTEP6)
}

// PathState says what works of a path to another node. That node's own probes tell which direction fails.
type PathState string

// The states of a path.
const (
	PathUnknown  PathState = ""               // too few probes were sent
	PathWorks    PathState = "works"          // the last probes were answered
	PathOutbound PathState = "outbound-fails" // packets to the node are lost, and its own arrive
	PathSilent   PathState = "silent"         // nothing arrives from the node; whether packets to it do is not known
	// Only large packets are lost: those to the node, or those from it and possibly those to it.
	PathLargeOutbound PathState = "large-outbound-fails"
	PathLarge         PathState = "large-fails"
)

// Member is an endpoint of a shared network as all nodes know it, or a node's own presence there.
type Member struct {
	ID        string     `json:"id"`                // of the endpoint, or of the node
	SandboxID string     `json:"sandbox,omitempty"` // "": the node itself
	Name      string     `json:"name,omitempty"`    // of the sandbox
	Hostname  string     `json:"hostname,omitempty"`
	Aliases   []string   `json:"aliases,omitempty"`
	Stopped   bool       `json:"stopped,omitempty"` // its program does not run, or it is leaving: it serves nothing
	Leaving   bool       `json:"leaving,omitempty"` // it is about to be removed: nodes confirm that they send it no new flow
	MAC       MAC        `json:"mac"`
	IPv4      netip.Addr `json:"ipv4,omitzero"`
	IPv6      netip.Addr `json:"ipv6,omitzero"`
}

// HasAlias reports whether a sandbox's endpoint has an alias, without regard to case.
func (m *Member) HasAlias(name string) bool {
	return m.SandboxID != "" && slices.ContainsFunc(m.Aliases, func(a string) bool { return strings.EqualFold(a, name) })
}

// Addr returns the member's address of a family, or the zero Addr if it has none.
func (m *Member) Addr(f Family) netip.Addr {
	return choose(f, m.IPv4, m.IPv6)
}

// Claim is what the cluster's store reserved for an endpoint that a verb is about to create.
type Claim struct {
	NetworkID string
	Member    Member
	// NodeIPv4 and NodeIPv6 are reserved with the first endpoint of a node; see Local.
	NodeIPv4, NodeIPv6 netip.Addr
}

// AddressHolder is the holder of an address of a shared network.
type AddressHolder struct {
	Node     string    `json:"node,omitempty"`
	Endpoint string    `json:"endpoint,omitempty"` // its ID, or the node's
	Service  string    `json:"service,omitempty"`  // its ID: the address is virtual, and no node's
	Since    time.Time `json:"since"`
}

// RemoteMember is a member of a shared network on another node.
type RemoteMember struct {
	Member
	Node     string // its name
	NodeDown bool   // it has not been heard of for a while
}
