// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Service is a virtual address and a name in a network. Its backends are the network's endpoints
// that have the name as an alias.
type Service struct {
	ID        string    `json:"id"`   // 64 hexadecimal digits
	Name      string    `json:"name"` // unique in its network, without regard to case
	NetworkID string    `json:"network_id"`
	Created   time.Time `json:"created"`
	// Number is the datapath's number, never 0. It is unique among living services and publishes.
	Number uint32 `json:"number"`

	IPv4     netip.Addr `json:"ipv4,omitzero"` // virtual addresses
	IPv6     netip.Addr `json:"ipv6,omitzero"`
	MAC      MAC        `json:"mac"` // of the virtual addresses
	FixedIPs bool       `json:"fixed_ips,omitempty"`
	// Ports are the published ports. Port is that of the backends. In a shared network they are those that
	// this host could publish.
	Ports []PortBinding `json:"ports,omitempty"`
	// Announce: the host addresses of the ports belong to no host by itself; one of those that publish them
	// answers ARP and neighbour solicitations for them.
	Announce bool `json:"announce,omitempty"`
	// Affinity is how long a client keeps its backend after its last new flow. 0: each flow gets
	// a backend of its own.
	Affinity time.Duration `json:"affinity,omitempty"`
	// Cluster is the identity of the store that has the service; "": it is one of this host alone.
	Cluster string `json:"cluster,omitempty"`
	// Drained are the IDs of endpoints that keep their flows and get no new ones.
	Drained []string          `json:"drained,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Addr returns the virtual address of a family, or the zero Addr.
func (s *Service) Addr(f Family) netip.Addr {
	if f == V4 {
		return s.IPv4
	}
	return s.IPv6
}

// HasBackend reports whether an endpoint is a backend, drained or not.
func (s *Service) HasBackend(ep *Endpoint) bool {
	return ep.NetworkID == s.NetworkID && ep.SandboxID != "" && ep.HasAlias(s.Name)
}

// IsDrained reports whether a backend gets no new flows.
func (s *Service) IsDrained(endpointID string) bool { return slices.Contains(s.Drained, endpointID) }

// HasAlias reports whether an endpoint has an alias, without regard to case.
func (e *Endpoint) HasAlias(name string) bool {
	return slices.ContainsFunc(e.Aliases, func(a string) bool { return strings.EqualFold(a, name) })
}

// Serves reports whether an endpoint of a sandbox, which may be nil, can serve as a backend.
func (e *Endpoint) Serves(sb *Sandbox) bool { return !e.Leaving && sb.Serves() }

// Serves reports whether the sandbox, which may be nil, can serve as a backend: if a client runs a
// program in it, the program has started and not exited.
func (s *Sandbox) Serves() bool {
	return s != nil && (len(s.Command) == 0 || s.PID != 0) && !s.Exited
}
