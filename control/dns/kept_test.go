// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// keeper stores sockets as systemd does. It removes them only when it is waited for.
type keeper struct {
	t       *testing.T
	mu      sync.Mutex
	files   map[string]*os.File
	leaving []string
}

func newKeeper(t *testing.T) *keeper {
	k := &keeper{t: t, files: map[string]*os.File{}}
	t.Cleanup(func() {
		for _, f := range k.files {
			_ = f.Close() // otherwise it would share the queries of other tests
		}
	})
	return k
}

func (k *keeper) Take(name, _ string, _ netip.AddrPort) *os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files[name] == nil || slices.Contains(k.leaving, name) {
		return nil
	}
	return k.copy(k.files[name].Fd())
}

func (k *keeper) copy(fd uintptr) *os.File {
	k.t.Helper()
	n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	return os.NewFile(uintptr(n), "stored")
}

func (k *keeper) Put(name string, socket syscall.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files[name] != nil {
		return
	}
	raw, err := socket.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { k.files[name] = k.copy(fd) })
	}
	if err != nil {
		k.t.Errorf("%s: %v", name, err)
	}
}

func (k *keeper) Remove(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files[name] != nil {
		k.leaving = append(k.leaving, name)
	}
}

func (k *keeper) Settle() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range k.leaving {
		_ = k.files[name].Close()
		delete(k.files, name)
	}
	k.leaving = nil
}

func (k *keeper) Has(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files[name] != nil
}

// has checks what is stored.
func (k *keeper) has(want ...string) {
	k.t.Helper()
	k.Settle()
	if got := slices.Sorted(maps.Keys(k.files)); !slices.Equal(got, want) {
		k.t.Errorf("%q are stored, want %q", got, want)
	}
}

// served returns a network on the loopback, with a member, and another that only knows redirected queries.
func served() desiredtest.Plain {
	p := desiredtest.New()
	subnet := func(prefix, gateway string) model.Subnet {
		return model.Subnet{Prefix: netip.MustParsePrefix(prefix), Gateway: netip.MustParseAddr(gateway)}
	}
	p.Networks["n"] = &model.Network{ID: "n", Name: "web", Driver: model.DriverBridge, DNS: true, Subnets: []model.Subnet{subnet("127.7.0.0/16", "127.7.0.1")}}
	p.Networks["o"] = &model.Network{ID: "o", Name: "other", Driver: model.DriverBridge, Subnets: []model.Subnet{subnet("127.8.0.0/16", "127.8.0.1"), subnet("fd78::/64", "fd78::1")}}
	p.Sandboxes["anna"] = &model.Sandbox{ID: "anna", Name: "anna"}
	p.Endpoints["anna"] = &model.Endpoint{ID: "anna", NetworkID: "n", SandboxID: "anna", IPv4: netip.MustParsePrefix("127.7.0.2/16")}
	return p
}

