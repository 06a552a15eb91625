// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// EndpointFlags are the properties of an endpoint and of its network on which the datapath bases
// its decisions.
type EndpointFlags uint32

// The flags of an endpoint.
const (
	// HostPort: the network's host port. Packets from it may have any source address, and the
	// datapath sends to it what it cannot route.
	HostPort = EndpointFlags(bpf.TCEpFlagEP_HOSTPORT)
	// AntiSpoof: source MAC and addresses must be the endpoint's own.
	AntiSpoof = EndpointFlags(bpf.TCEpFlagEP_ANTISPOOF)
	// Published: the endpoint is the backend of a published port.
	Published = EndpointFlags(bpf.TCEpFlagEP_PUBLISHED)
	// Internal: the network has no default route.
	Internal = EndpointFlags(bpf.TCEpFlagEP_INTERNAL)
	// ICC: members of the network may reach each other.
	ICC = EndpointFlags(bpf.TCEpFlagEP_ICC)
	// Masquerade: packets leave the host with the uplink's address.
	Masquerade = EndpointFlags(bpf.TCEpFlagEP_MASQUERADE)
	// Shaped: packets to the endpoint must wait in its host end's queue.
	Shaped = EndpointFlags(bpf.TCEpFlagEP_SHAPED)
	// DNS: a host port at whose addresses the name server listens. Port 53, when published at
	// every address, is not published at these.
	DNS = EndpointFlags(bpf.TCEpFlagEP_DNS)
	// Service: not an endpoint, but the virtual address of a service.
	Service = EndpointFlags(bpf.TCEpFlagEP_SERVICE)
	// Pooled: the endpoint is a backend of a service.
	Pooled = EndpointFlags(bpf.TCEpFlagEP_POOL)
	// RemotePool: services of the endpoint's network may have backends on other nodes.
	RemotePool = EndpointFlags(bpf.TCEpFlagEP_REMOTE_POOL)
	// OwnIPv4: IPv4 leaves the host with the endpoint's own address, whatever Masquerade says.
	OwnIPv4 = EndpointFlags(bpf.TCEpFlagEP_OWN4)
	// OwnIPv6: IPv6 likewise.
	OwnIPv6 = EndpointFlags(bpf.TCEpFlagEP_OWN6)
	// Reached: members of other networks may reach the endpoint at its own address.
	Reached = EndpointFlags(bpf.TCEpFlagEP_REACHED)
	// ChosenEgress: the endpoint's network chose an address to masquerade with ([Egress]).
	ChosenEgress = EndpointFlags(bpf.TCEpFlagEP_EGRESS)
	// Gated: what leaves the endpoint's network goes to the network's router, a member, or nowhere ([Neighbour.Router]).
	Gated = EndpointFlags(bpf.TCEpFlagEP_GATED)
	// OnLink: the endpoint is on the link of an uplink. FDB entries and neighbours do not have this flag.
	OnLink = EndpointFlags(bpf.TCEpFlagEP_LAN)
)

// Endpoint is the datapath's description of the device at which packets arrive.
type Endpoint struct {
	IfIndex            uint32 // of the host end; of a host port: of the datapath's end
	Net                uint32 // network index
	MAC, GatewayMAC    MAC
	IPv4, IPv6         netip.Addr // zero: none
	Gateway4, Gateway6 netip.Addr // zero: none
	Flags              EndpointFlags
	HostPortIf         uint32 // ifindex of the network's host port, the datapath's end
	GatewayIf          uint32 // ifindex of its other end, which has the gateway addresses
	MTU                uint32 // of the endpoint's own end, in bytes; 0: not known
}

// String is for logs.
func (e Endpoint) String() string {
	return fmt.Sprintf("endpoint if%d net %d %s %s %s", e.IfIndex, e.Net, macString(e.MAC), e.IPv4, e.IPv6)
}

func (e Endpoint) raw() (uint32, bpf.TCEndpoint) {
	return e.IfIndex, bpf.TCEndpoint{
		Ip4: bpf.IPOf(e.IPv4), Ip6: bpf.IPOf(e.IPv6), Gw4: bpf.IPOf(e.Gateway4), Gw6: bpf.IPOf(e.Gateway6),
		Mac: e.MAC, GwMac: e.GatewayMAC, Net: e.Net, Flags: uint32(e.Flags),
		HostportIf: e.HostPortIf, GatewayIf: e.GatewayIf, Mtu: e.MTU,
	}
}

func endpointFrom(ifindex uint32, v bpf.TCEndpoint) Endpoint {
	return Endpoint{
		IfIndex: ifindex, Net: v.Net, MAC: v.Mac, GatewayMAC: v.GwMac,
		IPv4: v.Ip4.Addr(), IPv6: v.Ip6.Addr(), Gateway4: v.Gw4.Addr(), Gateway6: v.Gw6.Addr(),
		Flags: EndpointFlags(v.Flags), HostPortIf: v.HostportIf, GatewayIf: v.GatewayIf, MTU: v.Mtu,
	}
}

// Endpoints is fl_endpoint: endpoints and host ports by device.
type Endpoints struct {
	view[uint32, bpf.TCEndpoint, Endpoint]
}

// Delete removes the endpoint of a device; absent is success.
func (t *Endpoints) Delete(ifindex uint32) (deleted bool, err error) {
	return t.view.Delete(Endpoint{IfIndex: ifindex})
}
