// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// seenPrefix is the prefix of the keys of seen in the host's store.
const seenPrefix = "cluster/network/"

// seen holds, for each shared network, the identity of the store that had it. A network that the same
// store lacks later was removed; one that another store lacks has to be written to it.
type seen struct {
	store store.Store
	mu    sync.Mutex
	ids   map[string]string // by network
}

func loadSeen(ctx context.Context, s store.Store) (*seen, error) {
	entries, err := s.List(ctx, seenPrefix)
	if err != nil {
		return nil, fmt.Errorf("load the networks of the cluster: %w", err)
	}
	out := &seen{store: s, ids: map[string]string{}}
	for _, e := range entries {
		var id string
		if err := json.Unmarshal(e.Value, &id); err != nil {
			return nil, fmt.Errorf("load %q: %w: %w", e.Key, store.ErrDamaged, err)
		}
		out.ids[strings.TrimPrefix(e.Key, seenPrefix)] = id
	}
	return out, nil
}

// in returns the identity of the store that had a network, or "".
func (s *seen) in(network string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids[network]
}

// add records that a store has a network.
func (s *seen) add(ctx context.Context, network, in string) error {
	if s.in(network) == in {
		return nil
	}
	if _, err := s.store.Commit(ctx, store.Put(seenPrefix+network, layout.Encode(in))); err != nil {
		return fmt.Errorf("store that the cluster has network %s: %w", model.ShortID(network), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids[network] = in
	return nil
}

// drop removes the record of a network.
func (s *seen) drop(ctx context.Context, network string) error {
	if _, err := s.store.Commit(ctx, store.Delete(seenPrefix+network)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ids, network)
	return nil
}
