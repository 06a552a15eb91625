// SPDX-License-Identifier: Apache-2.0

// Package removals keeps what was removed on this host while the cluster's store did not answer, until it is
// removed there too. It is in the host's own store, so that a restart does not lose it.
package removals

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/store"
)

// Pending are the objects of one kind, by ID, that are still to be removed from the cluster's store. V is what
// the removal needs.
type Pending[V any] struct {
	store  store.Store
	prefix string // of its keys in the host's store
	mu     sync.Mutex
	list   map[string]V
}

// Load loads what an earlier daemon could not complete.
func Load[V any](ctx context.Context, s store.Store, prefix string) (*Pending[V], error) {
	entries, err := s.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("load pending removals: %w", err)
	}
	p := &Pending[V]{store: s, prefix: prefix, list: map[string]V{}}
	for _, e := range entries {
		var v V
		if err := json.Unmarshal(e.Value, &v); err != nil {
			return nil, fmt.Errorf("load %q: %w: %w", e.Key, store.ErrDamaged, err)
		}
		p.list[strings.TrimPrefix(e.Key, prefix)] = v
	}
	return p, nil
}

// Add adds an object.
func (p *Pending[V]) Add(ctx context.Context, id string, v V) error {
	if _, err := p.store.Commit(ctx, store.Put(p.prefix+id, layout.Encode(v))); err != nil {
		return fmt.Errorf("store a removal: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list[id] = v
	return nil
}

// Done ends the removal of an object.
func (p *Pending[V]) Done(ctx context.Context, id string) error {
	if _, err := p.store.Commit(ctx, store.Delete(p.prefix+id)); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.list, id)
	return nil
}

// Has reports whether an object is to be removed.
func (p *Pending[V]) Has(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.list[id]
	return ok
}

// All returns a copy of all objects, by ID.
func (p *Pending[V]) All() map[string]V {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.list)
}
