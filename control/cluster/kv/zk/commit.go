// SPDX-License-Identifier: Apache-2.0

package zk

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// errOvertaken means that others changed the same keys all the time.
var errOvertaken = errors.New("other nodes changed the same keys, again and again")

// Commit implements kv.Backend. It reads all nodes, compares, and makes one transaction that
// holds only if they are still as they were read; otherwise it begins again.
func (b *backend) Commit(ctx context.Context, changes []kv.Change) error {
	for range attempts {
		conn, err := b.current(ctx)
		if err != nil {
			return err
		}
		stats, err := readStats(ctx, conn, changes)
		if err != nil {
			return err
		}
		var ops []any
		for i, ch := range changes {
			if ch.Has && ch.Rev != liveRev(stats[i]) {
				return kv.ErrConflict
			}
			if stats[i] == nil {
				if err := b.mkdir(ctx, conn, parent(nodePath(ch.Key))); err != nil {
					return err
				}
			}
			ops = append(ops, b.requests(ch, stats[i])...)
		}
		if len(ops) == 0 {
			return nil
		}
		err = multi(ctx, conn, ops)
		if err == nil || !overtaken(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(5 * time.Millisecond)):
		}
	}
	return errOvertaken
}

// liveRev returns the revision of the key of a leaf, which was deleted if it has no data.
func liveRev(stat *zk.Stat) kv.Rev {
	if stat == nil || stat.DataLength == 0 {
		return kv.Rev{}
	}
	return revOf(stat)
}

// readStats reads the leaves of changes, as exists does.
func readStats(ctx context.Context, conn *zk.Conn, changes []kv.Change) ([]*zk.Stat, error) {
	var mu sync.Mutex
	found := map[string]*zk.Stat{}
	var paths []string
	for _, ch := range changes {
		paths = append(paths, nodePath(ch.Key))
	}
	err := each(ctx, paths, func(ctx context.Context, path string) error {
		stat, err := exists(ctx, conn, path)
		mu.Lock()
		defer mu.Unlock()
		found[path] = stat
		return err
	})
	stats := make([]*zk.Stat, len(paths))
	for i, path := range paths {
		stats[i] = found[path]
	}
	return stats, err
}

// exists reads the state of a node, or nil if it does not exist.
func exists(ctx context.Context, conn *zk.Conn, path string) (*zk.Stat, error) {
	return await(ctx, func() (*zk.Stat, error) {
		ok, stat, err := conn.Exists(path)
		if !ok {
			stat = nil
		}
		return stat, err
	})
}

// requests returns what executes a change of a leaf that is as it was read.
func (b *backend) requests(ch kv.Change, stat *zk.Stat) []any {
	path := nodePath(ch.Key)
	if stat == nil {
		create := &zk.CreateRequest{Path: path, Acl: b.acl}
		if ch.Kind == kv.ChangePut {
			create.Data = encode(ch.Value)
			return []any{create}
		}
		return []any{create, &zk.DeleteRequest{Path: path, Version: 0}} // that it does not exist still
	}
	switch live := stat.DataLength > 0; {
	case ch.Kind == kv.ChangePut && !ch.Has:
		return []any{&zk.SetDataRequest{Path: path, Data: encode(ch.Value), Version: -1}}
	case ch.Kind == kv.ChangePut:
		return []any{&zk.SetDataRequest{Path: path, Data: encode(ch.Value), Version: stat.Version}}
	case ch.Kind == kv.ChangeDelete && live:
		return []any{&zk.SetDataRequest{Path: path, Version: stat.Version}}
	default:
		return []any{&zk.CheckVersionRequest{Path: path, Version: stat.Version}}
	}
}

// multi executes a transaction, and returns the error of the request for which it was refused.
func multi(ctx context.Context, conn *zk.Conn, ops []any) error {
	answers, err := await(ctx, func() ([]zk.MultiResponse, error) { return conn.Multi(ops...) })
	for _, a := range answers {
		if a.Error != nil && overtaken(a.Error) {
			return a.Error
		}
	}
	for _, a := range answers {
		if a.Error != nil && err == nil {
			err = a.Error
		}
	}
	return err
}

// overtaken reports whether a transaction was refused because a node is not as it was read.
func overtaken(err error) bool {
	return errors.Is(err, zk.ErrBadVersion) || errors.Is(err, zk.ErrNodeExists) || errors.Is(err, zk.ErrNoNode) || errors.Is(err, zk.ErrNotEmpty)
}

// mkdir creates a directory and those above it.
func (b *backend) mkdir(ctx context.Context, conn *zk.Conn, path string) error {
	for {
		_, err := await(ctx, func() (string, error) { return conn.Create(path, nil, 0, b.acl) })
		switch {
		case err == nil || errors.Is(err, zk.ErrNodeExists):
			return nil
		case !errors.Is(err, zk.ErrNoNode):
			return err
		}
		if err := b.mkdir(ctx, conn, parent(path)); err != nil {
			return err
		}
	}
}
