// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// usedPrefix is the prefix of the keys of used in the host's store.
const usedPrefix = "cluster/used/"

// used holds the networks in which this node may hold addresses, also if it was killed between a
// claim and its verb. It is written before the first claim, so that a start need not search all networks.
type used struct {
	store store.Store
	mu    sync.Mutex
	ids   map[string]bool
}

func loadUsed(ctx context.Context, s store.Store) (*used, error) {
	entries, err := s.List(ctx, usedPrefix)
	if err != nil {
		return nil, fmt.Errorf("load the networks in use: %w", err)
	}
	u := &used{store: s, ids: map[string]bool{}}
	for _, e := range entries {
		u.ids[strings.TrimPrefix(e.Key, usedPrefix)] = true
	}
	return u, nil
}

func (u *used) has(network string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ids[network]
}

func (u *used) list() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Collect(maps.Keys(u.ids))
}

func (u *used) add(ctx context.Context, network string) error {
	if u.has(network) {
		return nil
	}
	if _, err := u.store.Commit(ctx, store.Put(usedPrefix+network, []byte("true"))); err != nil {
		return fmt.Errorf("store that network %s is in use: %w", model.ShortID(network), err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ids[network] = true
	return nil
}

func (u *used) drop(ctx context.Context, network string) error {
	if !u.has(network) {
		return nil
	}
	if _, err := u.store.Commit(ctx, store.Delete(usedPrefix+network)); err != nil {
		return fmt.Errorf("store that network %s is not in use: %w", model.ShortID(network), err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.ids, network)
	return nil
}
