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

	"github.com/fairlead-net/fairlead/test/machine"
)

// externalServer is an external resolver. It answers with a code, or with its own address, or not
// at all.
type externalServer struct {
	host    string
	queries atomic.Int32
}

// newExternal starts a resolver at a loopback address and port.
func newExternal(t *testing.T, host string, port int, rcode int) (*externalServer, int) {
	t.Helper()
	o := &externalServer{host: host}
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
		o.queries.Add(1)
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

const clientID = "sandbox"

// resolvConf writes a list of servers to a file.
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
		from  int // index of the server whose answer is returned; -1 for none
		most  time.Duration
		again bool // the first server is queried first the next time too
	}{
		{"first", []int{dns.RcodeSuccess, dns.RcodeSuccess}, dns.RcodeSuccess, 0, hedgeDelay, true},
		{"says no such name", []int{dns.RcodeNameError, dns.RcodeSuccess}, dns.RcodeNameError, -1, hedgeDelay, true},
		{"fails", []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeSuccess}, dns.RcodeSuccess, 2, hedgeDelay, true},
		{"silent", []int{silent, dns.RcodeSuccess}, dns.RcodeSuccess, 1, time.Second, false},
		{"all fail", []int{dns.RcodeServerFailure, dns.RcodeRefused}, dns.RcodeRefused, -1, hedgeDelay, true},
		{"all silent", []int{silent}, dns.RcodeServerFailure, -1, queryTimeout + time.Second, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var servers []string
			var first *externalServer
			port := 0
			for i, code := range tc.codes {
				var o *externalServer
				o, port = newExternal(t, fmt.Sprintf("127.0.53.%d", i+1), port, code)
				servers = append(servers, o.host)
				if first == nil {
					first = o
				}
			}
			u := newUpstream(resolvConf(t, filepath.Join(t.TempDir(), "resolv.conf"), servers...), func(string) bool { return false })
			u.port = fmt.Sprint(port)
			for _, udp := range []bool{true, false} {
				q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
				watch := machine.Start()
				a, _ := u.forward(t.Context(), clientID, udp, q, source{})
				if watch.Stop(); watch.Over(tc.most + 500*time.Millisecond) {
					t.Errorf("took %v", watch.Took())
				}
				if a.Rcode != tc.want || a.Id != q.Id {
					t.Errorf("%s, want %s", dns.RcodeToString[a.Rcode], dns.RcodeToString[tc.want])
				}
				if tc.from >= 0 && (len(a.Answer) != 1 || a.Answer[0].(*dns.A).A.String() != servers[tc.from]) {
					t.Errorf("answer %v, want that of %s", a.Answer, servers[tc.from])
				}
			}
			// A server that did not answer is queried last from then on, but not one that
			// refused.
			before := first.queries.Load()
			u.forward(t.Context(), clientID, true, new(dns.Msg).SetQuestion("example.com.", dns.TypeA), source{})
			if got := first.queries.Load() > before; got != tc.again {
				t.Errorf("the first server was queried again: %v, want %v", got, tc.again)
			}
		})
	}
}

// The file is read again when it changes. Our own servers are skipped.
func TestResolvConfChanges(t *testing.T) {
	a, port := newExternal(t, "127.0.53.11", 0, dns.RcodeSuccess)
	b, _ := newExternal(t, "127.0.53.12", port, dns.RcodeSuccess)
	file := resolvConf(t, filepath.Join(t.TempDir(), "resolv.conf"), "127.0.53.13", a.host)
	u := newUpstream(file, func(s string) bool { return s == "127.0.53.13" })
	u.port = fmt.Sprint(port)
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	if m, _ := u.forward(t.Context(), clientID, true, q, source{}); len(m.Answer) != 1 {
		t.Errorf("answer %v", m)
	}
	resolvConf(t, file, "127.0.53.13", b.host, "127.0.53.13") // longer, since file times may be coarse
	if m, _ := u.forward(t.Context(), clientID, true, q, source{}); len(m.Answer) != 1 || b.queries.Load() != 1 || a.queries.Load() != 1 {
		t.Errorf("answer %v; queried %d and %d times", m, a.queries.Load(), b.queries.Load())
	}
	resolvConf(t, file, "127.0.53.13")
	if m, result := u.forward(t.Context(), clientID, true, q, source{}); m.Rcode != dns.RcodeServerFailure || result != Failed {
		t.Errorf("answer %v, %s without resolvers", m, result)
	}
}

// A server is our own only as long as we serve names there.
func TestOwnServersComeAndGo(t *testing.T) {
	a, port := newExternal(t, "127.0.53.21", 0, dns.RcodeSuccess)
	own := false
	u := newUpstream(resolvConf(t, filepath.Join(t.TempDir(), "resolv.conf"), a.host), func(string) bool { return own })
	u.port = fmt.Sprint(port)
	for i, want := range []string{Forwarded, Failed, Forwarded} {
		own = i == 1
		if _, result := u.forward(t.Context(), clientID, true, new(dns.Msg).SetQuestion("eXample.com.", dns.TypeA), source{}); result != want {
			t.Errorf("query %d is %s, want %s", i, result, want)
		}
	}
}

// Queries beyond the limit of concurrent ones are refused immediately.
func TestTooManyAtOnce(t *testing.T) {
	u := newUpstream("/nonexistent", nil)
	const other = "other"
	ask := func(from string) string {
		_, result := u.forward(t.Context(), from, true, new(dns.Msg).SetQuestion("example.com.", dns.TypeA), source{})
		return result
	}
	for range maxPerClient {
		u.enter(clientID)
	}
	if one, another := ask(clientID), ask(other); one != Refused || another != Failed {
		t.Errorf("a client beyond its limit is %s, another %s", one, another)
	}
	for i := range maxQueries - maxPerClient {
		u.enter(fmt.Sprint(i))
	}
	if got := ask(other); got != Refused {
		t.Errorf("a query beyond the limit is %s", got)
	}
	u.leave(clientID)
	if got := ask(other); got != Failed || len(u.by) != 1+maxQueries-maxPerClient {
		t.Errorf("then it is %s, with %d clients", got, len(u.by))
	}
}
