// SPDX-License-Identifier: Apache-2.0

package controller

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
	"github.com/fairlead-net/fairlead/control/store"
)

// schema is the version of the stored state that this controller writes.
const schema = 1

// Start loads the state, removes leftovers of interrupted verbs and of programs that
// exited, creates missing predefined networks, and applies the result. If the kernel
// refuses an object, the error is logged, the other objects are served, and the next
// resync tries again.
func (c *Controller) Start(ctx context.Context) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if err := c.checkSchema(ctx); err != nil {
		return err
	}
	t := c.begin()
	if err := c.choosePools(ctx, t); err != nil {
		return err
	}
	if err := c.load(ctx, t); err != nil {
		return err
	}
	if err := t.createPredefined(ctx); err != nil {
		return err
	}
	if n := t.reap(c.exitedSandboxes(t.next), nil); n > 0 { // orphaned endpoints can be detected only after Apply
		c.cfg.Log.Info("removed sandboxes of exited programs", "count", n)
	}
	for n := range t.next.Networks() { // stored by versions that did not have idle networks
		t.idleIfUnused(n.ID)
	}
	ops, _, err := t.encode()
	if err != nil {
		return err
	}
	if len(ops) > 0 {
		if _, err := c.cfg.Store.Commit(ctx, ops...); err != nil {
			return fmt.Errorf("persist the state at start: %w", err)
		}
	}
	c.snap.Store(t.next)
	if err := c.cfg.Kernel.Apply(ctx, t.next); err != nil {
		c.cfg.Log.Error("could not apply some of the stored state; the next resync tries again", "err", err)
	}
	c.cfg.Changed(t.next)
	c.cfg.Log.Info("state loaded", "networks", t.next.Counts().Networks, "sandboxes", t.next.Counts().Sandboxes, "publishes", t.next.Counts().Publishes)
	return nil
}

func (c *Controller) checkSchema(ctx context.Context) error {
	var have int
	found, err := c.get(ctx, keySchema, &have)
	if err == nil && found && have > schema {
		return fmt.Errorf("load the state: it was written by a newer fairlead (schema %d, this one knows %d): use that, or another state directory", have, schema)
	}
	return err
}

