// SPDX-License-Identifier: Apache-2.0

// Package store persists Fairlead's state: small values under string keys, each
// with a revision. [Store] is the interface of all backends; [Bolt] is the backend for
// a single host.
package store

import (
	"context"
	"errors"
)

var (
	// ErrNotFound means that the key does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrInUse means that another process has the store open, which only one can.
	ErrInUse = errors.New("another process has it open")
)

// Entry is one stored value.
type Entry struct {
	Key   string
	Value []byte
	Rev   uint64 // revision of the commit that wrote it; never 0
}

// Op is one change of a commit, which [Put] or [Delete] returns.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Put sets a key, whatever its value is.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// Delete removes a key. It succeeds if the key does not exist.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// Store stores values. All methods may be called concurrently.
type Store interface {
	// Get returns the value under a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns every entry whose key begins with the prefix, sorted by key.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Commit executes all ops or none, durably, and returns the new revision.
	Commit(ctx context.Context, ops ...Op) (rev uint64, err error)
	// Close releases the store.
	Close() error
}
