// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"context"
	"time"
)

// Backend is the client of one kind of store, behind a Store. Arguments were checked. A method
// returns ErrNotFound and ErrConflict where Store says so; any other error means that the store
// does not work, whatever its reason. Errors of a context may be wrapped or not. All methods may be called concurrently.
type Backend interface {
	Get(ctx context.Context, key string) (Entry, error)
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Commit executes the changes, at most one for each key, if all their conditions hold.
	Commit(ctx context.Context, changes []Change) error
	// Watch prepares a stream, which lives until ctx ends. It does not wait.
	Watch(ctx context.Context, prefix string) Stream
	// Hold creates a lease and a key that ends with it, in place of any key of that name, and
	// renews the lease. It returns when the store says that lease or key do not exist any more,
	// or the store cannot be reached before they exist. Later errors of the connection are not
	// reasons to return: the lease may well outlive them. When ctx ends, it removes the key.
	Hold(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Ping returns nil if the store would answer Get now. A backend that cannot notice
	// otherwise that the store lost its contents checks it here, and ends its streams.
	Ping(ctx context.Context) error
	Close() error
}

// Stream is a watch without retries. Its first update is a Reset, and so may be others. An error
// ends it, except that the stream goes on after an error of the ctx that Next was called with.
type Stream interface {
	Next(ctx context.Context) (Update, error)
}

// Change is what a commit requires of a key and does to it.
type Change struct {
	Key   string
	Has   bool // a condition: the key must have Rev
	Rev   Rev
	Kind  ChangeKind
	Value []byte // of ChangePut
}

// ChangeKind is what a commit does to a key.
type ChangeKind int

// Kinds of changes. ChangeNone is a condition alone.
const (
	ChangeNone ChangeKind = iota
	ChangePut
	ChangeDelete
)
