// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/egress"
	"github.com/fairlead-net/fairlead/maps/flood"
	"github.com/fairlead-net/fairlead/maps/flowcount"
	"github.com/fairlead-net/fairlead/maps/pools"
	"github.com/fairlead-net/fairlead/maps/redirects"
	"github.com/fairlead-net/fairlead/maps/table"
	"github.com/fairlead-net/fairlead/maps/transfer"
)

// The backends of services, and the addresses that networks chose to masquerade with.
type (
	Pool       = pools.Pool
	PoolMember = pools.Member
	Egress     = egress.Egress
)

// FlowCount is the programs' count of the entries of fl_ct.
type FlowCount = flowcount.Count

// Set holds all tables of one datapath.
type Set struct {
	Endpoints  *Endpoints
	FDB        *FDB
	Neighbours *Neighbours
	Publishes  *Publishes
	Sources    *Sources
	Egresses   *egress.Table
	Pools      *pools.Table
	HostAddrs  *HostAddrs
	HostNets   *Subnets // prefixes that belong to the host; their network is 1
	Subnets    *Subnets
	Uplinks    *Uplinks
	Resolvers  *Resolvers
	Conntrack  *Conntrack
	Counters   *Counters

	// Of overlays. Networks that span nodes; the nodes; and members on them.
	VNIs           *VNIs
	Tunnels        *Tunnels
	TunnelNodes    *flood.Nodes
	Nodes          *Nodes
	NodeAddrs      *NodeAddrs
	PeerFDB        *PeerFDB
	PeerNeighbours *PeerNeighbours
	Groups         *flood.Groups

	lru map[string]*ebpf.Map // datapath-owned tables without a type of their own
}

// New returns a Set of the kernel's maps by name. The caller closes the maps when the Set is no
// longer used. types is the BTF of the object that defines the maps; gc runs gc_flows over the
// batch in its table.
func New(m map[string]*ebpf.Map, types *btf.Spec, gc func() error) (*Set, error) {
	for _, name := range Names() {
		if m[name] == nil {
			return nil, fmt.Errorf("open tables: map %q is missing", name)
		}
	}
	g := &generation{m: m[bpf.TCMapFlGeneration]}
	s := &Set{lru: map[string]*ebpf.Map{
		bpf.TCMapFlFrag:      m[bpf.TCMapFlFrag],
		bpf.SockMapFlSockRev: m[bpf.SockMapFlSockRev],
		bpf.TCMapFlAffinity:  m[bpf.TCMapFlAffinity],
	}}
	if err := errors.Join(s.openOwned(m, g), s.openOverlay(m, g)); err != nil {
		return nil, err
	}
	states, err := enumLabels(types, "ct_state", "CT_")
	if err != nil {
		return nil, err
	}
	s.Conntrack = &Conntrack{
		confirmed: m[bpf.TCMapFlCt], unconfirmed: m[bpf.TCMapFlCtNew], used: m[bpf.TCMapFlCtUsed],
		states: states, gc: m[bpf.GCMapFlGc], run: gc,
	}
	s.Counters, err = newCounters(m, types)
	return s, err
}

// openOwned opens the tables the control plane writes. Writes to those that decisions are made from change g.
func (s *Set) openOwned(m map[string]*ebpf.Map, g *generation) error {
	endpoints, err := table.NewView(bpf.TCMapFlEndpoint, m[bpf.TCMapFlEndpoint], Endpoint.raw, endpointFrom)
	if err != nil {
		return err
	}
	fdb, err := table.NewView(bpf.TCMapFlFdb, m[bpf.TCMapFlFdb], FDBEntry.raw, fdbFrom)
	if err != nil {
		return err
	}
	neighbours, err := table.NewView(bpf.TCMapFlNeigh, m[bpf.TCMapFlNeigh], Neighbour.raw, neighbourFrom)
	if err != nil {
		return err
	}
	subnets, err := table.NewView(bpf.TCMapFlSubnet, m[bpf.TCMapFlSubnet], Subnet.raw, subnetFrom)
	if err != nil {
		return err
	}
	hostNets, err := table.NewView(bpf.TCMapFlHostnet, m[bpf.TCMapFlHostnet], Subnet.raw, subnetFrom)
	if err != nil {
		return err
	}
	uplinks, err := table.NewView(bpf.TCMapFlUplink, m[bpf.TCMapFlUplink], Uplink.raw, uplinkFrom)
	if err != nil {
		return err
	}
	resolvers, err := table.NewView(bpf.SockMapFlResolver, m[bpf.SockMapFlResolver], Resolver.raw, resolverFrom)
	if err != nil {
		return err
	}
	if s.HostAddrs, err = newHostAddrs(bpf.TCMapFlHostaddr, m[bpf.TCMapFlHostaddr]); err != nil {
		return err
	}
	if s.Publishes, err = newPublishes(m[bpf.TCMapFlService], m[bpf.TCMapFlBackend], m[bpf.TCMapFlPortbits]); err != nil {
		return err
	}
	if s.Pools, err = pools.New(m); err != nil {
		return err
	}
	sources, err := table.NewView(bpf.TCMapFlSource, m[bpf.TCMapFlSource], Source.raw, sourceFrom)
	if err != nil {
		return err
	}
	if s.Egresses, err = egress.New(m[bpf.TCMapFlEgress]); err != nil {
		return err
	}
	endpoints.OnWrite(g.next)
	fdb.OnWrite(g.next)
	uplinks.OnWrite(g.next)
	s.Endpoints, s.FDB, s.Neighbours = &Endpoints{endpoints}, &FDB{fdb}, &Neighbours{neighbours}
	s.Subnets, s.HostNets, s.Uplinks = &Subnets{subnets}, &Subnets{hostNets}, &Uplinks{uplinks}
	s.Resolvers, s.Sources = &Resolvers{resolvers}, &Sources{sources}
	return nil
}

