// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// world returns two networks and an internal one. web is in the first two, db and db2 are in
// back.end with the same alias, and lone is in the internal one.
func world() desiredtest.Plain {
	s := desiredtest.New()
	for _, n := range []*model.Network{
		{ID: "n1", Name: "Front", Driver: model.DriverBridge, DNS: true}, {ID: "n2", Name: "back.end", Driver: model.DriverBridge, DNS: true},
		{ID: "n3", Name: "quiet", Driver: model.DriverBridge, DNS: true, Internal: true},
	} {
		s.Networks[n.ID] = n
	}
	s.Networks["n1"].Subnets = []model.Subnet{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Gateway: netip.MustParseAddr("10.1.0.1")}}
	join := func(id, sandbox, network, v4, v6 string, aliases ...string) {
		ep := &model.Endpoint{ID: id, SandboxID: sandbox, NetworkID: network, Aliases: aliases, Order: len(s.Endpoints), DefaultRoute4: network == "n2"}
		ep.IPv4, _ = netip.ParsePrefix(v4)
		ep.IPv6, _ = netip.ParsePrefix(v6) // "" means none
		s.Endpoints[id] = ep
	}
	for _, sb := range []*model.Sandbox{
		{ID: strings.Repeat("a", 64), Name: "web", Hostname: "Www-1"}, {ID: strings.Repeat("b", 64), Name: "db"},
		{ID: strings.Repeat("c", 64), Name: "db2"}, {ID: strings.Repeat("d", 64), Name: "lone"},
	} {
		s.Sandboxes[sb.ID] = sb
	}
	a, b, c, d := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64), strings.Repeat("d", 64)
	join("e1", a, "n1", "10.1.0.2/16", "fd01::2/64", "shared")
	join("e2", a, "n2", "10.2.0.2/16", "")
	join("e3", b, "n2", "10.2.0.3/16", "", "shared", "any.name_1")
	join("e4", c, "n2", "10.2.0.4/16", "", "shared")
	join("e5", d, "n3", "10.3.0.2/16", "")
	s.Endpoints["e6"] = &model.Endpoint{ID: "e6", NetworkID: "n1", IPv4: netip.MustParsePrefix("10.1.0.9/16")} // reserved, without a sandbox
	return s
}

// ask queries a resolver over the world that has no upstream servers.
func ask(plain desiredtest.Plain, network, from, name string, qtype uint16, udp bool) (*dns.Msg, string) {
	s := plain.Snapshot()
	r := resolver{last: noNames(), snapshot: func() *desired.Snapshot { return s }, upstream: newUpstream("/nonexistent", nil)}
	q := new(dns.Msg).SetQuestion(name, qtype)
	return r.answer(context.Background(), clients{network: network}, netip.MustParseAddr(from), udp, q)
}

