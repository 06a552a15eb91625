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
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How the host's resolvers are asked. A stub resolver gives up after 5 s.
const (
	maxServers = 3                      // of those in resolv.conf, as libc does
	patience   = 4 * time.Second        // in all
	stagger    = 700 * time.Millisecond // until the next one is asked too
	grudge     = 30 * time.Second       // for which one that failed is asked last
	maxAsking  = 1024                   // questions at once
	maxOfOne   = 128                    // of them by one who asks
)

// upstream are the host's resolvers, as a file names them now.
type upstream struct {
	file string
	// own reports whether an address is one where names are served: to ask there would
	// go round in a circle.
	own  func(address string) bool
	port string // of the servers; 53 but in tests

	mu      sync.Mutex
	seen    os.FileInfo // the file when it was read
	servers []string
	failed  map[string]time.Time
	asking  int
	by      map[netip.Addr]int // of them
}

func newUpstream(file string, own func(string) bool) *upstream {
	return &upstream{file: file, own: own, port: "53", failed: map[string]time.Time{}, by: map[netip.Addr]int{}}
}

// enter counts a question that is asked; false: there are too many.
func (u *upstream) enter(from netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.asking >= maxAsking || u.by[from] >= maxOfOne {
		return false
	}
	u.asking++
	u.by[from]++
	return true
}

func (u *upstream) leave(from netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asking--
	if u.by[from]--; u.by[from] == 0 {
		delete(u.by, from)
	}
}

// list is whom to ask, in this order.
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
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(u.bad(a), u.bad(b)) })
	return list, nil
}

// bad is 1 for a server that failed lately.
func (u *upstream) bad(server string) int {
	if at, ok := u.failed[server]; ok && time.Since(at) < grudge {
		return 1
	}
	return 0
}

// remember notes whether a server answered, be it with a refusal: that may be of what
// one sandbox asked.
func (u *upstream) remember(server string, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if ok {
		delete(u.failed, server)
	} else {
		u.failed[server] = time.Now()
	}
}

// ask passes a question on, by the protocol it came with, and returns the answer.
func (u *upstream) ask(ctx context.Context, from netip.Addr, udp bool, q *dns.Msg) (*dns.Msg, string) {
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

// reaction is what came of asking a server; no answer: it failed.
type reaction struct {
	server string
	answer *dns.Msg
}

// first asks one server after the other, the next when one failed or takes long, and
// returns the first answer that says something; else the last; nil if there is none.
func (u *upstream) first(ctx context.Context, udp bool, q *dns.Msg, servers []string) (last *dns.Msg) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reactions := make(chan reaction, len(servers))
	next := time.NewTimer(0)
	defer next.Stop()
	asked := "" // lately, and has not reacted
	for waiting := 0; ; {
		select {
		case <-next.C:
			if asked != "" {
				u.remember(asked, false) // until it reacts
			}
			if len(servers) > 0 {
				asked = servers[0]
				servers = servers[1:]
				waiting++
				go func(server string) { reactions <- reaction{server, exchange(ctx, udp, q, server)} }(asked)
				next.Reset(stagger)
			}
			continue
		case got := <-reactions:
			waiting--
			if got.server == asked {
				asked = ""
			}
			if got.answer != nil {
				last = got.answer
			}
			good := got.answer != nil && got.answer.Rcode != dns.RcodeServerFailure && got.answer.Rcode != dns.RcodeRefused
			if ctx.Err() == nil {
				u.remember(got.server, got.answer != nil)
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

// exchange asks one server; nil: it failed.
func exchange(ctx context.Context, udp bool, q *dns.Msg, server string) *dns.Msg {
	client := dns.Client{Net: "tcp", Timeout: patience, UDPSize: dns.MaxMsgSize}
	if udp {
		client.Net = "udp"
	}
	ask := q.Copy()
	ask.Id = dns.Id()
	a, _, err := client.ExchangeContext(ctx, ask, server)
	if err != nil || len(a.Question) != 1 || !same(a.Question[0], ask.Question[0]) {
		return nil
	}
	return a
}

// same compares questions; upper and lower case are the same (RFC 4343).
func same(a, b dns.Question) bool {
	return strings.EqualFold(a.Name, b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
}

// errClosed is no news when a server of ours ends.
func errClosed(err error) bool { return err == nil || errors.Is(err, net.ErrClosed) }
