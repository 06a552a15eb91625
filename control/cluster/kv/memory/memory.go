// SPDX-License-Identifier: Apache-2.0

// Package memory is a cluster store in this process, with faults that tests ask for. It
// is the reference of what kv.Store promises, and what the tests of the packages above kv use.
package memory

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// Server holds the contents that all its clients share.
type Server struct {
	mu      sync.Mutex
	rev     uint64
	entries map[string]kv.Entry
	leases  map[string]*lease // by key
	streams map[*stream]bool
	stopped bool
}

// lease removes its key when it expires.
type lease struct {
	ttl     time.Duration
	expires time.Time // while the server runs
	timer   *time.Timer
	gone    chan struct{}
}

func (l *lease) renew() {
	l.expires = time.Now().Add(l.ttl)
	l.timer.Reset(l.ttl)
}

// New returns a server that runs, and holds nothing.
func New() *Server {
	return &Server{entries: map[string]kv.Entry{}, leases: map[string]*lease{}, streams: map[*stream]bool{}}
}

// Open returns a store over a new client.
func (s *Server) Open() kv.Store { return kv.New(s.Dial(), kv.Config{Name: "memory://"}) }

// Stop makes the server unreachable for all clients, and ends their streams. Its contents stay.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.breakStreams(func(*stream) bool { return true })
}

// Start ends what Stop began. Leases expire one ttl later, as etcd's do.
func (s *Server) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = false
	for _, l := range s.leases {
		l.renew()
	}
}

// Wipe removes all contents, as if the server's disk had been replaced: watchers get no event.
func (s *Server) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.entries)
	for key := range s.leases {
		s.endLease(key)
	}
	s.breakStreams(func(*stream) bool { return true })
}

// Compact makes watchers that have not read all events list again.
func (s *Server) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakStreams(func(st *stream) bool { return len(st.dirty) > 0 })
}

func (s *Server) breakStreams(which func(*stream) bool) {
	for st := range s.streams {
		if which(st) {
			delete(s.streams, st)
			close(st.broken)
		}
	}
}

func (s *Server) endLease(key string) {
	if l := s.leases[key]; l != nil {
		delete(s.leases, key)
		l.timer.Stop()
		close(l.gone)
	}
}

// expire removes a key if its lease has expired. While the server is stopped none does.
func (s *Server) expire(key string, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[key] == l && !s.stopped && !time.Now().Before(l.expires) {
		s.remove(key)
	}
}

// put and remove change one key, with the lease that it had. As with Consul, the value that is there
// already is not a change.
func (s *Server) put(key string, value []byte) {
	s.endLease(key)
	if old, ok := s.entries[key]; ok && bytes.Equal(old.Value, value) {
		return
	}
	s.rev++
	e := kv.Entry{Key: key, Value: bytes.Clone(value), Rev: kv.Rev{Created: s.rev, Modified: s.rev}}
	if old, ok := s.entries[key]; ok {
		e.Rev.Created = old.Rev.Created
	}
	s.entries[key] = e
	s.notify(key)
}

func (s *Server) remove(key string) {
	s.endLease(key)
	if _, ok := s.entries[key]; ok {
		delete(s.entries, key)
		s.notify(key)
	}
}

