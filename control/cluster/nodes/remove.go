// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
)

// removeTry bounds the attempts to change a record that other nodes change too.
const removeTry = 16

// Remove removes another node from the cluster: its members, the addresses that it holds, and last its
// record, so that it can be repeated if it is interrupted.
func (s *Self) Remove(ctx context.Context, node model.Node) error {
	if err := s.remove(ctx, node); err != nil {
		if errors.Is(err, kv.ErrUnavailable) {
			return model.Refuse(model.ErrUnavailable, "removing a node needs the cluster's store: %v", err)
		}
		return fmt.Errorf("remove node %s: %w", node.Name, err)
	}
	s.cfg.Log.Info("removed node", "node", node.Name, "id", model.ShortID(node.ID))
	return nil
}

func (s *Self) remove(ctx context.Context, node model.Node) error {
	nets, err := s.cfg.Cluster.List(ctx, layout.Networks)
	if err != nil {
		return err
	}
	for _, e := range nets {
		id := strings.TrimPrefix(e.Key, layout.Networks)
		if err := s.deleteAll(ctx, layout.EndpointsAt(id, node.ID)); err != nil {
			return err
		}
		if err := s.cfg.Cluster.Commit(ctx, nil, kv.Delete(layout.ConfirmedKey(id, node.ID))); err != nil {
			return err
		}
		if err := s.freeAddresses(ctx, id, node.ID); err != nil {
			return err
		}
		if err := s.freeMACs(ctx, id, node.ID); err != nil {
			return err
		}
	}
	ops := []kv.Op{kv.Delete(layout.NodeKey(node.ID)), kv.Delete(layout.AliveKey(node.ID))}
	var holder string
	if _, err := layout.Load(ctx, s.cfg.Cluster, layout.NumberKey(node.Number), &holder); err != nil {
		return err
	}
	if holder == node.ID {
		ops = append(ops, kv.Delete(layout.NumberKey(node.Number)))
	}
	return s.cfg.Cluster.Commit(ctx, nil, ops...)
}

// deleteAll deletes every key under a prefix, as many in one commit as it may have.
func (s *Self) deleteAll(ctx context.Context, prefix string) error {
	entries, err := s.cfg.Cluster.List(ctx, prefix)
	if err != nil {
		return err
	}
	var ops []kv.Op
	for i, e := range entries {
		ops = append(ops, kv.Delete(e.Key))
		if len(ops) < kv.MaxOps && i < len(entries)-1 {
			continue
		}
		if err := s.cfg.Cluster.Commit(ctx, nil, ops...); err != nil {
			return err
		}
		ops = nil
	}
	return nil
}

// freeAddresses releases the addresses of a network that a node holds.
func (s *Self) freeAddresses(ctx context.Context, network, node string) error {
	entries, err := s.cfg.Cluster.List(ctx, layout.ShardsOf(network))
	if err != nil {
		return err
	}
	for _, e := range entries {
		err := s.freeShard(ctx, e, node)
		for try := 0; errors.Is(err, kv.ErrConflict) && try < removeTry; try++ {
			if e, err = s.cfg.Cluster.Get(ctx, e.Key); err == nil {
				err = s.freeShard(ctx, e, node)
			}
		}
		if err != nil && !errors.Is(err, kv.ErrNotFound) { // the network was removed meanwhile
			return err
		}
	}
	return nil
}

func (s *Self) freeShard(ctx context.Context, e kv.Entry, node string) error {
	var shard layout.Shard
	if err := layout.Decode(e.Key, e.Value, &shard); err != nil {
		return err
	}
	before := len(shard.Held)
	maps.DeleteFunc(shard.Held, func(_ netip.Addr, by model.AddressHolder) bool { return by.Node == node })
	if len(shard.Held) == before {
		return nil
	}
	return s.cfg.Cluster.Commit(ctx, []kv.Cond{kv.If(e.Key, e.Rev)}, kv.Put(e.Key, layout.Encode(shard)))
}

// freeMACs releases the chosen MACs of a network that a node holds.
func (s *Self) freeMACs(ctx context.Context, network, node string) error {
	entries, err := s.cfg.Cluster.List(ctx, layout.MACsOf(network))
	if err != nil {
		return err
	}
	for _, e := range entries {
		var by model.AddressHolder
		if err := layout.Decode(e.Key, e.Value, &by); err != nil || by.Node != node {
			continue
		}
		err := s.cfg.Cluster.Commit(ctx, []kv.Cond{kv.If(e.Key, e.Rev)}, kv.Delete(e.Key))
		if err != nil && !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
	return nil
}
