// SPDX-License-Identifier: Apache-2.0

// Package services creates, changes and removes the services of networks that the nodes of a cluster
// share, and keeps the local state in step: a service that another node created exists on every node.
// Which members of the network are its backends is not recorded: each node finds them by their aliases.
package services

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/cluster/members"
	"github.com/fairlead-net/fairlead/control/cluster/removals"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// tries bounds the attempts to change a record that other nodes change too.
const tries = 32

// Local is the state of this node, as verbs change it.
type Local interface {
	Snapshot() *desired.Snapshot
	// AdoptService adds a service of the cluster, or makes the local one the same.
	AdoptService(ctx context.Context, svc *model.Service) error
	// ForgetService removes a service of the cluster.
	ForgetService(ctx context.Context, id string) error
	// UseNetwork makes this node a member of a shared network, so that its services' ports are served
	// here.
	UseNetwork(ctx context.Context, id string) error
}

// Config configures Services. All fields are required.
type Config struct {
	Cluster kv.Store
	Store   store.Store // the host's own
	State   Local
	// ClusterID returns the identity of the store that this node is registered in.
	ClusterID func() string
	Log       *slog.Logger
}

// Services are the services of the cluster.
type Services struct {
	cfg     Config
	verify  chan struct{}
	removed *removals.Pending[model.Service]
	logged  map[string]string // what could not be done with a service, as logged
}

// removalPrefix is the prefix of the keys of pending removals in the host's store.
const removalPrefix = "cluster/removed-service/"

// New returns Services. Removals that an earlier daemon could not complete are loaded from the host's store.
func New(ctx context.Context, cfg Config) (*Services, error) {
	removed, err := removals.Load[model.Service](ctx, cfg.Store, removalPrefix)
	if err != nil {
		return nil, err
	}
	return &Services{cfg: cfg, verify: make(chan struct{}, 1), removed: removed, logged: map[string]string{}}, nil
}

// Create creates a service in the cluster. plan makes it, given its virtual addresses, and is called again
// if another node changes the same records.
func (s *Services) Create(ctx context.Context, n *model.Network, spec model.ServiceSpec, id string, plan func(v4, v6 netip.Addr) (*model.Service, error)) (*model.Service, error) {
	for range tries {
		svc, err := s.tryCreate(ctx, n, spec, id, plan)
		if !errors.Is(err, kv.ErrConflict) {
			return svc, explain(err)
		}
	}
	return nil, model.Refuse(model.ErrConflict, "other nodes change network %s all the time (try again)", n.Name)
}

func (s *Services) tryCreate(ctx context.Context, n *model.Network, spec model.ServiceSpec, id string, plan func(v4, v6 netip.Addr) (*model.Service, error)) (*model.Service, error) {
	key := layout.ServiceKey(n.ID, spec.Name)
	var has layout.Service
	rev, err := layout.Load(ctx, s.cfg.Cluster, key, &has)
	if err != nil {
		return nil, err
	}
	if rev != layout.Absent {
		return nil, model.Refuse(model.ErrConflict, "service %s already exists in network %s (choose another name, or remove it with: fairlead service rm %[1]s)", has.Name, n.Name)
	}
	in, is, err := s.identity(ctx)
	if err != nil {
		return nil, err
	}
	v, err := members.NewVirtual(ctx, s.cfg.Cluster, n)
	if err != nil {
		return nil, err
	}
	v4, err := v.Take(ctx, model.V4, spec.IPv4, id)
	if err != nil {
		return nil, err
	}
	v6, err := v.Take(ctx, model.V6, spec.IPv6, id)
	if err != nil {
		return nil, err
	}
	svc, err := plan(v4, v6)
	if err != nil {
		return nil, err
	}
	svc.ID, svc.Cluster = id, in
	return svc, v.Commit(ctx, []kv.Cond{kv.If(key, layout.Absent), is}, kv.Put(key, layout.Encode(record(svc))))
}

// identity returns the identity of the store, and the condition that it still has it.
func (s *Services) identity(ctx context.Context) (id string, is kv.Cond, err error) {
	var c layout.Identity
	rev, err := layout.Load(ctx, s.cfg.Cluster, layout.Cluster, &c)
	if err == nil && rev == layout.Absent {
		err = model.Refuse(model.ErrUnavailable, "the cluster's store was emptied, and this host has not registered in it again yet (try again)")
	}
	return c.ID, kv.If(layout.Cluster, rev), err
}

// explain turns an error of the store into a refusal.
func explain(err error) error {
	if errors.Is(err, kv.ErrUnavailable) {
		return model.Refuse(model.ErrUnavailable, "services of networks with driver overlay are kept in the cluster's store: %v", err)
	}
	return err
}

// Remove removes a service from the cluster, and releases its addresses. If the store does not answer, the removal is
// stored on this host and done later: until then other hosts go on with the service.
func (s *Services) Remove(ctx context.Context, n *model.Network, svc *model.Service) error {
	err := s.remove(ctx, n, svc)
	if errors.Is(err, model.ErrUnavailable) {
		s.cfg.Log.Warn("the cluster's store does not answer; the service is removed from it as soon as it does", "service", svc.Name, "err", err)
		return s.removed.Add(ctx, svc.ID, *svc)
	}
	return err
}

func (s *Services) remove(ctx context.Context, n *model.Network, svc *model.Service) error {
	for range tries {
		err := s.tryRemove(ctx, n, svc)
		if !errors.Is(err, kv.ErrConflict) {
			return explain(err)
		}
	}
	return model.Refuse(model.ErrConflict, "other nodes change network %s all the time (try again)", n.Name)
}

func (s *Services) tryRemove(ctx context.Context, n *model.Network, svc *model.Service) error {
	key := layout.ServiceKey(n.ID, svc.Name)
	var has layout.Service
	rev, err := layout.Load(ctx, s.cfg.Cluster, key, &has)
	if err != nil || rev == layout.Absent || has.ID != svc.ID {
		return err
	}
	v, err := members.NewVirtual(ctx, s.cfg.Cluster, n)
	if err != nil {
		return err
	}
	for _, f := range model.Families {
		if err := v.Release(ctx, svc.Addr(f), svc.ID); err != nil {
			return err
		}
	}
	return v.Commit(ctx, []kv.Cond{kv.If(key, rev)}, kv.Delete(key))
}

// Change changes the record of a service, and returns what it is then.
func (s *Services) Change(ctx context.Context, svc *model.Service, change func(*model.Service)) (*model.Service, error) {
	key := layout.ServiceKey(svc.NetworkID, svc.Name)
	for range tries {
		var has layout.Service
		rev, err := layout.Load(ctx, s.cfg.Cluster, key, &has)
		if err == nil && (rev == layout.Absent || has.ID != svc.ID) {
			return nil, model.NoService(svc.Name)
		}
		if err != nil {
			return nil, explain(err)
		}
		now := has.Service
		change(&now)
		err = s.cfg.Cluster.Commit(ctx, []kv.Cond{kv.If(key, rev)}, kv.Put(key, layout.Encode(record(&now))))
		if !errors.Is(err, kv.ErrConflict) {
			return &now, explain(err)
		}
	}
	return nil, model.Refuse(model.ErrConflict, "other nodes change service %s all the time (try again)", svc.Name)
}

// record returns the record of a service: what is the same on all nodes. It says which store has it, so that a
// node does not take what it last knew of a store for the contents of the one that replaced it.
func record(svc *model.Service) layout.Service {
	r := layout.Service{Service: *svc}
	r.Number = 0
	return r
}