// answers returns the answers, sorted.
func answers(a *dns.Msg) string {
	var list []string
	for _, rr := range a.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			list = append(list, rr.A.String())
		case *dns.AAAA:
			list = append(list, rr.AAAA.String())
		case *dns.PTR:
			list = append(list, rr.Ptr)
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestNames(t *testing.T) {
	for _, tc := range []struct {
		network, from, name string
		qtype               uint16
		want                string // the answers, sorted; "-" for none
		rcode               int
	}{
		{"n1", "10.1.0.2", "web.", dns.TypeA, "10.2.0.2", 0}, // in the network of its default route
		{"n1", "10.1.0.2", "web.front.", dns.TypeA, "10.1.0.2", 0},
		{"n1", "10.1.0.2", "WEB.Front.", dns.TypeAAAA, "fd01::2", 0},
		{"n1", "fd01::2", "db.back.end.", dns.TypeA, "10.2.0.3", 0},
		{"n1", "10.1.0.2", "shared.", dns.TypeA, "10.2.0.3 10.2.0.4", 0},
		{"n1", "10.1.0.2", "shared.front.", dns.TypeA, "10.1.0.2", 0},
		{"n1", "10.1.0.2", "Any.Name_1.", dns.TypeA, "10.2.0.3", 0},
		{"n1", "10.1.0.2", "db.", dns.TypeAAAA, "-", 0}, // exists, without such an address
		{"n1", "10.1.0.2", "db.", dns.TypeMX, "-", 0},
		{"n1", "10.1.0.2", "db.", dns.TypePTR, "-", 0},
		{"n2", "10.2.0.3", "www-1.", dns.TypeA, "10.2.0.2", 0},
		{"n2", "10.2.0.3", "aaaaaaaaaaaa.", dns.TypeA, "10.2.0.2", 0},
		{"n2", "10.2.0.3", "web.front.", dns.TypeA, "", dns.RcodeServerFailure}, // not a member
		{"n2", "10.2.0.3", "lone.", dns.TypeA, "", dns.RcodeServerFailure},
		{"n2", "10.2.0.3", ".", dns.TypeA, "", dns.RcodeServerFailure},
		{"n1", "10.1.0.1", "web.", dns.TypeA, "10.1.0.2", 0},                               // the host
		{"n1", "10.1.0.1", "example.com.", dns.TypeA, "", dns.RcodeRefused},                // which has these resolvers itself
		{"n1", "10.2.0.3", "web.", dns.TypeA, "", dns.RcodeRefused},                        // a member of another network
		{"n1", "10.1.0.9", "web.", dns.TypeA, "", dns.RcodeRefused},                        // a reserved address without a sandbox
		{"n1", "192.0.2.254", "2.0.1.10.in-addr.arpa.", dns.TypePTR, "", dns.RcodeRefused}, // an external client
		{"n3", "10.3.0.2", "lone.", dns.TypeA, "10.3.0.2", 0},
		{"n3", "10.3.0.2", "example.com.", dns.TypeA, "", dns.RcodeNameError}, // internal
		{"n2", "10.2.0.3", "2.0.2.10.in-addr.arpa.", dns.TypePTR, "web.back.end.", 0},
		{"n1", "10.1.0.2", "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.D.F.IP6.arpa.", dns.TypePTR, "web.Front.", 0},
		{"n2", "10.2.0.3", "2.0.1.10.in-addr.arpa.", dns.TypePTR, "", dns.RcodeServerFailure},
		{"n2", "10.2.0.3", "0.2.10.in-addr.arpa.", dns.TypePTR, "", dns.RcodeServerFailure},
	} {
		a, _ := ask(world(), tc.network, tc.from, tc.name, tc.qtype, true)
		for _, rr := range a.Answer {
			if rr.Header().Name != tc.name {
				t.Errorf("%s: the answer has the name %s", tc.name, rr.Header().Name)
			}
		}
		if text := answers(a); text != strings.Trim(tc.want, "-") || a.Rcode != tc.rcode || !a.RecursionAvailable || a.Authoritative {
			t.Errorf("%s from %s in %s: %q, %s; want %q, %s", tc.name, tc.from, tc.network, text, dns.RcodeToString[a.Rcode], tc.want, dns.RcodeToString[tc.rcode])
		}
	}
}

// A member that leaves its network by way of another sandbox learns names of its networks, and the host's servers are not
// queried for it, whichever of its networks it asks in. Its own servers are, from its namespace, and so are the host's for the gateway.
func TestGated(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	host := make(chan bool, 16)
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := listener.ReadFrom(b)
			if err != nil {
				return
			}
			host <- true
			q := new(dns.Msg)
			if q.Unpack(b[:n]) == nil {
				a, _ := new(dns.Msg).SetRcode(q, dns.RcodeNameError).Pack()
				_, _ = listener.WriteTo(a, from)
			}
		}
	}()
	_, port, _ := net.SplitHostPort(listener.LocalAddr().String())
	for _, tc := range []struct {
		name, router, network, from string
		own                         bool // the client has servers of its own
		query, want                 string
		rcode                       int
		asks                        string
	}{
		{"inside", "db2", "n2", "10.2.0.3", false, "web.", "10.2.0.2", 0, ""},
		{"outside", "db2", "n2", "10.2.0.3", false, "example.com.", "", dns.RcodeRefused, ""},
		{"the gateway is gone", "gone", "n2", "10.2.0.3", false, "example.com.", "", dns.RcodeRefused, ""},
		{"in another of its networks", "db2", "n1", "10.1.0.2", false, "example.com.", "", dns.RcodeRefused, ""},
		{"by servers of its own", "db2", "n2", "10.2.0.3", true, "example.com.", "", dns.RcodeServerFailure, "/run/b"},
		{"the gateway", "db2", "n2", "10.2.0.4", false, "example.com.", "", dns.RcodeNameError, "host"},
		{"without a gateway", "", "n2", "10.2.0.3", false, "example.com.", "", dns.RcodeNameError, "host"},
	} {
		w := world()
		w.Networks["n2"].Router = tc.router
		b := w.Sandboxes[strings.Repeat("b", 64)]
		if b.NetNS = "/run/b"; tc.own {
			b.Lookup.Servers = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		}
		s, in := w.Snapshot(), make(chan string, 16)
		r := resolver{last: noNames(), snapshot: func() *desired.Snapshot { return s }, upstream: newUpstream(conf, func(string) bool { return false })}
		r.upstream.port = port
		r.upstream.dialIn = func(_ context.Context, netns, _, _ string) (net.Conn, error) {
			in <- netns
			return nil, errors.New("unreachable")
		}
		a, _ := r.answer(t.Context(), clients{network: tc.network}, netip.MustParseAddr(tc.from), true, new(dns.Msg).SetQuestion(tc.query, dns.TypeA))
		asks := ""
		select {
		case <-host:
			asks = "host"
		case asks = <-in:
		default:
		}
		if text := answers(a); text != tc.want || a.Rcode != tc.rcode || asks != tc.asks {
			t.Errorf("%s: %q, %s, from %q", tc.name, text, dns.RcodeToString[a.Rcode], asks)
		}
	}
}

