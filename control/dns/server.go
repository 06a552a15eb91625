// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// retry is the interval between attempts to serve at addresses whose port another program uses.
const retry = 5 * time.Second

// Config configures a Server.
type Config struct {
	// ResolvConf is the file that lists the host's resolvers. The default is /etc/resolv.conf.
	ResolvConf string
	// DialIn connects from a network namespace, for the servers that users chose for a sandbox.
	DialIn func(ctx context.Context, netns, network, address string) (net.Conn, error)
	// Sockets stores the server's sockets for the next daemon. The default stores nothing.
	Sockets Sockets
	Log     *slog.Logger // required
}

// Remote is the names of members of networks on other nodes.
type Remote interface {
	// Named returns the members that have a name, in lower case.
	Named(network, name string) []model.Member
	// At returns the name of the sandbox that has an address, or "".
	At(network string, a netip.Addr) string
}

// Server serves the names of networks at their gateway addresses.
type Server struct {
	cfg      Config
	resolver resolver
	desired  atomic.Pointer[desired.Snapshot]
	counts   map[string]*atomic.Uint64 // by result

	mu     sync.Mutex
	at     map[netip.AddrPort]*listener
	failed map[netip.AddrPort]bool // logged as used by another program
	ended  bool
}

// New returns a server that serves nothing until the first Update.
func New(cfg Config) *Server {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Sockets == nil {
		cfg.Sockets = noSockets{}
	}
	s := &Server{cfg: cfg, counts: map[string]*atomic.Uint64{}, at: map[netip.AddrPort]*listener{}, failed: map[netip.AddrPort]bool{}}
	for _, r := range Results() {
		s.counts[r] = new(atomic.Uint64)
	}
	s.desired.Store(&desired.Snapshot{})
	s.resolver.last = noNames()
	s.resolver.snapshot, s.resolver.upstream = s.desired.Load, newUpstream(cfg.ResolvConf, s.serves)
	s.resolver.upstream.dialIn = cfg.DialIn
	return s
}

// SetRemote adds the names of other nodes.
func (s *Server) SetRemote(r Remote) {
	s.resolver.mu.Lock()
	defer s.resolver.mu.Unlock()
	s.resolver.last = s.resolver.last.with(r)
}

// Update makes the server serve a snapshot whose addresses the host already has. When it returns,
// queries to those addresses are answered. An address whose port another program uses is not an
// error: Run retries it.
func (s *Server) Update(snapshot *desired.Snapshot) {
	s.desired.Store(snapshot)
	s.sync()
}

// Run retries failed addresses until ctx ends, and then stops the server.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.stop()
			return nil
		case <-tick.C:
			s.sync()
		}
	}
}

// stop ends the server. Stored sockets stay.
func (s *Server) stop() {
	s.mu.Lock()
	s.ended = true
	at := s.at // which does not change any more
	s.mu.Unlock()
	var all sync.WaitGroup
	for at, l := range at {
		all.Go(func() { s.end(at, l) })
	}
	all.Wait()
}

// Counts returns the number of queries so far, by result.
func (s *Server) Counts() map[string]uint64 {
	counts := map[string]uint64{}
	for r, n := range s.counts {
		counts[r] = n.Load()
	}
	return counts
}

// Unserved returns the addresses and ports that another program uses.
func (s *Server) Unserved() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.failed))
}

// serves reports whether the host's resolver at an address, on port 53, is the server itself.
func (s *Server) serves(address string) bool {
	addr, err := netip.ParseAddr(address)
	at := netip.AddrPortFrom(addr.Unmap(), model.PortDNS)
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && (s.at[at] != nil || s.failed[at])
}

// places returns where a network's names are served: at the gateways, on port 53 if the network has
// that option, and for queries that the datapath redirects.
func places(n *model.Network) (list []netip.AddrPort) {
	for _, gateway := range n.Resolvers() {
		if n.DNS {
			list = append(list, netip.AddrPortFrom(gateway, model.PortDNS))
		}
		if n.Resolves() {
			list = append(list, netip.AddrPortFrom(gateway, model.PortResolver))
		}
	}
	return list
}

// Places returns the addresses and ports at which the names of a snapshot's networks are served.
func Places(s *desired.Snapshot) (list []netip.AddrPort) {
	for n := range s.Networks() {
		list = append(list, places(n)...)
	}
	return list
}