func (s *Server) notify(key string) {
	for st := range s.streams {
		if strings.HasPrefix(key, st.prefix) {
			st.dirty[key] = true
			select {
			case st.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (s *Server) list(prefix string) []kv.Entry {
	var list []kv.Entry
	for _, key := range slices.Sorted(maps.Keys(s.entries)) {
		if strings.HasPrefix(key, prefix) {
			list = append(list, clone(s.entries[key]))
		}
	}
	return list
}

func clone(e kv.Entry) kv.Entry {
	e.Value = bytes.Clone(e.Value)
	return e
}

// Conn is a client: a backend of kv.New. Its connection can be cut.
type Conn struct {
	server *Server
	cut    bool // guarded by server.mu, like hung
	hung   bool
}

// Dial returns a new client.
func (s *Server) Dial() *Conn { return &Conn{server: s} }

// Cut makes the server unreachable for this client, or reachable again.
func (c *Conn) Cut(cut bool) { c.fault(func() { c.cut = cut }, cut) }

// Hang makes the server silent for this client: calls wait for their time limits.
func (c *Conn) Hang(hung bool) { c.fault(func() { c.hung = hung }, hung) }

func (c *Conn) fault(set func(), breaks bool) {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	set()
	if breaks {
		c.server.breakStreams(func(st *stream) bool { return st.conn == c })
	}
}

var (
	errRefused = errors.New("connection refused")
	errBroken  = errors.New("the stream is broken")
)

// do executes f under the server's lock, if the client reaches the server.
func (c *Conn) do(ctx context.Context, f func(*Server) error) error {
	s := c.server
	s.mu.Lock()
	if c.hung {
		s.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	defer s.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case c.cut || s.stopped:
		return errRefused
	}
	return f(s)
}

// Get implements kv.Backend.
func (c *Conn) Get(ctx context.Context, key string) (e kv.Entry, err error) {
	err = c.do(ctx, func(s *Server) error {
		found, ok := s.entries[key]
		if !ok {
			return kv.ErrNotFound
		}
		e = clone(found)
		return nil
	})
	return e, err
}

// List implements kv.Backend.
func (c *Conn) List(ctx context.Context, prefix string) (list []kv.Entry, err error) {
	err = c.do(ctx, func(s *Server) error {
		list = s.list(prefix)
		return nil
	})
	return list, err
}

// Commit implements kv.Backend.
func (c *Conn) Commit(ctx context.Context, changes []kv.Change) error {
	return c.do(ctx, func(s *Server) error {
		for _, ch := range changes {
			if ch.Has && s.entries[ch.Key].Rev != ch.Rev {
				return kv.ErrConflict
			}
		}
		for _, ch := range changes {
			switch ch.Kind {
			case kv.ChangePut:
				s.put(ch.Key, ch.Value)
			case kv.ChangeDelete:
				s.remove(ch.Key)
			}
		}
		return nil
	})
}

// Ping implements kv.Backend.
func (c *Conn) Ping(ctx context.Context) error { return c.do(ctx, func(*Server) error { return nil }) }

// Close implements kv.Backend.
func (c *Conn) Close() error {
	c.Cut(true)
	return nil
}

// Hold implements kv.Backend.
func (c *Conn) Hold(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	l := &lease{ttl: ttl, gone: make(chan struct{})}
	err := c.do(ctx, func(s *Server) error {
		s.put(key, value)
		l.timer = time.AfterFunc(ttl, func() { s.expire(key, l) })
		l.renew()
		s.leases[key] = l
		return nil
	})
	for err == nil {
		select {
		case <-ctx.Done():
			return c.release(ctx, key, l)
		case <-l.gone:
			err = errors.New("the lease does not exist any more")
		case <-time.After(ttl / 3):
			_ = c.do(ctx, func(s *Server) error {
				if s.leases[key] == l {
					l.renew()
				}
				return nil
			})
		}
	}
	return err
}

func (c *Conn) release(ctx context.Context, key string, l *lease) error {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.do(limited, func(s *Server) error {
		if s.leases[key] == l {
			s.remove(key)
		}
		return nil
	})
	return ctx.Err()
}

// stream implements kv.Stream. It coalesces: what is dirty is read when it is reported.
type stream struct {
	conn   *Conn
	prefix string
	ctx    context.Context
	begun  bool
	wake   chan struct{}
	broken chan struct{}
	dirty  map[string]bool // guarded by the server's lock
}

// Watch implements kv.Backend.
func (c *Conn) Watch(ctx context.Context, prefix string) kv.Stream {
	return &stream{conn: c, prefix: prefix, ctx: ctx, wake: make(chan struct{}, 1), broken: make(chan struct{}), dirty: map[string]bool{}}
}

func (st *stream) Next(ctx context.Context) (u kv.Update, err error) {
	if !st.begun {
		return st.begin(ctx)
	}
	for {
		select {
		case <-st.broken:
			return kv.Update{}, errBroken
		default:
		}
		err := st.conn.do(ctx, func(s *Server) error {
			for _, key := range slices.Sorted(maps.Keys(st.dirty)) {
				if e, ok := s.entries[key]; ok {
					u.Entries = append(u.Entries, clone(e))
				} else {
					u.Deleted = append(u.Deleted, key)
				}
			}
			clear(st.dirty)
			return nil
		})
		if err != nil || len(u.Entries)+len(u.Deleted) > 0 {
			return u, err
		}
		select {
		case <-st.broken:
		case <-ctx.Done():
			return kv.Update{}, ctx.Err()
		case <-st.wake:
		}
	}
}

// begin lists the prefix and registers the stream in one step.
func (st *stream) begin(ctx context.Context) (u kv.Update, err error) {
	err = st.conn.do(ctx, func(s *Server) error {
		if st.ctx.Err() != nil {
			return st.ctx.Err()
		}
		st.begun = true
		s.streams[st] = true
		context.AfterFunc(st.ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.streams, st)
		})
		u = kv.Update{Reset: true, Entries: s.list(st.prefix)}
		return nil
	})
	return u, err
}
