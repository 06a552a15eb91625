// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// boltLease is kept in memory only; see Bolt.
type boltLease struct {
	b     *Bolt
	id    LeaseID
	ttl   time.Duration
	timer *time.Timer
}

// Lease implements Store.
func (b *Bolt) Lease(_ context.Context, ttl time.Duration) (Lease, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("grant lease: ttl %v is not positive", ttl)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	l := &boltLease{b: b, id: b.last, ttl: ttl}
	// A pending timer does not need a goroutine, and Close stops it. If an expiry
	// cannot be written, sweepLeased repairs that at the next open.
	l.timer = time.AfterFunc(ttl, func() { _ = l.Revoke(context.Background()) })
	b.leases[l.id] = l
	return l, nil
}

// ID implements Lease.
func (l *boltLease) ID() LeaseID { return l.id }

// KeepAlive implements Lease.
func (l *boltLease) KeepAlive(context.Context) error {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	if l.b.leases[l.id] == nil {
		return fmt.Errorf("keep lease %d alive: %w", l.id, ErrLeaseGone)
	}
	l.timer.Reset(l.ttl)
	return nil
}

// Revoke implements Lease.
func (l *boltLease) Revoke(context.Context) error {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	if l.b.leases[l.id] == nil {
		return nil
	}
	l.timer.Stop()
	delete(l.b.leases, l.id)
	var ops []Op
	err := l.b.view(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketKV)).ForEach(func(k, v []byte) error {
			if leaseOf(v) == l.id {
				ops = append(ops, Delete(string(k)))
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("find keys of lease %d: %w", l.id, err)
	}
	if len(ops) == 0 {
		return nil
	}
	if _, err := l.b.commit(ops); err != nil {
		return fmt.Errorf("delete keys of lease %d: %w", l.id, err)
	}
	return nil
}
