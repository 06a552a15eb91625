// SPDX-License-Identifier: Apache-2.0

package zk

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// errSession means that the session is over in which the nodes were watched.
var errSession = errors.New("the session of the watches has ended")

const walkTimeout = 30 * time.Second // for reading what has changed

// stream implements kv.Stream. A watch of ZooKeeper's is for one node and one change, which it
// does not name: the stream reads a node whenever it may have changed, and watches it again
// with the same request.
type stream struct {
	backend *backend
	root    string // the directory
	ctx     context.Context
	begun   bool // used by Next only
	conn    *zk.Conn

	buffer *kv.Buffer

	mu    sync.Mutex
	dirty map[string]bool // nodes that have changed
	over  bool
	wake  chan struct{} // something is dirty, or over

	// Used by run only.
	watched map[string]bool // nodes
	known   map[string]kv.Rev
}

// Watch implements kv.Backend.
func (b *backend) Watch(ctx context.Context, prefix string) kv.Stream {
	root := directory(prefix)
	return &stream{
		backend: b, root: root, ctx: ctx, buffer: kv.NewBuffer(), dirty: map[string]bool{root: true},
		wake: make(chan struct{}, 1), watched: map[string]bool{}, known: map[string]kv.Rev{},
	}
}

func (s *stream) Next(ctx context.Context) (kv.Update, error) {
	if !s.begun {
		conn, err := s.backend.current(ctx)
		if err != nil {
			return kv.Update{}, err
		}
		s.begun, s.conn = true, conn
		s.backend.register(s)
		go func() { s.buffer.End(s.run()) }()
	}
	return s.buffer.Next(ctx)
}

func (b *backend) register(s *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams[s] = true
}

func (b *backend) unregister(s *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.streams, s)
}

// nodeChanged tells the streams that a node may have changed, or, with "", that watches have ended.
func (b *backend) nodeChanged(conn *zk.Conn, path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams {
		if s.conn == conn {
			s.touch(path)
		}
	}
}

func (s *stream) touch(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case path == "":
		s.over = true
	case path == s.root || strings.HasPrefix(path, s.root+"/"):
		s.dirty[path] = true
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns what is dirty, and whether the watches are over.
func (s *stream) take() (paths []string, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	paths = slices.Collect(maps.Keys(s.dirty))
	clear(s.dirty)
	return paths, s.over
}

// run reads what is dirty until the stream ends.
func (s *stream) run() error {
	defer s.backend.unregister(s)
	for first := true; ; first = false {
		paths, over := s.take()
		if over {
			return errSession
		}
		leaves, err := s.walk(paths)
		if err != nil {
			return err
		}
		if u := s.difference(leaves); first || len(u.Entries)+len(u.Deleted) > 0 {
			u.Reset = first
			s.buffer.Add(u)
		}
		select {
		case <-s.ctx.Done():
			return s.ctx.Err()
		case <-s.wake:
		}
	}
}

// walk reads nodes, and those below them that were not watched before, and watches all of them.
func (s *stream) walk(level []string) (map[string]node, error) {
	ctx, cancel := context.WithTimeout(s.ctx, walkTimeout)
	defer cancel()
	leaves := map[string]node{}
	for len(level) > 0 {
		var mu sync.Mutex
		var next []string
		err := each(ctx, level, func(ctx context.Context, path string) error {
			n, err := await(ctx, func() (node, error) { return s.watch(path) })
			if err != nil {
				return err
			}
			if n.stat != nil {
				s.backend.note(s.conn, path, n)
			}
			mu.Lock()
			defer mu.Unlock()
			if s.watched[path] = true; n.stat == nil && path != s.root {
				delete(s.watched, path) // its directory reports it if it is created again
			}
			if isLeaf(path) {
				leaves[path] = n
			}
			for _, child := range n.children {
				if !s.watched[child] {
					next = append(next, child)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		level = next
	}
	return leaves, nil
}

// watch reads a node, and makes the server report its next change. That of a node that does not
// exist is reported by its directory, or, for the root, by a watch of its creation.
func (s *stream) watch(path string) (n node, err error) {
	for {
		if isLeaf(path) {
			n.data, n.stat, _, err = s.conn.GetW(path)
		} else {
			n.children, n.stat, _, err = s.conn.ChildrenW(path)
		}
		if path != s.root || !errors.Is(err, zk.ErrNoNode) {
			return joined(path, n, err)
		}
		exists, _, _, err := s.conn.ExistsW(path)
		if err != nil || !exists {
			return node{}, err
		}
	}
}

// difference returns what leaves, as they were read, change about what the consumer knows.
func (s *stream) difference(leaves map[string]node) (u kv.Update) {
	for path, n := range leaves {
		key := keyOf(path)
		e, live := kv.Entry{}, false
		if n.stat != nil {
			e, live = decode(path, n.data, n.stat)
		}
		was, had := s.known[key]
		switch {
		case live && (!had || was != e.Rev):
			s.known[key] = e.Rev
			u.Entries = append(u.Entries, e)
		case !live && had:
			delete(s.known, key)
			u.Deleted = append(u.Deleted, key)
		}
	}
	return u
}
