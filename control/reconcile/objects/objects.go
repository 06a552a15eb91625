// SPDX-License-Identifier: Apache-2.0

// Package objects holds what was created for the objects of the model, and finds what a snapshot
// changes about them. It does not access the kernel.
package objects

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
)

// Network is what was created for a model.Network.
type Network struct {
	ID      string
	Want    *model.Network // nil if it is to be removed
	Last    *model.Network // the last Want
	Kind    device.Kind
	Ends    device.Ends // of the host port, whose peer has the addresses, or of the parent of members' devices
	Entries entries.Set
	MACs    map[netip.Addr]model.MAC // current or last MACs of members' addresses
	Dirty   bool                     // needs a repair
	LastErr string                   // as logged; "" if there is none
}

// Usable reports whether the network has its device on the host.
func (n *Network) Usable() bool { return n.Want != nil && n.Ends.Exist() }

// carried reports whether the datapath carries the network's packets.
func (n *Network) carried() bool { return n.Usable() && n.Want.Has().Entries }

// Spec describes the wanted device, or the last one that was wanted.
func (n *Network) Spec(s *desired.Snapshot) device.Spec {
	spec := device.Spec{ID: n.ID, Network: n.Last}
	if n.Last.HostAccess {
		for ep := range s.Members(n.ID) {
			for _, a := range []netip.Prefix{ep.IPv4, ep.IPv6} {
				if a.IsValid() && ep.SandboxID != "" {
					spec.Members = append(spec.Members, a.Addr())
				}
			}
		}
	}
	if n.Last.OnLink() {
		for ep := range s.Members(n.ID) {
			if ep.SandboxID != "" {
				spec.Accept(ep)
			}
		}
	}
	if n.Last.Parent != "" {
		for o := range s.Networks() {
			spec.Shared = spec.Shared || o.ID != n.ID && o.Parent == n.Last.Parent
		}
	}
	return spec
}

// Sandbox is what was created for a model.Sandbox.
type Sandbox struct {
	netns.Sandbox
	Entries entries.Set
	Dirty   bool
	LastErr string
}

// Endpoint is what was created for a model.Endpoint.
type Endpoint struct {
	ID        string
	Want      *model.Endpoint // nil if it is to be removed
	Last      *model.Endpoint // the last Want
	Kind      device.EndpointKind
	Ends      device.Ends // the peer is in the sandbox
	Published bool        // its entries have the flag for published ports
	Pooled    bool        // its entries have the flag for backends of services
	Finished  bool        // has its alias: the end in the sandbox was configured
	Entries   entries.Set
	Dirty     bool
	LastErr   string
}

// Spec describes the wanted device of an endpoint in a network, or the last one that was wanted. The network may be nil
// if the device is to be removed.
func (e *Endpoint) Spec(s *desired.Snapshot, n *Network) device.Spec {
	spec := device.Spec{ID: e.ID, Endpoint: e.Last, EngineManaged: IsEngineManaged(s, e.Last)}
	if n != nil {
		spec.Network, spec.Parent, spec.LinkMTU = n.Want, n.Ends.Peer, n.Ends.MTU
	}
	return spec
}

// IsEngineManaged reports whether a container engine moves the endpoint's inner end into its sandbox
// and configures it there.
func IsEngineManaged(s *desired.Snapshot, e *model.Endpoint) bool {
	b := s.Sandbox(e.SandboxID)
	return b != nil && b.ManagedBy == model.ByEngine
}

// Service is what was created for a model.Service.
type Service struct {
	ID      string
	Want    *model.Service // nil if it is to be removed
	Entries entries.Set
	remote  map[netip.Addr]bool // addresses of its backends on other nodes
}

// Publish is what was created for a model.Publish.
type Publish struct {
	ID   uint32
	Want *model.Publish
	Runs []entries.Run
}
