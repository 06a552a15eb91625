// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
)

const retryEach = 2 * time.Second

// Run keeps the local networks in step with the cluster's until ctx ends.
func (ns *Networks) Run(ctx context.Context) error {
	updates, ended, err := kv.Follow(ctx, ns.cfg.Cluster, layout.Networks)
	if err != nil {
		return err
	}
	known := map[string]layout.Network{}
	listed, wrong := false, false
	ticker := time.NewTicker(retryEach)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case u := <-updates:
			ns.note(known, u)
			if listed = listed || u.Reset; u.Reset {
				ns.cfg.Listed()
			}
			wrong = !ns.step(ctx, known)
		case <-ns.verify:
			wrong = listed && !ns.step(ctx, known)
		case <-ticker.C:
			if wrong || listed && len(ns.removed.All()) > 0 {
				wrong = !ns.step(ctx, known)
			}
		}
	}
}

// Verify makes Run compare everything again: this node has registered in the store.
func (ns *Networks) Verify() {
	select {
	case ns.verify <- struct{}{}:
	default:
	}
}

// note applies an update to the known records.
func (ns *Networks) note(known map[string]layout.Network, u kv.Update) {
	if u.Reset {
		clear(known)
	}
	for _, key := range u.Deleted {
		delete(known, strings.TrimPrefix(key, layout.Networks))
	}
	for _, e := range u.Entries {
		var r layout.Network
		if err := layout.Decode(e.Key, e.Value, &r); err != nil {
			ns.cfg.Log.Error("a network of the cluster cannot be read (a newer build may have written it)", "err", err)
			continue
		}
		known[strings.TrimPrefix(e.Key, layout.Networks)] = r
	}
}

// step makes the local networks those of the cluster, and reports whether it could. What only this
// node has is written to a store that is not the one that it knows, and otherwise was removed by
// another node.
func (ns *Networks) step(ctx context.Context, known map[string]layout.Network) (done bool) {
	done = ns.finishRemovals(ctx, known)
	for id, r := range known {
		switch {
		case ns.removed.Has(id):
		case r.Removing != "":
			if time.Since(r.RemovingSince) > removalTimeout {
				done = ns.resume(ctx, id) && done
			}
		default:
			done = ns.adopt(ctx, &r.Network) && done
		}
	}
	for n := range ns.cfg.State.Snapshot().Networks() {
		if _, ok := known[n.ID]; !ok && n.Has().Shared {
			done = ns.settle(ctx, n) && done
		}
	}
	return ns.mark(ctx, known) && done
}

// mark records in which store the local networks are.
func (ns *Networks) mark(ctx context.Context, known map[string]layout.Network) bool {
	all, cluster := true, ns.cfg.ClusterID()
	for id := range known {
		all = all && ns.seen.in(id) == cluster
	}
	if all {
		return true
	}
	var before, after layout.Identity
	_, err1 := layout.Load(ctx, ns.cfg.Cluster, layout.Cluster, &before)
	entries, err2 := ns.cfg.Cluster.List(ctx, layout.Networks)
	_, err3 := layout.Load(ctx, ns.cfg.Cluster, layout.Cluster, &after)
	if errors.Join(err1, err2, err3) != nil || before.ID != after.ID || before.ID == "" {
		return false
	}
	done := true
	for _, e := range entries {
		done = ns.seen.add(ctx, strings.TrimPrefix(e.Key, layout.Networks), after.ID) == nil && done
	}
	return done
}

