// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/server"
	"github.com/fairlead-net/fairlead/control/cluster"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/peers"
	"github.com/fairlead-net/fairlead/control/reach"
)

// membersTimeout bounds the wait for the members of a network that has none here, when it is shown.
const membersTimeout = 2 * time.Second

// Cluster is this host's part in a cluster.
type Cluster struct {
	*cluster.Cluster
	Peers      *peers.Peers
	Encryption interface {
		Handshakes() (model.Handshakes, error)
	}
	Reach *reach.Prober
}

var _ server.Cluster = (*Node)(nil)

var errNoCluster = model.Refuse(model.ErrNotSupported, "this daemon is not part of a cluster (start it with --store embed, or with --store etcd://HOST:2379 of another host)")

// Nodes implements [server.Cluster].
func (b *Node) Nodes(context.Context) ([]api.Node, error) {
	c := b.cfg.Cluster
	if c == nil {
		return nil, errNoCluster
	}
	devices, err := b.deviceNames()
	if err != nil {
		return nil, err
	}
	shakes := b.handshakes()
	var list []api.Node
	for _, n := range c.Peers.Nodes() {
		list = append(list, b.node(n, devices, shakes))
	}
	return list, nil
}

// Node implements [server.Cluster].
func (b *Node) Node(_ context.Context, ref string) (api.Node, error) {
	c := b.cfg.Cluster
	if c == nil {
		return api.Node{}, errNoCluster
	}
	n, err := c.Peers.Find(ref)
	if err != nil {
		return api.Node{}, err
	}
	devices, err := b.deviceNames()
	return b.node(n, devices, b.handshakes()), err
}

// handshakes returns the last handshakes with other nodes, none if they cannot be read.
func (b *Node) handshakes() model.Handshakes {
	shakes, err := b.cfg.Cluster.Encryption.Handshakes()
	if err != nil {
		b.cfg.Log.Debug("cannot read handshakes", "err", err)
	}
	return shakes
}

func (b *Node) deviceNames() (map[uint32]string, error) {
	links, err := b.cfg.Handle.Links()
	if err != nil {
		return nil, err
	}
	names := make(map[uint32]string, len(links))
	for _, link := range links {
		names[link.Index] = link.Name
	}
	return names, nil
}

// node shows a node.
func (b *Node) node(n peers.NodeStatus, devices map[uint32]string, shakes model.Handshakes) api.Node {
	out := api.Node{
		ID: n.ID, Name: n.Name, Number: n.Number, Self: n.Self, Status: api.NodeUp, Address: model.AddrText(n.VTEP),
		Version: n.Version, Sandboxes: n.Members, Device: devices[n.Path.IfIndex], Paths: []api.NodePath{},
	}
	if !n.WireGuardKey.IsZero() {
		out.PublicKey = n.WireGuardKey.String()
	}
	if n.Self {
		return out
	}
	for _, r := range b.cfg.Cluster.Reach.Results(n.ID) {
		out.Paths = append(out.Paths, api.NodePath{
			Encrypted: r.Encrypted, RoundTrip: r.Small.RoundTrip.Seconds(), Probes: r.Small.Sent, Lost: r.Small.Lost,
			LargeSize: r.Size, LargeProbes: r.Large.Sent, LargeLost: r.Large.Lost, LastAnswer: r.Small.Answered, LastHeard: r.Small.Heard,
			State: r.State(time.Now()),
		})
	}
	out.LastHandshake = shakes[n.WireGuardKey]
	if n.Path.IfIndex != 0 {
		out.MTU = n.Path.MTU - peers.Overhead(model.FamilyOf(n.VTEP))
	}
	switch {
	case n.Down:
		out.Status, out.LastSeen = api.NodeDown, n.Lost
	case !b.cfg.Cluster.Store().Health().Reachable:
		out.Status = api.NodeUnknown
	}
	return out
}

// RemoveNode implements [server.Cluster].
func (b *Node) RemoveNode(ctx context.Context, ref string, force bool) error {
	c := b.cfg.Cluster
	if c == nil {
		return errNoCluster
	}
	n, err := c.Peers.Find(ref)
	if err != nil {
		return err
	}
	if n.Lost.IsZero() && !n.Self && !force {
		return model.Refuse(model.ErrConflict, "node %s is alive (stop its daemon first; or remove it with --force, and it joins again by itself)", n.Name)
	}
	return c.RemoveNode(ctx, n.Node)
}