// get reads one value. It returns false if there is none.
func (c *Controller) get(ctx context.Context, key string, v any) (bool, error) {
	e, err := c.cfg.Store.Get(ctx, key)
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
func (c *Controller) choosePools(ctx context.Context, t *tx) error {
	c.defaults = slices.Clone(c.cfg.DefaultPools)
	has := func(is4 bool) bool {
		return slices.ContainsFunc(c.defaults, func(p ipam.DefaultPool) bool { return p.Base.Addr().Is4() == is4 })
	}
	if !has(true) {
		c.defaults = append(c.defaults, ipam.DefaultPools()...)
	}
	if has(false) {
		return nil
	}
	var base netip.Prefix
	found, err := c.get(ctx, keyULA, &base)
	if err != nil {
		return err
	}
	ula := ipam.NewULA()
	if found {
		ula.Base = base
	} else {
		t.write(keyULA, nil, ula.Base)
	}
	c.defaults = append(c.defaults, ula)
	return nil
}

// load reads every object into the next snapshot and the indices. Objects that refer
// to a missing object are removed.
func (c *Controller) load(ctx context.Context, t *tx) error {
	for _, step := range []struct {
		prefix string
		add    func(t *tx, id string, value []byte) error
	}{
		{prefixNetwork, loadNetwork},
		{prefixSandbox, loadSandbox},
		{prefixEndpoint, loadEndpoint},
		{prefixPublish, loadPublishes},
		{prefixPool, loadPool},
	} {
		entries, err := c.cfg.Store.List(ctx, step.prefix)
		if err != nil {
			return fmt.Errorf("load the state: %w", err)
		}
		for _, e := range entries {
			err := step.add(t, strings.TrimPrefix(e.Key, step.prefix), e.Value)
			if errors.Is(err, errOrphan) {
				c.cfg.Log.Warn("removed orphaned object from the store", "key", e.Key, "err", err)
				t.write(e.Key, json.RawMessage(e.Value), nil)
				continue
			}
			if err != nil {
				return fmt.Errorf("load %q: %w", e.Key, damaged(err))
			}
		}
	}
	c.resumeAddresses(t.next)
	return nil
}

// errOrphan means that an object refers to one that does not exist.
var errOrphan = errors.New("orphan")

func loadNetwork(t *tx, id string, value []byte) error {
	n, err := readNetwork(value)
	if err != nil {
		return err
	}
	if n.HasDatapath() {
		addrs, err := newAddresses(n)
		if err != nil {
			return err
		}
		t.c.addrs[id] = addrs
	}
	t.c.lastIndex = max(t.c.lastIndex, n.Index)
	t.edit.PutNetwork(id, n)
	return nil
}

func loadSandbox(t *tx, id string, value []byte) error {
	sb, err := readSandbox(value)
	if err != nil {
		return err
	}
	t.edit.PutSandbox(id, sb)
	return nil
}

func loadEndpoint(t *tx, id string, value []byte) error {
	var ep model.Endpoint
	if err := json.Unmarshal(value, &ep); err != nil {
		return err
	}
	addrs := t.c.addrs[ep.NetworkID]
	if addrs == nil || ep.SandboxID != "" && t.next.Sandbox(ep.SandboxID) == nil {
		return fmt.Errorf("%w: its network or sandbox does not exist", errOrphan)
	}
	for i, is4 := range []bool{true, false} {
		a := ep.Addr(is4)
		if !a.IsValid() {
			continue
		}
		pool := addrs.pool(is4)
		if pool == nil {
			return fmt.Errorf("%w: its network has no %s subnet", errOrphan, family(is4))
		}
		if err := pool.Reserve(a); err != nil {
			if i == 1 && ep.IPv4.IsValid() {
				addrs.v4.Release(ep.IPv4.Addr())
			}
			return fmt.Errorf("%w: address %v: %w", errOrphan, a, err)
		}
	}
	t.edit.PutEndpoint(id, &ep)
	return nil
}

func loadPublishes(t *tx, sandboxID string, value []byte) error {
	var recs []publishRecord
	if err := json.Unmarshal(value, &recs); err != nil {
		return err
	}
	for _, r := range recs {
		if ep := t.next.Endpoint(r.EndpointID); ep == nil || ep.SandboxID != sandboxID {
			return fmt.Errorf("%w: its endpoint does not exist", errOrphan)
		}
	}
	ps := make([]*model.Publish, len(recs))
	for i, r := range recs {
		ps[i] = &model.Publish{ID: r.ID, EndpointID: r.EndpointID, PortBinding: r.PortBinding}
		t.c.ports.claim(r.ID, r.PortBinding)
		t.c.lastID = max(t.c.lastID, r.ID)
		t.edit.PutPublish(r.ID, ps[i])
	}
	t.c.setServed(sandboxID, ps)
	return nil
}

// resumeAddresses makes every pool continue after the highest address in use, so
// that an address that was just released is not reused because of a restart.
func (c *Controller) resumeAddresses(s *desired.Snapshot) {
	eps := slices.SortedFunc(s.Endpoints(), func(a, b *model.Endpoint) int {
		return cmp.Or(a.IPv4.Addr().Compare(b.IPv4.Addr()), a.IPv6.Addr().Compare(b.IPv6.Addr()))
	})
	for _, ep := range eps {
		addrs := c.addrs[ep.NetworkID]
		if !ep.FixedIPv4 && ep.IPv4.IsValid() {
			addrs.v4.Resume(ep.IPv4.Addr())
		}
		if !ep.FixedIPv6 && ep.IPv6.IsValid() {
			addrs.v6.Resume(ep.IPv6.Addr())
		}
	}
}

// createPredefined creates the networks that exist from the first start.
func (t *tx) createPredefined(ctx context.Context) error {
	for _, spec := range []model.NetworkSpec{
		{Name: model.NetworkBridge, Driver: model.DriverBridge},
		{Name: model.NetworkHost, Driver: model.DriverHost},
		{Name: model.NetworkNone, Driver: model.DriverNull},
	} {
		if first(t.next.NetworksNamed(spec.Name)) != nil {
			continue
		}
		if _, err := t.createNetwork(ctx, spec); err != nil {
			return fmt.Errorf("create the predefined network %s: %w", spec.Name, err)
		}
		t.write(keySchema, nil, schema)
	}
	return nil
}
