// SPDX-License-Identifier: Apache-2.0

// Package etcd is the client of an etcd as the store of a cluster: one of several members, or the
// one inside of a daemon.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// Config says how to reach an etcd.
type Config struct {
	Endpoints      []string    // host:port of the members; required
	TLS            *tls.Config // nil: without TLS
	User, Password string      // empty: without
}

// backend implements kv.Backend.
type backend struct {
	cfg Config

	mu     sync.Mutex
	client *clientv3.Client
	closed bool
	seen   position
	wiped  chan struct{} // closed when the store is found to have lost its contents
}

// position is how far the store has come, as far as this client knows. It never moves back while the store
// keeps its contents.
type position struct {
	cluster  uint64
	term     uint64
	revision int64
}

// New returns a backend. It connects when it is used.
func New(cfg Config) kv.Backend {
	return &backend{cfg: cfg, wiped: make(chan struct{})}
}

// Times of the connection. A server refuses to be pinged more than every 5 s.
const (
	dialTimeout      = 2 * time.Second // with user and password, New waits for a token
	keepAliveTime    = 10 * time.Second
	keepAliveTimeout = 3 * time.Second
	maxReconnect     = 750 * time.Millisecond // gRPC's own is two minutes
)

// dial returns the client, and creates it first if need be: with a user, that needs the server.
func (b *backend) dial() (*clientv3.Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, kv.ErrClosed
	}
	if b.client != nil {
		return b.client, nil
	}
	scheme := "http://"
	if b.cfg.TLS != nil {
		scheme = "https://"
	}
	cfg := clientv3.Config{
		TLS: b.cfg.TLS, Username: b.cfg.User, Password: b.cfg.Password,
		DialTimeout: dialTimeout, DialKeepAliveTime: keepAliveTime, DialKeepAliveTimeout: keepAliveTimeout,
		PermitWithoutStream: true,
		MaxUnaryRetries:     2, // a call that fails makes package kv check the connection
		Logger:              zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(failFast), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: maxReconnect},
			MinConnectTimeout: 3 * time.Second,
		})},
	}
	for _, endpoint := range b.cfg.Endpoints {
		cfg.Endpoints = append(cfg.Endpoints, scheme+endpoint)
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	b.client = client
	return client, nil
}

// failFast makes a call without a connection fail with the reason why there is none. The client's
// own choice is to wait for one.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// plain returns an error without gRPC's code, which says nothing to an operator.
func plain(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() == codes.Unavailable {
		return errors.New(s.Message())
	}
	return err
}

func (b *backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.client == nil {
		return nil
	}
	if err := b.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the connection to etcd: %w", err)
	}
	return nil
}

// position returns what is known of the store before a request. The answer to the request cannot be older.
func (b *backend) position() (position, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen, b.wiped
}

// observe compares an answer with what was known before the request. A store that
// has come less far is another one under the same address: with a new disk, or restored from a backup.
// Watches would wait in silence for a revision that comes much later; observe ends them.
func (b *backend) observe(h *pb.ResponseHeader, before position) {
	if h == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := position{cluster: h.ClusterId, term: h.RaftTerm, revision: h.Revision}
	if before.cluster != 0 && (now.cluster != before.cluster || now.term < before.term || now.revision < before.revision) {
		close(b.wiped)
		b.wiped = make(chan struct{})
		b.seen = now
		return
	}
	if b.seen.cluster == 0 || b.seen.cluster == now.cluster {
		b.seen.cluster = now.cluster
		b.seen.term, b.seen.revision = max(b.seen.term, now.term), max(b.seen.revision, now.revision)
	}
}

func (b *backend) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	client, err := b.dial()
	if err != nil {
		return nil, err
	}
	before, _ := b.position()
	r, err := client.Get(ctx, key, opts...)
	if err != nil {
		return nil, plain(err)
	}
	b.observe(r.Header, before)
	return r, nil
}

// Get implements kv.Backend.
func (b *backend) Get(ctx context.Context, key string) (kv.Entry, error) {
	r, err := b.get(ctx, key)
	if err != nil {
		return kv.Entry{}, err
	}
	if len(r.Kvs) == 0 {
		return kv.Entry{}, kv.ErrNotFound
	}
	return entry(r.Kvs[0]), nil
}

// Ping implements kv.Backend. It is a read like any other, which a quorum confirms.
func (b *backend) Ping(ctx context.Context) error {
	_, err := b.get(ctx, "fairlead/ping", clientv3.WithKeysOnly())
	return err
}

// List implements kv.Backend.
func (b *backend) List(ctx context.Context, prefix string) ([]kv.Entry, error) {
	list, _, err := b.list(ctx, prefix)
	return list, err
}

// page is how many entries are read at once, so that the list of a large prefix does not hold up
// the server's other work.
const page = 1000

// list returns the entries under a prefix, all at the revision that it returns too.
func (b *backend) list(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	for attempt := 0; ; attempt++ {
		list, revision, err := b.listOnce(ctx, prefix)
		// Compacted between two pages, or wiped.
		if again := errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev); !again || attempt == 3 {
			return list, revision, err
		}
	}
}

func (b *backend) listOnce(ctx context.Context, prefix string) (list []kv.Entry, revision int64, err error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		r, err := b.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(revision))
		if err != nil {
			return nil, 0, err
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		for _, e := range r.Kvs {
			list = append(list, entry(e))
		}
		if !r.More || len(r.Kvs) == 0 {
			return list, revision, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// Commit implements kv.Backend.
func (b *backend) Commit(ctx context.Context, changes []kv.Change) error {
	client, err := b.dial()
	if err != nil {
		return err
	}
	var conds []clientv3.Cmp
	var ops []clientv3.Op
	for _, ch := range changes {
		if ch.Has {
			conds = append(conds, clientv3.Compare(clientv3.CreateRevision(ch.Key), "=", int64(ch.Rev.Created)))
			if ch.Rev != (kv.Rev{}) {
				// Both: another store under this address counts revisions from 1 again.
				conds = append(conds, clientv3.Compare(clientv3.ModRevision(ch.Key), "=", int64(ch.Rev.Modified)))
			}
		}
		switch ch.Kind {
		case kv.ChangePut:
			ops = append(ops, clientv3.OpPut(ch.Key, string(ch.Value)))
		case kv.ChangeDelete:
			ops = append(ops, clientv3.OpDelete(ch.Key))
		}
	}
	before, _ := b.position()
	r, err := client.Txn(ctx).If(conds...).Then(ops...).Commit()
	if err != nil {
		return plain(err)
	}
	b.observe(r.Header, before)
	if !r.Succeeded {
		return kv.ErrConflict
	}
	return nil
}
