// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
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
	tcp  map[string]string
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
	i.at[netns], i.tcp[netns] = packets.LocalAddr().String(), streams.Addr().String()
	return packets, streams, err
}

func newInsides(t *testing.T, cfg Config) (*Server, *insides) {
	t.Helper()
	i := &insides{at: map[string]string{}, tcp: map[string]string{}}
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

	n := *p.Networks["l"]
	n.Subnets = []model.Subnet{{Prefix: netip.MustParsePrefix("127.8.0.0/16"), Gateway: netip.MustParseAddr("127.8.0.1")}}
	change("anna", func(sb *model.Sandbox) { sb.NetNS = "/anna" })
	n.Driver = model.DriverBridge
	p.Networks["l"] = &n
	step("the network has a gateway on the host")
	m := n
	m.Driver = model.DriverMacvlan
	p.Networks["l"] = &m
	step("the network has none again", "/anna")
	change("anna", func(sb *model.Sandbox) { sb.NetNS = "" })
	step("anna has no namespace again")
	for by, want := range map[model.Manager][]string{model.ByUser: {"/anna"}, model.ByRuntime: nil, model.ByEngine: nil} {
		change("anna", func(sb *model.Sandbox) { sb.NetNS, sb.ManagedBy = "/anna", by })
		step(fmt.Sprint("anna is managed by the ", by), want...)
	}
	change("anna", func(sb *model.Sandbox) { sb.NetNS, sb.ManagedBy = "", model.ByFairlead })
	step("anna has no namespace once more")

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

// A listener does not outlive the namespace at the sandbox's path, nor do its connections: if another one replaces it, names are served there.
func TestNamespaceReplaced(t *testing.T) {
	for what, check := range map[string]func(s *Server, p desiredtest.Plain){
		"at a tick": func(s *Server, _ desiredtest.Plain) { s.sync() },
		"when the sandbox changes": func(s *Server, p desiredtest.Plain) {
			sb := *p.Sandboxes["anna"]
			sb.Hostname = "another"
			p.Sandboxes["anna"] = &sb
			s.Update(p.Snapshot())
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, i := newInsides(t, Config{})
			path := filepath.Join(t.TempDir(), "netns")
			replace := func() {
				t.Helper()
				next := path + ".next"
				if err := errors.Join(os.WriteFile(next, nil, 0o600), os.Rename(next, path)); err != nil {
					t.Fatal(err)
				}
			}
			replace()
			p := link()
			delete(p.Endpoints, "ben")
			sb := *p.Sandboxes["anna"]
			sb.NetNS = path
			p.Sandboxes["anna"] = &sb
			s.Update(p.Snapshot())
			first := i.at[path]
			check(s, p)
			if got := i.at[path]; got != first {
				t.Errorf("the listener of a namespace that is still there was replaced")
			}
			conn, err := net.Dial("tcp", i.tcp[path])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			co := &dns.Conn{Conn: conn}
			exchange := func() error {
				_, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("anna.", dns.TypeA), co)
				return err
			}
			if err := exchange(); err != nil {
				t.Fatalf("before: %v", err)
			}
			replace()
			check(s, p)
			if got := i.at[path]; got == first {
				t.Errorf("the listener of the former namespace stayed")
			}
			if err := exchange(); err == nil {
				t.Errorf("a connection of the former namespace stayed")
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			i.fail.Store(true) // as nothing can be opened there
			check(s, p)
			if got := s.serving(); len(got) != 0 {
				t.Errorf("without the namespace names are served in %q", got)
			}
			i.fail.Store(false)
			replace()
			s.sync()
			if got := s.serving(); !slices.Equal(got, []string{path}) {
				t.Errorf("when it is there again names are served in %q", got)
			}
		})
	}
}

// The cost of a change does not grow with the number of sandboxes that have a name server inside.
func TestPlacesFollowChanges(t *testing.T) {
	p := link()
	for i := range 500 {
		id := fmt.Sprint("box", i)
		p.Sandboxes[id] = &model.Sandbox{ID: id, Name: id, NetNS: "/" + id}
		p.Endpoints[id] = &model.Endpoint{ID: id, NetworkID: "l", SandboxID: id}
	}
	w := noPlaces()
	w.update(p.Snapshot())
	if len(w.at) != 503 { // and the gateway of the bridge network
		t.Fatalf("%d places", len(w.at))
	}
	step := func(what string, examined, changed int) {
		t.Helper()
		before := w.examined
		got := w.update(p.Snapshot())
		if n := w.examined - before; n != examined || len(got) != changed {
			t.Errorf("%s: examined %d sandboxes, %d places changed; want %d and %d", what, n, len(got), examined, changed)
		}
	}
	step("nothing changed", 0, 0)
	n := *p.Networks["l"]
	n.Labels = map[string]string{"a": "b"}
	p.Networks["l"] = &n
	step("the network's labels", 0, 0)
	sb := *p.Sandboxes["box7"]
	sb.Exited = true
	p.Sandboxes["box7"] = &sb
	step("a sandbox exited", 1, 1)
	delete(p.Sandboxes, "box8")
	delete(p.Endpoints, "box8")
	step("a sandbox was removed", 1, 1)
	p.Endpoints["more"] = &model.Endpoint{ID: "more", NetworkID: "b", SandboxID: "box9"}
	step("a sandbox was connected", 1, 1)
	fresh := noPlaces()
	fresh.update(p.Snapshot())
	if !maps.Equal(fresh.at, w.at) {
		t.Errorf("after changes there are %d places, want %d", len(w.at), len(fresh.at))
	}
}
