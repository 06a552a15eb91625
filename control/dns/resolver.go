// SPDX-License-Identifier: Apache-2.0

// Package dns answers the names of sandboxes to the members of their networks, and
// passes every other question on to the host's resolvers. It meets no kernel: what it
// serves at are addresses of a [desired.Snapshot].
package dns

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/control/desired"
)

// ttl is how long an answer may be remembered, in seconds: a sandbox that is made anew
// has another address. Docker says 600, which nobody asks for again in time.
const ttl = 5

// Results of a question, as they are counted.
const (
	Local     = "local"     // answered from the names
	Forwarded = "forwarded" // answered by one of the host's resolvers
	Failed    = "failed"    // none of them answered
	Refused   = "refused"   // too many questions at once, or an odd one
)

// Results are all there are.
func Results() []string { return []string{Local, Forwarded, Failed, Refused} }

// resolver answers questions.
type resolver struct {
	snapshot func() *desired.Snapshot
	upstream *upstream
	mu       sync.Mutex
	last     *names
}

// names are those of the present snapshot.
func (r *resolver) names() *names {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = &names{snapshot: &desired.Snapshot{}}
	}
	if now := r.snapshot(); r.last.snapshot != now {
		r.last = r.last.update(now)
	}
	return r.last
}

// answer answers a question that came from an address in a network; nil: it gets no
// answer. Members learn names and what is outside, the host the network's names: what
// its own resolvers asked here must not come back to them. Who is neither is refused.
func (r *resolver) answer(ctx context.Context, network string, from netip.Addr, udp bool, q *dns.Msg) (a *dns.Msg, result string) {
	switch {
	case q.Response || len(q.Question) == 0:
		return nil, Refused
	case q.Opcode != dns.OpcodeQuery:
		return reply(q, dns.RcodeNotImplemented), Refused
	}
	n := r.names()
	networks := n.networksOf(network, from)
	member := networks != nil
	if !member && n.host(network, from) {
		networks = []string{network}
	}
	if a := local(n, networks, q); a != nil {
		if udp {
			a.Truncate(room(q))
		}
		return a, Local
	}
	if !member {
		return reply(q, dns.RcodeRefused), Refused
	}
	if !n.outside(networks) {
		return reply(q, dns.RcodeNameError), Local // there is nothing else in there
	}
	return r.upstream.ask(ctx, from, udp, q)
}

// room is how long an answer by UDP may be, in bytes (RFC 1035 section 4.2.1, RFC 6891
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

// local answers from the names; nil: they say nothing of it.
func local(n *names, networks []string, q *dns.Msg) *dns.Msg {
	asked := q.Question[0]
	if asked.Qclass != dns.ClassINET {
		return nil
	}
	header := dns.RR_Header{Name: asked.Name, Rrtype: asked.Qtype, Class: dns.ClassINET, Ttl: ttl}
	if asked.Qtype == dns.TypePTR {
		addr, ok := reversed(asked.Name)
		name := n.nameOf(networks, addr)
		if !ok || name == "" {
			return nil
		}
		a := reply(q, dns.RcodeSuccess)
		a.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: dns.Fqdn(name)}}
		return a
	}
	found := n.find(networks, strings.ToLower(strings.TrimSuffix(asked.Name, ".")))
	if found == nil {
		return nil
	}
	a := reply(q, dns.RcodeSuccess) // with no answer if it has none of that type
	for _, ep := range found {
		switch addr := ep.Addr(asked.Qtype == dns.TypeA); {
		case !addr.IsValid():
		case asked.Qtype == dns.TypeA:
			a.Answer = append(a.Answer, &dns.A{Hdr: header, A: addr.AsSlice()})
		case asked.Qtype == dns.TypeAAAA:
			a.Answer = append(a.Answer, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
		}
	}
	rand.Shuffle(len(a.Answer), func(i, j int) { a.Answer[i], a.Answer[j] = a.Answer[j], a.Answer[i] })
	return a
}

// reversed is the address whose name is asked for (RFC 1035 section 3.5, RFC 3596
// section 2.5).
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

// joined puts labels in their reverse order, with a separator after every so many.
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
