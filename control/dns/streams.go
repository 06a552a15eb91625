// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// maxStreams is the maximum number of concurrent TCP connections at an address, which may be idle
// for 8 s.
const maxStreams = 128

// streams is a listener that shares a limited number of connections among its clients: when there is
// no room for another, the client that has the most loses its oldest. So no client keeps others away.
type streams struct {
	net.Listener
	// client returns what a connection counts for, given the address of its peer.
	client func(netip.Addr) netip.Addr

	mu    sync.Mutex
	open  map[netip.Addr][]*stream // of a client, the oldest first
	total int
}

// stream is a connection that streams has accepted.
type stream struct {
	net.Conn
	from   *streams
	client netip.Addr
}

func newStreams(l net.Listener, client func(netip.Addr) netip.Addr) *streams {
	return &streams{Listener: l, client: client, open: map[netip.Addr][]*stream{}}
}

// Accept implements [net.Listener].
func (s *streams) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	peer, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("a DNS client with an address of type %T", conn.RemoteAddr())
	}
	c := &stream{Conn: conn, from: s, client: s.client(peer.AddrPort().Addr().Unmap().WithZone(""))}
	if evicted := s.add(c); evicted != nil {
		_ = evicted.Close() // its client connects again if it still has queries
	}
	return c, nil
}

// add counts a connection, and returns the connection to close in order to make room for it, if any.
func (s *streams) add(c *stream) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c.client] = append(s.open[c.client], c)
	if s.total++; s.total <= maxStreams {
		return nil
	}
	var most []*stream
	for _, list := range s.open {
		if len(list) > len(most) {
			most = list
		}
	}
	s.remove(most[0])
	return most[0]
}

// remove uncounts a connection, unless that was done before.
func (s *streams) remove(c *stream) {
	list := s.open[c.client]
	i := slices.Index(list, c)
	if i < 0 {
		return
	}
	s.total--
	if s.open[c.client] = slices.Delete(list, i, i+1); len(list) == 1 {
		delete(s.open, c.client)
	}
}

// Close implements [net.Conn].
func (c *stream) Close() error {
	c.from.mu.Lock()
	c.from.remove(c)
	c.from.mu.Unlock()
	return c.Conn.Close()
}

// end closes the connections that are open.
func (s *streams) end() {
	s.mu.Lock()
	var all []*stream
	for _, list := range s.open {
		all = append(all, list...)
	}
	s.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // the listener is discarded
	}
}
