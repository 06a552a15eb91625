// SPDX-License-Identifier: Apache-2.0

// Package consul is the client of a Consul as the store of a cluster: its agent on this host, or a
// server.
package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// Config says how to reach a Consul.
type Config struct {
	Addr           string      // host:port; required
	TLS            *tls.Config // nil: without TLS
	User, Password string      // of HTTP; empty: without
	Token          string      // of Consul's ACLs; empty: without
}

// backend implements kv.Backend.
type backend struct {
	client    *api.Client
	transport *http.Transport
}

// dialTimeout bounds the connection attempt: the calls that share it have limits of their own.
const dialTimeout = 2 * time.Second

// New returns a backend. It connects when it is used.
func New(cfg Config) (kv.Backend, error) {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 10 * time.Second}).DialContext,
		TLSClientConfig:     cfg.TLS,
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
	}
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	options := &api.Config{Address: cfg.Addr, Scheme: scheme, Token: cfg.Token, HttpClient: &http.Client{Transport: transport}}
	if cfg.User != "" {
		options.HttpAuth = &api.HttpBasicAuth{Username: cfg.User, Password: cfg.Password}
	}
	client, err := api.NewClient(options)
	if err != nil {
		return nil, fmt.Errorf("configure the client of Consul: %w", err)
	}
	return &backend{client: client, transport: transport}, nil
}

func (b *backend) Close() error {
	b.transport.CloseIdleConnections()
	return nil
}

// consistent makes the leader confirm with a quorum that it is one before it answers.
func consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// Get implements kv.Backend.
func (b *backend) Get(ctx context.Context, key string) (kv.Entry, error) {
	pair, _, err := b.client.KV().Get(key, consistent(ctx))
	switch {
	case err != nil:
		return kv.Entry{}, err
	case pair == nil:
		return kv.Entry{}, kv.ErrNotFound
	}
	return entry(pair), nil
}

// Ping implements kv.Backend.
func (b *backend) Ping(ctx context.Context) error {
	_, err := b.Get(ctx, "fairlead/ping")
	if errors.Is(err, kv.ErrNotFound) {
		return nil
	}
	return err
}

// List implements kv.Backend.
func (b *backend) List(ctx context.Context, prefix string) ([]kv.Entry, error) {
	pairs, _, err := b.client.KV().List(prefix, consistent(ctx))
	if err != nil {
		return nil, err
	}
	return entries(pairs), nil
}

func entries(pairs api.KVPairs) []kv.Entry {
	list := make([]kv.Entry, 0, len(pairs))
	for _, pair := range pairs { // sorted by Consul
		list = append(list, entry(pair))
	}
	return list
}

func entry(pair *api.KVPair) kv.Entry {
	return kv.Entry{Key: pair.Key, Value: pair.Value, Rev: kv.Rev{Created: pair.CreateIndex, Modified: pair.ModifyIndex}}
}

// Commit implements kv.Backend.
func (b *backend) Commit(ctx context.Context, changes []kv.Change) error {
	var ops api.KVTxnOps
	for _, ch := range changes {
		ops = append(ops, operations(ch)...)
	}
	ok, answer, _, err := b.client.KV().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil || ok {
		return err
	}
	for _, e := range answer.Errors {
		if strings.Contains(e.What, "ermission denied") { // answered like a condition that does not hold
			return fmt.Errorf("change %q: %s", ops[e.OpIndex].Key, e.What)
		}
	}
	return kv.ErrConflict
}

// operations returns a change as operations of Consul's, of which a commit has 64 at most.
func operations(ch kv.Change) api.KVTxnOps {
	op := func(verb api.KVOp) *api.KVTxnOp {
		return &api.KVTxnOp{Verb: verb, Key: ch.Key, Value: ch.Value, Index: ch.Rev.Modified}
	}
	absent := ch.Has && ch.Rev == (kv.Rev{})
	switch {
	case ch.Kind != kv.ChangePut && absent:
		return api.KVTxnOps{op(api.KVCheckNotExists)} // there is nothing to delete
	case ch.Kind == kv.ChangeNone:
		return api.KVTxnOps{op(api.KVCheckIndex)}
	case ch.Kind == kv.ChangePut && ch.Has:
		return api.KVTxnOps{op(api.KVCAS)} // index 0: create
	case ch.Kind == kv.ChangePut:
		return api.KVTxnOps{op(api.KVSet)}
	case ch.Has: // KVDeleteCAS succeeds if the key does not exist
		return api.KVTxnOps{op(api.KVCheckIndex), op(api.KVDelete)}
	default:
		return api.KVTxnOps{op(api.KVDelete)}
	}
}
