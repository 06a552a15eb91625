// SPDX-License-Identifier: Apache-2.0

// Package cluster tests several daemons that share networks through a store, with real traffic: two
// hosts in network namespaces, a router between them, and the embedded store or a server of its own.
//
// It contains only tests, which need root.
package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == greeter {
		if err := greet(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	lab.Main(m)
}

// pair is two hosts. A has the embedded store.
//
//	a 10.98.1.1 ── router ── 10.98.2.1 b
type pair struct {
	testing.TB
	a, b   *lab.Lab
	router *world.Host
	kill   func() // the store, if it is a server of its own
}

const (
	addressA, addressB = lab.RoutedA, lab.RoutedB
	storeURL           = "etcd://" + addressA + ":2379"
)

// newPair makes two hosts whose daemons do not run yet, with the embedded store.
func newPair(t *testing.T) *pair {
	t.Helper()
	return newPairOver(t, lab.IPv4)
}

// newPairOver is newPair with an underlay, and a store, of one family.
func newPairOver(t *testing.T, f lab.Family) *pair {
	t.Helper()
	a, b := f.Of(addressA, lab.RoutedA6), f.Of(addressB, lab.RoutedB6)
	return newPairAt(t, a, b, "embed", "etcd://"+net.JoinHostPort(a, "2379"), "--store-token", "none")
}

// newPairWith makes two hosts whose daemons will use these stores; the first has more flags.
func newPairWith(t *testing.T, storeA, storeB string, more ...string) *pair {
	t.Helper()
	return newPairAt(t, addressA, addressB, storeA, storeB, more...)
}

// newPairAt is newPairWith with the addresses of the tunnel's ends.
func newPairAt(t *testing.T, atA, atB, storeA, storeB string, more ...string) *pair {
	t.Helper()
	if storeA == "embed" {
		lab.EmbeddedStore(t)
	}
	p := &pair{TB: t}
	p.a = lab.New(t, lab.Config{NoDaemon: true, DaemonArgs: append([]string{"--store", storeA, "--advertise", atA, "--node-name", "a"}, more...)})
	p.b = lab.New(t, lab.Config{NoDaemon: true, DaemonArgs: []string{"--store", storeB, "--advertise", atB, "--node-name", "b"}})
	p.router = lab.Route(p.a, p.b)
	return p
}

// start starts both daemons, the second with more flags, and waits until both are registered.
func (p *pair) start(more ...string) *pair {
	p.Helper()
	p.a.StartDaemon()
	p.b.StartDaemon(more...)
	for _, l := range []*lab.Lab{p.a, p.b} {
		l.Eventually(20*time.Second, func() error {
			if up := l.Fairlead("node", "ls", "--format", "{{.Name}} {{.Status}}"); up != "a up\nb up" {
				return fmt.Errorf("nodes: %q", up)
			}
			return nil
		})
	}
	return p
}

// has waits until a network exists on a host.
func has(l *lab.Lab, network string) {
	l.Helper()
	l.Eventually(10*time.Second, func() error {
		if r := l.Try("network", "inspect", network); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
}

// TestTwoHosts is the way into a cluster: a network of two hosts, and sandboxes on both that reach each
// other by address and by name. The underlay is of either family.
func TestTwoHosts(t *testing.T) {
	for _, f := range lab.Families() {
		t.Run("over IPv"+f.String(), func(t *testing.T) {
			p := newPairOver(t, f).start()
			twoHosts(p)
			p.aggregates(f)
		})
	}
}

// aggregates expects the device of a family that makes the kernel aggregate tunnels, until the network is gone.
func (p *pair) aggregates(f lab.Family) {
	p.Helper()
	for _, l := range []*lab.Lab{p.a, p.b} {
		aggregating(l, "flvx"+f.String())
	}
	p.a.Fairlead("rm", "-f", "one")
	p.b.Fairlead("rm", "-f", "two")
	p.remove("web")
	for _, l := range []*lab.Lab{p.a, p.b} {
		aggregating(l, "")
	}
}

// remove removes a network from the cluster.
func (p *pair) remove(network string) {
	p.Helper()
	p.a.Eventually(5*time.Second, func() error { // the other host's member is removed there first
		if r := p.a.Try("network", "rm", network); r.Code != 0 {
			return errors.New(r.Output())
		}
		return nil
	})
}

func twoHosts(p *pair) {
	a, b, t := p.a, p.b, p.TB
	a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "-o", "fairlead.dns=true", "web")
	has(b, "web")
	one, two := a.Sandbox("one", "--network", "web"), b.Sandbox("two", "--network", "web")
	if one.IP4 == two.IP4 || one.IP6 == two.IP6 || one.MAC == two.MAC {
		t.Fatalf("one has %v %v %s, two has %v %v %s", one.IP4, one.IP6, one.MAC, two.IP4, two.IP6, two.MAC)
	}
	for _, f := range lab.Families() {
		a.PingSoon(one.Host, two.IP(f))
		b.PingSoon(two.Host, one.IP(f))
		b.Echo(two.Host, 7000+int(f))
		if err := a.Reach(5*time.Second, one.Host, "tcp", two.IP(f), 7000+int(f)); err != nil {
			t.Error(err)
		}
		if err := a.Reach(5*time.Second, one.Host, "udp", two.IP(f), 7000+int(f)); err != nil {
			t.Error(err)
		}
		// By the gateway, too, as a route in the sandbox may have it.
		a.IP(one.Host, fmt.Sprintf("route add %s via %s", two.IP(f), a.Gateway("web", f)))
		a.Ping(one.Host, two.IP(f))
		if err := a.Reach(5*time.Second, one.Host, "tcp", two.IP(f), 7000+int(f)); err != nil {
			t.Errorf("by the gateway: %v", err)
		}
		// The hosts themselves are members.
		a.Ping(a.Host, one.IP(f))
		a.PingSoon(a.Host, two.IP(f))
		b.Ping(b.Host, one.IP(f))
	}
	// Names of the other host, and by both families.
	for qtype, want := range map[uint16]string{dns.TypeA: two.IP4.String(), dns.TypeAAAA: two.IP6.String()} {
		if got, err := lookup(one.Host, a.Gateway("web", lab.IPv4), "two.web.", qtype); got != want {
			t.Errorf("the name of the sandbox on b is %q, %v; want %s", got, err, want)
		}
	}
	if members := len(a.Network("web").Containers); members != 2 {
		t.Errorf("network inspect lists %d members, want 2", members)
	}
	if got := b.Fairlead("ipam", "ls", "--format", "{{.Sandbox}}", "web"); len(got) == 0 {
		t.Errorf("ipam ls: %q", got)
	}
}

// lookup queries a server for a name, and returns the first address or the response code.
func lookup(h *world.Host, server, name string, qtype uint16) (string, error) {
	c, err := h.Dial(net.Dialer{Timeout: 2 * time.Second}, "udp", net.JoinHostPort(server, "53"))
	if err != nil {
		return "", err
	}
	defer c.Close()
	client := dns.Client{Timeout: 2 * time.Second}
	a, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, qtype), &dns.Conn{Conn: c})
	if err != nil {
		return "", err
	}
	for _, rr := range a.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			return rr.A.String(), nil
		case *dns.AAAA:
			return rr.AAAA.String(), nil
		}
	}
	return dns.RcodeToString[a.Rcode], nil
}

