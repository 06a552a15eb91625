// SPDX-License-Identifier: Apache-2.0

package zk

import (
	"context"
	"errors"
	"time"

	"github.com/go-zookeeper/zk"
)

// errLost means that a session, or the node that it owns, does not exist any more.
var errLost = errors.New("the session or its key does not exist any more")

const sessionTimeout = 2 * time.Second // for the calls of one check

// Hold implements kv.Backend. The key is an ephemeral node of a session of its own, whose timeout
// is the ttl.
func (b *backend) Hold(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	s := &session{cfg: b.cfg, timeout: ttl, changed: func(*zk.Conn, string) {}}
	defer s.close() // which removes the node
	if err := b.create(ctx, s, nodePath(key), encode(value)); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(ttl / 3):
		}
		if err := owned(ctx, s, nodePath(key)); errors.Is(err, errLost) {
			return err
		}
	}
}

// create creates the node, in place of one that an earlier process of this node left.
func (b *backend) create(ctx context.Context, s *session, path string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 2*sessionTimeout)
	defer cancel()
	conn, err := s.conn(ctx)
	if err != nil {
		return err
	}
	for {
		if err := b.mkdir(ctx, conn, parent(path)); err != nil {
			return err
		}
		ops := []any{&zk.CreateRequest{Path: path, Data: data, Acl: b.acl, Flags: zk.FlagEphemeral}}
		old, err := exists(ctx, conn, path)
		if err != nil {
			return err
		}
		if old != nil {
			ops = append([]any{&zk.DeleteRequest{Path: path, Version: old.Version}}, ops...)
		}
		if err := multi(ctx, conn, ops); err == nil || !overtaken(err) {
			return err
		}
	}
}

// owned returns errLost if the node does not belong to the session. Without a connection, nothing
// is known.
func owned(ctx context.Context, s *session, path string) error {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	conn, err := s.conn(ctx)
	if err != nil {
		return err
	}
	return second(await(ctx, func() (bool, error) {
		ok, stat, err := conn.Exists(path)
		if err == nil && (!ok || stat.DataLength == 0 || stat.EphemeralOwner != conn.SessionID()) {
			err = errLost
		}
		return ok, err
	}))
}

func second[T any](_ T, err error) error { return err }
