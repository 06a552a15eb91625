// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// insides listens for sandboxes at ports of the loopback, and records which.
type insides struct {
	at   map[string]string // UDP address by namespace
	fail atomic.Bool
}

func (i *insides) listen(lc net.ListenConfig, netns string, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	if i.fail.Load() {
		return nil, nil, errors.New("the address is in use")
	}
	if at != netip.MustParseAddrPort("127.0.0.11:11053") {
		return nil, nil, errors.New("another address")
	}
	packets, err := lc.ListenPacket(context.Background(), "udp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	streams, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	i.at[netns] = packets.LocalAddr().String()
	return packets, streams, err
}

func newInsides(t *testing.T, cfg Config) (*Server, *insides) {
	t.Helper()
	i := &insides{at: map[string]string{}}
	cfg.ListenIn, cfg.Log = i.listen, slog.New(slog.DiscardHandler)
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/nonexistent"
	}
	s := New(cfg)
	t.Cleanup(s.stop)
	return s, i
}

// serving returns the namespaces in which a server serves names.
func (s *Server) serving() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.at {
		if l.netns != "" {
			list = append(list, l.netns)
		}
	}
	slices.Sort(list)
	return list
}

// link returns a macvlan network with two members, and a bridge network without.
func link() desiredtest.Plain {
	p := desiredtest.New()
	p.Networks["l"] = &model.Network{ID: "l", Name: "lan", Driver: model.DriverMacvlan, Subnets: []model.Subnet{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}}}
	p.Networks["b"] = &model.Network{ID: "b", Name: "web", Driver: model.DriverBridge, Subnets: []model.Subnet{{Prefix: netip.MustParsePrefix("127.7.0.0/16"), Gateway: netip.MustParseAddr("127.7.0.1")}}}
	for id, addr := range map[string]string{"anna": "192.0.2.2/24", "ben": "192.0.2.3/24"} {
		p.Sandboxes[id] = &model.Sandbox{ID: id, Name: id, NetNS: "/" + id}
		p.Endpoints[id] = &model.Endpoint{ID: id, NetworkID: "l", SandboxID: id, IPv4: netip.MustParsePrefix(addr)}
	}
	return p
}

// Names are served in the sandboxes that no network serves at a gateway, as long as they have a namespace and run.
func TestServedInside(t *testing.T) {
	s, i := newInsides(t, Config{})
	p := link()
	step := func(what string, want ...string) {
		t.Helper()
		s.Update(p.Snapshot())
		if got := s.serving(); !slices.Equal(got, want) {
			t.Errorf("%s: names are served in %q, want %q", what, got, want)
		}
	}
	change := func(id string, f func(sb *model.Sandbox)) {
		sb := *p.Sandboxes[id]
		f(&sb)
		p.Sandboxes[id] = &sb
	}
	step("at first", "/anna", "/ben")
	p.Endpoints["more"] = &model.Endpoint{ID: "more", NetworkID: "b", SandboxID: "ben", IPv4: netip.MustParsePrefix("127.7.0.2/16")}
	step("ben is in a bridge network too", "/anna")
	delete(p.Endpoints, "more")
	change("ben", func(sb *model.Sandbox) { sb.Exited = true })
	step("ben has exited", "/anna")
	change("ben", func(sb *model.Sandbox) { sb.Exited = false })
	change("anna", func(sb *model.Sandbox) { sb.NetNS = "/another" })
	step("ben runs again, and anna is in another namespace", "/another", "/ben")
	change("anna", func(sb *model.Sandbox) { sb.NetNS = "" })
	step("anna has no namespace", "/ben")
	delete(p.Endpoints, "ben")
	step("ben is in no network")

	i.fail.Store(true)
	change("anna", func(sb *model.Sandbox) { sb.NetNS = "/anna" })
	step("a program in anna has the port")
	if got := s.Unserved(); !slices.Equal(got, []netip.AddrPort{inside}) {
		t.Errorf("%v are not served", got)
	}
	i.fail.Store(false)
	s.sync()
	if got := s.serving(); !slices.Equal(got, []string{"/anna"}) || len(s.Unserved()) != 0 {
		t.Errorf("after the port is free names are served in %q, and not at %v", got, s.Unserved())
	}
}

// A sandbox resolves the names of its networks, and others by the servers that its DHCP server named, from its namespace, or else by
// those of the host.
func TestNamesInside(t *testing.T) {
	_, port := newExternal(t, "127.2.0.1", 0, dns.RcodeSuccess)
	newExternal(t, "127.2.0.2", port, dns.RcodeSuccess)
	var dialled []string
	s, i := newInsides(t, Config{
		ResolvConf: resolvConf(t, filepath.Join(t.TempDir(), "resolv.conf"), "127.2.0.1"),
		DialIn: func(ctx context.Context, netns, network, address string) (net.Conn, error) {
			dialled = append(dialled, netns)
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	})
	s.resolver.upstream.port = strconv.Itoa(port)
	p := link()
	query := func(name, want string) {
		t.Helper()
		s.Update(p.Snapshot())
		a, err := dns.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), i.at["/anna"])
		if err != nil {
			t.Fatal(err)
		}
		got := answers(a)
		if got == "" {
			got = dns.RcodeToString[a.Rcode]
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	change := func(f func(ep *model.Endpoint)) {
		ep := *p.Endpoints["anna"]
		f(&ep)
		p.Endpoints["anna"] = &ep
	}
	query("ben.", "192.0.2.3")
	query("Ben.LAN.", "192.0.2.3")
	query("example.com.", "127.2.0.1")
	change(func(ep *model.Endpoint) { ep.Links = []model.Link{{Target: "ben", Alias: "db"}} })
	query("db.", "192.0.2.3")
	if len(dialled) > 0 {
		t.Errorf("the host's servers were queried from %q", dialled)
	}
	change(func(ep *model.Endpoint) { ep.Lease = &model.Lease{DNS: []netip.Addr{netip.MustParseAddr("127.2.0.2")}} })
	query("example.com.", "127.2.0.2")
	query("ben.", "192.0.2.3")
	if !slices.Equal(dialled, []string{"/anna"}) {
		t.Errorf("the link's servers were queried from %q", dialled)
	}
	change(func(ep *model.Endpoint) { ep.IPv4 = netip.Prefix{} }) // the lease ended
	query("example.com.", "127.2.0.1")
	sb := *p.Sandboxes["anna"]
	sb.Lookup.Servers = []netip.Addr{netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("127.2.0.2")} // the former is this server itself
	p.Sandboxes["anna"] = &sb
	query("example.com.", "127.2.0.2")
	sb2 := sb
	sb2.Lookup.Servers = nil
	p.Sandboxes["anna"] = &sb2
	n := *p.Networks["l"]
	n.Internal = true
	p.Networks["l"] = &n
	query("example.com.", "NXDOMAIN")
}
