// SPDX-License-Identifier: Apache-2.0

package members

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// claimTries bounds the attempts to claim addresses while other nodes change the same shards.
const claimTries = 32

// Claim reserves what an endpoint needs in the cluster, and publishes the endpoint, so that other
// nodes know it before its first packet. member has its ID and its names; without an ID, only the
// addresses of this node are reserved. The caller creates the endpoint in the local state, or not, and
// calls Done.
func (m *Members) Claim(ctx context.Context, n *model.Network, spec model.EndpointSpec, member model.Member) (*model.Claim, error) {
	if err := m.cfg.Check(ctx, n); err != nil {
		return nil, err
	}
	m.mu.Lock()
	net := m.network(n.ID)
	m.mu.Unlock()
	if err := net.take(ctx); err != nil {
		return nil, err
	}
	defer net.leave()
	if err := m.used.add(ctx, n.ID); err != nil {
		return nil, err
	}
	for range claimTries {
		claim, err := m.tryClaim(ctx, net, n, spec, member)
		if !errors.Is(err, kv.ErrConflict) {
			return claim, m.explain(n, err)
		}
	}
	return nil, model.Refuse(model.ErrConflict, "other nodes change the addresses of network %s all the time (try again)", n.Name)
}

// explain turns an error of the store into a refusal.
func (m *Members) explain(n *model.Network, err error) error {
	if errors.Is(err, kv.ErrUnavailable) {
		return model.Refuse(model.ErrUnavailable, "network %s is shared by a cluster, and an address in it needs the cluster's store: %v", n.Name, err)
	}
	return err
}

func (m *Members) tryClaim(ctx context.Context, net *network, n *model.Network, spec model.EndpointSpec, member model.Member) (*model.Claim, error) {
	b := newBatch(m.cfg.Store)
	if err := b.requireNetwork(ctx, n); err != nil {
		return nil, err
	}
	if err := m.load(ctx, net); err != nil {
		return nil, err
	}
	claim := &model.Claim{NetworkID: n.ID, Member: member}
	if err := m.claimAddresses(ctx, b, net, n, spec, claim); err != nil {
		return nil, err
	}
	if err := m.claimMAC(ctx, b, n, spec, claim); err != nil {
		return nil, err
	}
	changed := m.place(net, claim, spec.TakesOver)
	for i, members := range changed {
		b.ops = append(b.ops, m.putChunk(net, i, members))
	}
	m.addPending(claim)
	err := b.commit(ctx)
	switch {
	case errors.Is(err, kv.ErrConflict):
		m.removePending(claim)
		return nil, err
	case err != nil: // it may have been executed, or may be yet
		net.loaded = false
		m.dropPending(claim, all)
		return nil, err
	}
	maps.Copy(net.chunks, changed)
	return claim, nil
}

// requireNetwork makes the commit fail if the network is removed meanwhile.
func (b *batch) requireNetwork(ctx context.Context, n *model.Network) error {
	var record layout.Network
	rev, err := layout.Load(ctx, b.store, layout.NetworkKey(n.ID), &record)
	switch {
	case err != nil:
		return err
	case rev == layout.Absent:
		return model.Refuse(model.ErrNotFound, "network %s does not exist in the cluster's store (if the store was replaced, try again in some seconds; otherwise another node removed it)", n.Name)
	case record.Removing != "":
		return model.Refuse(model.ErrConflict, "network %s is being removed by another node (choose another network)", n.Name)
	}
	b.conds = append(b.conds, kv.If(layout.NetworkKey(n.ID), rev))
	return nil
}

