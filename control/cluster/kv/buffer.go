// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Buffer is what a stream of a backend has learned and Next has not returned yet: for a consumer
// that is slower than the store, the last state of each key, however often it changed. One
// goroutine adds, another calls Next. The zero Buffer is not usable, see [NewBuffer].
type Buffer struct {
	mu      sync.Mutex
	reset   bool
	entries map[string]Entry
	deleted map[string]bool
	err     error
	ready   chan struct{}
}

// NewBuffer returns an empty buffer.
func NewBuffer() *Buffer {
	return &Buffer{entries: map[string]Entry{}, deleted: map[string]bool{}, ready: make(chan struct{}, 1)}
}

// Add adds an update to what Next returns. A key that occurs twice in it was deleted before its
// entry was created.
func (b *Buffer) Add(u Update) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.Reset {
		b.reset = true
		clear(b.entries)
		clear(b.deleted)
	}
	for _, key := range u.Deleted {
		delete(b.entries, key)
		b.deleted[key] = true
	}
	for _, e := range u.Entries {
		delete(b.deleted, e.Key)
		b.entries[e.Key] = e
	}
	if b.reset {
		clear(b.deleted) // all keys without an entry are
	}
	b.signal()
}

// End makes Next return an error, from now on.
func (b *Buffer) End(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.signal()
}

func (b *Buffer) signal() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// Next waits until there is something to return.
func (b *Buffer) Next(ctx context.Context) (Update, error) {
	for {
		if u, ok, err := b.take(); ok || err != nil {
			return u, err
		}
		select {
		case <-ctx.Done():
			return Update{}, ctx.Err()
		case <-b.ready:
		}
	}
}

func (b *Buffer) take() (Update, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || !b.reset && len(b.entries)+len(b.deleted) == 0 {
		return Update{}, false, b.err
	}
	u := Update{Reset: b.reset, Entries: slices.Collect(maps.Values(b.entries)), Deleted: slices.Sorted(maps.Keys(b.deleted))}
	slices.SortFunc(u.Entries, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	b.reset = false
	clear(b.entries)
	clear(b.deleted)
	return u, true, nil
}
