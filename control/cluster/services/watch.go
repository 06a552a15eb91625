// SPDX-License-Identifier: Apache-2.0

package services

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/cluster/members"
	"github.com/fairlead-net/fairlead/control/model"
)

// retryEach is the time between attempts to do what could not be done. A service may be reported before
// its network is.
const retryEach = 500 * time.Millisecond

// Run keeps the local services in step with the cluster's until ctx ends.
func (s *Services) Run(ctx context.Context) error {
	updates, ended, err := kv.Follow(ctx, s.cfg.Cluster, layout.Services)
	if err != nil {
		return err
	}
	known := map[string]*model.Service{} // by key
	listed, wrong := false, false
	ticker := time.NewTicker(retryEach)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case u := <-updates:
			s.note(known, u)
			listed = listed || u.Reset
			wrong = !s.step(ctx, known)
		case <-s.verify:
			wrong = listed && !s.step(ctx, known)
		case <-ticker.C:
			if wrong || listed && len(s.removed.All()) > 0 {
				wrong = !s.step(ctx, known)
			}
		}
	}
}

// Verify makes Run compare everything again.
func (s *Services) Verify() {
	select {
	case s.verify <- struct{}{}:
	default:
	}
}

// note applies an update to the known records.
func (s *Services) note(known map[string]*model.Service, u kv.Update) {
	if u.Reset {
		clear(known)
	}
	for _, key := range u.Deleted {
		delete(known, key)
	}
	for _, e := range u.Entries {
		var r layout.Service
		if err := layout.Decode(e.Key, e.Value, &r); err != nil {
			s.cfg.Log.Error("a service of the cluster cannot be read (a newer build may have written it)", "err", err)
			continue
		}
		known[e.Key] = &r.Service
	}
}

// step makes the local services those of the cluster, and reports whether it could.
func (s *Services) step(ctx context.Context, known map[string]*model.Service) (done bool) {
	done = s.finishRemovals(ctx, known)
	byID := map[string]bool{}
	for _, svc := range known {
		byID[svc.ID] = true
	}
	snapshot := s.cfg.State.Snapshot()
	for svc := range snapshot.Services() {
		if svc.Cluster != "" && !byID[svc.ID] {
			done = s.settle(ctx, svc) && done
		}
	}
	for _, svc := range known {
		if !s.removed.Has(svc.ID) {
			done = s.adopt(ctx, svc) && done
		}
	}
	return done
}

// finishRemovals does what could not be done while the store did not answer, and takes it out of known, since the watch
// reports it later. Without its network a service does not exist.
func (s *Services) finishRemovals(ctx context.Context, known map[string]*model.Service) (done bool) {
	done = true
	for id, svc := range s.removed.All() {
		var err error
		if n := s.cfg.State.Snapshot().Network(svc.NetworkID); n != nil {
			err = s.remove(ctx, n, &svc)
		}
		if err == nil || errors.Is(err, model.ErrNotFound) {
			if err = s.removed.Done(ctx, id); err == nil {
				maps.DeleteFunc(known, func(_ string, k *model.Service) bool { return k.ID == id })
			}
		}
		s.log(&svc, "cannot remove a service from the cluster's store; trying again", err)
		done = done && err == nil
	}
	return done
}

// adopt makes a local service the same as the cluster's. Where it publishes ports, this node is a member
// of its network.
func (s *Services) adopt(ctx context.Context, svc *model.Service) bool {
	n := s.cfg.State.Snapshot().Network(svc.NetworkID)
	if n == nil {
		return false // the watch over networks is late, or cannot adopt it
	}
	now := *svc
	now.Cluster = cmp.Or(svc.Cluster, s.cfg.ClusterID()) // earlier builds did not record it
	err := s.cfg.State.AdoptService(ctx, &now)
	if here := s.cfg.State.Snapshot().Service(svc.ID); err == nil && n.Idle && here != nil && len(here.Ports) > 0 {
		err = s.cfg.State.UseNetwork(ctx, n.ID)
	}
	s.log(svc, "a service of the cluster cannot be served on this node; trying again", err)
	return err == nil
}

// log logs an error once, except that the store does not answer, which is logged elsewhere.
func (s *Services) log(svc *model.Service, text string, err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, kv.ErrUnavailable) || errors.Is(err, model.ErrUnavailable) {
		delete(s.logged, svc.ID)
		return
	}
	if s.logged[svc.ID] != err.Error() {
		s.cfg.Log.Warn(text, "service", svc.Name, "id", model.ShortID(svc.ID), "err", err)
	}
	s.logged[svc.ID] = err.Error()
}

// settle removes a local service that the store lacks, or writes it there again if the store is
// another one. What known says may be late.
func (s *Services) settle(ctx context.Context, svc *model.Service) (done bool) {
	var r layout.Service
	rev, err := layout.Load(ctx, s.cfg.Cluster, layout.ServiceKey(svc.NetworkID, svc.Name), &r)
	if err != nil || rev != layout.Absent && r.ID == svc.ID {
		return err == nil
	}
	// Read last, so that a store that was emptied meanwhile is found to be another one.
	in, is, err := s.identity(ctx)
	if err != nil {
		return false
	}
	if svc.Cluster != in && rev == layout.Absent {
		return s.restore(ctx, svc, in, is)
	}
	err = s.cfg.State.ForgetService(ctx, svc.ID)
	s.log(svc, "cannot remove a service that another node removed; trying again", err)
	return err == nil
}

// restore writes a service of this node to a store that lacks it.
func (s *Services) restore(ctx context.Context, svc *model.Service, in string, is kv.Cond) bool {
	n := s.cfg.State.Snapshot().Network(svc.NetworkID)
	if n == nil {
		return true
	}
	now := *svc
	now.Cluster = in
	err := s.tryRestore(ctx, n, &now, is)
	if errors.Is(err, kv.ErrConflict) {
		return false // another node restores it, too
	}
	if err == nil {
		s.cfg.Log.Info("wrote a service to the cluster's store again", "service", svc.Name)
		err = s.cfg.State.AdoptService(ctx, &now)
	}
	s.log(svc, "cannot write a service to the cluster's store; trying again", err)
	return err == nil
}

func (s *Services) tryRestore(ctx context.Context, n *model.Network, svc *model.Service, is kv.Cond) error {
	v, err := members.NewVirtual(ctx, s.cfg.Cluster, n)
	if err != nil {
		return err
	}
	for _, f := range model.Families {
		if a := svc.Addr(f); a.IsValid() {
			if _, err := v.Take(ctx, f, a, svc.ID); err != nil {
				return err
			}
		}
	}
	key := layout.ServiceKey(n.ID, svc.Name)
	return v.Commit(ctx, []kv.Cond{kv.If(key, layout.Absent), is}, kv.Put(key, layout.Encode(record(svc))))
}
