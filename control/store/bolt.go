// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Buckets of the file. A value in the first bucket consists of the revision (8 bytes,
// big-endian), 8 zero bytes, and the caller's bytes.
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
type Bolt struct {
	db *bbolt.DB
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
		return nil, fmt.Errorf("open state file %q: %w (is a daemon running?)", cfg.Path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open state file %q: %w", cfg.Path, err)
	}
	b := &Bolt{db: db}
	if err := b.prepare(); err != nil {
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

// prepare creates the buckets in a new file, and checks the values of an earlier process. It
// writes nothing to a file that has the buckets: if the list of its free pages is damaged, a write
// may replace data.
func (b *Bolt) prepare() error {
	var missing bool
	err := b.view(func(tx *bbolt.Tx) error {
		kv := tx.Bucket([]byte(bucketKV))
		if kv == nil || tx.Bucket([]byte(bucketMeta)) == nil {
			missing = true
			return nil
		}
		return kv.ForEach(func(k, v []byte) error {
			if len(v) < headerLen {
				return fmt.Errorf("%w: value of %q is truncated", ErrDamaged, k)
			}
			return nil
		})
	})
	if err != nil || !missing {
		return err
	}
	return b.update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketKV, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
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
func (b *Bolt) Commit(ctx context.Context, ops ...Op) (rev uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	err = b.update(func(tx *bbolt.Tx) error {
		if rev, err = bumpRev(tx); err != nil {
			return err
		}
		return write(tx.Bucket([]byte(bucketKV)), ops, rev)
	})
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	return rev, nil
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

func write(kv *bbolt.Bucket, ops []Op, rev uint64) error {
	for _, op := range ops {
		key := []byte(op.Key)
		if op.Delete {
			if err := kv.Delete(key); err != nil {
				return fmt.Errorf("delete %q: %w", op.Key, err)
			}
			continue
		}
		v := make([]byte, headerLen, headerLen+len(op.Value))
		binary.BigEndian.PutUint64(v, rev)
		if err := kv.Put(key, append(v, op.Value...)); err != nil {
			return fmt.Errorf("put %q: %w", op.Key, err)
		}
	}
	return nil
}

// Close implements Store.
func (b *Bolt) Close() error {
	if err := guard(b.db.Close); err != nil {
		return fmt.Errorf("close state file: %w", err)
	}
	return nil
}

// entry copies its arguments, because bolt's slices are valid only during a transaction.
func entry(k, v []byte) Entry {
	return Entry{Key: string(k), Value: bytes.Clone(v[headerLen:]), Rev: revOf(v)}
}

func revOf(v []byte) uint64 { return binary.BigEndian.Uint64(v) }
