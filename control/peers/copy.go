// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/store"
)

// copyBatch bounds how many records one commit writes.
const copyBatch = 1000

// copyOnDisk is a copy of what the cluster's store had last.
type copyOnDisk struct {
	store  store.Store
	dirty  map[string][]byte // to be written, or deleted if nil
	failed bool
}

// note records what an update changed.
func (c *copyOnDisk) note(u kv.Update, gone []string) {
	for _, e := range u.Entries {
		c.dirty[e.Key] = e.Value
	}
	for _, key := range gone {
		c.dirty[key] = nil
	}
}

// flush writes what changed.
func (c *copyOnDisk) flush(ctx context.Context, log *slog.Logger) {
	for keys := range slices.Chunk(slices.Sorted(maps.Keys(c.dirty)), copyBatch) {
		var ops []store.Op
		for _, key := range keys {
			if v := c.dirty[key]; v != nil {
				ops = append(ops, store.Put(key, v))
			} else {
				ops = append(ops, store.Delete(key))
			}
		}
		if _, err := c.store.Commit(ctx, ops...); err != nil {
			if !c.failed {
				log.Warn("cannot keep a copy of the cluster's members; without the store, a restart would know old ones", "err", err)
			}
			c.failed = true
			return
		}
		for _, key := range keys {
			delete(c.dirty, key)
		}
	}
	c.failed = false
}

// load returns the copy of what is under a prefix.
func (c *copyOnDisk) load(ctx context.Context, prefix string, log *slog.Logger) []kv.Entry {
	entries, err := c.store.List(ctx, prefix)
	if err != nil {
		log.Warn("cannot read the copy of the cluster's members; waiting for the store", "err", err)
	}
	out := make([]kv.Entry, 0, len(entries))
	for _, e := range entries {
		out = append(out, kv.Entry{Key: e.Key, Value: e.Value})
	}
	return out
}
