// SPDX-License-Identifier: Apache-2.0

// Package store keeps Fairlead's state: small values under string keys, each
// with a revision. [Store] is the one interface all backends offer; [Bolt] is
// the one for a single host.
package store

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotFound: no value lives under the key.
	ErrNotFound = errors.New("key not found")
	// ErrCompare: a key's revision is not the one an Op demanded; nothing of
	// the commit was written.
	ErrCompare = errors.New("key changed meanwhile")
	// ErrLagged: a Watcher fell too far behind and lost events; its caller must
	// List again and open a new one.
	ErrLagged = errors.New("watcher fell behind")
	// ErrClosed: the Watcher or its Store was closed.
	ErrClosed = errors.New("closed")
	// ErrLeaseGone: the lease ran out or was revoked.
	ErrLeaseGone = errors.New("lease is gone")
)

// Entry is one stored value.
type Entry struct {
	Key   string
	Value []byte
	Rev   uint64 // of the commit that wrote it; never 0
}

// LeaseID names a Lease; 0 is none.
type LeaseID uint64

// Op is one change of a commit. [Put] and [Delete] make the common ones.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	// IfRev, when not nil, is the revision the key must have for the commit to
	// happen; 0 demands that the key does not exist.
	IfRev *uint64
	// Lease, when not 0, deletes the key when that lease ends.
	Lease LeaseID
}

// Put sets a key, whatever it held.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// Delete removes a key; that it does not exist is success.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// If adds the demand that the key has this revision (0: does not exist).
func (o Op) If(rev uint64) Op {
	o.IfRev = &rev
	return o
}

// Event is one change a Watcher saw. Value is nil when Deleted.
type Event struct {
	Entry
	Deleted bool
}

// Watcher delivers the changes below a prefix in the order of their commits.
type Watcher interface {
	// Next waits for at least one event. It returns ErrLagged when events were
	// lost and ErrClosed after Close.
	Next(ctx context.Context) ([]Event, error)
	// Close releases the watcher. It may be called more than once.
	Close()
}

// Lease lets keys vanish when their owner does.
type Lease interface {
	ID() LeaseID
	// KeepAlive starts the lease's time anew. It returns ErrLeaseGone when that
	// is too late.
	KeepAlive(ctx context.Context) error
	// Revoke ends the lease and deletes its keys; a lease that is gone is
	// success.
	Revoke(ctx context.Context) error
}

// Store keeps values. All methods may be called concurrently.
type Store interface {
	// Get returns the value under a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns every entry whose key begins with the prefix, sorted by key.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Commit does all the ops or none, durably, and returns the new revision.
	Commit(ctx context.Context, ops ...Op) (rev uint64, err error)
	// Watch delivers what is committed after it returned; so a caller that
	// watches first and lists then misses nothing.
	Watch(ctx context.Context, prefix string) (Watcher, error)
	// Lease grants a lease that ends after ttl unless it is kept alive.
	Lease(ctx context.Context, ttl time.Duration) (Lease, error)
	// Close releases the store and ends its watchers.
	Close() error
}
