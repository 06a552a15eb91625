// SPDX-License-Identifier: Apache-2.0

// Package networks creates and removes the networks that the nodes of a cluster share, and keeps the
// local state in step: a network that another node created exists on every node.
package networks

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/cluster/removals"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

const (
	createTries = 32
	// VNIs that are chosen. Those below are likely to be in use by others on the same port, as
	// Docker's swarm counts from 4096; the uppermost is reserved.
	minVNI, maxVNI = 1 << 16, 1<<24 - 2
	// removalTimeout is how long a node has to complete a removal before another node does.
	removalTimeout = time.Minute
)

// Local is the state of this node, as verbs change it.
type Local interface {
	Snapshot() *desired.Snapshot
	// AdoptNetwork adds a network of the cluster. It does nothing if it exists.
	AdoptNetwork(ctx context.Context, n *model.Network) error
	// ForgetNetwork removes a network of the cluster that has no endpoints here.
	ForgetNetwork(ctx context.Context, id string) error
}

// Config configures Networks. All fields are required.
type Config struct {
	Cluster kv.Store
	Store   store.Store // of this host
	State   Local
	Node    func() model.Node
	// ClusterID returns the identity of the store that this node is registered in.
	ClusterID func() string
	// Listed is called when the networks were listed, as after an outage: the store may be another one.
	Listed func()
	Log    *slog.Logger
}

// Networks are the networks of the cluster.
type Networks struct {
	cfg     Config
	removed *removals.Pending[string] // names
	seen    *seen
	verify  chan struct{}
	skipped map[string]string // networks that cannot be adopted, with the reason as logged
}

// New returns Networks. Removals that an earlier daemon could not complete are loaded from the host's
// store.
func New(ctx context.Context, cfg Config) (*Networks, error) {
	removed, err := removals.Load[string](ctx, cfg.Store, removalPrefix)
	if err != nil {
		return nil, err
	}
	seen, err := loadSeen(ctx, cfg.Store)
	if err != nil {
		return nil, err
	}
	return &Networks{cfg: cfg, removed: removed, seen: seen, verify: make(chan struct{}, 1), skipped: map[string]string{}}, nil
}

// Create creates a network in the cluster. plan makes it, without a VNI, given the subnets that the
// cluster's other networks have. It is called again if another node creates one at the same time.
func (ns *Networks) Create(ctx context.Context, plan func(taken []netip.Prefix) (*model.Network, error)) (*model.Network, error) {
	for range createTries {
		n, err := ns.tryCreate(ctx, plan)
		if !errors.Is(err, kv.ErrConflict) {
			return n, explain(err)
		}
	}
	return nil, model.Refuse(model.ErrConflict, "other nodes create networks all the time (try again)")
}

// explain turns an error of the store into a refusal.
func explain(err error) error {
	if errors.Is(err, kv.ErrUnavailable) {
		return model.Refuse(model.ErrUnavailable, "networks with driver overlay are kept in the cluster's store: %v", err)
	}
	return err
}

func (ns *Networks) tryCreate(ctx context.Context, plan func([]netip.Prefix) (*model.Network, error)) (*model.Network, error) {
	var table layout.SubnetTable
	rev, err := layout.Load(ctx, ns.cfg.Cluster, layout.Subnets, &table)
	if err != nil {
		return nil, err
	}
	var taken []netip.Prefix
	for p := range table {
		taken = append(taken, p)
	}
	slices.SortFunc(taken, netip.Prefix.Compare)
	n, err := plan(taken)
	if err != nil {
		return nil, err
	}
	for _, s := range n.Subnets {
		if i := slices.IndexFunc(taken, s.Prefix.Overlaps); i >= 0 {
			return nil, model.Refuse(model.ErrConflict, "Pool overlaps with other one on this address space: %v and a network of the cluster (%v, ID %s); choose another --subnet",
				s.Prefix, taken[i], table[taken[i]])
		}
	}
	if err := ns.checkName(ctx, n); err != nil {
		return nil, err
	}
	if err := ns.chooseVNI(ctx, n); err != nil {
		return nil, err
	}
	// Recorded before, so that a removal by another node is recognised however soon it follows.
	if err := ns.seen.add(ctx, n.ID, ns.cfg.ClusterID()); err != nil {
		return nil, err
	}
	if err := ns.commit(ctx, n, table, rev); err != nil {
		return nil, errors.Join(err, ns.seen.drop(ctx, n.ID))
	}
	return n, nil
}

func (ns *Networks) checkName(ctx context.Context, n *model.Network) error {
	var id string
	rev, err := layout.Load(ctx, ns.cfg.Cluster, layout.NameKey(n.Name), &id)
	if err == nil && rev != layout.Absent {
		return model.Refuse(model.ErrConflict, "network with name %s already exists in the cluster (ID %s; choose another name, or remove it with: fairlead network rm %s)", n.Name, model.ShortID(id), n.Name)
	}
	return err
}

// chooseVNI checks the VNI that the user requested, or chooses a free one.
func (ns *Networks) chooseVNI(ctx context.Context, n *model.Network) error {
	requested := n.VNI != 0
	for {
		if !requested {
			n.VNI = minVNI + rand.Uint32N(maxVNI-minVNI+1)
		}
		var id string
		rev, err := layout.Load(ctx, ns.cfg.Cluster, layout.VNIKey(n.VNI), &id)
		switch {
		case err != nil || rev == layout.Absent:
			return err
		case requested:
			return model.Refuse(model.ErrConflict, "VNI %d belongs to another network of the cluster (ID %s; choose another, or leave it out)", n.VNI, model.ShortID(id))
		}
	}
}

// commit writes a network, if nothing of it exists. table is the subnets of the others, with rev.
func (ns *Networks) commit(ctx context.Context, n *model.Network, table layout.SubnetTable, rev kv.Rev) error {
	if table == nil {
		table = layout.SubnetTable{}
	}
	for _, s := range n.Subnets {
		table[s.Prefix] = model.ShortID(n.ID)
	}
	return ns.cfg.Cluster.Commit(ctx,
		[]kv.Cond{
			kv.If(layout.NameKey(n.Name), layout.Absent), kv.If(layout.NetworkKey(n.ID), layout.Absent),
			kv.If(layout.VNIKey(n.VNI), layout.Absent), kv.If(layout.Subnets, rev),
		},
		kv.Put(layout.NameKey(n.Name), layout.Encode(n.ID)), kv.Put(layout.NetworkKey(n.ID), layout.Encode(record(n))),
		kv.Put(layout.VNIKey(n.VNI), layout.Encode(n.ID)), kv.Put(layout.Subnets, layout.Encode(table)))
}

// record returns the record of a network: what is the same on all nodes.
func record(n *model.Network) layout.Network {
	r := layout.Network{Network: *n}
	r.Idle, r.Local = false, model.Local{}
	return r
}
