// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// errLost means that a lease, or the key under it, does not exist any more.
var errLost = errors.New("the lease or its key does not exist any more")

// Times of a lease.
const (
	leaseTimeout = 2 * time.Second // for the calls of one renewal
	leaseRetry   = time.Second     // after a renewal that failed
)

// Hold implements kv.Backend. The client's own KeepAlive is of no use: its channel closes one ttl
// into an outage and does not come back, while the server may keep the lease (an outage of its
// own prolongs all leases).
func (b *backend) Hold(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	client, err := b.dial()
	if err != nil {
		return err
	}
	id, err := begin(ctx, client, key, value, ttl)
	if id != clientv3.NoLease {
		defer revoke(ctx, client, id)
	}
	wait := ttl / 3
	for err == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = ttl / 3
		if err = renew(ctx, client, id, key); err != nil && !errors.Is(err, errLost) {
			err, wait = nil, min(leaseRetry, wait)
		}
	}
	return err
}

// begin grants a lease and puts the key under it.
func begin(ctx context.Context, client *clientv3.Client, key string, value []byte, ttl time.Duration) (clientv3.LeaseID, error) {
	limited, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	lease, err := client.Grant(limited, max(1, int64((ttl+time.Second-1)/time.Second)))
	if err != nil {
		return clientv3.NoLease, fmt.Errorf("grant a lease: %w", err)
	}
	if _, err := client.Put(limited, key, string(value), clientv3.WithLease(lease.ID)); err != nil {
		return lease.ID, fmt.Errorf("put %s under a lease: %w", key, err)
	}
	return lease.ID, nil
}

// renew renews a lease whose key is still under it, and returns errLost if either is not there.
// The key comes first: without a connection, Get fails at once, while KeepAliveOnce tries again
// without a pause after some errors.
func renew(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID, key string) error {
	limited, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	r, err := client.Get(limited, key)
	if err != nil {
		return err
	}
	if len(r.Kvs) == 0 || clientv3.LeaseID(r.Kvs[0].Lease) != id {
		return errLost
	}
	_, err = client.KeepAliveOnce(limited, id)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return errLost
	}
	return err
}

// revoke removes a lease and its key, if it is still under it.
func revoke(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
	defer cancel()
	_, _ = client.Revoke(limited, id) // otherwise it expires
}