// settle removes a local network that the store lacks, or writes it there again. What known says may
// be late.
func (ns *Networks) settle(ctx context.Context, n *model.Network) (done bool) {
	var r layout.Network
	rev, err := layout.Load(ctx, ns.cfg.Cluster, layout.NetworkKey(n.ID), &r)
	if err != nil || rev != layout.Absent {
		return err == nil
	}
	// Read last, so that a store that was emptied meanwhile is found to be another one.
	var is layout.Identity
	if rev, err = layout.Load(ctx, ns.cfg.Cluster, layout.Cluster, &is); err != nil || rev == layout.Absent {
		return false
	}
	if seen := ns.seen.in(n.ID); seen != "" && seen != is.ID || ns.cfg.State.Snapshot().HasMembers(n.ID) {
		return ns.restore(ctx, n) && ns.seen.add(ctx, n.ID, is.ID) == nil
	}
	if err := ns.cfg.State.ForgetNetwork(ctx, n.ID); err != nil {
		ns.cfg.Log.Warn("cannot remove a network that another node removed; trying again", "network", n.Name, "err", err)
		return false
	}
	return ns.seen.drop(ctx, n.ID) == nil
}

// adopt adds a network to the local state.
func (ns *Networks) adopt(ctx context.Context, n *model.Network) bool {
	if ns.cfg.State.Snapshot().Network(n.ID) != nil {
		return true
	}
	var r layout.Network
	if rev, err := layout.Load(ctx, ns.cfg.Cluster, layout.NetworkKey(n.ID), &r); err != nil || rev == layout.Absent || r.Removing != "" {
		return err == nil // removed meanwhile, possibly by this node: the watch is late
	}
	err := ns.seen.add(ctx, n.ID, ns.cfg.ClusterID())
	if err == nil {
		err = ns.cfg.State.AdoptNetwork(ctx, n)
	}
	if err == nil {
		delete(ns.skipped, n.ID)
		return true
	}
	if ns.skipped[n.ID] != err.Error() {
		ns.cfg.Log.Warn("a network of the cluster cannot be used on this node", "network", n.Name, "id", model.ShortID(n.ID), "err", err)
	}
	ns.skipped[n.ID] = err.Error()
	return false
}

// restore writes a network of this node to a store that lacks it.
func (ns *Networks) restore(ctx context.Context, n *model.Network) bool {
	var table layout.SubnetTable
	rev, err := layout.Load(ctx, ns.cfg.Cluster, layout.Subnets, &table)
	if err == nil {
		err = overlapping(n, table)
	}
	if err == nil {
		err = ns.commit(ctx, n, table, rev)
	}
	switch {
	case err == nil:
		ns.cfg.Log.Info("wrote a network to the cluster's store again", "network", n.Name)
		delete(ns.skipped, n.ID)
	case errors.Is(err, kv.ErrUnavailable):
	case ns.skipped[n.ID] != err.Error():
		// Another node may be writing the same network: then the watch reports it.
		ns.cfg.Log.Warn("cannot write a network to the cluster's store; trying again", "network", n.Name, "err", err)
		ns.skipped[n.ID] = err.Error()
	}
	return err == nil
}

// overlapping returns an error if another network of the cluster overlaps n.
func overlapping(n *model.Network, table layout.SubnetTable) error {
	for _, s := range n.Subnets {
		for p, holder := range table {
			if s.Prefix.Overlaps(p) && holder != model.ShortID(n.ID) {
				return fmt.Errorf("its subnet %v overlaps %v of network %s (remove one of them)", s.Prefix, p, holder)
			}
		}
	}
	return nil
}

// finishRemovals does what could not be done while the store did not answer.
func (ns *Networks) finishRemovals(ctx context.Context, known map[string]layout.Network) (done bool) {
	done = true
	for id, name := range ns.removed.All() {
		err := ns.remove(ctx, id)
		var refusal *model.Refusal
		if errors.As(err, &refusal) {
			ns.cfg.Log.Warn("a network that was removed here is in use; it exists again", "network", name, "err", err)
			err = nil
		}
		if err == nil {
			err = ns.removed.Done(ctx, id)
		}
		done = done && err == nil
	}
	return done
}

// resume completes a removal whose node did not.
func (ns *Networks) resume(ctx context.Context, id string) bool {
	err := ns.remove(ctx, id)
	var refusal *model.Refusal
	return err == nil || errors.As(err, &refusal)
}
