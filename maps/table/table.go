// SPDX-License-Identifier: Apache-2.0

// Package table is the engine of the tables that the control plane owns. [Table] caches what the
// kernel holds and writes differences, [View] presents it as a table of domain values.
package table

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrFull means that the kernel's table has no room for another entry. The table is unchanged,
// apart from entries that were written before.
var ErrFull = errors.New("table is full")

// FullError is [ErrFull] of a table.
type FullError struct {
	Table string
	Max   int // capacity in entries
}

func (e *FullError) Error() string {
	return fmt.Sprintf("table %s is full (%d entries)", e.Table, e.Max)
}

// Is makes errors.Is(err, ErrFull) work.
func (e *FullError) Is(target error) bool { return target == ErrFull }

const (
	// batchThreshold is the number of entries above which one batch system call is cheaper
	// than one call per entry.
	batchThreshold = 16
	// batchSize bounds the memory of one batch.
	batchSize = 4096
	// verifySize is the number of entries that VerifySome compares: a round of 100 000 takes 98 calls.
	verifySize = 1024
)

// Map is the part of *ebpf.Map that the engine uses.
type Map interface {
	Update(key, value any, flags ebpf.MapUpdateFlags) error
	Delete(key any) error
	BatchUpdate(keys, values any, opts *ebpf.BatchOptions) (int, error)
	BatchDelete(keys any, opts *ebpf.BatchOptions) (int, error)
	BatchLookup(cursor *ebpf.MapBatchCursor, keys, values any, opts *ebpf.BatchOptions) (int, error)
	Iterate() *ebpf.MapIterator
	Type() ebpf.MapType
	MaxEntries() uint32
}

// Table is a hash or trie that only the control plane writes. It caches the kernel's entries; an
// entry that another process changed is noticed only by [Table.Refresh], [Table.Sync] and
// [Table.Verify]. K and V must have the layout of the kernel's key and value, without holes. Safe
// for concurrent use.
type Table[K, V comparable] struct {
	name string
	m    Map

	mu    sync.Mutex
	cache map[K]V // what the kernel holds, to the best of our knowledge
	round verifyRound
	after func() error // see OnWrite
}

// verifyRound is one comparison of a whole table, a batch at a time.
type verifyRound struct {
	cursor  *ebpf.MapBatchCursor // nil before the round begins
	right   int                  // correct entries so far
	written bool                 // since the round began, so missing entries cannot be detected
	skipped int                  // successive rounds in which that happened
}

// maxSkipped bounds how many successive rounds may end without a check for missing entries.
const maxSkipped = 3

// New reads the kernel's entries into a new Table.
func New[K, V comparable](name string, m Map) (*Table[K, V], error) {
	t := &Table[K, V]{name: name, m: m}
	if err := t.Refresh(); err != nil {
		return nil, err
	}
	return t, nil
}

// OnWrite makes the table call f whenever it has changed the kernel's entries. Not safe for
// concurrent use.
func (t *Table[K, V]) OnWrite(f func() error) { t.after = f }

// written calls the function of OnWrite after n entries were written or deleted, or an unknown
// number, and err.
func (t *Table[K, V]) written(n int, err error) error {
	if t.after == nil || n == 0 && err == nil {
		return err
	}
	return errors.Join(err, t.after())
}

// Refresh reads all entries back from the kernel.
func (t *Table[K, V]) Refresh() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refresh()
}

func (t *Table[K, V]) refresh() error {
	fresh := make(map[K]V, len(t.cache))
	err := ReadAll(t.m, func(k K, v V) bool {
		fresh[k] = v
		return true
	})
	if err != nil {
		return fmt.Errorf("read table %s: %w", t.name, err)
	}
	t.cache = fresh
	return nil
}

// Len returns the number of entries.
func (t *Table[K, V]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.cache)
}

// MaxEntries returns the table's capacity in entries.
func (t *Table[K, V]) MaxEntries() int { return int(t.m.MaxEntries()) }

