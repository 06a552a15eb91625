// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
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
		NodeMac: t.NodeMAC, GwMac: t.GatewayMAC, Node4: toIP(t.Node4), Node6: toIP(t.Node6),
	}
}

func tunnelFrom(net uint32, v bpf.TCTunnel) Tunnel {
	return Tunnel{
		Net: net, VNI: v.Vni, MTU: v.Mtu, NodeMAC: v.NodeMac, GatewayMAC: v.GwMac, HostPortIf: v.HostportIf,
		Node4: fromIP(v.Node4), Node6: fromIP(v.Node6), Encrypted: uint32(v.Flags)&encrypted(true) != 0,
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

// TunnelNodes is fl_tunnel_node: the nodes that receive a copy of each broadcast of a network.
type TunnelNodes struct {
	mu sync.Mutex // held through one change of a list
	t  *table.Table[bpf.TCTunnelNodeKey, uint32]
}

func newTunnelNodes(m *ebpf.Map) (*TunnelNodes, error) {
	t, err := table.New[bpf.TCTunnelNodeKey, uint32](bpf.TCMapFlTunnelNode, m)
	return &TunnelNodes{t: t}, err
}

// Set makes these the nodes of a network. It writes only what differs. A broadcast in the meantime
// may reach a node twice, or miss one. It reports whether it had to write.
func (t *TunnelNodes) Set(net uint32, nodes []uint16) (written bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, _ := t.t.Get(bpf.TCTunnelNodeKey{Net: net})
	entries := make(map[bpf.TCTunnelNodeKey]uint32, len(nodes))
	for i, node := range nodes {
		entries[bpf.TCTunnelNodeKey{Net: net, N: uint32(i + 1)}] = uint32(node)
	}
	var surplus []bpf.TCTunnelNodeKey
	for n := uint32(len(nodes)) + 1; n <= before; n++ {
		surplus = append(surplus, bpf.TCTunnelNodeKey{Net: net, N: n})
	}
	n, err := t.t.PutAll(entries)
	if err != nil {
		return n > 0, err
	}
	counted, err := t.count(net, uint32(len(nodes)))
	deleted, err2 := t.t.DeleteAll(surplus)
	return counted || n+deleted > 0, errors.Join(err, err2)
}

// count writes how many nodes a network has.
func (t *TunnelNodes) count(net, nodes uint32) (written bool, err error) {
	k := bpf.TCTunnelNodeKey{Net: net}
	if nodes == 0 {
		return t.t.Delete(k)
	}
	return t.t.Put(k, nodes)
}

// List returns the nodes of each network that has any, in the order of copies.
func (t *TunnelNodes) List() map[uint32][]uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := t.t.Entries()
	lists := make(map[uint32][]uint16)
	for k, n := range entries {
		if k.N != 0 {
			continue
		}
		for i := range n {
			if node := entries[bpf.TCTunnelNodeKey{Net: k.Net, N: i + 1}]; node != 0 {
				lists[k.Net] = append(lists[k.Net], uint16(node))
			}
		}
	}
	return lists
}

// Sync makes these the lists of all networks, after reading the table back.
func (t *TunnelNodes) Sync(lists map[uint32][]uint16) (written, deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := make(map[bpf.TCTunnelNodeKey]uint32)
	for net, nodes := range lists {
		for i, node := range nodes {
			entries[bpf.TCTunnelNodeKey{Net: net, N: uint32(i + 1)}] = uint32(node)
		}
		if len(nodes) > 0 {
			entries[bpf.TCTunnelNodeKey{Net: net}] = uint32(len(nodes))
		}
	}
	return t.t.Sync(entries)
}

// Get returns the nodes of a network.
func (t *TunnelNodes) Get(net uint32) []uint16 { return slices.Clone(t.List()[net]) }

// Refresh reads all entries back from the kernel.
func (t *TunnelNodes) Refresh() error { return t.t.Refresh() }

// Len returns the number of entries.
func (t *TunnelNodes) Len() int { return t.t.Len() }

// MaxEntries returns the table's capacity in entries.
func (t *TunnelNodes) MaxEntries() int { return t.t.MaxEntries() }