// sync starts and stops listeners to match the desired snapshot.
func (s *Server) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	wanted := map[netip.AddrPort]string{} // network by place
	for n := range s.desired.Load().Networks() {
		for _, at := range places(n) {
			wanted[at] = n.ID
		}
	}
	for at, l := range s.at {
		if wanted[at] != l.network {
			s.closeAt(at)
		}
	}
	for at := range s.failed {
		if _, ok := wanted[at]; !ok {
			delete(s.failed, at)
		}
	}
	for at, network := range wanted {
		if s.at[at] == nil {
			s.open(at, network)
		}
	}
	s.keep()
}

// open serves a network at an address and port, and logs the first failure.
func (s *Server) open(at netip.AddrPort, network string) {
	l, err := s.listen(at, network)
	switch {
	case err == nil:
		s.at[at] = l
		if s.failed[at] {
			s.cfg.Log.Info("DNS is served again", "address", at)
			delete(s.failed, at)
		}
	case !s.failed[at]:
		s.forget(at)
		s.failed[at] = true
		s.cfg.Log.Warn("DNS is not served until another program releases the port", "address", at, "err", err)
	}
}

func (s *Server) closeAt(at netip.AddrPort) {
	s.forget(at)
	s.at[at].close()
	delete(s.at, at)
}

// listener serves a network at one address.
type listener struct {
	network string
	servers []*dns.Server
	sockets map[string]syscall.Conn // by network
	stop    context.CancelFunc
}

func (s *Server) listen(place netip.AddrPort, network string) (*listener, error) {
	ctx, stop := context.WithCancel(context.Background())
	l := &listener{network: network, stop: stop}
	at := place.String()
	lc := net.ListenConfig{Control: control}
	packets, err := s.listenPacket(ctx, lc, place)
	if err != nil {
		stop()
		return nil, fmt.Errorf("serve DNS: %w", err)
	}
	tcp, err := s.listenStream(ctx, lc, place)
	if err != nil {
		stop()
		return nil, errors.Join(fmt.Errorf("serve DNS: %w", err), packets.Close())
	}
	l.sockets = map[string]syscall.Conn{"udp": packets.(*net.UDPConn), "tcp": tcp.(*net.TCPListener)}
	handler := func(udp bool) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.handle(ctx, w, network, udp, q) })
	}
	l.servers = []*dns.Server{{PacketConn: packets, Handler: handler(true), UDPSize: dns.MaxMsgSize}, {Listener: newStreams(tcp, func(from netip.Addr) netip.Addr { return s.resolver.names().account(network, from) }), Handler: handler(false)}}
	for _, server := range l.servers {
		go func() {
			if err := server.ActivateAndServe(); !errClosed(err) {
				s.cfg.Log.Warn("DNS is no longer served", "address", at, "err", err)
			}
		}()
	}
	return l, nil
}

// control sets the options with which a new daemon can listen before the previous one has
// stopped, and at an address whose device is not up yet.
func control(network, _ string, c syscall.RawConn) error {
	var err error
	set := func(fd uintptr) {
		level, freebind := unix.SOL_IP, unix.IP_FREEBIND
		if network == "udp6" || network == "tcp6" {
			level, freebind = unix.SOL_IPV6, unix.IPV6_FREEBIND
		}
		err = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
			unix.SetsockoptInt(int(fd), level, freebind, 1),
		)
	}
	return errors.Join(c.Control(set), err)
}

// close stops the listener. Pending queries are not answered.
func (l *listener) close() {
	l.stop()
	for _, server := range l.servers {
		if server.PacketConn != nil {
			_ = server.PacketConn.Close() // the listener is discarded anyway
		} else {
			_ = server.Listener.Close()
		}
	}
}

// handle answers one query.
func (s *Server) handle(ctx context.Context, w dns.ResponseWriter, network string, udp bool, q *dns.Msg) {
	from := w.RemoteAddr().(interface{ AddrPort() netip.AddrPort }) // of UDP or TCP
	a, result := s.resolver.answer(ctx, network, from.AddrPort().Addr().Unmap().WithZone(""), udp, q)
	s.counts[result].Add(1)
	if a != nil {
		_ = w.WriteMsg(a) // the client retries
	}
}