// claimAddresses reserves the endpoint's addresses and, if this node has none in the network, its own.
func (m *Members) claimAddresses(ctx context.Context, b *batch, net *network, n *model.Network, spec model.EndpointSpec, claim *model.Claim) error {
	node := m.cfg.Node()
	for _, f := range model.Families {
		want := spec.Addr(f)
		if want.IsValid() || spec.Chooses(f) {
			a, err := m.claimAddress(ctx, b, net, n, f, want, claim.Member.ID, spec.TakesOver...)
			if err != nil {
				return err
			}
			if f == model.V4 {
				claim.Member.IPv4 = a
			} else {
				claim.Member.IPv6 = a
			}
		}
		s, ok := n.Subnet(f)
		if !ok || n.Swarm != "" || !s.Gateway.IsValid() || !n.Idle && n.NodeAddr(f).IsValid() {
			continue
		}
		a, err := net.heldBy(node.ID, f, s), error(nil)
		if !a.IsValid() {
			a, err = m.claimAddress(ctx, b, net, n, f, netip.Addr{}, node.ID)
		}
		if err != nil {
			return err
		}
		if f == model.V4 {
			claim.NodeIPv4 = a
		} else {
			claim.NodeIPv6 = a
		}
	}
	return nil
}

// heldBy returns the address that a published member holds in a subnet, or the zero Addr: that of the
// node, which is not released at once when its last endpoint is removed.
func (n *network) heldBy(id string, f model.Family, s model.Subnet) netip.Addr {
	for _, members := range n.chunks {
		if m, ok := members[id]; ok && s.Prefix.Contains(m.Addr(f)) {
			return m.Addr(f)
		}
	}
	return netip.Addr{}
}

// claimAddress reserves an address: the wanted one, or a free one. It returns the zero Addr if the
// network does not have the family. An address that an endpoint in from holds is taken over.
func (m *Members) claimAddress(ctx context.Context, b *batch, net *network, n *model.Network, f model.Family, want netip.Addr, id string, from ...string) (netip.Addr, error) {
	s, ok := n.Subnet(f)
	if !ok || want.IsValid() && !s.Prefix.Contains(want) {
		return netip.Addr{}, nil // resource.NewEndpoint refuses a wanted address
	}
	p, err := poolOf(s)
	if err != nil {
		return netip.Addr{}, err
	}
	by := model.AddressHolder{Node: m.cfg.Node().ID, Endpoint: id, Since: m.cfg.Now().UTC()}
	if want.IsValid() {
		return want, m.claimWanted(ctx, b, n, p, want, by, from)
	}
	shard := net.from[f]
	if shard == nil {
		start := p.start(by.Node)
		shard = &start
		net.from[f] = shard
	}
	a, err := b.allocate(ctx, n.ID, p, shard, by)
	if errors.Is(err, ipam.ErrExhausted) {
		err = model.Refuse(model.ErrExhausted, "no available %s addresses on this network's address pools: %s (%s); remove sandboxes from it, on any node, or create a larger network", f, n.Name, n.ID)
	}
	return a, err
}

func (m *Members) claimWanted(ctx context.Context, b *batch, n *model.Network, p *pool, want netip.Addr, by model.AddressHolder, from []string) error {
	if !p.usable.IsFree(want) {
		return nil // the gateway's, an auxiliary or an unusable address: resource.NewEndpoint refuses it
	}
	s, err := b.shard(ctx, n.ID, want)
	if err != nil {
		return err
	}
	// The endpoint itself holds it if an earlier commit did not report its success.
	own := append(slices.Clone(from), by.Endpoint)
	if holder, held := s.Held[want]; held && (holder.Node != by.Node || !slices.Contains(own, holder.Endpoint)) {
		return refuseHeld(n, want, holder, m.nodeName(ctx, holder.Node))
	}
	s.hold(want, by)
	return nil
}

// refuseHeld refuses an address that a node, whose name is given, or a service holds.
func refuseHeld(n *model.Network, want netip.Addr, by model.AddressHolder, node string) error {
	holder := "node " + node
	if by.Service != "" {
		holder = "service " + model.ShortID(by.Service)
	}
	return model.Refuse(model.ErrConflict, "Address already in use: %v in network %s is held by %s since %s (choose another, or none to get a free one)",
		want, n.Name, holder, by.Since.Format("2006-01-02 15:04:05"))
}

// nodeName returns the name of a node, or its short ID.
func (m *Members) nodeName(ctx context.Context, id string) string {
	var node model.Node
	if _, err := layout.Load(ctx, m.cfg.Store, layout.NodeKey(id), &node); err != nil || node.Name == "" {
		return model.ShortID(id)
	}
	return node.Name
}

