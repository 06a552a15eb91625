// SPDX-License-Identifier: Apache-2.0

// Package store persists Fairlead's state: small values under string keys, each
// with a revision. [Store] is the interface of all backends; [Bolt] is the backend for
// a single host.
package store

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotFound means that the key does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrCompare means that a key's revision differs from the one that an Op requires.
	// Nothing of the commit was written.
	ErrCompare = errors.New("key was changed concurrently")
	// ErrLagged means that a Watcher fell too far behind and lost events. Its caller must
	// List again and open a new one.
	ErrLagged = errors.New("watcher fell behind")
	// ErrClosed means that the Watcher or its Store was closed.
	ErrClosed = errors.New("closed")
	// ErrLeaseGone means that the lease expired or was revoked.
	ErrLeaseGone = errors.New("lease expired or was revoked")
)

// Entry is one stored value.
type Entry struct {
	Key   string
	Value []byte
	Rev   uint64 // revision of the commit that wrote it; never 0
}

// LeaseID identifies a Lease; 0 means none.
type LeaseID uint64

// Op is one change of a commit. [Put] and [Delete] return the common ones.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	// IfRev, if not nil, is the revision that the key must have for the commit to
	// succeed; 0 means that the key must not exist.
	IfRev *uint64
	// Lease, if not 0, is the lease whose end deletes the key.
	Lease LeaseID
}

// Put sets a key, whatever its value is.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// Delete removes a key. It succeeds if the key does not exist.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// If adds the condition that the key has this revision (0: does not exist).
func (o Op) If(rev uint64) Op {
	o.IfRev = &rev
	return o
}

// Event is one change that a Watcher reports. Value is nil if Deleted is set.
type Event struct {
	Entry
	Deleted bool
}

// Watcher reports the changes under a prefix in the order of their commits.
type Watcher interface {
	// Next waits for at least one event. It returns ErrLagged if events were
	// lost, and ErrClosed after Close.
	Next(ctx context.Context) ([]Event, error)
	// Close releases the watcher. It may be called more than once.
	Close()
}

// Lease deletes keys when their owner disappears.
type Lease interface {
	ID() LeaseID
	// KeepAlive restarts the time of the lease. It returns ErrLeaseGone if the lease has
	// ended.
	KeepAlive(ctx context.Context) error
	// Revoke ends the lease and deletes its keys. It succeeds if the lease has already
	// ended.
	Revoke(ctx context.Context) error
}

// Store stores values. All methods may be called concurrently.
type Store interface {
	// Get returns the value under a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns every entry whose key begins with the prefix, sorted by key.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Commit executes all ops or none, durably, and returns the new revision.
	Commit(ctx context.Context, ops ...Op) (rev uint64, err error)
	// Watch reports what is committed after it returns. A caller that calls Watch
	// before List does not miss a change.
	Watch(ctx context.Context, prefix string) (Watcher, error)
	// Lease grants a lease, which ends after ttl unless it is kept alive.
	Lease(ctx context.Context, ttl time.Duration) (Lease, error)
	// Close releases the store and ends its watchers.
	Close() error
}
