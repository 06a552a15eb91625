// SPDX-License-Identifier: Apache-2.0

// Package kv is the store that the hosts of a cluster share: small values under string
// keys, changed in transactions, listed and watched by prefix. [Store] is what the rest of
// Fairlead uses. A [Backend] is the client of one kind of server (etcd, Consul, ZooKeeper, or
// memory for tests), and [New] makes a Store of it: limits, time limits, health, and watches
// that survive outages are the same for all of them. Package kvtest has the tests that every
// backend passes, most of them against the real server.
package kv

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotFound means that the key does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrConflict means that a condition of a commit did not hold, and that nothing was
	// changed. Read again before the next attempt. What is there may be the caller's own
	// value, of a commit whose answer was lost.
	ErrConflict = errors.New("another node changed it at the same time")
	// ErrUnavailable means that the store did not answer, or refused the client. A Commit
	// that returns it may have been executed nevertheless, or may yet be.
	ErrUnavailable = errors.New("the cluster store is unavailable")
	// ErrInvalid means that no backend accepts such a key, value or commit.
	ErrInvalid = errors.New("invalid request to the cluster store")
	// ErrClosed means that the store or the watcher was closed.
	ErrClosed = errors.New("closed")
)

// Limits of a commit, which the strictest of the backends sets: Consul executes 64 operations,
// and reads 512 KiB of JSON, in which a value is a third larger. They apply to all, so that a
// state that one store holds can be moved to another.
const (
	MaxOps    = 64        // keys of one commit; a delete with a condition counts twice
	MaxValue  = 256 << 10 // bytes of a value
	MaxCommit = 320 << 10 // bytes of all keys and values of a commit
	MaxKey    = 512       // bytes of a key
)

// Rev identifies one version of the value under a key. Revs of the same key are equal if nothing
// has changed or deleted the key in between, and that is all that can be concluded from them: they
// have no order, and say nothing about other keys. Whether a write of the value that is there
// already is a change depends on the store: what claims something has to write something of its
// own. The zero Rev is that of a key that does not exist.
type Rev struct{ Created, Modified uint64 }

// Entry is one stored value.
type Entry struct {
	Key   string
	Value []byte
	Rev   Rev
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

// Cond is a condition of a commit, which [If] returns.
type Cond struct {
	Key string
	Rev Rev
}

// If requires that a key has this revision. The zero Rev requires that it does not exist.
func If(key string, rev Rev) Cond { return Cond{Key: key, Rev: rev} }

// Update is what a watcher observed since its last update. It names states, not events: a key
// that was written twice may be reported once, with its last value. No key occurs twice.
type Update struct {
	// Reset means that Entries are all entries under the prefix. What the consumer knows
	// besides them no longer exists.
	Reset bool
	// Entries are new or changed, sorted by key.
	Entries []Entry
	// Deleted are keys that were removed, sorted. The consumer may not know them.
	Deleted []string
}

// Watcher reports the entries under a prefix and their changes. One goroutine at a time calls
// Next; Close may be called by any.
type Watcher interface {
	// Next waits for changes. The first update is a Reset, and so is the first after any
	// time in which changes may have been missed, and one every few minutes in any case. Next waits
	// through outages: it returns an error only when ctx ends, in which case the watch goes
	// on with the next call, or [ErrClosed].
	Next(ctx context.Context) (Update, error)
	// Close ends the watch, and a Next that waits.
	Close() error
}

// Health says whether the store answers.
type Health struct {
	Store     string    // its URL, without credentials
	Reachable bool      // it answered the last time
	Since     time.Time // of the last change of Reachable
	Err       error     // why it is not reachable; nil if it is, or was not asked yet
}

// Store stores the state of a cluster. All methods may be called concurrently. Every call ends
// after a few seconds at most, and returns [ErrUnavailable] at once while the store is known to
// be unreachable. Keys consist of segments between slashes, see [CheckKey]; a prefix ends with
// a slash.
type Store interface {
	// Get returns the entry under a key, or ErrNotFound. It sees every commit that was
	// completed before, by any node.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns every entry under the prefix, sorted by key. It sees every commit that was
	// completed before. A commit during the call may be seen in part.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Commit executes all ops if all conditions hold, and otherwise returns ErrConflict and
	// changes nothing. No key has two ops or two conditions.
	Commit(ctx context.Context, conds []Cond, ops ...Op) error
	// Watch returns a watcher of the entries under the prefix. It does not need the store to be
	// reachable. The watch ends with Close, or with the store.
	Watch(prefix string) (Watcher, error)
	// Alive keeps a key in the store until ctx ends, and removes it then. The store removes it
	// when this process has been away for longer than ttl (Consul: twice as long; no store is
	// more exact than a second or two), and Alive puts it back as soon as it can. It returns only when ctx ends or the
	// store is closed. Nothing whose loss changes forwarding depends on such a key: an outage
	// that is longer than ttl removes those of all nodes at once.
	Alive(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Health says whether the store answers. It does not wait.
	Health() Health
	// WaitUp waits until the store answers. It returns an error only when ctx ends, or ErrClosed.
	WaitUp(ctx context.Context) error
	// Close ends all watches and calls, and releases the store.
	Close() error
}