// entries returns what a table of remote members or nodes holds, as text.
func entries(l *lab.Lab, table string) map[string]string {
	l.Helper()
	m := l.PinnedMap(table)
	defer m.Close()
	all := map[string]string{}
	var k, v []byte
	it := m.Iterate()
	for it.Next(&k, &v) {
		all[fmt.Sprintf("%x", k)] = fmt.Sprintf("%x", v)
	}
	if err := it.Err(); err != nil {
		l.Fatal(err)
	}
	return all
}

// peerTables notes what the tables of other nodes have, and returns a function that expects all of it to be
// there still.
func peerTables(l *lab.Lab) (unchanged func()) {
	l.Helper()
	before := map[string]map[string]string{}
	for _, table := range []string{"fl_peer_fdb", "fl_peer_neigh", "fl_node", "fl_node_addr", "fl_tunnel_node"} {
		if before[table] = entries(l, table); len(before[table]) == 0 && table != "fl_node" {
			l.Errorf("table %s is empty", table)
		}
	}
	return func() {
		l.Helper()
		for table, entriesBefore := range before {
			after := entries(l, table)
			for k, v := range entriesBefore {
				if after[k] != v {
					l.Errorf("table %s: entry %s was %s, is %q without the store", table, k, v, after[k])
				}
			}
		}
	}
}

