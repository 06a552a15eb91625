// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// errLost means that a session, or the key that it locks, does not exist any more.
var errLost = errors.New("the session or its key does not exist any more")

// Times of a session.
const (
	sessionTimeout = 2 * time.Second // for the calls of one renewal
	sessionRetry   = time.Second     // after a renewal that failed
)

// Hold implements kv.Backend. Consul removes a key with a session that holds its lock.
func (b *backend) Hold(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	id, err := b.begin(ctx, ttl)
	if err != nil {
		return err
	}
	defer b.destroy(ctx, id)
	if err := b.lock(ctx, id, key, value); err != nil {
		return err
	}
	for wait := ttl / 3; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = ttl / 3
		if err := b.renew(ctx, id, key); errors.Is(err, errLost) {
			return err
		} else if err != nil {
			wait = min(wait, sessionRetry)
		}
	}
}

// begin creates a session that depends on nothing but its renewal.
func (b *backend) begin(ctx context.Context, ttl time.Duration) (string, error) {
	limited, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	id, _, err := b.client.Session().CreateNoChecks(&api.SessionEntry{
		Name: "fairlead", TTL: ttl.String(), Behavior: api.SessionBehaviorDelete,
		LockDelay: time.Nanosecond, // 0 would be 15 s, in which nobody could put the key again
	}, (&api.WriteOptions{}).WithContext(limited))
	if err != nil {
		return "", fmt.Errorf("create a session: %w", err)
	}
	return id, nil
}

// lock puts the key under the session's lock. A session that has it belongs to an earlier process
// of this node, and is destroyed.
func (b *backend) lock(ctx context.Context, id, key string, value []byte) error {
	limited, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	for {
		ok, _, err := b.client.KV().Acquire(&api.KVPair{Key: key, Value: value, Session: id}, (&api.WriteOptions{}).WithContext(limited))
		if err != nil {
			return fmt.Errorf("lock %s: %w", key, err)
		}
		if ok {
			return nil
		}
		pair, _, err := b.client.KV().Get(key, consistent(limited))
		if err != nil {
			return fmt.Errorf("read the lock of %s: %w", key, err)
		}
		if pair != nil && pair.Session != "" && pair.Session != id {
			if _, err := b.client.Session().Destroy(pair.Session, (&api.WriteOptions{}).WithContext(limited)); err != nil {
				return fmt.Errorf("end the lock of %s: %w", key, err)
			}
		}
	}
}

// renew renews a session, and returns errLost if it or its key does not exist. A server
// that has just been elected may not know its sessions yet: only a consistent read is believed.
func (b *backend) renew(ctx context.Context, id, key string) error {
	limited, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	pair, _, err := b.client.KV().Get(key, consistent(limited))
	if err != nil {
		return err
	}
	if pair == nil || pair.Session != id {
		return errLost
	}
	entry, _, err := b.client.Session().Renew(id, (&api.WriteOptions{}).WithContext(limited))
	if err != nil || entry != nil {
		return err
	}
	entry, _, err = b.client.Session().Info(id, consistent(limited))
	if err == nil && entry == nil {
		err = errLost
	}
	return err
}

// destroy ends a session, which removes its key.
func (b *backend) destroy(ctx context.Context, id string) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionTimeout)
	defer cancel()
	_, _ = b.client.Session().Destroy(id, (&api.WriteOptions{}).WithContext(limited)) // otherwise it expires
}
