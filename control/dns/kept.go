// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// KeptPrefix begins the names of the sockets that the server stores.
const KeptPrefix = "dns-"

// endTime is how long queries that were read may take when the server ends. Those that were not stay in the sockets,
// if they are stored.
const endTime = 500 * time.Millisecond

// Sockets stores sockets for the next daemon, which takes them.
type Sockets interface {
	// Take returns a stored socket of a network ("udp" or "tcp") at an address, or nil.
	Take(name, network string, at netip.AddrPort) *os.File
	// Put stores a socket, unless it is stored.
	Put(name string, socket syscall.Conn)
	// Remove removes a socket, if it is stored.
	Remove(name string)
	// Settle waits until removed sockets receive nothing any more.
	Settle()
	// Has reports whether a socket is stored.
	Has(name string) bool
}

// noSockets stores nothing.
type noSockets struct{}

func (noSockets) Take(string, string, netip.AddrPort) *os.File { return nil }
func (noSockets) Put(string, syscall.Conn)                     {}
func (noSockets) Remove(string)                                {}
func (noSockets) Settle()                                      {}
func (noSockets) Has(string) bool                              { return false }

// keptName returns the name under which a socket is stored. It contains no colon, which separates names in
// $LISTEN_FDNAMES.
func keptName(network string, at netip.AddrPort) string {
	return KeptPrefix + network + "-" + strings.ReplaceAll(at.Addr().String(), ":", "_") + "-" + strconv.Itoa(int(at.Port()))
}

// listenPacket returns a socket for queries by UDP: that of an earlier daemon, or a new one.
func (s *Server) listenPacket(lc net.ListenConfig, at netip.AddrPort) (net.PacketConn, error) {
	if f := s.cfg.Sockets.Take(keptName("udp", at), "udp", at); f != nil {
		defer f.Close()
		return net.FilePacketConn(f)
	}
	s.cfg.Sockets.Settle()
	return lc.ListenPacket(context.Background(), "udp", at.String())
}

// listenStream does the same for queries by TCP.
func (s *Server) listenStream(lc net.ListenConfig, at netip.AddrPort) (net.Listener, error) {
	if f := s.cfg.Sockets.Take(keptName("tcp", at), "tcp", at); f != nil {
		defer f.Close()
		return net.FileListener(f)
	}
	s.cfg.Sockets.Settle()
	return lc.Listen(context.Background(), "tcp", at.String())
}

// keep stores the sockets of the host at places, unless they are stored: first those for UDP, which resolvers use more, since systemd may
// not keep all. Those in sandboxes are not stored: systemd would keep the sandboxes' namespaces with them.
func (s *Server) keep(places map[place]bool) {
	for _, network := range []string{"udp", "tcp"} {
		for p := range places {
			if l := s.at[p]; l != nil && p.sandbox == "" {
				s.cfg.Sockets.Put(keptName(network, p.at), l.sockets[network])
			}
		}
	}
}

// forget removes the stored sockets of a place.
func (s *Server) forget(p place) {
	if p.sandbox != "" {
		return
	}
	for _, network := range []string{"udp", "tcp"} {
		s.cfg.Sockets.Remove(keptName(network, p.at))
	}
}

// end answers the queries that a listener has read, if the others will be answered too, and closes it.
func (s *Server) end(p place, l *listener) {
	if p.sandbox == "" && s.cfg.Sockets.Has(keptName("udp", p.at)) {
		ctx, cancel := context.WithTimeout(context.Background(), endTime)
		defer cancel()
		for _, server := range l.servers {
			_ = server.ShutdownContext(ctx) // it is closed in any case
		}
	}
	l.close()
}
