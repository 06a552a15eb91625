// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// Neighbour maps an address in a network to a member: the result that ARP or neighbour discovery
// would have.
type Neighbour struct {
	Net     uint32 // network index
	Addr    netip.Addr
	Router  bool // the entry is the network's router, and has no address
	MAC     MAC
	IfIndex uint32        // of the host end
	Flags   EndpointFlags // of that endpoint
	Node    uint16        // where the member is; 0: on this host
}

// String is for logs.
func (n Neighbour) String() string {
	return fmt.Sprintf("neighbour net %d %s %s if%d", n.Net, n.Addr, macString(n.MAC), n.IfIndex)
}

func (n Neighbour) raw() (bpf.TCNeighKey, bpf.TCNeighEntry) {
	k := bpf.TCNeighKey{Addr: bpf.IPOf(n.Addr), Net: n.Net}
	if n.Router {
		k.Router = 1
	}
	return k, bpf.TCNeighEntry{Mac: n.MAC, Ifindex: n.IfIndex, Flags: uint32(n.Flags), Node: n.Node}
}

func neighbourFrom(k bpf.TCNeighKey, v bpf.TCNeighEntry) Neighbour {
	return Neighbour{
		Net: k.Net, Addr: k.Addr.Addr(), Router: k.Router != 0, MAC: v.Mac, IfIndex: v.Ifindex,
		Flags: EndpointFlags(v.Flags), Node: v.Node,
	}
}

// Neighbours is fl_neigh: MAC and device by network and address.
type Neighbours struct {
	view[bpf.TCNeighKey, bpf.TCNeighEntry, Neighbour]
}

// Delete removes a member's address; absent is success.
func (t *Neighbours) Delete(net uint32, addr netip.Addr) (deleted bool, err error) {
	return t.view.Delete(Neighbour{Addr: addr, Net: net})
}
