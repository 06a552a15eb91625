// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// Clients that leave TCP connections open do not keep members of the network or the host away, and do not end the connections
// of others, whether these clients are members, sandboxes of other networks or machines outside with many addresses.
func TestConnectionsAreShared(t *testing.T) {
	var others []string
	for i := range 3 * maxStreams {
		others = append(others, fmt.Sprint("127.9.", i>>8, ".", i&255+1))
	}
	for _, tc := range []struct {
		name     string
		greedy   []string
		accounts int // which have connections in the end, with two members that query
	}{
		{"one member", []string{"127.1.0.4"}, 3},
		{"two members", []string{"127.1.0.4", "127.1.0.5"}, 4},
		{"others", others, 3},
		{"host", []string{"127.1.0.1"}, 3},
		{"all", slices.Concat([]string{"127.1.0.4", "127.1.0.5"}, others[:3]), 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := desiredtest.New()
			p.Networks["n"] = &model.Network{ID: "n", Name: "web", Driver: model.DriverBridge, Subnets: []model.Subnet{{Prefix: netip.MustParsePrefix("127.1.0.0/16"), Gateway: netip.MustParseAddr("127.1.0.1")}}}
			for id, addr := range map[string]string{"anna": "127.1.0.2/16", "ben": "127.1.0.3/16", "greedy": "127.1.0.4/16", "other": "127.1.0.5/16"} {
				p.Sandboxes[id] = &model.Sandbox{ID: id, Name: id}
				p.Endpoints[id] = &model.Endpoint{ID: id, NetworkID: "n", SandboxID: id, IPv4: netip.MustParsePrefix(addr)}
			}
			s := New(Config{ResolvConf: "/nonexistent", Log: slog.New(slog.DiscardHandler)})
			s.desired.Store(p.Snapshot())
			l, err := s.listen(place{at: netip.MustParseAddrPort("127.1.0.1:0")}, clients{network: "n"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(l.close)
			shared := l.servers[1].Listener.(*streams)
			server := shared.Addr().String()
			before := dialFrom(t, "127.1.0.2", server)
			query(t, before)
			for range 3 * maxStreams / len(tc.greedy) {
				for _, from := range tc.greedy {
					dialFrom(t, from, server)
				}
			}
			query(t, before)
			query(t, dialFrom(t, "127.1.0.3", server))
			shared.mu.Lock()
			defer shared.mu.Unlock()
			n := 0
			for _, list := range shared.open {
				n += len(list)
			}
			if len(shared.open) != tc.accounts {
				t.Errorf("connections of %d clients are open, want %d", len(shared.open), tc.accounts)
			}
			if n != shared.total || n > maxStreams {
				t.Errorf("%d connections are counted and %d are open, want at most %d", shared.total, n, maxStreams)
			}
		})
	}
}

// dialFrom connects from an address, and closes the connection when the test ends.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// query queries the name of a member.
func query(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	a, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("anna.", dns.TypeA), &dns.Conn{Conn: c})
	if err != nil || len(a.Answer) != 1 {
		t.Errorf("%s: %v, %v", c.LocalAddr(), a, err)
	}
}
