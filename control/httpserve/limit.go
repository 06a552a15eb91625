// SPDX-License-Identifier: Apache-2.0

package httpserve

import (
	"net"
	"sync"
)

// limited is a listener that accepts a connection only while fewer than a number of them are open. Unlike that of
// package netutil, it gives access to the connections that it accepted.
type limited struct {
	net.Listener
	open   chan struct{}
	closed chan struct{}
	once   sync.Once
}

// limitedConn is a connection of a limited listener.
type limitedConn struct {
	net.Conn
	l    *limited
	once sync.Once
}

func limit(l net.Listener, most int) *limited {
	return &limited{Listener: l, open: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept implements [net.Listener].
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.open <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.open
		return nil, err
	}
	return &limitedConn{Conn: c, l: l}, nil
}

// Close implements [net.Listener].
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// Close implements [net.Conn].
func (c *limitedConn) Close() error {
	defer c.once.Do(func() { <-c.l.open })
	return c.Conn.Close()
}

// accepted returns the connection as the listener below accepted it.
func accepted(c net.Conn) net.Conn {
	if c, ok := c.(*limitedConn); ok {
		return c.Conn
	}
	return c
}