// RemoteMembers implements [server.Cluster].
func (b *Node) RemoteMembers(ctx context.Context, n *model.Network) []model.RemoteMember {
	c := b.cfg.Cluster
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, membersTimeout)
	defer cancel()
	list, err := c.Peers.Members(ctx, n.ID)
	if err != nil {
		b.cfg.Log.Debug("cannot list the members of a network on other nodes", "network", n.Name, "err", err)
	}
	return list
}

// Addresses implements [server.Cluster].
func (b *Node) Addresses(ctx context.Context, n *model.Network) ([]api.AddressHolder, error) {
	c := b.cfg.Cluster
	switch {
	case c == nil:
		return nil, errNoCluster
	case !n.Has().Shared:
		return nil, model.Refuse(model.ErrInvalid, "network %s is not shared by hosts (its addresses are in: fairlead network inspect %[1]s)", n.Name)
	}
	held, err := c.Holders(ctx, n.ID)
	if err != nil {
		return nil, err
	}
	nodes := map[string]string{}
	for _, node := range c.Peers.Nodes() {
		nodes[node.ID] = node.Name
	}
	sandboxes := b.sandboxNames(ctx, n)
	var list []api.AddressHolder
	for _, a := range slices.SortedFunc(maps.Keys(held), netip.Addr.Compare) {
		by := held[a]
		row := api.AddressHolder{Address: a.String(), Node: nodes[by.Node], Endpoint: by.Endpoint, Sandbox: sandboxes[by.Endpoint], Since: by.Since}
		if row.Node == "" {
			row.Node = model.ShortID(by.Node)
		}
		if by.Endpoint == by.Node {
			row.Endpoint = ""
		}
		if svc := b.Snapshot().Service(by.Service); svc != nil {
			row.Sandbox = "service " + svc.Name
		}
		list = append(list, row)
	}
	return list, nil
}

// sandboxNames returns the names of a network's sandboxes on all nodes, by endpoint.
func (b *Node) sandboxNames(ctx context.Context, n *model.Network) map[string]string {
	names := map[string]string{}
	snapshot := b.Snapshot()
	for ep := range snapshot.Members(n.ID) {
		names[ep.ID] = snapshot.SandboxName(ep.SandboxID)
	}
	for _, m := range b.RemoteMembers(ctx, n) {
		names[m.ID] = m.Name
	}
	return names
}

// DrainBackend implements [server.Services]. The backend may be on another node.
func (b *Node) DrainBackend(ctx context.Context, ref, sandbox string, drained bool) error {
	svc, err := b.Service(ref)
	_, here := b.Sandbox(sandbox)
	if err != nil || b.cfg.Cluster == nil || svc.Cluster == "" || here == nil {
		return b.Controller.DrainBackend(ctx, ref, sandbox, drained)
	}
	var found []model.RemoteMember
	for _, m := range b.cfg.Cluster.Peers.Backends(svc) {
		switch {
		case m.SandboxID == sandbox || m.Name == sandbox:
			found = append(found, m)
		case sandbox != "" && strings.HasPrefix(m.SandboxID, sandbox):
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return model.Refuse(model.ErrNotFound, "no sandbox %q is a backend of service %s, on any node (see: fairlead service inspect %[2]s)", sandbox, svc.Name)
	case 1:
		return b.DrainMember(ctx, svc, found[0].ID, found[0].Name, drained)
	}
	return model.Refuse(model.ErrInvalid, "sandbox %s is ambiguous (%d nodes have one; give the ID of: fairlead service inspect %s)", sandbox, len(found), svc.Name)
}

// clusterStatus describes this host's part in a cluster, or nil if there is none.
func (b *Node) clusterStatus() *api.ClusterStatus {
	c := b.cfg.Cluster
	if c == nil {
		return nil
	}
	h, self, counts := c.Store().Health(), c.Self(), peers.Count(c.Peers.Nodes())
	out := &api.ClusterStatus{
		Node: self.Name, Number: self.Number, Store: h.Store, Reachable: h.Reachable, Since: h.Since,
		Nodes: counts.Nodes, NodesDown: counts.Down, Members: counts.Members, Waiting: c.Waiting(),
	}
	if h.Err != nil {
		out.Error = model.OneLine(h.Err)
	}
	if err := c.Peers.EncryptionError(); err != nil {
		out.EncryptionError = model.OneLine(err)
	}
	if !c.Registered() {
		out.Number = 0
	}
	return out
}