// Get returns the entry of a key.
func (t *Table[K, V]) Get(k K) (v V, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok = t.cache[k]
	return v, ok
}

// Entries returns a copy of all entries.
func (t *Table[K, V]) Entries() map[K]V {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.cache)
}

// Put makes sure the kernel has the entry. It reports whether it had to write.
func (t *Table[K, V]) Put(k K, v V) (written bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.put(map[K]V{k: v})
	return n > 0, err
}

// Delete makes sure the kernel has no such entry. It reports whether there was
// one: an absent entry is success.
func (t *Table[K, V]) Delete(k K) (deleted bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.remove([]K{k})
	return n > 0, err
}

// PutAll is [Table.Put] for many entries. It returns how many it wrote.
func (t *Table[K, V]) PutAll(entries map[K]V) (written int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.put(entries)
}

// DeleteAll is [Table.Delete] for many keys. It returns how many there were.
func (t *Table[K, V]) DeleteAll(keys []K) (deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.remove(keys)
}

// Sync makes the kernel's entries exactly desired: it reads all of them back, writes missing and
// wrong ones, then deletes surplus ones. It does not touch correct entries. Deletes come first
// only if there is no room otherwise.
func (t *Table[K, V]) Sync(desired map[K]V) (written, deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sync(desired)
}

func (t *Table[K, V]) sync(desired map[K]V) (written, deleted int, err error) {
	if err := t.refresh(); err != nil {
		return 0, 0, err
	}
	var stale []K
	for k := range t.cache {
		if _, ok := desired[k]; !ok {
			stale = append(stale, k)
		}
	}
	written, err = t.put(desired)
	if err != nil && (!errors.Is(err, ErrFull) || len(stale) == 0) {
		return written, 0, err
	}
	full := err != nil
	if deleted, err = t.remove(stale); err != nil {
		return written, deleted, err
	}
	if full {
		var n int
		n, err = t.put(desired)
		written += n
	}
	return written, deleted, err
}

// Verify reads all entries back and restores those that another process changed: it writes the
// cached entries again and deletes all others. It replaces Sync where nothing new is desired, and
// costs far less.
func (t *Table[K, V]) Verify() (restored int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	right, all := 0, 0
	err = ReadAll(t.m, func(k K, v V) bool {
		if want, ok := t.cache[k]; ok && want == v {
			right++
		}
		all++
		return true
	})
	if err != nil {
		return 0, fmt.Errorf("read table %s: %w", t.name, err)
	}
	if right == all && right == len(t.cache) {
		return 0, nil
	}
	written, deleted, err := t.sync(maps.Clone(t.cache))
	return written + deleted, err
}

// VerifySome is [Table.Verify] at a cost that does not grow with the table. It compares the next
// entries, and reports whether more are left in the round; after the last it begins again. An
// entry that another process changed or added is restored when its turn comes, one that was
// deleted at the end of a round. A table with no more entries than one step compares is verified
// as a whole.
func (t *Table[K, V]) VerifySome() (restored int, more bool, err error) {
	t.mu.Lock()
	if t.round.cursor == nil && len(t.cache) <= verifySize || !batchReadable(t.m.Type()) {
		t.mu.Unlock()
		restored, err = t.Verify()
		return restored, false, err
	}
	defer t.mu.Unlock()
	if t.round.cursor == nil {
		t.round = verifyRound{cursor: new(ebpf.MapBatchCursor), skipped: t.round.skipped}
	}
	right, last, err := t.verifyBatch()
	if err != nil {
		t.round = verifyRound{}
		return 0, false, fmt.Errorf("read table %s: %w", t.name, err)
	}
	missing := last && !t.round.written && t.round.right != len(t.cache)
	if last {
		t.round.cursor = nil
		if t.round.written {
			t.round.skipped++
		} else {
			t.round.skipped = 0
		}
	}
	if right && !missing && t.round.skipped < maxSkipped {
		return 0, !last, nil
	}
	t.round = verifyRound{}
	written, deleted, err := t.sync(maps.Clone(t.cache))
	return written + deleted, false, err
}

