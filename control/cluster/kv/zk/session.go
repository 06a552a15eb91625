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

// errDisconnected means that there is no session in which a request could be made.
var errDisconnected = errors.New("no session with ZooKeeper")

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
	lost   time.Time     // when up ended
	change chan struct{} // closed when up begins
	closed bool
}

// conn returns a connection with a session, and waits for it.
func (s *session) conn(ctx context.Context) (*zk.Conn, error) {
	for {
		conn, up, change, err := s.state()
		if err != nil || up {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", errDisconnected, ctx.Err())
		case <-change:
		}
	}
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
	return s.active, s.up, s.change, nil
}

// connect begins to connect.
func (s *session) connect() error {
	s.up, s.lost, s.change = false, time.Now(), make(chan struct{})
	ready := make(chan *zk.Conn, 1)
	self := sync.OnceValue(func() *zk.Conn { return <-ready }) // the library may call back before Connect returns
	conn, _, err := zk.Connect(s.cfg.Servers, s.timeout, zk.WithLogInfo(false), zk.WithLogger(silent{}), zk.WithDialer(s.dial),
		zk.WithEventCallback(func(e zk.Event) { s.event(self(), e) }))
	if err != nil {
		return fmt.Errorf("connect to ZooKeeper: %w", err)
	}
	ready <- conn
	s.active = conn
	if s.cfg.User != "" {
		go func() { // waits for a session; the library repeats it in later ones
			_ = conn.AddAuth("digest", []byte(s.cfg.User+":"+s.cfg.Password))
		}()
	}
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
	current := conn == s.active
	if current {
		switch up := e.State == zk.StateHasSession; {
		case up && !s.up:
			s.up = true
			close(s.change)
		case !up && s.up:
			s.up, s.lost, s.change = false, time.Now(), make(chan struct{})
		}
	}
	s.mu.Unlock()
	if e.State == zk.StateExpired || e.State == zk.StateAuthFailed {
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
func (s *session) dial(network, address string, timeout time.Duration) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: min(timeout, 2*time.Second), KeepAlive: 10 * time.Second}
	if s.cfg.TLS == nil {
		return dialer.Dial(network, address)
	}
	return tls.DialWithDialer(dialer, network, address, s.cfg.TLS)
}

// silent discards the library's log: a line for each attempt to connect.
type silent struct{}

func (silent) Printf(string, ...any) {}
