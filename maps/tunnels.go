// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// VNI maps the network identifier of a tunnel's packets to a network.
type VNI struct {
	VNI       uint32 // 24 bits
	Net       uint32 // network index
	Encrypted bool   // clear text is dropped
	Services  bool   // the network has services: packets may belong to flows of this host
}

// String is for logs.
func (v VNI) String() string { return fmt.Sprintf("vni %d net %d", v.VNI, v.Net) }

func (v VNI) raw() (uint32, bpf.TCVni) {
	raw := bpf.TCVni{Net: v.Net, Flags: encrypted(v.Encrypted)}
	if v.Services {
		raw.Flags |= vniServices
	}
	return v.VNI, raw
}

func vniFrom(vni uint32, v bpf.TCVni) VNI {
	return VNI{VNI: vni, Net: v.Net, Encrypted: v.Flags&encrypted(true) != 0, Services: v.Flags&vniServices != 0}
}

const vniServices = uint32(bpf.TCTunnelFlagTUNNEL_SERVICES)

func encrypted(on bool) uint32 {
	if on {
		return uint32(bpf.TCTunnelFlagTUNNEL_ENCRYPTED)
	}
	return 0
}

// VNIs is fl_vni: networks by VNI.
type VNIs struct {
	view[uint32, bpf.TCVni, VNI]
}

// Delete removes a VNI; absent is success.
func (t *VNIs) Delete(vni uint32) (deleted bool, err error) { return t.view.Delete(VNI{VNI: vni}) }

// Tunnel is what frames of a network need to reach other nodes.
type Tunnel struct {
	Net        uint32     // network index
	VNI        uint32     // 24 bits
	MTU        uint16     // of the network, in bytes; 0: not known
	NodeMAC    MAC        // of this host itself, as other nodes know it
	Node4      netip.Addr // likewise; zero: none
	Node6      netip.Addr
	GatewayMAC MAC    // the same on each node
	HostPortIf uint32 // ifindex of the network's host port, the datapath's end
	Encrypted  bool   // nothing may travel in clear text
}

// String is for logs.
func (t Tunnel) String() string { return fmt.Sprintf("tunnel net %d vni %d", t.Net, t.VNI) }

func (t Tunnel) raw() (uint32, bpf.TCTunnel) {
	return t.Net, bpf.TCTunnel{
		Vni: t.VNI, HostportIf: t.HostPortIf, Mtu: t.MTU, Flags: uint16(encrypted(t.Encrypted)),
		NodeMac: t.NodeMAC, GwMac: t.GatewayMAC, Node4: bpf.IPOf(t.Node4), Node6: bpf.IPOf(t.Node6),
	}
}

func tunnelFrom(net uint32, v bpf.TCTunnel) Tunnel {
	return Tunnel{
		Net: net, VNI: v.Vni, MTU: v.Mtu, NodeMAC: v.NodeMac, GatewayMAC: v.GwMac, HostPortIf: v.HostportIf,
		Node4: v.Node4.Addr(), Node6: v.Node6.Addr(), Encrypted: uint32(v.Flags)&encrypted(true) != 0,
	}
}

// Tunnels is fl_tunnel: tunnels by network.
type Tunnels struct {
	view[uint32, bpf.TCTunnel, Tunnel]
}

// Delete removes a network's tunnel; absent is success.
func (t *Tunnels) Delete(net uint32) (deleted bool, err error) {
	return t.view.Delete(Tunnel{Net: net})
}
