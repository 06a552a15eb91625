// SPDX-License-Identifier: Apache-2.0

package api

import (
	"maps"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

// ServiceCreate is the body of POST /services/create.
type ServiceCreate struct {
	Name         string
	Network      string
	IPv4Address  string                   `json:",omitempty"` // virtual addresses; "": free ones
	IPv6Address  string                   `json:",omitempty"`
	PortBindings map[string][]PortBinding `json:",omitempty"` // as in HostConfig
	Announce     bool                     `json:",omitempty"` // the host addresses of the ports
	Affinity     time.Duration            `json:",omitempty"` // nanoseconds
	Labels       map[string]string        `json:",omitempty"`
}

// Spec translates the request.
func (c *ServiceCreate) Spec() (model.ServiceSpec, error) {
	spec := model.ServiceSpec{Name: c.Name, Network: c.Network, Announce: c.Announce, Affinity: c.Affinity, Labels: c.Labels}
	at, err := (&EndpointConfig{IPAMConfig: &EndpointIPAM{IPv4Address: c.IPv4Address, IPv6Address: c.IPv6Address}}).Spec(c.Network)
	if err != nil {
		return spec, err
	}
	spec.IPv4, spec.IPv6 = at.IPv4, at.IPv6
	for _, key := range slices.Sorted(maps.Keys(c.PortBindings)) {
		for _, b := range c.PortBindings[key] {
			p, err := b.spec(key)
			if err != nil {
				return spec, model.Refuse(model.ErrInvalid, "published port %q: %v", key, err)
			}
			spec.Ports = append(spec.Ports, p)
		}
	}
	return spec, nil
}

// NewServiceCreate converts a spec to a request.
func NewServiceCreate(spec model.ServiceSpec) ServiceCreate {
	return ServiceCreate{
		Name: spec.Name, Network: spec.Network, IPv4Address: model.AddrText(spec.IPv4), IPv6Address: model.AddrText(spec.IPv6),
		PortBindings: NewPortBindings(spec.Ports), Announce: spec.Announce, Affinity: spec.Affinity, Labels: spec.Labels,
	}
}

// Service is the output of service ls and service inspect.
type Service struct {
	ID          string `json:"Id"`
	Name        string
	Created     time.Time
	NetworkID   string
	Network     string // name
	IPv4Address string // virtual addresses; "": none
	IPv6Address string
	MacAddress  string
	Ports       []PortSummary
	// Announced are the host addresses of the ports that belong to no host by itself.
	Announced []AnnouncedAddress `json:",omitempty"`
	Affinity  time.Duration      // nanoseconds; 0: each flow gets a backend of its own
	Labels    map[string]string
	Backends  []ServiceBackend
	// Publish is the number that flows of the service have in GET /conntrack.
	Publish uint32
}

// The states of a backend.
const (
	BackendActive  = "active"
	BackendDrained = "drained" // keeps its flows and gets no new ones
	BackendStopped = "stopped" // its program has not started yet, or has exited, or it is being removed
	BackendDown    = "down"    // its node has not been heard of for a while
)

// AnnouncedAddress is an address that one of several hosts answers for.
type AnnouncedAddress struct {
	Address    string
	Here       bool   // this host has it
	Node       string // of the cluster, that has it; "": unknown, or not in a cluster
	MacAddress string // of the host that has it; "": unknown, or none
	Device     string // of this host, in whose subnet the address is; "": none
}

// ServiceBackend is a sandbox that serves a service.
type ServiceBackend struct {
	EndpointID  string
	SandboxID   string
	Name        string // of the sandbox
	Node        string `json:",omitempty"` // that it is on; "": this one
	IPv4Address string
	IPv6Address string
	State       string // active, drained, stopped or down
}

// ServiceCreated is the response to POST /services/create.
type ServiceCreated struct {
	ID          string `json:"Id"`
	IPv4Address string
	IPv6Address string
}

// ServiceDrain is the body of POST /services/{ref}/drain and /services/{ref}/resume.
type ServiceDrain struct {
	Sandbox string // name or ID
}