// run serves a state until the returned function is called.
func run(t *testing.T, s *Server, p desiredtest.Plain) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s.Update(p.Snapshot())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// A server that ends leaves its sockets to the next one, with what arrived meanwhile. What is not used any more is removed, and a
// new network at the same address shares its queries with nothing.
func TestSocketsAreKept(t *testing.T) {
	k := newKeeper(t)
	server := func() *Server {
		return New(Config{ResolvConf: "/nonexistent", Sockets: k, Log: slog.New(slog.DiscardHandler)})
	}
	all := []string{
		"dns-tcp-127.7.0.1-11053", "dns-tcp-127.7.0.1-53", "dns-tcp-127.8.0.1-11053", "dns-tcp-fd78__1-11053",
		"dns-udp-127.7.0.1-11053", "dns-udp-127.7.0.1-53", "dns-udp-127.8.0.1-11053", "dns-udp-fd78__1-11053",
	}
	p := served()
	end := run(t, server(), p)
	k.has(all...)
	end()
	k.has(all...)
	for _, name := range all {
		if strings.Contains(name, ":") {
			t.Errorf("the name %q contains what separates names", name)
		}
	}

	asks := map[string]net.Conn{}
	for _, network := range []string{"udp", "tcp"} {
		for _, port := range []string{"53", "11053"} {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 7, 0, 2)}, Timeout: 10 * time.Second}
			if network == "tcp" {
				d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 7, 0, 2)}
			}
			c, err := d.Dial(network, "127.7.0.1:"+port)
			if err != nil {
				t.Fatalf("without a server, by %s: %v", network, err)
			}
			t.Cleanup(func() { c.Close() })
			if err := (&dns.Conn{Conn: c}).WriteMsg(new(dns.Msg).SetQuestion("anna.", dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			asks[network+" "+port] = c
		}
	}
	s := server()
	end = run(t, s, p)
	for what, c := range asks {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if a, err := (&dns.Conn{Conn: c}).ReadMsg(); err != nil || len(a.Answer) != 1 {
			t.Errorf("%s: a query that was sent while no server ran: %v, %v", what, a, err)
		}
	}
	k.has(all...)

	// The network is created again, as another, and two networks are removed.
	for _, id := range []string{"m", "n"} {
		p = served()
		n := *p.Networks["n"]
		delete(p.Networks, "n")
		n.ID, n.DNS = id, true
		p.Networks[id] = &n
		ep := *p.Endpoints["anna"]
		ep.NetworkID = id
		p.Endpoints["anna"] = &ep
		delete(p.Networks, "o")
		s.Update(p.Snapshot())
		for range 40 { // half of them would go to another socket
			c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 7, 0, 2)}}).Dial("udp", "127.7.0.1:11053")
			if err != nil {
				t.Fatal(err)
			}
			query(t, c)
			c.Close()
			if t.Failed() {
				break
			}
		}
	}
	k.has("dns-tcp-127.7.0.1-11053", "dns-tcp-127.7.0.1-53", "dns-udp-127.7.0.1-11053", "dns-udp-127.7.0.1-53")
	s.Update(desiredtest.New().Snapshot())
	k.has()
	end()
}

// If one of the sockets of an address cannot be opened, the other is not kept either.
func TestHalfAnAddressIsNotKept(t *testing.T) {
	k := newKeeper(t)
	taken, err := net.Listen("tcp", "127.7.0.1:53") // without SO_REUSEPORT
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	before, err := net.ListenPacket("udp", "127.7.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	k.Put("dns-udp-127.7.0.1-53", before.(*net.UDPConn))
	before.Close()
	p := served()
	delete(p.Networks, "o")
	s := New(Config{ResolvConf: "/nonexistent", Sockets: k, Log: slog.New(slog.DiscardHandler)})
	end := run(t, s, p)
	defer end()
	k.has("dns-tcp-127.7.0.1-11053", "dns-udp-127.7.0.1-11053")
	if got := s.Unserved(); !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort("127.7.0.1:53")}) {
		t.Errorf("%v are not served", got)
	}
}

// A query that was read is answered before the server ends if the others will be answered too, but not waited for for long.
func TestReadQueriesAreAnswered(t *testing.T) {
	for _, tc := range []struct {
		name     string
		takes    time.Duration
		kept     bool
		answered bool
	}{
		{"kept", endTime / 2, true, true},
		{"slow", 4 * endTime, true, false},
		{"not kept", endTime / 2, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := make(chan struct{}, 2)
			upstream, err := net.ListenPacket("udp", "127.7.0.9:53")
			if err != nil {
				t.Fatal(err)
			}
			slow := &dns.Server{PacketConn: upstream, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
				asked <- struct{}{}
				time.Sleep(tc.takes)
				_ = w.WriteMsg(reply(q, dns.RcodeSuccess))
			})}
			go func() { _ = slow.ActivateAndServe() }()
			defer upstream.Close()
			file := t.TempDir() + "/resolv.conf"
			if err := os.WriteFile(file, []byte("nameserver 127.7.0.9\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			cfg := Config{ResolvConf: file, Log: slog.New(slog.DiscardHandler)}
			if tc.kept {
				cfg.Sockets = newKeeper(t)
			}
			end := run(t, New(cfg), served())
			c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 7, 0, 2)}}).Dial("udp", "127.7.0.1:53")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := (&dns.Conn{Conn: c}).WriteMsg(new(dns.Msg).SetQuestion("example.com.", dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			<-asked
			began := time.Now()
			end()
			if took := time.Since(began); took > 2*endTime {
				t.Errorf("it ended after %v", took)
			}
			if err := c.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if a, err := (&dns.Conn{Conn: c}).ReadMsg(); (err == nil && a.Rcode == dns.RcodeSuccess) != tc.answered {
				t.Errorf("the query is answered: %v, %v", a, err)
			}
		})
	}
}
