// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
)

// Objects are the objects that exist, or should, by ID.
type Objects struct {
	Networks  map[string]*Network
	Sandboxes map[string]*Sandbox
	Endpoints map[string]*Endpoint
	Publishes map[uint32]*Publish
	Services  map[string]*Service

	// Remote returns the backends that a service has on other nodes; nil: there are no other nodes.
	Remote func(svc *model.Service) []RemoteBackend

	kinds   *device.Kinds
	serving map[string]map[uint32]*Publish // by endpoint
}

// RemoteBackend is a backend of a service on another node.
type RemoteBackend struct {
	*model.Member
	Down bool // its node has not been heard of for a while
}

// New returns Objects whose devices have these kinds.
func New(kinds *device.Kinds) *Objects {
	return &Objects{
		Networks:  make(map[string]*Network),
		Sandboxes: make(map[string]*Sandbox),
		Endpoints: make(map[string]*Endpoint),
		Publishes: make(map[uint32]*Publish),
		Services:  make(map[string]*Service),
		kinds:     kinds,
		serving:   make(map[string]map[uint32]*Publish),
	}
}

// Fault returns an error of an object, or "" if none has one.
func (o *Objects) Fault() string {
	for _, n := range o.Networks {
		if n.LastErr != "" {
			return n.LastErr
		}
	}
	for _, b := range o.Sandboxes {
		if b.LastErr != "" && !b.Vanished() {
			return b.LastErr
		}
	}
	for _, e := range o.Endpoints {
		if e.LastErr != "" {
			return e.LastErr
		}
	}
	return ""
}

// WantedNetworks returns the networks that should have a host port.
func (o *Objects) WantedNetworks() (nets []*model.Network) {
	for _, n := range o.Networks {
		if n.Want != nil && n.Want.Has().Entries && !n.Want.OnLink() {
			nets = append(nets, n.Want)
		}
	}
	return nets
}

// UsableNetworks returns the networks that have a host port.
func (o *Objects) UsableNetworks() (nets []*model.Network) {
	for _, n := range o.Networks {
		if n.carried() && !n.Want.OnLink() {
			nets = append(nets, n.Want)
		}
	}
	return nets
}

// Parents returns the devices on whose links the datapath carries networks, also those that are being removed.
func (o *Objects) Parents() (devices []uint32) {
	for _, n := range o.Networks {
		if n.Last.OnLink() {
			devices = append(devices, n.Ends.Peer)
		}
	}
	return devices
}

// OnLink returns the networks that the datapath carries on the links of their parents.
func (o *Objects) OnLink() (nets []*model.Network) {
	for _, n := range o.Networks {
		if n.carried() && n.Want.OnLink() {
			nets = append(nets, n.Want)
		}
	}
	return nets
}

// Members returns the endpoints that have a device in the sandbox's namespace. The namespace of
// an engine-managed sandbox has no path that another could share.
func (o *Objects) Members(s *desired.Snapshot, b *Sandbox) []*Endpoint {
	es := o.MadeOf(s, b.ID)
	if b.Want.NetNS == "" {
		return es
	}
	for other := range s.SandboxesAt(b.Want.NetNS) {
		if other.ID != b.ID {
			es = o.appendMade(s, es, other.ID)
		}
	}
	return es
}

// appendMade appends the endpoints of a sandbox that have a device.
func (o *Objects) appendMade(s *desired.Snapshot, es []*Endpoint, sandboxID string) []*Endpoint {
	for ep := range s.EndpointsOf(sandboxID) {
		if e := o.Endpoints[ep.ID]; e != nil && e.Want != nil && e.Ends.Exist() {
			es = append(es, e)
		}
	}
	return es
}

// MadeOf returns the endpoints of a sandbox that have a device.
func (o *Objects) MadeOf(s *desired.Snapshot, sandboxID string) []*Endpoint {
	return o.appendMade(s, nil, sandboxID)
}

// All returns the entries of all objects.
func (o *Objects) All() entries.Set {
	var all entries.Set
	for _, n := range o.Networks {
		all.Add(n.Entries)
	}
	for _, e := range o.Endpoints {
		all.Add(e.Entries)
	}
	for _, b := range o.Sandboxes {
		all.Add(b.Entries)
	}
	for _, b := range o.Publishes {
		all.AddRuns(b.Runs)
	}
	for _, svc := range o.Services {
		all.Add(svc.Entries)
	}
	return all
}

// Names returns the aliases and names of the devices that a snapshot wants on the host.
func (o *Objects) Names(s *desired.Snapshot) map[string]bool {
	wanted := make(map[string]bool)
	add := func(kind device.Kind, spec device.Spec) {
		for _, name := range kind.Names(spec) {
			wanted[name] = true
		}
	}
	for n := range s.Networks() {
		if n.HasHostPort() {
			add(o.kinds.OfNetwork(n), device.Spec{ID: n.ID, Network: n})
		}
	}
	for e := range s.Endpoints() {
		n := s.Network(e.NetworkID)
		if n == nil || e.SandboxID == "" {
			continue
		}
		if kind := o.kinds.OfEndpoint(n); kind != nil {
			add(kind, device.Spec{ID: e.ID, Network: n, Endpoint: e, EngineManaged: IsEngineManaged(s, e)})
		}
	}
	return wanted
}

// EachPlace calls fn with the places of all devices, the ID of the sandbox or of the network, and whether a program should
// be attached there.
func (o *Objects) EachPlace(fn func(id string, at device.Place, wanted bool)) {
	for id, n := range o.Networks {
		for _, at := range n.Kind.Places(n.Ends) {
			fn(id, at, n.Usable())
		}
	}
	for _, e := range o.Endpoints {
		for _, at := range e.Kind.Places(e.Ends) {
			fn(e.Last.SandboxID, at, e.Want != nil)
		}
	}
}

// serve records that a publish has its endpoint as the backend.
func (o *Objects) serve(b *Publish) {
	of := o.serving[b.Want.EndpointID]
	if of == nil {
		of = make(map[uint32]*Publish)
		o.serving[b.Want.EndpointID] = of
	}
	of[b.ID] = b
}

func (o *Objects) unserve(b *Publish) {
	of := o.serving[b.Want.EndpointID]
	delete(of, b.ID)
	if len(of) == 0 {
		delete(o.serving, b.Want.EndpointID)
	}
}

// IsTracked reports whether, as far as is known, the kernel tracks connections of an endpoint in
// its sandbox although its network is untracked.
func (o *Objects) IsTracked(b *Sandbox, e *Endpoint) bool {
	n := o.Networks[e.Want.NetworkID]
	return n != nil && n.Want != nil && n.Want.Untracked && !b.IsUntracked(e.Ends.Peer)
}