// openOverlay opens the tables of networks that span nodes. g: as for openOwned.
func (s *Set) openOverlay(m map[string]*ebpf.Map, g *generation) error {
	vnis, err := table.NewView(bpf.TCMapFlVni, m[bpf.TCMapFlVni], VNI.raw, vniFrom)
	if err != nil {
		return err
	}
	tunnels, err := table.NewView(bpf.TCMapFlTunnel, m[bpf.TCMapFlTunnel], Tunnel.raw, tunnelFrom)
	if err != nil {
		return err
	}
	nodes, err := table.NewView(bpf.TCMapFlNode, m[bpf.TCMapFlNode], Node.raw, nodeFrom)
	if err != nil {
		return err
	}
	addrs, err := table.NewView(bpf.TCMapFlNodeAddr, m[bpf.TCMapFlNodeAddr], NodeAddr.raw, nodeAddrFrom)
	if err != nil {
		return err
	}
	if s.TunnelNodes, s.Groups, err = flood.New(m[bpf.TCMapFlTunnelNode], m[bpf.TCMapFlGroup]); err != nil {
		return err
	}
	for _, t := range []interface{ OnWrite(f func() error) }{vnis, tunnels, nodes, addrs} {
		t.OnWrite(g.next)
	}
	s.VNIs, s.Tunnels, s.Nodes, s.NodeAddrs = &VNIs{vnis}, &Tunnels{tunnels}, &Nodes{nodes}, &NodeAddrs{addrs}
	s.PeerFDB = &PeerFDB{peers[bpf.TCFdbKey, bpf.TCFdbEntry, PeerFDBEntry]{
		bpf.TCMapFlPeerFdb, m[bpf.TCMapFlPeerFdb], PeerFDBEntry.raw, peerFDBFrom, g.next,
	}}
	s.PeerNeighbours = &PeerNeighbours{peers[bpf.TCNeighKey, bpf.TCNeighEntry, PeerNeighbour]{
		bpf.TCMapFlPeerNeigh, m[bpf.TCMapFlPeerNeigh], PeerNeighbour.raw, peerNeighbourFrom, func() error { return nil },
	}}
	return nil
}

// Names lists the maps of a datapath. Its objects also have working maps, which live only as long
// as the programs.
func Names() []string {
	return []string{
		// Written by the control plane.
		bpf.TCMapFlEndpoint, bpf.TCMapFlFdb, bpf.TCMapFlNeigh, bpf.TCMapFlService, bpf.TCMapFlBackend,
		bpf.TCMapFlPortbits, bpf.TCMapFlHostaddr, bpf.TCMapFlHostnet, bpf.TCMapFlSubnet, bpf.TCMapFlUplink,
		bpf.TCMapFlVni, bpf.TCMapFlTunnel, bpf.TCMapFlTunnelNode, bpf.TCMapFlNode, bpf.TCMapFlNodeAddr,
		bpf.TCMapFlPeerFdb, bpf.TCMapFlPeerNeigh,
		bpf.TCMapFlSource, bpf.TCMapFlEgress, bpf.TCMapFlPool, bpf.TCMapFlMaglev, bpf.TCMapFlMember, bpf.SockMapFlResolver,
		// Written by the datapath.
		bpf.TCMapFlCt, bpf.TCMapFlCtNew, bpf.TCMapFlCtUsed, bpf.TCMapFlFrag, bpf.SockMapFlSockRev,
		bpf.TCMapFlAffinity,
		bpf.TCMapFlNodeMtu, bpf.TCMapFlGroup,
		bpf.TCMapFlDrops, bpf.TCMapFlPaths, bpf.TCMapFlTraffic, bpf.TCMapFlEvents,
		// Written by both. The latter exchanges batches of flows to remove.
		bpf.TCMapFlGeneration, bpf.GCMapFlGc,
	}
}

