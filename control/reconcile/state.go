// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
)

// network is what was created for a model.Network.
type network struct {
	id      string
	want    *model.Network // nil if it is to be removed
	ends    device.Ends    // of the host port; the peer has the addresses
	entries entries.Set
	macs    map[netip.Addr]model.MAC // current or last MACs of members' addresses
	dirty   bool                     // needs a repair
	lastErr string                   // as logged; "" if there is none
}

func (n *network) usable() bool { return n.want != nil && n.ends.Host != 0 }

// spec describes the wanted host port.
func (n *network) spec() device.Spec { return device.Spec{ID: n.id, Network: n.want} }

// hostPort returns the devices of the host port, for entries.
func (n *network) hostPort() entries.HostPort {
	return entries.HostPort{Gateway: n.ends.Peer, Port: n.ends.Host}
}

// wantedNetworks returns the networks that should have a host port.
func (r *Reconciler) wantedNetworks() (nets []*model.Network) {
	for _, n := range r.networks {
		if n.want != nil {
			nets = append(nets, n.want)
		}
	}
	return nets
}

// usableNetworks returns the networks that have a host port.
func (r *Reconciler) usableNetworks() (nets []*model.Network) {
	for _, n := range r.networks {
		if n.usable() {
			nets = append(nets, n.want)
		}
	}
	return nets
}

// sandbox is what was created for a model.Sandbox.
type sandbox struct {
	netns.Sandbox
	dirty   bool
	lastErr string
}

// endpoint is what was created for a model.Endpoint.
type endpoint struct {
	id        string
	want      *model.Endpoint // nil if it is to be removed
	kind      device.EndpointKind
	ends      device.Ends // the peer is in the sandbox
	published bool        // its entries have the flag for published ports
	finished  bool        // has its alias: the end in the sandbox was configured
	entries   entries.Set
	dirty     bool
	lastErr   string
}

// spec describes the wanted device of an endpoint in a network.
func (e *endpoint) spec(s *desired.Snapshot, n *network) device.Spec {
	return device.Spec{ID: e.id, Network: n.want, Endpoint: e.want, EngineManaged: isEngineManaged(s, e.want)}
}

// isEngineManaged reports whether a container engine moves the endpoint's inner end into its sandbox
// and configures it there.
func isEngineManaged(s *desired.Snapshot, e *model.Endpoint) bool {
	b := s.Sandbox(e.SandboxID)
	return b != nil && b.ManagedBy == model.ByEngine
}

// publish is what was created for a model.Publish.
type publish struct {
	id   uint32
	want *model.Publish
	runs []entries.Run
}
