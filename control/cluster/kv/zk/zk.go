// SPDX-License-Identifier: Apache-2.0

// Package zk is the client of a ZooKeeper as the store of a cluster.
//
// A key a/b/c is the node /a/b/=c; directories have no data, and leaves have no children. The
// data of a leaf begin with a byte that makes them longer than nothing: a leaf without data is a
// key that was deleted. It stays for an hour, because ZooKeeper compares versions, which begin
// at 0 again when a node is created again.
package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// Config says how to reach a ZooKeeper.
type Config struct {
	Servers        []string      // host:port of the members; required
	TLS            *tls.Config   // nil: without TLS
	User, Password string        // of the digest scheme; empty: without
	Session        time.Duration // timeout of the session; default 10 s
}

// backend implements kv.Backend.
type backend struct {
	cfg     Config
	session *session
	acl     []zk.ACL

	mu      sync.Mutex
	streams map[*stream]bool
	unused  map[string]unused // nodes to delete some day, by path
}

// unused is when this client first saw that a node is not used.
type unused struct {
	version int64
	since   time.Time
}

// Limits of this client.
const (
	parallel = 16        // reads at once
	attempts = 20        // of a commit that others get ahead of
	keep     = time.Hour // what is unused
)

// New returns a backend. It connects when it is used.
func New(cfg Config) kv.Backend {
	if cfg.Session == 0 {
		cfg.Session = 10 * time.Second
	}
	b := &backend{cfg: cfg, streams: map[*stream]bool{}, unused: map[string]unused{}, acl: zk.WorldACL(zk.PermAll)}
	if cfg.User != "" {
		b.acl = zk.AuthACL(zk.PermAll)
	}
	b.session = &session{cfg: cfg, timeout: cfg.Session, changed: b.nodeChanged}
	return b
}

func (b *backend) Close() error {
	b.session.close()
	return nil
}

// nodePath returns the node of a key, and directory the node of a prefix.
func nodePath(key string) string {
	dir, leaf := "", key
	if i := strings.LastIndexByte(key, '/'); i >= 0 {
		dir, leaf = "/"+key[:i], key[i+1:]
	}
	return dir + "/=" + leaf
}

func directory(prefix string) string { return "/" + strings.TrimSuffix(prefix, "/") }

// parent returns the directory of a node.
func parent(path string) string { return path[:max(1, strings.LastIndexByte(path, '/'))] }

// isLeaf reports whether a node is that of a key.
func isLeaf(path string) bool { return path[strings.LastIndexByte(path, '/')+1] == '=' }

// keyOf returns the key of a leaf.
func keyOf(path string) string {
	i := strings.LastIndexByte(path, '/')
	return strings.TrimPrefix(path[:i+1]+path[i+2:], "/")
}

// encode and decode add and remove the byte by which a value differs from a deleted key.
func encode(value []byte) []byte { return append([]byte{1}, value...) }

func decode(path string, data []byte, stat *zk.Stat) (kv.Entry, bool) {
	if len(data) == 0 {
		return kv.Entry{}, false
	}
	return kv.Entry{Key: keyOf(path), Value: data[1:], Rev: revOf(stat)}, true
}

// revOf returns the revision of a leaf. Its version alone would come back when it is created again.
func revOf(stat *zk.Stat) kv.Rev {
	return kv.Rev{Created: uint64(stat.Czxid), Modified: uint64(uint32(stat.Version))}
}

// Ping implements kv.Backend.
func (b *backend) Ping(ctx context.Context) error {
	conn, err := b.session.conn(ctx)
	if err != nil {
		return err
	}
	_, err = await(ctx, func() (string, error) { return conn.Sync("/") })
	return err
}

// current returns a connection whose reads see what was committed before.
func (b *backend) current(ctx context.Context) (*zk.Conn, error) {
	conn, err := b.session.conn(ctx)
	if err != nil {
		return nil, err
	}
	_, err = await(ctx, func() (string, error) { return conn.Sync("/") })
	return conn, err
}

// Get implements kv.Backend.
func (b *backend) Get(ctx context.Context, key string) (kv.Entry, error) {
	conn, err := b.current(ctx)
	if err != nil {
		return kv.Entry{}, err
	}
	path := nodePath(key)
	n, err := await(ctx, func() (n node, err error) {
		n.data, n.stat, err = conn.Get(path)
		return n, err
	})
	switch {
	case errors.Is(err, zk.ErrNoNode):
		return kv.Entry{}, kv.ErrNotFound
	case err != nil:
		return kv.Entry{}, err
	}
	if e, ok := decode(path, n.data, n.stat); ok {
		return e, nil
	}
	return kv.Entry{}, kv.ErrNotFound
}

// node is what was read of a node.
type node struct {
	data     []byte
	children []string
	stat     *zk.Stat // nil: it does not exist
}

// List implements kv.Backend.
func (b *backend) List(ctx context.Context, prefix string) ([]kv.Entry, error) {
	conn, err := b.current(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var list []kv.Entry
	level := []string{directory(prefix)}
	for len(level) > 0 {
		var next []string
		err := each(ctx, level, func(ctx context.Context, path string) error {
			n, err := await(ctx, func() (node, error) { return read(conn, path) })
			if err != nil || n.stat == nil {
				return err
			}
			b.note(conn, path, n)
			mu.Lock()
			defer mu.Unlock()
			next = append(next, n.children...)
			if e, ok := decode(path, n.data, n.stat); ok && isLeaf(path) {
				list = append(list, e)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		level = next
	}
	sortEntries(list)
	return list, nil
}

func sortEntries(list []kv.Entry) {
	slices.SortFunc(list, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) })
}

// read reads a leaf or a directory, whose children it returns as paths.
func read(conn *zk.Conn, path string) (n node, err error) {
	if isLeaf(path) {
		n.data, n.stat, err = conn.Get(path)
	} else {
		n.children, n.stat, err = conn.Children(path)
	}
	return joined(path, n, err)
}

// joined makes paths of the names of children, and no error of a node that does not exist.
func joined(path string, n node, err error) (node, error) {
	if errors.Is(err, zk.ErrNoNode) {
		return node{}, nil
	}
	for i, name := range n.children {
		n.children[i] = path + "/" + name
	}
	return n, err
}

// each calls f for all paths, several at once.
func each(ctx context.Context, paths []string, f func(context.Context, string) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, path := range paths {
		g.Go(func() error { return f(ctx, path) })
	}
	return g.Wait()
}

// await calls f, and returns early if ctx ends: a call of the library ends with the connection at
// the latest.
func await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// note deletes a node that this client has seen unused for an hour: a deleted key, or a directory
// without children.
func (b *backend) note(conn *zk.Conn, path string, n node) {
	idle := isLeaf(path) && len(n.data) == 0 || !isLeaf(path) && len(n.children) == 0
	version := n.stat.Mzxid + n.stat.Pzxid
	b.mu.Lock()
	was, known := b.unused[path]
	switch {
	case !idle:
		delete(b.unused, path)
	case !known || was.version != version:
		b.unused[path] = unused{version, time.Now()}
		known = false
	}
	b.mu.Unlock()
	if idle && known && time.Since(was.since) > keep {
		// Its version, or its new children, protect it if it is used again meanwhile.
		_ = conn.Delete(path, n.stat.Version)
	}
}