// Redirects returns the connected sockets of host programs that were redirected to a backend.
func (s *Set) Redirects() ([]redirects.Redirect, error) {
	return redirects.Connected(s.lru[bpf.SockMapFlSockRev])
}

// FormerNames lists tables of earlier builds that others have replaced.
func FormerNames() []string {
	return []string{"fl_publish"} // by fl_service and fl_backend
}

// Fill is the fill level of a table.
type Fill struct {
	Table        string
	Entries, Max int
}

// Fills returns the fill level of every table that can become full, sorted by name. It walks the
// tables that the datapath owns, and those of members on other nodes.
func (s *Set) Fills() ([]Fill, error) {
	fills := []Fill{
		{bpf.TCMapFlEndpoint, s.Endpoints.Len(), s.Endpoints.MaxEntries()},
		{bpf.TCMapFlFdb, s.FDB.Len(), s.FDB.MaxEntries()},
		{bpf.TCMapFlNeigh, s.Neighbours.Len(), s.Neighbours.MaxEntries()},
		{bpf.TCMapFlService, s.Publishes.services.Len(), s.Publishes.services.MaxEntries()},
		{bpf.TCMapFlBackend, s.Publishes.backends.Len(), s.Publishes.backends.MaxEntries()},
		{bpf.TCMapFlSource, s.Sources.Len(), s.Sources.MaxEntries()},
		{bpf.TCMapFlEgress, s.Egresses.Len(), s.Egresses.MaxEntries()},
		{bpf.TCMapFlHostaddr, s.HostAddrs.Len(), s.HostAddrs.MaxEntries()},
		{bpf.TCMapFlHostnet, s.HostNets.Len(), s.HostNets.MaxEntries()},
		{bpf.TCMapFlSubnet, s.Subnets.Len(), s.Subnets.MaxEntries()},
		{bpf.TCMapFlUplink, s.Uplinks.Len(), s.Uplinks.MaxEntries()},
		{bpf.TCMapFlVni, s.VNIs.Len(), s.VNIs.MaxEntries()},
		{bpf.TCMapFlTunnel, s.Tunnels.Len(), s.Tunnels.MaxEntries()},
		{bpf.TCMapFlTunnelNode, s.TunnelNodes.Len(), s.TunnelNodes.MaxEntries()},
		{bpf.TCMapFlNode, s.Nodes.Len(), s.Nodes.MaxEntries()},
		{bpf.TCMapFlNodeAddr, s.NodeAddrs.Len(), s.NodeAddrs.MaxEntries()},
		{bpf.TCMapFlPool, s.Pools.Len(), s.Pools.MaxEntries()},
		{bpf.SockMapFlResolver, s.Resolvers.Len(), s.Resolvers.MaxEntries()},
	}
	parts, most := s.Pools.Parts()
	fills = append(fills, Fill{bpf.TCMapFlMaglev, parts, most})
	members, most := s.Pools.Members()
	fills = append(fills, Fill{bpf.TCMapFlMember, members, most})
	walked := map[string]*ebpf.Map{
		bpf.TCMapFlCt: s.Conntrack.confirmed, bpf.TCMapFlCtNew: s.Conntrack.unconfirmed,
		bpf.TCMapFlFrag: s.lru[bpf.TCMapFlFrag], bpf.SockMapFlSockRev: s.lru[bpf.SockMapFlSockRev],
		bpf.TCMapFlPeerFdb: s.PeerFDB.m, bpf.TCMapFlPeerNeigh: s.PeerNeighbours.m,
		bpf.TCMapFlAffinity: s.lru[bpf.TCMapFlAffinity],
	}
	for name, m := range walked {
		n, err := transfer.Count(m)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		fills = append(fills, Fill{name, n, int(m.MaxEntries())})
	}
	groups, err := s.Groups.Count()
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", bpf.TCMapFlGroup, err)
	}
	fills = append(fills, Fill{bpf.TCMapFlGroup, groups, s.Groups.MaxEntries()})
	slices.SortFunc(fills, func(a, b Fill) int { return cmp.Compare(a.Table, b.Table) })
	return fills, nil
}
