// SPDX-License-Identifier: Apache-2.0

// Package device creates, adopts, configures and removes the devices of networks and endpoints,
// one file a kind. A device is marked as Fairlead's when it is created and as finished by its
// alias; what is unfinished after a restart is deleted and created again.
package device

import (
	"cmp"
	"log/slog"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
	"github.com/fairlead-net/fairlead/control/rtnl/station"
	"github.com/fairlead-net/fairlead/loader"
)

// Kind is a kind of device, for example a pair of which one end is in a sandbox. It keeps nothing
// about single devices.
type Kind interface {
	// Names returns the aliases and the names by which the host's devices of an object are
	// recognised. All other devices of Fairlead are leftovers.
	Names(s Spec) []string
	// Check finds finished devices and changes nothing.
	Check(h *Host, s Spec, have Ends) (f Found, ok bool)
	// Adopt finds the devices of an object, finished ones or those with the given ends, which this
	// daemon created. It deletes what it cannot adopt.
	Adopt(h *Host, s Spec, have Ends) (f Found, ok bool, err error)
	// Create creates the devices, down. The error wraps rtnl.ErrExists if a name is taken.
	Create(s Spec) (Found, error)
	// Configure makes the devices match what is wanted, changes only what differs, and brings
	// them up.
	Configure(h *Host, s Spec, f Found) (configure.Changes, error)
	// Finish completes devices that were created, once everything about them is configured.
	Finish(id string, have Ends) error
	// Remove deletes the devices. Missing ones are not an error.
	Remove(h *Host, s Spec, have Ends) error
	// Places returns where programs are attached.
	Places(have Ends) []Place
}

// EndpointKind is a kind of device that has an end in a sandbox.
type EndpointKind interface {
	Kind
	// Inside returns what is wanted of the end in the sandbox. fresh means that the device is
	// not finished.
	Inside(s Spec, have Ends, fresh bool) configure.Device
	// InnerEnd reports where the end is that a container engine moves into the sandbox.
	InnerEnd(ep *model.Endpoint, have Ends) (model.InnerEnd, error)
}

// SandboxKind is a kind of device that has no end on the host. A pass that opens no sandbox takes its word for it that
// the device is where this daemon found it or put it.
type SandboxKind interface {
	EndpointKind
	// Find adopts the device in the sandbox, s.NetNS, which this daemon or an earlier one created. It deletes one that is
	// not finished.
	Find(s Spec) (f Found, ok bool, err error)
}

// Spec describes the device of a network or of an endpoint.
type Spec struct {
	ID       string // of the network or the endpoint
	Network  *model.Network
	Endpoint *model.Endpoint // nil for the device of a network
	Parent   uint32          // the network's own device, below that of the endpoint
	Shared   bool            // other networks use the network's own device too
	LinkMTU  int             // of the parent on whose link the endpoint is
	Members  []netip.Addr    // of a network to which the host has access
	MACs     []model.MAC     // that the parent of a network on its link accepts: those of members, and of groups
	// EngineManaged: a container engine moves the inner end into the sandbox and configures it.
	EngineManaged bool
	// NetNS is where Create puts the inner end. Nil: the host's namespace. Remove needs it for a device that has no end
	// on the host; nil: the sandbox does not exist any more.
	NetNS *rtnl.NetNS
}

// Accept adds the MACs of a member: its own, and those to which neighbours send solicitations for its IPv6 addresses.
func (s *Spec) Accept(ep *model.Endpoint) {
	s.MACs = append(s.MACs, ep.MAC)
	if ep.IPv6.IsValid() {
		s.MACs = append(s.MACs, station.Group(ep.IPv6.Addr()), station.Group(ep.MAC.LinkLocal()))
	}
}

// Ends are the indices of the ends of a device, 0 for one that does not exist. A device without a program has no Host.
type Ends struct {
	Host uint32    // the end with the program
	Peer uint32    // the other: in a sandbox, with the addresses of a gateway, or below the devices of endpoints
	MAC  model.MAC // of the peer, if members of a network are on its link
	MTU  int       // the same
}

// Exist reports whether there is a device.
func (e Ends) Exist() bool { return e != Ends{} }

// Same reports whether both are the same device. A peer may get another index when it is moved.
func (e Ends) Same(o Ends) bool { return e.Host == o.Host && (e.Host != 0 || e.Peer == o.Peer) }

// Found is a device as it was read.
type Found struct {
	Host     rtnl.Link
	Peer     rtnl.Link // only its index if it is in another namespace
	OnLink   bool      // Peer is the parent of members that are on its link
	Finished bool
	Created  bool // in this pass
}

// Ends returns the indices of the ends.
func (f Found) Ends() Ends {
	e := Ends{Host: f.Host.Index, Peer: f.Peer.Index}
	if f.OnLink {
		e.MAC, e.MTU = f.Peer.MAC, f.Peer.MTU
	}
	return e
}

// mtu returns the MTU of an endpoint's device, which is at most that of the link on which it is.
func (s Spec) mtu() int {
	if s.LinkMTU == 0 {
		return s.Network.DeviceMTU()
	}
	return min(cmp.Or(s.Network.MTU, s.LinkMTU), s.LinkMTU)
}

// Place is a device and a hook to attach a program to.
type Place struct {
	IfIndex int
	Hook    loader.Hook
}

// atHostEnd returns the place of the program that serves a device.
func atHostEnd(have Ends) []Place {
	if have.Host == 0 {
		return nil
	}
	return []Place{{int(have.Host), loader.FromEndpoint}}
}

// Kinds are the kinds of devices, in a table: a new kind is a row and a file.
type Kinds struct {
	networks  map[model.DeviceKind]Kind
	endpoints map[model.DeviceKind]EndpointKind
}

// NewKinds returns the kinds of devices. Stations are the MACs that parents accept.
func NewKinds(nl *rtnl.Handle, stations *station.Filters, log *slog.Logger) *Kinds {
	return &Kinds{
		networks: map[model.DeviceKind]Kind{
			model.DeviceHostPort: &hostPort{nl: nl, log: log},
			model.DeviceParent:   &parent{nl: nl, stations: stations},
		},
		endpoints: map[model.DeviceKind]EndpointKind{
			model.DeviceVeth:    &veth{nl: nl},
			model.DeviceMacvlan: &onParent{nl: nl, kind: model.DriverMacvlan},
			model.DeviceIPvlan:  &onParent{nl: nl, kind: model.DriverIPvlan},
		},
	}
}

// OfNetwork returns the kind of a network's own device, or nil if it has none.
func (k *Kinds) OfNetwork(n *model.Network) Kind { return k.networks[n.Has().OnHost] }

// OfEndpoint returns the kind of the devices of a network's endpoints, or nil if they have none.
func (k *Kinds) OfEndpoint(n *model.Network) EndpointKind { return k.endpoints[n.Has().Endpoint] }