// TestStoreGoesAway kills the host of the store's daemon while traffic runs between the hosts: nothing
// is lost and no entry is deleted, removals work, and what needs the store says so. Then both go on.
func TestStoreGoesAway(t *testing.T) {
	p := newPair(t).start()
	a, b := p.a, p.b
	a.Fairlead("network", "create", "-d", "overlay", "web")
	has(b, "web")
	one, two := a.Sandbox("one", "--network", "web"), b.Sandbox("two", "--network", "web")
	extra := b.Sandbox("extra", "--network", "web")
	server := a.Echo(one.Host, 7000)
	b.PingSoon(two.Host, one.IP4.String())
	unchanged := peerTables(b)
	load := b.StartLoad("across hosts", two.Host, server, net.JoinHostPort(one.IP4.String(), "7000"))
	a.KillDaemon()
	b.Eventually(30*time.Second, func() error {
		if up := b.Fairlead("status", "--format", "{{.Cluster.Reachable}}"); up != "false" {
			return fmt.Errorf("reachable: %s", up)
		}
		return nil
	})
	b.Refused(1, []string{"shared by a cluster", "check that it runs"}, "sandbox", "create", "--network", "web", "more")
	b.Refused(1, []string{"cluster", "check that it runs"}, "network", "create", "-d", "overlay", "more")
	b.Refused(1, []string{"cluster", "check that it runs"}, "service", "create", "--network", "web", "shop")
	b.Timed("removal of a sandbox without the store", 2*time.Second, func() { b.Remove(extra) })
	b.Timed("creation of a local sandbox without the store", 3*time.Second, func() { b.Fairlead("sandbox", "create", "local") })
	// The other daemon starts again without the store, and serves from its copy.
	b.KillDaemon()
	b.StartDaemon()
	time.Sleep(3 * time.Second)
	unchanged()
	if members := len(b.Network("web").Containers); members != 2 {
		t.Errorf("network inspect lists %d members without the store, want 2", members)
	}
	a.StartDaemon()
	report := load.Stop()
	t.Logf("load: %v", report)
	if len(report.Errors) > 0 || report.Lost > 0 {
		t.Errorf("the traffic was disturbed: %v", report.Disturbances(time.Minute))
	}
	// Within 5 s the hosts share again what happened meanwhile.
	b.Eventually(10*time.Second, func() error {
		if r := b.Try("sandbox", "create", "--network", "web", "more"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	a.Eventually(10*time.Second, func() error {
		names := []string{}
		for _, m := range a.Network("web").Containers {
			names = append(names, m.Name+"@"+m.Node)
		}
		if got := strings.Join(names, " "); strings.Contains(got, "extra") || !strings.Contains(got, "more@b") || len(names) != 3 {
			return fmt.Errorf("members: %s", got)
		}
		return nil
	})
}

// TestStoreIsKilled kills the process of the embedded store: the daemon starts another, and the network
// exists in it. When the daemon is killed, the store ends too, and the next daemon starts with it.
func TestStoreIsKilled(t *testing.T) {
	p := newPair(t)
	l := p.a
	l.StartDaemon()
	create := func(network string) {
		l.Eventually(20*time.Second, func() error {
			if r := l.Try("network", "create", "-d", "overlay", network); r.Code != 0 {
				return fmt.Errorf("%s", r.Stderr)
			}
			return nil
		})
	}
	create("one")
	first := storeOf(l)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	create("two")
	second := storeOf(l)
	l.KillDaemon()
	l.StartDaemon()
	create("three")
	if third := storeOf(l); first == second || second == third {
		t.Errorf("the stores' processes are %d, %d and %d", first, second, third)
	}
	if !ended(second) {
		t.Error("the store of the killed daemon runs")
	}
	if got := l.Fairlead("network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}}"); got != "one\nthree\ntwo" {
		t.Errorf("network ls: %q", got)
	}
	third := storeOf(l)
	l.StopDaemon()
	if !ended(third) {
		t.Error("the store of the stopped daemon runs")
	}
}

// ended reports whether a process has ended, even if nothing has waited for it.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return errors.Is(err, fs.ErrNotExist) || strings.Contains(string(stat), ") Z ")
}

// storeOf returns the process of the store that the daemon has started.
func storeOf(l *lab.Lab) int {
	l.Helper()
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(l.Daemon.Pid()), "-f", "fairlead-store").Output()
	if err != nil {
		l.Fatalf("find the store's process: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		l.Fatalf("find the store's process: %v", err)
	}
	return pid
}

// TestSandboxMoves moves a sandbox with its address to the other host: it is reached there within a
// second, and connections of others go on.
func TestSandboxMoves(t *testing.T) {
	p := newPair(t).start()
	a, b := p.a, p.b
	a.Fairlead("network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", "web")
	has(b, "web")
	client, stays := a.Sandbox("client", "--network", "web"), b.Sandbox("stays", "--network", "web")
	load := a.StartLoad("of others", client.Host, b.Echo(stays.Host, 7000), net.JoinHostPort(stays.IP4.String(), "7000"))
	const address, port = "10.77.0.200", 7001
	moves := a.Sandbox("moves", "--network", "web", "--ip", address)
	a.Echo(moves.Host, port)
	reached := func() {
		if err := a.Reach(5*time.Second, client.Host, "tcp", address, port); err != nil {
			t.Fatal(err)
		}
	}
	reached()
	from, to := a, b
	for range 4 {
		from.Timed("move to a host where it is reached", time.Second, func() {
			from.Remove(moves)
			to.Eventually(5*time.Second, func() error { // the address is released
				if r := to.Try("sandbox", "create", "--network", "web", "--ip", address, moves.Name); r.Code != 0 {
					return errors.New(r.Stderr)
				}
				return nil
			})
			moves = to.Entered(moves.Name)
			to.Echo(moves.Host, port)
			reached()
		})
		from, to = to, from
	}
	report := load.Stop()
	t.Logf("load: %v", report)
	if len(report.Errors) > 0 || report.Lost > 0 {
		t.Errorf("the traffic was disturbed: %v", report.Disturbances(time.Minute))
	}
}