// remote has the names of other nodes in every network.
type remote map[string]string // address by name

func (r remote) Named(_, name string) (list []model.Member) {
	if a, ok := r[name]; ok {
		list = append(list, model.Member{IPv4: netip.MustParseAddr(a)})
	}
	return list
}

func (r remote) At(string, netip.Addr) string { return "" }

// A wildcard covers what ends with it, on other nodes, too. An exact name precedes it, and a longer wildcard, and so does
// an earlier network.
func TestWildcards(t *testing.T) {
	s := world()
	change := func(id string, aliases ...string) {
		ep := *s.Endpoints[id]
		ep.Aliases = aliases
		s.Endpoints[id] = &ep
	}
	shared := *s.Networks["n2"]
	shared.Driver = model.DriverOverlay
	s.Networks["n2"] = &shared
	change("e1", "*.app", "*.front", "*.both")                          // 10.1.0.2
	change("e3", "*.Pool", "*.x.app", "exact.app", "*.one")             // 10.2.0.3
	change("e4", "*.pool", "*.both", "*.example.com", "*.arpa", "db.x") // 10.2.0.4
	snapshot := s.Snapshot()
	r := resolver{last: noNames(), snapshot: func() *desired.Snapshot { return snapshot }, upstream: newUpstream("/nonexistent", nil)}
	r.last = noNames().with(remote{"*.app": "10.2.9.1", "*.y.app": "10.2.9.2", "far.one": "10.2.9.3", "*.web.far": "10.2.9.4"})
	for _, tc := range []struct {
		name  string
		qtype uint16
		want  string
		rcode int
	}{
		{"a.pool.", dns.TypeA, "10.2.0.3 10.2.0.4", 0},
		{"c.B.a.POOL.", dns.TypeA, "10.2.0.3 10.2.0.4", 0},
		{"a.pool.", dns.TypeAAAA, "", 0},
		{"a.pool.", dns.TypeTXT, "", 0},
		{"pool.", dns.TypeA, "", dns.RcodeServerFailure},
		{"apool.", dns.TypeA, "", dns.RcodeServerFailure},
		{"a.pool.back.end.", dns.TypeA, "10.2.0.3 10.2.0.4", 0},
		{"a.pool.front.", dns.TypeA, "10.1.0.2", 0}, // *.front, an alias in place of the network
		{"web.front.", dns.TypeA, "10.1.0.2", 0},
		{"web.front.", dns.TypeAAAA, "fd01::2", 0},
		{"exact.app.", dns.TypeA, "10.2.0.3", 0},
		{"b.exact.app.", dns.TypeA, "10.2.9.1", 0}, // an exact name does not hide what is below it
		{"z.app.", dns.TypeA, "10.2.9.1", 0},       // in the network of the default route
		{"z.app.front.", dns.TypeAAAA, "fd01::2", 0},
		{"z.x.app.", dns.TypeA, "10.2.0.3", 0},
		{"x.app.", dns.TypeA, "10.2.9.1", 0},
		{"z.y.app.", dns.TypeA, "10.2.9.2", 0},
		{"far.one.", dns.TypeA, "10.2.9.3", 0},
		{"near.one.", dns.TypeA, "10.2.0.3", 0},
		{"z.both.", dns.TypeA, "10.2.0.4", 0},
		{"z.both.front.", dns.TypeA, "10.1.0.2", 0},
		{"www.example.com.", dns.TypeA, "10.2.0.4", 0},
		{"example.com.", dns.TypeA, "", dns.RcodeServerFailure},
		{"db.x.", dns.TypeA, "10.2.0.4", 0},
		{"4.0.2.10.in-addr.arpa.", dns.TypePTR, "db2.back.end.", 0},
		{"9.9.2.10.in-addr.arpa.", dns.TypePTR, "", dns.RcodeServerFailure},
	} {
		q := new(dns.Msg).SetQuestion(tc.name, tc.qtype)
		a, _ := r.answer(t.Context(), clients{network: "n1"}, netip.MustParseAddr("10.1.0.2"), true, q)
		if got := answers(a); got != tc.want || a.Rcode != tc.rcode {
			t.Errorf("%s %s: %q, %s; want %q, %s", tc.name, dns.TypeToString[tc.qtype], got, dns.RcodeToString[a.Rcode], tc.want, dns.RcodeToString[tc.rcode])
		}
	}
}

