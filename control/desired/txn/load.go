// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
	"github.com/fairlead-net/fairlead/control/store"
)

// Start loads the state, lets prepare change it, and applies the result. Objects that refer to a
// missing object are removed. If the kernel refuses an object, the error is logged, the other
// objects are served, and the next check tries again.
func (s *State) Start(ctx context.Context, prepare func(*Tx) error) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	t := s.begin()
	if err := s.upgrade(ctx, t); err != nil {
		return err
	}
	if err := s.choosePools(ctx, t); err != nil {
		return err
	}
	if err := s.load(ctx, t); err != nil {
		return err
	}
	if err := prepare(t); err != nil {
		return err
	}
	ops, _, err := t.encode()
	if err != nil {
		return err
	}
	if len(ops) > 0 {
		if _, err := s.cfg.Store.Commit(ctx, ops...); err != nil {
			return fmt.Errorf("persist the state at start: %w", err)
		}
	}
	s.head = t.Next
	s.snap.Store(t.Next)
	if err := s.cfg.Realizer.Accept(ctx, t.Next)(); err != nil {
		s.cfg.Log.Error("could not apply some of the stored state; the next check tries again", "err", err)
	}
	s.notify(t.Next)
	s.cfg.Log.Info("state loaded", "networks", t.Next.Counts().Networks, "sandboxes", t.Next.Counts().Sandboxes, "publishes", t.Next.Counts().Publishes)
	return nil
}

// upgrade converts the state of an earlier version. A store without a state gets the current one.
func (s *State) upgrade(ctx context.Context, t *Tx) error {
	from, err := schema.Upgrade(ctx, s.cfg.Store)
	if err != nil {
		return err
	}
	switch from {
	case 0:
		t.write(schema.KeyVersion, nil, schema.Current)
	case schema.Current:
	default:
		s.cfg.Log.Info("converted the state of an earlier build", "from", from, "to", schema.Current)
	}
	return nil
}

// get reads one value. It returns false if there is none.
func (s *State) get(ctx context.Context, key string, v any) (bool, error) {
	e, err := s.cfg.Store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err == nil {
		err = damaged(json.Unmarshal(e.Value, v))
	}
	if err != nil {
		return false, fmt.Errorf("load %q: %w", key, err)
	}
	return true, nil
}

// damaged marks err as caused by a stored value that cannot be decoded or used.
func damaged(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", store.ErrDamaged, err)
}

// choosePools takes the configured default pools, and adds defaults for the families
// without one.
func (s *State) choosePools(ctx context.Context, t *Tx) error {
	s.defaults = slices.Clone(s.cfg.DefaultPools)
	has := func(f model.Family) bool {
		return slices.ContainsFunc(s.defaults, func(p ipam.DefaultPool) bool { return model.FamilyOf(p.Base.Addr()) == f })
	}
	if !has(model.V4) {
		s.defaults = append(s.defaults, ipam.DefaultPools()...)
	}
	if has(model.V6) {
		return nil
	}
	var base netip.Prefix
	found, err := s.get(ctx, schema.KeyULA, &base)
	if err != nil {
		return err
	}
	ula := ipam.NewULA()
	if found {
		ula.Base = base
	} else {
		t.write(schema.KeyULA, nil, ula.Base)
	}
	s.defaults = append(s.defaults, ula)
	return nil
}

// load reads every object into the next snapshot and the indices. Objects that refer
// to a missing object are removed.
func (s *State) load(ctx context.Context, t *Tx) error {
	for _, step := range []struct {
		prefix string
		add    func(t *Tx, id string, value []byte) error
	}{
		{schema.PrefixLocal, loadLocal},
		{schema.PrefixNetwork, loadNetwork},
		{schema.PrefixService, loadService}, // before endpoints, so that its addresses stay its own
		{schema.PrefixSandbox, loadSandbox},
		{schema.PrefixEndpoint, loadEndpoint},
		{schema.PrefixPublish, loadPublishes},
		{schema.PrefixPool, loadPool},
	} {
		entries, err := s.cfg.Store.List(ctx, step.prefix)
		if err != nil {
			return fmt.Errorf("load the state: %w", err)
		}
		for _, e := range entries {
			err := step.add(t, strings.TrimPrefix(e.Key, step.prefix), e.Value)
			if errors.Is(err, errOrphan) {
				s.cfg.Log.Warn("removed orphaned object from the store", "key", e.Key, "err", err)
				t.write(e.Key, json.RawMessage(e.Value), nil)
				continue
			}
			if err != nil {
				return fmt.Errorf("load %q: %w", e.Key, damaged(err))
			}
		}
	}
	s.resumeAddresses(t.Next)
	return t.settleLocals()
}

// settleLocals numbers the networks that this host does not know yet, and removes what it knew of
// networks that do not exist.
func (t *Tx) settleLocals() error {
	for id, local := range t.locals {
		t.s.cfg.Log.Warn("removed the number of a network that does not exist from the store", "network", model.ShortID(id), "number", local.Index)
		t.write(schema.PrefixLocal+id, local, nil)
	}
	for n := range t.Next.Networks() {
		if n.Index != 0 {
			continue
		}
		index, err := t.NewIndex()
		if err != nil {
			return err
		}
		now := *n
		now.Index = index
		t.PutNetwork(n.ID, &now)
	}
	return nil
}

