// SPDX-License-Identifier: Apache-2.0

// Package dns resolves names of sandboxes for the members of their networks, and forwards all
// other queries to the host's resolvers. It does not touch the kernel: it serves at addresses of
// a [desired.Snapshot].
package dns

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// ttl is the TTL of answers in seconds. It is short, since a sandbox that is created again has
// another address; Docker's 600 would outlast that.
const ttl = 5

// Results of queries, as counted.
const (
	Local     = "local"     // answered from the names of sandboxes
	Forwarded = "forwarded" // answered by one of the host's resolvers
	Failed    = "failed"    // no resolver answered
	Refused   = "refused"   // too many concurrent queries, or an invalid one
)

// Results returns all results.
func Results() []string { return []string{Local, Forwarded, Failed, Refused} }

// resolver answers queries.
type resolver struct {
	snapshot func() *desired.Snapshot
	upstream *upstream
	mu       sync.Mutex
	last     *names
}

// names returns the names of the current snapshot.
func (r *resolver) names() *names {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.snapshot(); r.last.snapshot != now {
		r.last = r.last.update(now)
	}
	return r.last
}

// answer answers a query from an address, at a place where this is served, or returns nil for no answer. Members
// resolve names of their networks and external ones. The host resolves only the network's names:
// queries that its own resolvers sent here must not be forwarded to them again. Other clients are
// refused.
func (r *resolver) answer(ctx context.Context, to clients, from netip.Addr, udp bool, q *dns.Msg) (a *dns.Msg, result string) {
	switch {
	case q.Response || len(q.Question) == 0:
		return nil, Refused
	case q.Opcode != dns.OpcodeQuery:
		return reply(q, dns.RcodeNotImplemented), Refused
	}
	n := r.names()
	c := n.client(to, from)
	var networks []string
	if c != nil {
		networks = c.networks
	} else if n.host(to.network, from) {
		networks = []string{to.network}
	}
	if a := fromNames(n, c, networks, q); a != nil {
		if udp {
			a.Truncate(room(q))
		}
		return a, Local
	}
	switch {
	case c == nil:
		return reply(q, dns.RcodeRefused), Refused
	case len(c.Lookup.Servers) > 0:
		return r.upstream.forward(ctx, c.ID, udp, q, source{netns: c.NetNS, servers: n.servers(c)})
	case n.gated(c):
		return reply(q, dns.RcodeRefused), Refused // the host would query outside of the network's gateway
	case !n.external(networks):
		return reply(q, dns.RcodeNameError), Local // internal networks have no other names
	}
	if leased := c.leased(); to.sandbox != "" && len(leased) > 0 { // with a gateway on this host, the host's servers are preferred
		return r.upstream.forward(ctx, c.ID, udp, q, source{netns: c.NetNS, servers: leased})
	}
	return r.upstream.forward(ctx, c.ID, udp, q, source{})
}

// room returns the maximum size of a UDP answer in bytes (RFC 1035 section 4.2.1, RFC 6891
// section 6.2.3).
func room(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return max(dns.MinMsgSize, int(opt.UDPSize()))
	}
	return dns.MinMsgSize
}

func reply(q *dns.Msg, rcode int) *dns.Msg {
	a := new(dns.Msg).SetRcode(q, rcode)
	a.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		a.SetEdns0(opt.UDPSize(), false)
	}
	return a
}

// fromNames answers from the names of sandboxes. It returns nil if they do not contain the name. The client is nil if
// the host queries.
func fromNames(n *names, c *client, networks []string, q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	if question.Qclass != dns.ClassINET {
		return nil
	}
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: ttl}
	if addr, ok := reversed(question.Name); ok && question.Qtype == dns.TypePTR {
		name := n.nameOf(networks, addr)
		if name == "" {
			return nil
		}
		a := reply(q, dns.RcodeSuccess)
		a.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: dns.Fqdn(name)}}
		return a
	}
	if a := fromPorts(n, c, networks, q); a != nil {
		return a
	}
	found := lookUp(n, c, networks, strings.ToLower(strings.TrimSuffix(question.Name, ".")))
	if found == nil {
		return nil
	}
	a := reply(q, dns.RcodeSuccess) // without answers if there are none of that type
	family := model.V6
	if question.Qtype == dns.TypeA {
		family = model.V4
	}
	for _, ep := range found {
		switch addr := ep.Addr(family); {
		case !addr.IsValid():
		case question.Qtype == dns.TypeA:
			a.Answer = append(a.Answer, &dns.A{Hdr: header, A: addr.AsSlice()})
		case question.Qtype == dns.TypeAAAA:
			a.Answer = append(a.Answer, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
		}
	}
	rand.Shuffle(len(a.Answer), func(i, j int) { a.Answer[i], a.Answer[j] = a.Answer[j], a.Answer[i] })
	return a
}

// lookUp returns what has a name, by a link of the client or in one of the networks.
func lookUp(n *names, c *client, networks []string, name string) (found []addressed) {
	if c != nil {
		found = n.linked(c, name)
	}
	if found == nil {
		found = n.find(networks, name)
	}
	return found
}

// reversed returns the address of a PTR query (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reversed(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	var text string
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		text = joined(labels, 1, ".")
	} else if labels, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		text = joined(labels, 4, ":")
	}
	addr, err := netip.ParseAddr(text)
	return addr, err == nil
}

// joined reverses labels, with a separator after every so many.
func joined(labels string, every int, separator string) string {
	list := strings.Split(labels, ".")
	var b strings.Builder
	for i := len(list) - 1; i >= 0; i-- {
		b.WriteString(list[i])
		if done := len(list) - i; i > 0 && done%every == 0 {
			b.WriteString(separator)
		}
	}
	return b.String()
}
