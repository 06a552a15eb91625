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
	maxPerClient   = 128                    // of one client
)

// upstream is the host's resolvers, as currently listed in a file.
type upstream struct {
	file string
	// own reports whether an address is one of the server's own, which would make a loop.
	own  func(address string) bool
	port string // of the resolvers; 53 except in tests

	mu      sync.Mutex
	seen    os.FileInfo // of the file when it was read
	servers []string
	failed  map[string]time.Time
	queries int
	by      map[netip.Addr]int // of them, by client
}

func newUpstream(file string, own func(string) bool) *upstream {
	return &upstream{file: file, own: own, port: strconv.Itoa(model.PortDNS), failed: map[string]time.Time{}, by: map[netip.Addr]int{}}
}

// enter counts a query, or returns false if there are too many.
func (u *upstream) enter(from netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.queries >= maxQueries || u.by[from] >= maxPerClient {
		return false
	}
	u.queries++
	u.by[from]++
	return true
}

func (u *upstream) leave(from netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.queries--
	if u.by[from]--; u.by[from] == 0 {
		delete(u.by, from)
	}
}

// list returns the resolvers in the order in which to query them.
func (u *upstream) list() ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
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
	var list []string
	for _, server := range u.servers {
		if !u.own(server) && len(list) < maxServers {
			list = append(list, net.JoinHostPort(server, u.port))
		}
	}
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(u.recentlyFailed(a), u.recentlyFailed(b)) })
	return list, nil
}

// recentlyFailed returns 1 for a server that failed recently, else 0.
func (u *upstream) recentlyFailed(server string) int {
	if at, ok := u.failed[server]; ok && time.Since(at) < failurePenalty {
		return 1
	}
	return 0
}

// note records whether a server answered. A refusal counts as an answer, since it may be due to
// one sandbox's query.
func (u *upstream) note(server string, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if ok {
		delete(u.failed, server)
	} else {
		u.failed[server] = time.Now()
	}
}

// forward forwards a query, over the protocol that it came by, and returns the answer.
func (u *upstream) forward(ctx context.Context, from netip.Addr, udp bool, q *dns.Msg) (*dns.Msg, string) {
	if !u.enter(from) {
		return reply(q, dns.RcodeRefused), Refused
	}
	defer u.leave(from)
	servers, err := u.list()
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
	server string
	answer *dns.Msg
}

// first queries the servers in order, the next one when one failed or is slow, and returns the
// first conclusive answer, else the last answer, or nil if there is none.
func (u *upstream) first(ctx context.Context, udp bool, q *dns.Msg, servers []string) (last *dns.Msg) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	reactions := make(chan reaction, len(servers))
	next := time.NewTimer(0)
	defer next.Stop()
	pending := "" // the last server queried, until it reacts
	for waiting := 0; ; {
		select {
		case <-next.C:
			if pending != "" {
				u.note(pending, false) // until it reacts
			}
			if len(servers) > 0 {
				pending = servers[0]
				servers = servers[1:]
				waiting++
				go func(server string) { reactions <- reaction{server, exchange(ctx, udp, q, server)} }(pending)
				next.Reset(hedgeDelay)
			}
			continue
		case got := <-reactions:
			waiting--
			if got.server == pending {
				pending = ""
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
func exchange(ctx context.Context, udp bool, q *dns.Msg, server string) *dns.Msg {
	client := dns.Client{Net: "tcp", Timeout: queryTimeout, UDPSize: dns.MaxMsgSize}
	if udp {
		client.Net = "udp"
	}
	query := q.Copy()
	query.Id = dns.Id()
	a, _, err := client.ExchangeContext(ctx, query, server)
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