// errOrphan means that an object refers to one that does not exist.
var errOrphan = errors.New("orphan")

func loadLocal(t *Tx, networkID string, value []byte) error {
	local, err := read[model.Local](value)
	if err != nil {
		return err
	}
	if t.locals == nil {
		t.locals = map[string]model.Local{}
	}
	t.locals[networkID] = *local
	return nil
}

func loadNetwork(t *Tx, id string, value []byte) error {
	n, err := read[model.Network](value)
	if err != nil {
		return err
	}
	n.Local = t.locals[id]
	delete(t.locals, id)
	if n.Has().Pools {
		addrs, err := ipam.ForNetwork(n)
		if err != nil {
			return err
		}
		t.s.addrs[id] = addrs
	}
	t.s.lastIndex = max(t.s.lastIndex, n.Index)
	t.edit.PutNetwork(id, n)
	return nil
}

func loadSandbox(t *Tx, id string, value []byte) error {
	sb, err := read[model.Sandbox](value)
	if err != nil {
		return err
	}
	t.edit.PutSandbox(id, sb)
	return nil
}

func loadEndpoint(t *Tx, id string, value []byte) error {
	ep, err := read[model.Endpoint](value)
	if err != nil {
		return err
	}
	addrs := t.s.addrs[ep.NetworkID]
	if addrs == nil || ep.SandboxID != "" && t.Next.Sandbox(ep.SandboxID) == nil {
		return fmt.Errorf("%w: its network or sandbox does not exist", errOrphan)
	}
	for _, f := range model.Families {
		a := ep.Addr(f)
		if !a.IsValid() || f == model.V4 && ep.Lease != nil {
			continue
		}
		err := ipam.ErrOutside
		if pool := addrs.Pool(a); pool != nil {
			err = pool.Reserve(a)
		}
		if err != nil {
			if f == model.V6 && ep.IPv4.IsValid() {
				addrs.Pool(ep.IPv4.Addr()).Release(ep.IPv4.Addr())
			}
			return fmt.Errorf("%w: address %v: %w", errOrphan, a, err)
		}
	}
	t.edit.PutEndpoint(id, ep)
	return nil
}

func loadPublishes(t *Tx, sandboxID string, value []byte) error {
	var recs []publishRecord
	if err := json.Unmarshal(value, &recs); err != nil {
		return err
	}
	for _, r := range recs {
		if ep := t.Next.Endpoint(r.EndpointID); ep == nil || ep.SandboxID != sandboxID {
			return fmt.Errorf("%w: its endpoint does not exist", errOrphan)
		}
	}
	ps := make([]*model.Publish, len(recs))
	for i, r := range recs {
		ps[i] = &model.Publish{ID: r.ID, EndpointID: r.EndpointID, PortBinding: r.PortBinding}
		if on, ok := t.Next.Network(t.Next.Endpoint(r.EndpointID).NetworkID).OnHost(r.PortBinding); ok {
			t.s.ports.Claim(r.ID, on)
		}
		t.s.lastID = max(t.s.lastID, r.ID)
		t.edit.PutPublish(r.ID, ps[i])
	}
	t.s.setServed(sandboxID, ps)
	return nil
}

func loadPool(t *Tx, id string, value []byte) error {
	p, err := read[model.AddressPool](value)
	if err != nil {
		return err
	}
	if p.NetworkID != "" {
		if n := t.Next.Network(p.NetworkID); n == nil || n.EngineNetwork == "" {
			return fmt.Errorf("%w: no network of the engine uses it", errOrphan)
		}
		t.edit.PutPool(id, p)
		return nil
	}
	if len(p.Taken) == 0 {
		return fmt.Errorf("%w: none of its addresses is allocated, so the engine did not receive the response", errOrphan)
	}
	pool, err := ipam.ForEngine(p)
	if err != nil {
		return err
	}
	t.s.pools[id] = pool
	t.edit.PutPool(id, p)
	return nil
}

// resumeAddresses makes every pool continue after the highest address in use, so
// that an address that was just released is not reused because of a restart.
func (s *State) resumeAddresses(next *desired.Snapshot) {
	eps := slices.SortedFunc(next.Endpoints(), func(a, b *model.Endpoint) int {
		return cmp.Or(a.IPv4.Addr().Compare(b.IPv4.Addr()), a.IPv6.Addr().Compare(b.IPv6.Addr()))
	})
	for _, ep := range eps {
		addrs := s.addrs[ep.NetworkID]
		if !ep.FixedIPv4 && ep.IPv4.IsValid() && ep.Lease == nil {
			addrs.Pool(ep.IPv4.Addr()).Resume(ep.IPv4.Addr())
		}
		if !ep.FixedIPv6 && ep.IPv6.IsValid() {
			addrs.Pool(ep.IPv6.Addr()).Resume(ep.IPv6.Addr())
		}
	}
}
