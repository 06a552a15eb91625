// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// leaveTime is how long an endpoint is leaving at most before it is removed: its program may take a while to
// end.
const leaveTime = time.Minute

// Withdraw prepares the removal of a sandbox: when it returns, no node sends new flows to it as a backend of a
// service, as far as the cluster's store answers. Its flows go on. If it is not removed within a minute, it serves again.
// It refuses a sandbox that cannot be removed with force either, so that nobody kills its program for nothing.
func (c *Controller) Withdraw(ctx context.Context, ref string) error {
	sb, err := c.Sandbox(ref)
	if err != nil {
		return err
	}
	if err := c.removable(c.Snapshot(), sb, true); err != nil {
		return err
	}
	return c.withdraw(ctx, slices.Collect(c.Snapshot().EndpointsOf(sb.ID)))
}

// withdraw makes those of the endpoints leave that are backends of services.
func (c *Controller) withdraw(ctx context.Context, endpoints []*model.Endpoint) error {
	if s := c.Snapshot(); !slices.ContainsFunc(endpoints, func(ep *model.Endpoint) bool { return serves(s, ep) }) {
		return nil
	}
	shared := map[string][]string{}
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		clear(shared)
		for _, was := range endpoints {
			ep := t.Next.Endpoint(was.ID)
			if !serves(t.Next, ep) {
				continue
			}
			c.leaving.add(ep.ID, c.state.Now())
			putLeaving(t, ep, true)
			if n := t.Next.Network(ep.NetworkID); n != nil && n.Has().Shared {
				shared[n.ID] = append(shared[n.ID], ep.ID)
			}
		}
		t.IgnoreApplyErr = true
		return nil
	})
	if err != nil {
		return err
	}
	if cluster := c.cfg.Cluster(); cluster != nil {
		for _, id := range slices.Sorted(maps.Keys(shared)) {
			cluster.Withdrawn(ctx, id, shared[id])
		}
	}
	return nil
}

// serves reports whether an endpoint, which may be nil, gets new flows of services.
func serves(s *desired.Snapshot, ep *model.Endpoint) bool {
	return ep != nil && ep.Serves(s.Sandbox(ep.SandboxID)) && desired.First(s.ServicesOfEndpoint(ep)) != nil
}

func putLeaving(t *txn.Tx, ep *model.Endpoint, leaving bool) {
	now := *ep
	now.Leaving = leaving
	t.PutEndpoint(now.ID, &now)
}

// stay makes endpoints serve again that were to be removed, after the error of their removal, which it returns.
func (c *Controller) stay(ctx context.Context, ids []string, err error) error {
	ids = slices.DeleteFunc(ids, func(id string) bool {
		ep := c.Snapshot().Endpoint(id)
		return ep == nil || !ep.Leaving
	})
	if len(ids) == 0 {
		return err
	}
	return errors.Join(err, c.state.Update(context.WithoutCancel(ctx), func(t *txn.Tx) error {
		for _, id := range ids {
			if ep := t.Next.Endpoint(id); ep != nil && ep.Leaving {
				putLeaving(t, ep, false)
			}
		}
		t.IgnoreApplyErr = true
		return nil
	}))
}

// leaving are the endpoints that are about to be removed, and since when.
type leaving struct {
	mu    sync.Mutex
	since map[string]time.Time // by ID
}

func (l *leaving) add(id string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since == nil {
		l.since = map[string]time.Time{}
	}
	l.since[id] = now
}

// overdue takes out those that were not removed in time, or were.
func (l *leaving) overdue(now time.Time) (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.since, func(id string, since time.Time) bool {
		if now.Sub(since) <= leaveTime {
			return false
		}
		ids = append(ids, id)
		return true
	})
	return ids
}

func idsOf(endpoints []*model.Endpoint) (ids []string) {
	for _, ep := range endpoints {
		ids = append(ids, ep.ID)
	}
	return ids
}
