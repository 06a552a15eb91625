// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// Times of a watch.
const (
	longPoll = 60 * time.Second      // for which a query waits for a change
	breather = 50 * time.Millisecond // between queries: without keys, each write anywhere ends one
)

// errWentBack means that the store counts from an earlier index than before: it was restored or
// wiped. Equal revisions may then stand for different values.
var errWentBack = errors.New("the store's index went back")

// stream implements kv.Stream. Consul answers with the whole prefix whenever something below it has
// changed, and sometimes when nothing has; the stream reports the difference.
type stream struct {
	backend *backend
	prefix  string
	ctx     context.Context
	index   uint64
	known   map[string]kv.Rev // nil before the first answer
}

// Watch implements kv.Backend.
func (b *backend) Watch(ctx context.Context, prefix string) kv.Stream {
	return &stream{backend: b, prefix: prefix, ctx: ctx}
}

func (s *stream) Next(ctx context.Context) (kv.Update, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	for {
		options := consistent(ctx)
		options.WaitIndex, options.WaitTime = s.index, longPoll
		pairs, meta, err := s.backend.client.KV().List(s.prefix, options)
		if err != nil {
			return kv.Update{}, err
		}
		if s.known == nil {
			s.known, s.index = map[string]kv.Rev{}, meta.LastIndex
			u := s.difference(pairs)
			u.Reset = true
			return u, nil
		}
		if meta.LastIndex < options.WaitIndex {
			return kv.Update{}, errWentBack
		}
		s.index = meta.LastIndex
		if u := s.difference(pairs); len(u.Entries)+len(u.Deleted) > 0 {
			return u, nil
		}
		select {
		case <-ctx.Done():
			return kv.Update{}, ctx.Err()
		case <-time.After(breather):
		}
	}
}

// difference returns what a complete list changes about what the stream knows.
func (s *stream) difference(pairs api.KVPairs) (u kv.Update) {
	seen := make(map[string]bool, len(pairs))
	for _, e := range entries(pairs) {
		seen[e.Key] = true
		if s.known[e.Key] != e.Rev {
			s.known[e.Key] = e.Rev
			u.Entries = append(u.Entries, e)
		}
	}
	for key := range s.known {
		if !seen[key] {
			delete(s.known, key)
			u.Deleted = append(u.Deleted, key)
		}
	}
	slices.Sort(u.Deleted)
	return u
}
