// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
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

// place is where names are served.
type place struct {
	sandbox string // in whose namespace; "": the host's
	at      netip.AddrPort
}

// Server serves the names of networks at their gateway addresses, and in sandboxes that reach none.
type Server struct {
	cfg      Config
	resolver resolver
	desired  atomic.Pointer[desired.Snapshot]
	counts   map[string]*atomic.Uint64 // by result

	mu     sync.Mutex
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
	s := &Server{cfg: cfg, counts: map[string]*atomic.Uint64{}, at: map[place]*listener{}, failed: map[place]bool{}}
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

// gateways returns where a network's names are served on the host: at the gateways, on port 53 if the network has
// that option, and for queries that the datapath redirects.
func gateways(n *model.Network) (list []netip.AddrPort) {
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
		list = append(list, gateways(n)...)
	}
	return list
}

// wanted returns where names are to be served in a snapshot, and to whom.
func wanted(s *desired.Snapshot) map[place]clients {
	all := map[place]clients{}
	for n := range s.Networks() {
		for _, at := range gateways(n) {
			all[place{at: at}] = clients{network: n.ID}
		}
		if !n.ResolvesInside() {
			continue
		}
		for ep := range s.Members(n.ID) {
			sb := s.Sandbox(ep.SandboxID)
			if sb != nil && sb.NetNS != "" && !sb.Exited && resolvesInside(s, sb.ID) {
				all[place{sb.ID, inside}] = clients{sandbox: sb.ID, netns: sb.NetNS}
			}
		}
	}
	return all
}

// inside is where the name server of a sandbox listens in the sandbox. Port 53 is left to programs there, which may
// serve names at all addresses.
var inside = netip.AddrPortFrom(model.ResolverAddr, model.PortResolver)

func resolvesInside(s *desired.Snapshot, sandbox string) bool {
	var in []*model.Network
	for ep := range s.EndpointsOf(sandbox) {
		if n := s.Network(ep.NetworkID); n != nil {
			in = append(in, n)
		}
	}
	return model.InsideResolver(in)
}

// sync starts and stops listeners to match the desired snapshot.
func (s *Server) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	all := wanted(s.desired.Load())
	for p, l := range s.at {
		if all[p] != l.clients {
			s.closeAt(p)
		}
	}
	for p := range s.failed {
		if _, ok := all[p]; !ok {
			delete(s.failed, p)
		}
	}
	for p, to := range all {
		if s.at[p] == nil {
			s.open(p, to)
		}
	}
	s.keep()
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

// clients are those that a place serves: the members of a network and the host, or a sandbox in its namespace.
type clients struct{ network, sandbox, netns string }

// listener serves names at one place.
type listener struct {
	clients
	servers []*dns.Server
	sockets map[string]syscall.Conn // by network
	stop    context.CancelFunc
}

func (s *Server) listen(p place, to clients) (*listener, error) {
	packets, tcp, err := s.sockets(p, to)
	if err != nil {
		return nil, fmt.Errorf("serve DNS: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &listener{clients: to, stop: stop}
	l.sockets = map[string]syscall.Conn{"udp": packets.(*net.UDPConn), "tcp": tcp.(*net.TCPListener)}
	handler := func(udp bool) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.handle(ctx, w, to, udp, q) })
	}
	l.servers = []*dns.Server{{PacketConn: packets, Handler: handler(true), UDPSize: dns.MaxMsgSize}, {Listener: newStreams(tcp, func(from netip.Addr) netip.Addr { return s.resolver.names().account(to, from) }), Handler: handler(false)}}
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
func (s *Server) handle(ctx context.Context, w dns.ResponseWriter, to clients, udp bool, q *dns.Msg) {
	from := w.RemoteAddr().(interface{ AddrPort() netip.AddrPort }) // of UDP or TCP
	a, result := s.resolver.answer(ctx, to, from.AddrPort().Addr().Unmap().WithZone(""), udp, q)
	s.counts[result].Add(1)
	if a != nil {
		_ = w.WriteMsg(a) // the client retries
	}
}
