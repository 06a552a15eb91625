// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Buckets of the file. A value in the first bucket consists of the revision (8 bytes), the
// lease ID (8 bytes), both big-endian, and the caller's bytes.
const (
	bucketKV   = "kv"
	bucketMeta = "meta"
	keyRev     = "rev"
	headerLen  = 16
)

// BoltConfig configures OpenBolt.
type BoltConfig struct {
	// Path of the database file; required. Its directory must exist.
	Path string
	// LockTimeout bounds the wait for another process that has the file open.
	// The default is 5 seconds.
	LockTimeout time.Duration
	// NoSync disables fsync. For benchmarks only: a crash of the machine
	// can lose or corrupt the file.
	NoSync bool
}

// Bolt is a Store in one file on this host. Only one process can open it at a time.
// Leases end when it is closed, because their holders are clients of that process.
type Bolt struct {
	db  *bbolt.DB
	hub hub

	mu     sync.Mutex // orders commits and their events, and guards the fields below
	leases map[LeaseID]*boltLease
	last   LeaseID
}

var _ Store = (*Bolt)(nil)

// OpenBolt opens the database, or creates it.
func OpenBolt(cfg BoltConfig) (*Bolt, error) {
	if cfg.LockTimeout == 0 {
		cfg.LockTimeout = 5 * time.Second
	}
	db, err := openSound(cfg.Path, &bbolt.Options{
		Timeout:      cfg.LockTimeout,
		NoSync:       cfg.NoSync,
		FreelistType: bbolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open state file %q: another process has it open (is a daemon running?)", cfg.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("open state file %q: %w", cfg.Path, err)
	}
	b := &Bolt{db: db, leases: map[LeaseID]*boltLease{}}
	if err := b.update(sweepLeased); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare state file %q: %w", cfg.Path, err), guard(db.Close))
	}
	return b, nil
}

func (b *Bolt) view(do func(*bbolt.Tx) error) error {
	return guard(func() error { return b.db.View(do) })
}

func (b *Bolt) update(do func(*bbolt.Tx) error) error {
	return guard(func() error { return b.db.Update(do) })
}

// sweepLeased creates the buckets and deletes the keys that belong to leases of an
// earlier process.
func sweepLeased(tx *bbolt.Tx) error {
	kv, err := tx.CreateBucketIfNotExists([]byte(bucketKV))
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists([]byte(bucketMeta)); err != nil {
		return err
	}
	var stale [][]byte
	if err := kv.ForEach(func(k, v []byte) error {
		if len(v) < headerLen {
			return fmt.Errorf("%w: value of %q is truncated", ErrDamaged, k)
		}
		if leaseOf(v) != 0 {
			stale = append(stale, bytes.Clone(k))
		}
		return nil
	}); err != nil {
		return err
	}
	for _, k := range stale {
		if err := kv.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// Get implements Store.
func (b *Bolt) Get(ctx context.Context, key string) (Entry, error) {
	var e Entry
	if err := ctx.Err(); err != nil {
		return e, fmt.Errorf("get %q: %w", key, err)
	}
	err := b.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte(bucketKV)).Get([]byte(key))
		if v == nil {
			return ErrNotFound
		}
		e = entry([]byte(key), v)
		return nil
	})
	if err != nil {
		return Entry{}, fmt.Errorf("get %q: %w", key, err)
	}
	return e, nil
}

// List implements Store.
func (b *Bolt) List(ctx context.Context, prefix string) ([]Entry, error) {
	var out []Entry
	err := b.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucketKV)).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			out = append(out, entry(k, v))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	return out, nil
}

// Commit implements Store.
func (b *Bolt) Commit(ctx context.Context, ops ...Op) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	rev, err := b.commit(ops)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	return rev, nil
}

// commit requires b.mu.
func (b *Bolt) commit(ops []Op) (rev uint64, err error) {
	for _, op := range ops {
		if l := op.Lease; l != 0 && b.leases[l] == nil {
			return 0, fmt.Errorf("put %q: %w", op.Key, ErrLeaseGone)
		}
	}
	var events []Event
	err = b.update(func(tx *bbolt.Tx) error {
		kv := tx.Bucket([]byte(bucketKV))
		if err := compare(kv, ops); err != nil {
			return err
		}
		if rev, err = bumpRev(tx); err != nil {
			return err
		}
		events, err = write(kv, ops, rev)
		return err
	})
	if err != nil {
		return 0, err
	}
	b.hub.publish(events)
	return rev, nil
}

func compare(kv *bbolt.Bucket, ops []Op) error {
	for _, op := range ops {
		if op.IfRev == nil {
			continue
		}
		var have uint64
		if v := kv.Get([]byte(op.Key)); v != nil {
			have = revOf(v)
		}
		if have != *op.IfRev {
			return fmt.Errorf("%w: %q is at revision %d, not %d", ErrCompare, op.Key, have, *op.IfRev)
		}
	}
	return nil
}

func bumpRev(tx *bbolt.Tx) (uint64, error) {
	meta := tx.Bucket([]byte(bucketMeta))
	var rev uint64
	if v := meta.Get([]byte(keyRev)); len(v) == 8 {
		rev = binary.BigEndian.Uint64(v)
	}
	rev++
	return rev, meta.Put([]byte(keyRev), binary.BigEndian.AppendUint64(nil, rev))
}

func write(kv *bbolt.Bucket, ops []Op, rev uint64) ([]Event, error) {
	events := make([]Event, 0, len(ops))
	for _, op := range ops {
		key := []byte(op.Key)
		if op.Delete {
			if kv.Get(key) == nil {
				continue
			}
			if err := kv.Delete(key); err != nil {
				return nil, fmt.Errorf("delete %q: %w", op.Key, err)
			}
			events = append(events, Event{Entry: Entry{Key: op.Key, Rev: rev}, Deleted: true})
			continue
		}
		v := make([]byte, headerLen, headerLen+len(op.Value))
		binary.BigEndian.PutUint64(v, rev)
		binary.BigEndian.PutUint64(v[8:], uint64(op.Lease))
		v = append(v, op.Value...)
		if err := kv.Put(key, v); err != nil {
			return nil, fmt.Errorf("put %q: %w", op.Key, err)
		}
		events = append(events, Event{Entry: Entry{Key: op.Key, Value: v[headerLen:], Rev: rev}})
	}
	return events, nil
}

// Watch implements Store.
func (b *Bolt) Watch(_ context.Context, prefix string) (Watcher, error) {
	return b.hub.watch(prefix)
}

// Close implements Store.
func (b *Bolt) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, l := range b.leases {
		l.timer.Stop()
		delete(b.leases, id)
	}
	b.hub.close()
	if err := guard(b.db.Close); err != nil {
		return fmt.Errorf("close state file: %w", err)
	}
	return nil
}

// entry copies its arguments, because bolt's slices are valid only during a transaction.
func entry(k, v []byte) Entry {
	return Entry{Key: string(k), Value: bytes.Clone(v[headerLen:]), Rev: revOf(v)}
}

func revOf(v []byte) uint64    { return binary.BigEndian.Uint64(v) }
func leaseOf(v []byte) LeaseID { return LeaseID(binary.BigEndian.Uint64(v[8:])) }
