// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
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
	// ListenIn listens in a network namespace, for sandboxes that reach no gateway of this host.
	ListenIn func(lc net.ListenConfig, netns string, at netip.AddrPort) (net.PacketConn, net.Listener, error)
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

// Server serves the names of networks at their gateway addresses, and in sandboxes that reach none.
type Server struct {
	cfg      Config
	resolver resolver
	desired  atomic.Pointer[desired.Snapshot]
	counts   map[string]*atomic.Uint64 // by result

	mu     sync.Mutex
	wanted places
	at     map[place]*listener
	failed map[place]bool // and logged
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
	s := &Server{cfg: cfg, counts: map[string]*atomic.Uint64{}, wanted: noPlaces(), at: map[place]*listener{}, failed: map[place]bool{}}
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
// error: Run retries it. The cost is proportional to what changed.
func (s *Server) Update(snapshot *desired.Snapshot) {
	s.desired.Store(snapshot)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.match(s.wanted.update(snapshot))
}

// Run retries failed addresses, and follows sandboxes whose namespace was replaced, until ctx ends, and then stops the server.
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

// Unserved returns the addresses and ports at which names should be served and are not, mostly because another program uses them.
func (s *Server) Unserved() (list []netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.failed {
		list = append(list, p.at)
	}
	return list
}

// serves reports whether the host's resolver at an address, on port 53, is the server itself.
func (s *Server) serves(address string) bool {
	addr, err := netip.ParseAddr(address)
	p := place{at: netip.AddrPortFrom(addr.Unmap(), model.PortDNS)}
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && (s.at[p] != nil || s.failed[p])
}

// sync brings the listeners at all places up to date.
func (s *Server) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[place]bool{}
	for p := range s.wanted.at {
		all[p] = true
	}
	for p := range s.at {
		all[p] = true
	}
	s.match(all)
}

// match starts and stops the listeners at places, as is wanted there.
func (s *Server) match(places map[place]bool) {
	if s.ended {
		return
	}
	for p := range places {
		to, ok := s.wanted.at[p]
		if l := s.at[p]; l != nil && (!ok || l.clients != to || l.moved()) {
			s.closeAt(p)
		}
		if !ok {
			delete(s.failed, p)
		}
	}
	for p := range places {
		if to, ok := s.wanted.at[p]; ok && s.at[p] == nil {
			s.open(p, to)
		}
	}
	s.keep(places)
}

// open serves names at a place, and logs the first failure.
func (s *Server) open(p place, to clients) {
	l, err := s.listen(p, to)
	switch {
	case err == nil:
		s.at[p] = l
		if s.failed[p] {
			s.log(p).Info("DNS is served again")
			delete(s.failed, p)
		}
	case !s.failed[p]:
		s.forget(p)
		s.failed[p] = true
		s.log(p).Warn("DNS is not served yet; retrying", "err", err)
	}
}

// log returns a logger that names a place.
func (s *Server) log(p place) *slog.Logger {
	if sb := s.desired.Load().Sandbox(p.sandbox); sb != nil {
		return s.cfg.Log.With("sandbox", sb.Name, "address", p.at)
	}
	return s.cfg.Log.With("address", p.at)
}

func (s *Server) closeAt(p place) {
	s.forget(p)
	s.at[p].close()
	delete(s.at, p)
}

// listener serves names at one place.
type listener struct {
	clients
	in      fs.FileInfo // the namespace of the sockets; nil: the host's
	servers []*dns.Server
	streams *streams
	sockets map[string]syscall.Conn // by network
	stop    context.CancelFunc
}

func (s *Server) listen(p place, to clients) (*listener, error) {
	in := stat(to.netns) // before it is opened: one that replaces it meanwhile is found to differ
	packets, tcp, err := s.sockets(p, to)
	if err != nil {
		return nil, fmt.Errorf("serve DNS: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &listener{clients: to, in: in, stop: stop}
	l.streams = newStreams(tcp, func(from netip.Addr) netip.Addr { return s.resolver.names().account(to, from) })
	l.sockets = map[string]syscall.Conn{"udp": packets.(*net.UDPConn), "tcp": tcp.(*net.TCPListener)}
	handler := func(udp bool) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.handle(ctx, w, to, udp, q) })
	}
	l.servers = []*dns.Server{{PacketConn: packets, Handler: handler(true), UDPSize: dns.MaxMsgSize}, {Listener: l.streams, Handler: handler(false)}}
	for _, server := range l.servers {
		go func() {
			if err := server.ActivateAndServe(); !errClosed(err) {
				s.log(p).Warn("DNS is no longer served", "err", err)
			}
		}()
	}
	return l, nil
}

// sockets returns the sockets of a place.
func (s *Server) sockets(p place, to clients) (net.PacketConn, net.Listener, error) {
	lc := net.ListenConfig{Control: control}
	if p.sandbox != "" {
		return s.cfg.ListenIn(lc, to.netns, p.at)
	}
	packets, err := s.listenPacket(lc, p.at)
	if err != nil {
		return nil, nil, err
	}
	tcp, err := s.listenStream(lc, p.at)
	if err != nil {
		return nil, nil, errors.Join(err, packets.Close())
	}
	return packets, tcp, nil
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

// moved reports whether the path of the sandbox's namespace does not exist any more, or is that of another one. The listener would keep
// the former namespace, with its devices and addresses.
func (l *listener) moved() bool {
	return l.netns != "" && !sameFile(l.in, stat(l.netns))
}

// stat returns what identifies a file, or nil if there is none.
func stat(path string) fs.FileInfo {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

func sameFile(a, b fs.FileInfo) bool {
	return a == nil && b == nil || a != nil && b != nil && os.SameFile(a, b)
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
	l.streams.end()
}

// handle answers one query.
func (s *Server) handle(ctx context.Context, w dns.ResponseWriter, to clients, udp bool, q *dns.Msg) {
	from := w.RemoteAddr().(interface{ AddrPort() netip.AddrPort }) // of UDP or TCP
	a, result := s.resolver.answer(ctx, to, from.AddrPort().Addr().Unmap().WithZone(""), udp, q)
	s.counts[result].Add(1)
	if a != nil {
		_ = w.WriteMsg(a) // the client retries
	}
}
