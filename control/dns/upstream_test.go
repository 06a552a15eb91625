// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// outside is a resolver outside: it answers with a code, or an address that tells it
// from others, or not at all.
type outside struct {
	host  string
	asked atomic.Int32
}

// newOutside starts one at a loopback address, at the port of the others.
func newOutside(t *testing.T, host string, port int, rcode int) (*outside, int) {
	t.Helper()
	o := &outside{host: host}
	packets, err := net.ListenPacket("udp", fmt.Sprintf("%s:%d", host, port))
	if err != nil {
		t.Fatal(err)
	}
	port = packets.LocalAddr().(*net.UDPAddr).Port
	streams, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		o.asked.Add(1)
		if rcode < 0 {
			return
		}
		a := new(dns.Msg).SetRcode(q, rcode)
		if rcode == dns.RcodeSuccess {
			a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(host)}}
		}
		_ = w.WriteMsg(a)
	})
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		go func() { _ = server.ActivateAndServe() }()
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return o, port
}

const silent = -1

// resolvConf names servers, all at one port.
func resolvConf(t *testing.T, path string, servers ...string) string {
	t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUpstream(t *testing.T) {
	for _, tc := range []struct {
		name  string
		codes []int // of the servers
		want  int
		from  int // the server whose answer it is; -1: none's
		most  time.Duration
	}{
		{"first", []int{dns.RcodeSuccess, dns.RcodeSuccess}, dns.RcodeSuccess, 0, stagger},
		{"says no such name", []int{dns.RcodeNameError, dns.RcodeSuccess}, dns.RcodeNameError, -1, stagger},
		{"fails", []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeSuccess}, dns.RcodeSuccess, 2, stagger},
		{"silent", []int{silent, dns.RcodeSuccess}, dns.RcodeSuccess, 1, time.Second},
		{"all fail", []int{dns.RcodeServerFailure, dns.RcodeRefused}, dns.RcodeRefused, -1, stagger},
		{"all silent", []int{silent}, dns.RcodeServerFailure, -1, patience + time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var servers []string
			port := 0
			for i, code := range tc.codes {
				var o *outside
				o, port = newOutside(t, fmt.Sprintf("127.0.53.%d", i+1), port, code)
				servers = append(servers, o.host)
			}
			u := newUpstream(resolvConf(t, filepath.Join(t.TempDir(), "resolv.conf"), servers...), func(string) bool { return false })
			u.port = fmt.Sprint(port)
			for _, udp := range []bool{true, false} {
				q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
				began := time.Now()
				a, _ := u.ask(t.Context(), udp, q)
				if took := time.Since(began); took > tc.most+500*time.Millisecond {
					t.Errorf("took %v", took)
				}
				if a.Rcode != tc.want || a.Id != q.Id {
					t.Errorf("%s, want %s", dns.RcodeToString[a.Rcode], dns.RcodeToString[tc.want])
				}
				if tc.from >= 0 && (len(a.Answer) != 1 || a.Answer[0].(*dns.A).A.String() != servers[tc.from]) {
					t.Errorf("answer %v, want that of %s", a.Answer, servers[tc.from])
				}
			}
			if tc.from > 0 { // the second time, the one that answered is asked first
				began := time.Now()
				u.ask(t.Context(), true, new(dns.Msg).SetQuestion("example.com.", dns.TypeA))
				if took := time.Since(began); took > stagger {
					t.Errorf("the one that failed is asked first again: %v", took)
				}
			}
		})
	}
}

// The file is read again when it changed; servers of our own are left out.
func TestResolvConfChanges(t *testing.T) {
	a, port := newOutside(t, "127.0.53.11", 0, dns.RcodeSuccess)
	b, _ := newOutside(t, "127.0.53.12", port, dns.RcodeSuccess)
	file := resolvConf(t, filepath.Join(t.TempDir(), "resolv.conf"), "127.0.53.13", a.host)
	u := newUpstream(file, func(s string) bool { return s == "127.0.53.13" })
	u.port = fmt.Sprint(port)
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	if m, _ := u.ask(t.Context(), true, q); len(m.Answer) != 1 {
		t.Errorf("answer %v", m)
	}
	resolvConf(t, file, b.host, "127.0.53.13")
	if m, _ := u.ask(t.Context(), true, q); len(m.Answer) != 1 || b.asked.Load() != 1 || a.asked.Load() != 1 {
		t.Errorf("answer %v; asked %d and %d times", m, a.asked.Load(), b.asked.Load())
	}
	resolvConf(t, file, "127.0.53.13")
	if m, result := u.ask(t.Context(), true, q); m.Rcode != dns.RcodeServerFailure || result != Failed {
		t.Errorf("answer %v, %s with nobody to ask", m, result)
	}
}

// Beyond so many at once a question is refused at once.
func TestTooManyAtOnce(t *testing.T) {
	u := newUpstream("/nonexistent", nil)
	for range maxAsking {
		u.asking <- struct{}{}
	}
	if m, result := u.ask(t.Context(), true, new(dns.Msg).SetQuestion("example.com.", dns.TypeA)); m.Rcode != dns.RcodeRefused || result != Refused {
		t.Errorf("answer %v, %s", m, result)
	}
}