// verifyBatch compares the next entries with the cache. last reports that there are no more.
func (t *Table[K, V]) verifyBatch() (right, last bool, err error) {
	for size := verifySize; ; size *= 2 {
		keys, values := make([]K, size), make([]V, size)
		n, err := t.m.BatchLookup(t.round.cursor, keys, values, nil)
		if errors.Is(err, unix.ENOSPC) {
			continue // a bucket does not fit, and the cursor still points to it
		}
		last = errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return false, false, err
		}
		right = true
		for i := range n {
			if want, ok := t.cache[keys[i]]; ok && want == values[i] {
				t.round.right++
			} else {
				right = false
			}
		}
		return right, last, nil
	}
}

// put writes the entries that the cache lacks, a batch at a time.
func (t *Table[K, V]) put(entries map[K]V) (written int, err error) {
	var keys []K
	var values []V
	flush := func() error {
		done, err := t.putChunk(keys, values)
		written += done
		keys, values = keys[:0], values[:0]
		return err
	}
	for k, v := range entries {
		if have, ok := t.cache[k]; ok && have == v {
			continue
		}
		if keys, values = append(keys, k), append(values, v); len(keys) == batchSize {
			if err := flush(); err != nil {
				return written, t.written(written, err)
			}
		}
	}
	err = flush()
	return written, t.written(written, err)
}

func (t *Table[K, V]) putChunk(keys []K, values []V) (written int, err error) {
	t.round.written = t.round.written || len(keys) > 0
	if len(keys) > batchThreshold {
		if _, err := t.m.BatchUpdate(keys, values, nil); err == nil {
			for i, k := range keys {
				t.cache[k] = values[i]
			}
			return len(keys), nil
		}
		// How far a failed batch got is not reliably known, and writing an entry twice
		// does no harm: continue one by one, to find the entry at fault.
	}
	for i, k := range keys {
		err := t.m.Update(k, values[i], ebpf.UpdateAny)
		if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
			err = &FullError{t.name, t.MaxEntries()}
		}
		if err != nil {
			return written, errors.Join(fmt.Errorf("write to table %s: %w", t.name, err), t.restore(keys[i:]))
		}
		t.cache[k] = values[i]
		written++
	}
	return written, nil
}

// restore sets the kernel's entries of these keys back to the cache, because a batch that failed
// may have written some of them.
func (t *Table[K, V]) restore(keys []K) error {
	var errs []error
	for _, k := range keys {
		var err error
		if v, ok := t.cache[k]; ok {
			err = t.m.Update(k, v, ebpf.UpdateAny)
		} else if err = t.m.Delete(k); errors.Is(err, ebpf.ErrKeyNotExist) {
			err = nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("undo the write to table %s: %w", t.name, err))
		}
	}
	return errors.Join(errs...)
}

// remove deletes the keys that the cache has.
func (t *Table[K, V]) remove(keys []K) (deleted int, err error) {
	var present []K
	for _, k := range keys {
		if _, ok := t.cache[k]; ok {
			present = append(present, k)
		}
	}
	for len(present) > 0 {
		n := min(len(present), batchSize)
		done, err := t.removeChunk(present[:n])
		deleted += done
		if err != nil {
			return deleted, t.written(deleted, err)
		}
		present = present[n:]
	}
	return deleted, t.written(deleted, nil)
}

func (t *Table[K, V]) removeChunk(keys []K) (deleted int, err error) {
	t.round.written = true
	if len(keys) > batchThreshold {
		if _, err := t.m.BatchDelete(keys, nil); err == nil {
			for _, k := range keys {
				delete(t.cache, k)
			}
			return len(keys), nil
		}
		// As above; a batch also stops at a key that does not exist.
	}
	for _, k := range keys {
		if err := t.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return deleted, fmt.Errorf("delete from table %s: %w", t.name, err)
		}
		if _, ok := t.cache[k]; ok {
			delete(t.cache, k)
			deleted++
		}
	}
	return deleted, nil
}
