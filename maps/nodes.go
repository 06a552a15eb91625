// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// MaxNode is the greatest number of a node. The same number plus [EncryptedNode] names the node as
// it is reached by the device that encrypts.
const (
	MaxNode       = 4095
	EncryptedNode = 4096
)

const (
	via      = 1 << 31 // VIA_NODE
	viaShift = 13      // VIA_SHIFT
)

// ViaNode is what stands in place of a device, in flows and backends, for the node of a member of a
// network.
func ViaNode(net uint32) uint32 { return via | net<<viaShift }

// Node is another host of an overlay.
type Node struct {
	ID        uint16     // 1 and up
	Local     netip.Addr // this host's tunnel address, of the family of Remote
	Remote    netip.Addr // the node's
	IfIndex   uint32     // of the uplink to it; 0: there is no route
	Below     int        // number of uplinks below that one that packets still pass
	MTU       uint16     // of IP packets inside of the tunnel, in bytes; 0: not known
	Encrypted bool       // it is reached by a device that encrypts
}

// String is for logs.
func (n Node) String() string { return fmt.Sprintf("node %d %s by if%d", n.ID, n.Remote, n.IfIndex) }

func (n Node) raw() (uint32, bpf.TCNode) {
	return uint32(n.ID), bpf.TCNode{
		Local: bpf.IPOf(n.Local), Remote: bpf.IPOf(n.Remote), Ifindex: n.IfIndex,
		UpFlags: uint32(n.Below) * uint32(bpf.TCUpFlagUP_BELOW), Mtu: n.MTU,
		Flags: when(n.Encrypted, uint16(bpf.TCNodeFlagNODE_ENCRYPTED)),
	}
}

func nodeFrom(id uint32, v bpf.TCNode) Node {
	return Node{
		ID: uint16(id), Local: v.Local.Addr(), Remote: v.Remote.Addr(), IfIndex: v.Ifindex,
		Below: int(v.UpFlags / uint32(bpf.TCUpFlagUP_BELOW)), MTU: v.Mtu,
		Encrypted: v.Flags&uint16(bpf.TCNodeFlagNODE_ENCRYPTED) != 0,
	}
}

// Nodes is fl_node: nodes by number.
type Nodes struct {
	view[uint32, bpf.TCNode, Node]
}

// Delete removes a node; absent is success.
func (t *Nodes) Delete(id uint16) (deleted bool, err error) { return t.view.Delete(Node{ID: id}) }

// NodeAddr maps the tunnel address that a node sends from to the node.
type NodeAddr struct {
	Addr netip.Addr
	Node uint16
}

// String is for logs.
func (a NodeAddr) String() string { return fmt.Sprintf("tunnel address %s node %d", a.Addr, a.Node) }

func (a NodeAddr) raw() (bpf.TCIp, uint32) { return bpf.IPOf(a.Addr), uint32(a.Node) }

func nodeAddrFrom(k bpf.TCIp, v uint32) NodeAddr { return NodeAddr{k.Addr(), uint16(v)} }

// NodeAddrs is fl_node_addr: nodes by the addresses that they may send from.
type NodeAddrs struct {
	view[bpf.TCIp, uint32, NodeAddr]
}

// Delete removes an address; absent is success.
func (t *NodeAddrs) Delete(a netip.Addr) (deleted bool, err error) {
	return t.view.Delete(NodeAddr{Addr: a})
}