// claimMAC chooses the MAC. If it follows from the address it is as unique as that. A chosen MAC is
// claimed, and must not be the one that another address has.
func (m *Members) claimMAC(ctx context.Context, b *batch, n *model.Network, spec model.EndpointSpec, claim *model.Claim) error {
	if claim.Member.ID == "" {
		return nil // of the node alone
	}
	want, own := spec.MAC, model.MACOf(cmp.Or(claim.Member.IPv4, claim.Member.IPv6))
	claim.Member.MAC = want
	switch {
	case want.IsZero() && !claim.Member.IPv4.IsValid() && (spec.IPv6.IsValid() || n.EnableIPv4):
		// Another address may have the same last bytes.
		_, _ = rand.Read(claim.Member.MAC[:]) // never fails
		claim.Member.MAC[0] = claim.Member.MAC[0]&^1 | 2
		return nil
	case want.IsZero() || want == own:
		claim.Member.MAC = own
		return nil
	case derivable(n, want):
		return model.Refuse(model.ErrInvalid, "MAC address %v is the one of another address of network %s (choose one that does not begin with 02:42)", want, n.Name)
	}
	key := layout.MACKey(n.ID, want)
	var holder model.AddressHolder
	rev, err := layout.Load(ctx, b.store, key, &holder)
	if err != nil {
		return err
	}
	if rev != layout.Absent {
		return model.Refuse(model.ErrConflict, "MAC address %v is already in use on network %s by an endpoint of node %s (choose another --mac-address)",
			want, n.Name, m.nodeName(ctx, holder.Node))
	}
	holder = model.AddressHolder{Node: m.cfg.Node().ID, Endpoint: claim.Member.ID, Since: m.cfg.Now().UTC()}
	b.conds = append(b.conds, kv.If(key, layout.Absent))
	b.ops = append(b.ops, kv.Put(key, layout.Encode(holder)))
	return nil
}

// derivable reports whether a MAC may follow from an address of the network.
func derivable(n *model.Network, mac model.MAC) bool {
	if mac[0] != 0x02 || mac[1] != 0x42 {
		return false
	}
	s, ok := n.Subnet(model.V4)
	return !ok || s.Prefix.Contains(netip.AddrFrom4([4]byte(mac[2:])))
}

// place returns the chunks that change when the claim's members replace those that it takes over.
func (m *Members) place(net *network, claim *model.Claim, from []string) map[int]map[string]model.Member {
	changed := map[int]map[string]model.Member{}
	edit := func(i int) map[string]model.Member {
		if changed[i] == nil {
			changed[i] = maps.Clone(net.chunks[i])
		}
		if changed[i] == nil {
			changed[i] = map[string]model.Member{}
		}
		return changed[i]
	}
	add := func(member model.Member) { edit(net.chunkFor(member.ID))[member.ID] = member }
	for _, id := range from {
		if i := net.chunkFor(id); net.chunks[i][id].ID == id {
			delete(edit(i), id)
		}
	}
	// At most one chunk overflows, by one member, which is harmless.
	if claim.NodeIPv4.IsValid() || claim.NodeIPv6.IsValid() {
		add(nodeMember(m.cfg.Node(), claim.NodeIPv4, claim.NodeIPv6))
	}
	if claim.Member.ID != "" {
		add(claim.Member)
	}
	return changed
}

func (m *Members) addPending(claim *model.Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pending[claim.NetworkID] == nil {
		m.pending[claim.NetworkID] = map[string]*model.Claim{}
	}
	m.pending[claim.NetworkID][claim.Member.ID] = claim
}

// dropPending ends a claim and schedules its network.
func (m *Members) dropPending(claim *model.Claim, s scope) {
	m.removePending(claim)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touch(claim.NetworkID, s)
}

func (m *Members) removePending(claim *model.Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pending[claim.NetworkID], claim.Member.ID)
	if len(m.pending[claim.NetworkID]) == 0 {
		delete(m.pending, claim.NetworkID)
	}
}

// Done ends a claim: from now on, what the local state has is published, and what it lacks is
// released.
func (m *Members) Done(claim *model.Claim) { m.dropPending(claim, changes) }
