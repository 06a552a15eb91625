// SPDX-License-Identifier: Apache-2.0

package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

var (
	// errDisconnected means that there is no session in which a request could be made.
	errDisconnected = errors.New("no session with ZooKeeper")
	errRejected     = errors.New("the server closed the connection instead of beginning a session")
)

// session is a connection that is replaced when its session is over. The library reconnects by
// itself, but insists on a server that has seen at least what it has seen: not so one whose
// data were replaced.
type session struct {
	cfg     Config
	timeout time.Duration
	changed func(conn *zk.Conn, path string) // a watched node has changed; "": watches have ended

	mu     sync.Mutex
	active *zk.Conn
	up     bool
	known  bool          // the server knows the user
	lost   time.Time     // when up ended
	change chan struct{} // closed when up changes, when active is replaced, or when no server is left to try
	failed int           // attempts since up ended
	reason error         // of the last one
	closed bool
}

// conn returns a connection with a session. It waits for one only until every server was tried.
func (s *session) conn(ctx context.Context) (*zk.Conn, error) {
	for {
		conn, up, change, err := s.state()
		if err != nil {
			return nil, err
		}
		if up {
			return conn, s.authenticate(ctx, conn)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", errDisconnected, ctx.Err())
		case <-change:
		}
	}
}

// authenticate sends user and password before the first request of a connection. The library
// repeats that when it connects again.
func (s *session) authenticate(ctx context.Context, conn *zk.Conn) error {
	s.mu.Lock()
	known := s.known || s.cfg.User == ""
	s.mu.Unlock()
	if known {
		return nil
	}
	if _, err := await(ctx, func() (bool, error) { return true, conn.AddAuth("digest", []byte(s.cfg.User+":"+s.cfg.Password)) }); err != nil {
		return fmt.Errorf("authenticate to ZooKeeper: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = s.active == conn
	return nil
}

// state returns the connection, after it replaced one whose session must be over.
func (s *session) state() (conn *zk.Conn, up bool, change chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, nil, kv.ErrClosed
	}
	if s.active != nil && !s.up && time.Since(s.lost) > s.timeout {
		go s.active.Close() // which waits for the server's answer, for a second
		s.active = nil
	}
	if s.active == nil {
		if err := s.connect(); err != nil {
			return nil, false, nil, err
		}
	}
	if !s.up && s.failed >= len(s.cfg.Servers) {
		return nil, false, nil, fmt.Errorf("%w: %w", errDisconnected, s.reason)
	}
	return s.active, s.up, s.change, nil
}

// fail records an attempt to connect. The caller holds the lock.
func (s *session) fail(err error) {
	s.reason = err
	if s.failed++; s.failed == len(s.cfg.Servers) {
		s.notify()
	}
}

// notify has those that wait for a session look again. The caller holds the lock.
func (s *session) notify() {
	if s.change != nil {
		close(s.change)
	}
	s.change = make(chan struct{})
}

// end records that there is no session, and that the next attempts count. The caller holds the lock.
func (s *session) end() {
	s.up, s.failed, s.lost = false, 0, time.Now()
	s.notify()
}

// connect begins to connect.
func (s *session) connect() error {
	s.end()
	s.known = false
	ready := make(chan *zk.Conn, 1)
	self := sync.OnceValue(func() *zk.Conn { return <-ready }) // the library may call back before Connect returns
	conn, _, err := zk.Connect(s.cfg.Servers, s.timeout, zk.WithLogInfo(false), zk.WithLogger(silent{}), zk.WithDialer(s.dial),
		zk.WithEventCallback(func(e zk.Event) { s.event(self(), e) }))
	if err != nil {
		return fmt.Errorf("connect to ZooKeeper: %w", err)
	}
	ready <- conn
	s.active = conn
	return nil
}

// event follows the session's state, and passes on what happened to watched nodes.
func (s *session) event(conn *zk.Conn, e zk.Event) {
	if e.Type != zk.EventSession {
		path := e.Path
		if e.Type == zk.EventNotWatching {
			path = ""
		}
		s.changed(conn, path)
		return
	}
	s.mu.Lock()
	if conn == s.active {
		switch up := e.State == zk.StateHasSession; {
		case up && !s.up:
			s.up = true
			s.notify()
		case !up && s.up:
			s.end()
		case e.State == zk.StateDisconnected:
			s.fail(errRejected)
		}
	}
	s.mu.Unlock()
	// The library sets the watches again when it reconnects, relative to the latest transaction that it knows
	// of. Requests that it sends first move that forward: what changed before is lost without a sign.
	if e.State == zk.StateDisconnected || e.State == zk.StateExpired || e.State == zk.StateAuthFailed {
		s.changed(conn, "")
	}
}

func (s *session) close() {
	s.mu.Lock()
	conn := s.active
	s.active, s.closed = nil, true
	s.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// dial connects to a server.
func (s *session) dial(network, address string, timeout time.Duration) (conn net.Conn, err error) {
	dialer := &net.Dialer{Timeout: min(timeout, 2*time.Second), KeepAlive: 10 * time.Second}
	if s.cfg.TLS == nil {
		conn, err = dialer.Dial(network, address)
	} else {
		conn, err = tls.DialWithDialer(dialer, network, address, s.cfg.TLS)
	}
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.up {
			s.fail(err)
		}
		return nil, err
	}
	return conn, nil
}

// silent discards the library's log: a line for each attempt to connect.
type silent struct{}

func (silent) Printf(string, ...any) {}
