// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/miekg/dns"
)

// Resolver is a DNS server outside, which the host queries. It knows one name, example.com,
// as Internet4.
type Resolver struct{ Asked atomic.Int32 }

// Resolver starts a Resolver, and configures it in the host's resolv.conf.
func (l *Lab) Resolver() *Resolver {
	l.Helper()
	file := filepath.Join(l.Dir("etc"), "resolv.conf")
	l.must(os.WriteFile(file, []byte("nameserver "+Outside4+"\noptions timeout:2 attempts:1\n"), 0o644))
	l.Must(l.Host, "mount", "--bind", file, "/etc/resolv.conf")
	l.Cleanup(func() { l.Must(l.Host, "umount", "/etc/resolv.conf") })
	packets, err := l.Outside.ListenPacket("udp", Outside4+":53")
	l.must(err)
	streams, err := l.Outside.Listen("tcp", Outside4+":53")
	l.must(err)
	r := &Resolver{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r.Asked.Add(1)
		a := new(dns.Msg).SetReply(q)
		asked := q.Question[0]
		switch {
		case asked.Name != "example.com.":
			a.Rcode = dns.RcodeNameError
		case asked.Qtype == dns.TypeA:
			a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(Internet4)}}
		}
		_ = w.WriteMsg(a)
	})
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		go func() { _ = server.ActivateAndServe() }()
		l.Cleanup(func() { _ = server.Shutdown() })
	}
	return r
}
