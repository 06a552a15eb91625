// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/miekg/dns"
)

// Limits of queries to the host's resolvers. A stub resolver gives up after 5 s.
const (
	maxServers     = 3                      // of those in resolv.conf, as in libc
	queryTimeout   = 4 * time.Second        // for all servers
	hedgeDelay     = 700 * time.Millisecond // until the next server is queried too
	failurePenalty = 30 * time.Second       // how long a failed server is queried last
	maxQueries     = 1024                   // concurrent queries
	maxPerClient   = 128                    // of one sandbox
)

// upstream is the host's resolvers, as currently listed in a file, and those of sandboxes.
type upstream struct {
	file string
	// own reports whether an address is one of the server's own, which would make a loop.
	own  func(address string) bool
	port string // of the resolvers; 53 except in tests
	// dialIn connects from a network namespace.
	dialIn func(ctx context.Context, netns, network, address string) (net.Conn, error)

	mu      sync.Mutex
	seen    os.FileInfo // of the file when it was read
	servers []string
	failed  map[server]time.Time
	queries int
	by      map[string]int // of them, by the sandbox that they come from
}

func newUpstream(file string, own func(string) bool) *upstream {
	return &upstream{file: file, own: own, port: strconv.Itoa(model.PortDNS), failed: map[server]time.Time{}, by: map[string]int{}}
}

// enter counts a query, or returns false if there are too many.
func (u *upstream) enter(sandbox string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.queries >= maxQueries || u.by[sandbox] >= maxPerClient {
		return false
	}
	u.queries++
	u.by[sandbox]++
	return true
}

func (u *upstream) leave(sandbox string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.queries--
	if u.by[sandbox]--; u.by[sandbox] == 0 {
		delete(u.by, sandbox)
	}
}

// source is where the servers of a query come from.
type source struct {
	netns   string       // from which they are queried; "": from the host, and its own are queried
	servers []netip.Addr // that the user chose for a sandbox
}

// server is a resolver.
type server struct{ netns, address string }

// list returns the resolvers in the order in which to query them.
func (u *upstream) list(from source) (list []server, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if from.netns == "" {
		list, err = u.hosts()
	}
	for _, a := range from.servers[:min(maxServers, len(from.servers))] {
		list = append(list, server{from.netns, net.JoinHostPort(a.String(), u.port)})
	}
	slices.SortStableFunc(list, func(a, b server) int { return cmp.Compare(u.recentlyFailed(a), u.recentlyFailed(b)) })
	return list, err
}

// hosts returns the host's resolvers.
func (u *upstream) hosts() (list []server, err error) {
	now, err := os.Stat(u.file)
	if err != nil {
		return nil, err
	}
	if u.seen == nil || !os.SameFile(u.seen, now) || u.seen.ModTime() != now.ModTime() || u.seen.Size() != now.Size() {
		conf, err := dns.ClientConfigFromFile(u.file)
		if err != nil {
			return nil, err
		}
		u.seen, u.servers = now, conf.Servers
	}
	for _, at := range u.servers {
		if !u.own(at) && len(list) < maxServers {
			list = append(list, server{address: net.JoinHostPort(at, u.port)})
		}
	}
	return list, nil
}

// recentlyFailed returns 1 for a server that failed recently, else 0.
func (u *upstream) recentlyFailed(s server) int {
	if at, ok := u.failed[s]; ok && time.Since(at) < failurePenalty {
		return 1
	}
	return 0
}

// note records whether a server answered. A refusal counts as an answer, since it may be due to
// one sandbox's query.
func (u *upstream) note(s server, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if ok {
		delete(u.failed, s)
	} else {
		u.failed[s] = time.Now()
		u.forget()
	}
}

// forget removes failures that no longer matter: sandboxes come and go with their servers.
func (u *upstream) forget() {
	for s, at := range u.failed {
		if time.Since(at) >= failurePenalty {
			delete(u.failed, s)
		}
	}
}

// forward forwards a sandbox's query, over the protocol that it came by, and returns the answer.
func (u *upstream) forward(ctx context.Context, sandbox string, udp bool, q *dns.Msg, to source) (*dns.Msg, string) {
	if !u.enter(sandbox) {
		return reply(q, dns.RcodeRefused), Refused
	}
	defer u.leave(sandbox)
	servers, err := u.list(to)
	if err != nil || len(servers) == 0 {
		return reply(q, dns.RcodeServerFailure), Failed
	}
	a := u.first(ctx, udp, q, servers)
	if a == nil {
		return reply(q, dns.RcodeServerFailure), Failed
	}
	a.Id = q.Id
	return a, Forwarded
}

// reaction is a server's result. A nil answer means that it failed.
type reaction struct {
	server server
	answer *dns.Msg
}

// first queries the servers in order, the next one when one failed or is slow, and returns the
// first conclusive answer, else the last answer, or nil if there is none.
func (u *upstream) first(ctx context.Context, udp bool, q *dns.Msg, servers []server) (last *dns.Msg) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	reactions := make(chan reaction, len(servers))
	next := time.NewTimer(0)
	defer next.Stop()
	pending := server{} // the last server queried, until it reacts
	for waiting := 0; ; {
		select {
		case <-next.C:
			if pending != (server{}) {
				u.note(pending, false) // until it reacts
			}
			if len(servers) > 0 {
				pending = servers[0]
				servers = servers[1:]
				waiting++
				go func(s server) { reactions <- reaction{s, u.exchange(ctx, udp, q, s)} }(pending)
				next.Reset(hedgeDelay)
			}
			continue
		case got := <-reactions:
			waiting--
			if got.server == pending {
				pending = server{}
			}
			if got.answer != nil {
				last = got.answer
			}
			good := got.answer != nil && got.answer.Rcode != dns.RcodeServerFailure && got.answer.Rcode != dns.RcodeRefused
			if ctx.Err() == nil {
				u.note(got.server, got.answer != nil)
			}
			if good {
				return last
			}
			next.Reset(0)
		case <-ctx.Done():
			return last
		}
		if waiting == 0 && len(servers) == 0 {
			return last
		}
	}
}

// exchange queries one server. It returns nil on failure.
func (u *upstream) exchange(ctx context.Context, udp bool, q *dns.Msg, s server) *dns.Msg {
	client := dns.Client{Net: "tcp", Timeout: queryTimeout, UDPSize: dns.MaxMsgSize}
	if udp {
		client.Net = "udp"
	}
	query := q.Copy()
	query.Id = dns.Id()
	var a *dns.Msg
	var err error
	if s.netns == "" {
		a, _, err = client.ExchangeContext(ctx, query, s.address)
	} else if c, dialErr := u.dialIn(ctx, s.netns, client.Net, s.address); dialErr != nil {
		err = dialErr
	} else {
		a, _, err = client.ExchangeWithConnContext(ctx, query, &dns.Conn{Conn: c, UDPSize: client.UDPSize})
		_ = c.Close() // the answer is complete
	}
	if err != nil || len(a.Question) != 1 || !same(a.Question[0], query.Question[0]) {
		return nil
	}
	return a
}

// same compares questions, ignoring case (RFC 4343).
func same(a, b dns.Question) bool {
	return strings.EqualFold(a.Name, b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
}

// errClosed reports whether err is what a server returns when it is closed.
func errClosed(err error) bool { return err == nil || errors.Is(err, net.ErrClosed) }
