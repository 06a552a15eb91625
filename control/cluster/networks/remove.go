// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
)

// removalPrefix is the prefix of the keys of removals in the host's store.
const removalPrefix = "cluster/removed/"

// How long a removal waits for members that other nodes have removed and whose records are still in
// the store, and how often it looks.
const (
	leaveTime = time.Second
	leavePoll = 20 * time.Millisecond
)

// Remove removes a network that has no endpoints on this node from the cluster. It refuses one with
// members on other nodes. If the store does not answer, the removal is stored on this host and done
// later; a network that has members then appears again. wait means that members may be about to leave.
func (ns *Networks) Remove(ctx context.Context, n *model.Network, wait bool) error {
	if wait {
		ns.awaitLeaving(ctx, n.ID)
	}
	err := ns.remove(ctx, n.ID)
	if errors.Is(err, kv.ErrUnavailable) {
		ns.cfg.Log.Warn("the cluster's store does not answer; the network is removed from it as soon as it does, unless other nodes use it", "network", n.Name, "err", err)
		return ns.removed.Add(ctx, n.ID, n.Name)
	}
	if err == nil {
		err = ns.seen.drop(ctx, n.ID)
	}
	return err
}

// awaitLeaving waits until no other node uses a network, for a moment only: a node removes a member without
// waiting for the store. Meanwhile the network is not marked, so that others can go on using it.
func (ns *Networks) awaitLeaving(ctx context.Context, id string) {
	for until := time.Now().Add(leaveTime); time.Now().Before(until) && ctx.Err() == nil; time.Sleep(leavePoll) {
		if users, err := ns.users(ctx, id); err != nil || len(users) == 0 {
			return
		}
	}
}

// remove removes a network in steps: once its record says so, no node can claim an address in it.
func (ns *Networks) remove(ctx context.Context, id string) error {
	for {
		var r layout.Network
		rev, err := layout.Load(ctx, ns.cfg.Cluster, layout.NetworkKey(id), &r)
		if err != nil || rev == layout.Absent {
			return err
		}
		before := r
		r.Removing, r.RemovingSince = ns.cfg.Node().ID, time.Now().UTC()
		err = ns.cfg.Cluster.Commit(ctx, []kv.Cond{kv.If(layout.NetworkKey(id), rev)}, kv.Put(layout.NetworkKey(id), layout.Encode(r)))
		if errors.Is(err, kv.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		before.Removing, before.RemovingSince = "", time.Time{}
		return ns.removeMarked(ctx, &r.Network, before)
	}
}

// removeMarked removes a network whose record is marked, or writes unmarked again if it has members.
func (ns *Networks) removeMarked(ctx context.Context, n *model.Network, unmarked layout.Network) error {
	where, err := ns.users(ctx, n.ID)
	if err == nil {
		err = ns.refuseServices(ctx, n)
	}
	if err == nil && len(where) > 0 {
		err = model.Refuse(model.ErrForbidden, "error while removing network: network %s has active endpoints on other nodes (%s); remove the sandboxes or disconnect them first",
			n.Name, strings.Join(where, ", "))
	}
	if err != nil {
		return errors.Join(err, ns.cfg.Cluster.Commit(ctx, nil, kv.Put(layout.NetworkKey(n.ID), layout.Encode(unmarked))))
	}
	for _, prefix := range []string{layout.EndpointsOf(n.ID), layout.ShardsOf(n.ID), layout.MACsOf(n.ID), layout.ConfirmedOf(n.ID)} {
		if err := ns.deleteAll(ctx, prefix); err != nil {
			return err
		}
	}
	return ns.drop(ctx, n)
}

// users lists other nodes with members in a network, and those that hold addresses of it.
func (ns *Networks) users(ctx context.Context, id string) ([]string, error) {
	self, found := ns.cfg.Node().ID, map[string]bool{}
	entries, err := ns.cfg.Cluster.List(ctx, layout.EndpointsOf(id))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, node, _, ok := layout.ParseChunkKey(e.Key); ok && node != self {
			found[node] = true
		}
	}
	if entries, err = ns.cfg.Cluster.List(ctx, layout.ShardsOf(id)); err != nil {
		return nil, err
	}
	for _, e := range entries {
		var s layout.Shard
		if err := layout.Decode(e.Key, e.Value, &s); err != nil {
			return nil, err
		}
		for _, by := range s.Held {
			if by.Node != self && by.Service == "" {
				found[by.Node] = true
			}
		}
	}
	var names []string
	for _, id := range slices.Sorted(maps.Keys(found)) {
		var node model.Node
		name := model.ShortID(id)
		if _, err := layout.Load(ctx, ns.cfg.Cluster, layout.NodeKey(id), &node); err == nil && node.Name != "" {
			name = node.Name
		}
		names = append(names, name)
	}
	return names, nil
}

// refuseServices refuses the removal of a network that has services.
func (ns *Networks) refuseServices(ctx context.Context, n *model.Network) error {
	entries, err := ns.cfg.Cluster.List(ctx, layout.ServicesOf(n.ID))
	if err != nil || len(entries) == 0 {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimPrefix(e.Key, layout.ServicesOf(n.ID)))
	}
	return model.Refuse(model.ErrForbidden, "error while removing network: network %s has services (%s); remove them first with: fairlead service rm", n.Name, strings.Join(names, ", "))
}

// deleteAll deletes every key under a prefix.
func (ns *Networks) deleteAll(ctx context.Context, prefix string) error {
	entries, err := ns.cfg.Cluster.List(ctx, prefix)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(entries, kv.MaxOps) {
		var ops []kv.Op
		for _, e := range part {
			ops = append(ops, kv.Delete(e.Key))
		}
		if err := ns.cfg.Cluster.Commit(ctx, nil, ops...); err != nil {
			return err
		}
	}
	return nil
}

// drop removes the records of a network, last of all.
func (ns *Networks) drop(ctx context.Context, n *model.Network) error {
	for {
		var table layout.SubnetTable
		rev, err := layout.Load(ctx, ns.cfg.Cluster, layout.Subnets, &table)
		if err != nil {
			return err
		}
		for _, s := range n.Subnets {
			if table[s.Prefix] == model.ShortID(n.ID) {
				delete(table, s.Prefix)
			}
		}
		conds := []kv.Cond{kv.If(layout.Subnets, rev)}
		ops := []kv.Op{kv.Delete(layout.NetworkKey(n.ID)), kv.Put(layout.Subnets, layout.Encode(table))}
		for _, key := range []string{layout.NameKey(n.Name), layout.VNIKey(n.VNI)} {
			var holder string
			rev, err := layout.Load(ctx, ns.cfg.Cluster, key, &holder)
			if err != nil {
				return err
			}
			if holder == n.ID {
				conds, ops = append(conds, kv.If(key, rev)), append(ops, kv.Delete(key))
			}
		}
		if err := ns.cfg.Cluster.Commit(ctx, conds, ops...); !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
}