// An alias of 200 endpoints does not fit into a UDP answer. Each endpoint is first equally often.
func TestManyAnswers(t *testing.T) {
	s := world()
	for i := range 200 {
		id := fmt.Sprintf("%064x", i)
		s.Sandboxes[id] = &model.Sandbox{ID: id, Name: "many" + id}
		s.Endpoints[id] = &model.Endpoint{ID: id, SandboxID: id, NetworkID: "n1", Aliases: []string{"crowd"}, IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 1, byte(i)}), 16)}
	}
	a, _ := ask(s, "n1", "10.1.0.2", "crowd.", dns.TypeA, true)
	if packed, err := a.Pack(); err != nil || len(packed) > dns.MinMsgSize || !a.Truncated {
		t.Errorf("%d bytes by UDP, truncated %v, %v", len(packed), a.Truncated, err)
	}
	if a, _ = ask(s, "n1", "10.1.0.2", "crowd.", dns.TypeA, false); len(a.Answer) != 200 || a.Truncated {
		t.Errorf("%d answers by TCP, truncated %v", len(a.Answer), a.Truncated)
	}
	first := map[string]int{}
	for range 1000 {
		a, _ := ask(world(), "n2", "10.2.0.3", "shared.", dns.TypeA, true)
		first[a.Answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 2 || first["10.2.0.3"] < 400 || first["10.2.0.4"] < 400 {
		t.Errorf("first answers: %v", first)
	}
	big := new(dns.Msg).SetQuestion("crowd.", dns.TypeA).SetEdns0(1232, false)
	many := s.Snapshot()
	r := resolver{last: noNames(), snapshot: func() *desired.Snapshot { return many }}
	a, _ = r.answer(t.Context(), clients{network: "n1"}, netip.MustParseAddr("10.1.0.2"), true, big)
	if packed, err := a.Pack(); err != nil || len(packed) <= dns.MinMsgSize || len(packed) > 1232 || a.IsEdns0() == nil {
		t.Errorf("%d bytes to a client that accepts 1232, %v", len(packed), err)
	}
}

// Invalid queries get no answer, or an error. Nothing panics.
func FuzzAnswer(f *testing.F) {
	for _, q := range []*dns.Msg{new(dns.Msg).SetQuestion("web.", dns.TypeA), new(dns.Msg).SetQuestion("2.0.1.10.in-addr.arpa.", dns.TypePTR), {}, new(dns.Msg).SetUpdate("web."), new(dns.Msg).SetReply(new(dns.Msg))} {
		packed, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	s := world().Snapshot()
	r := resolver{last: noNames(), snapshot: func() *desired.Snapshot { return s }, upstream: newUpstream("/nonexistent", nil)}
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		a, result := r.answer(t.Context(), clients{network: "n1"}, netip.MustParseAddr("10.1.0.2"), true, q)
		if !slices.Contains(Results(), result) || (a == nil) != (q.Response || len(q.Question) == 0) {
			t.Errorf("%v is answered %v, %s", q, a, result)
		}
		if a != nil && (a.Id != q.Id || !a.Response) {
			t.Errorf("%v is answered %v", q, a)
		}
	})
}
