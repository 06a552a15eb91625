// SPDX-License-Identifier: Apache-2.0

package names

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Members of macvlan and isolated networks reach no gateway on the host, and have their name server in the sandbox: for sockets of every
// kind, through restarts of the daemon, and as long as no other network has one at its gateway. It leaves port 53 to programs there.
func TestNamesInside(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.64/26",
		"--ipv6", "--subnet", "2001:db8:1::/64", "--ip-range", "2001:db8:1::100/120", "lan")
	n.Fairlead("network", "create", "-d", "macvlan", "quiet") // without a parent it is internal
	n.Fairlead("network", "create", "--internal", "--ipv6", "-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated", "-o", "com.docker.network.bridge.gateway_mode_ipv6=isolated", "alone")
	n.Fairlead("network", "create", "web")
	a, b := n.Sandbox("anna", "--network", "lan", "--link", "late:db"), n.Sandbox("ben", "--network", "lan", "--network-alias", "www", "--hostname", "Benjamin")
	c, d := n.Sandbox("carl", "--network", "quiet"), n.Sandbox("dora", "--network", "quiet")
	g, h := n.Sandbox("gil", "--network", "alone"), n.Sandbox("hal", "--network", "alone")

	serves := func() {
		t.Helper()
		for _, protocol := range []string{"+notcp", "+tcp"} {
			for _, name := range []string{"ben", "WWW.lan", "benjamin"} {
				n.digs(a.Host, b.IP4.String(), "@"+resolver, protocol, name)
			}
			n.digs(a.Host, b.IP6.String(), "@"+resolver, protocol, "www", "AAAA")
			n.digs(a.Host, "ben.lan.", "@"+resolver, protocol, "-x", b.IP4.String())
			n.digs(a.Host, lab.Internet4, "@"+resolver, protocol, "example.com")
			n.digs(c.Host, d.IP4.String(), "@"+resolver, protocol, "dora")
			n.digs(c.Host, "NXDOMAIN", "@"+resolver, protocol, "example.com")
			n.digs(c.Host, "NXDOMAIN", "@"+resolver, protocol, "ben")
			n.digs(g.Host, h.IP6.String(), "@"+resolver, protocol, "hal", "AAAA")
			n.digs(g.Host, "NXDOMAIN", "@"+resolver, protocol, "example.com")
		}
		answer, sender, err := exchange(a.Host, "ben.")
		if want := resolver + ":53"; answer != b.IP4.String() || sender != want || err != nil {
			t.Errorf("a socket that is not connected: %s from %s, %v; want %s from %s", answer, sender, err, b.IP4, want)
		}
		if got := n.Fairlead("exec", "anna", "getent", "ahostsv4", "www"); !strings.Contains(got, b.IP4.String()) {
			t.Errorf("getent says %q, want %s", got, b.IP4)
		}
	}
	serves()
	// A link's target may come later.
	n.digs(a.Host, "NXDOMAIN", "@"+resolver, "db")
	e := n.Sandbox("late", "--network", "lan")
	n.digs(a.Host, e.IP4.String(), "@"+resolver, "db")

	// A name server in a sandbox has port 53 at all addresses.
	for _, network := range []string{"udp4", "udp6"} {
		p, err := e.Host.ListenPacket(network, ":53")
		if err != nil {
			t.Fatalf("a name server in a sandbox: %v", err)
		}
		n.digs(e.Host, b.IP4.String(), "@"+resolver, "ben")
		p.Close()
	}
	tcp, err := e.Host.Listen("tcp", ":53")
	if err != nil {
		t.Fatalf("a name server in a sandbox: %v", err)
	}
	n.digs(e.Host, b.IP4.String(), "@"+resolver, "+tcp", "ben")
	tcp.Close()

	// While a bridge network has a name server at its gateway, that one knows the names of both.
	n.Fairlead("network", "connect", "--alias", "other", "web", "ben")
	n.Fairlead("network", "connect", "web", "anna")
	if got := listening(n, a.Host); got != "" {
		t.Errorf("listening in a sandbox that reaches a gateway: %s", got)
	}
	n.digs(a.Host, b.IP4.String(), "@"+resolver, "ben.lan")
	other := n.Inspect("ben").NetworkSettings.Networks["web"].IPAddress
	n.digs(a.Host, other, "@"+resolver, "other")
	n.Fairlead("network", "disconnect", "web", "anna")
	n.digs(a.Host, "NXDOMAIN", "@"+resolver, "other")
	n.Fairlead("network", "disconnect", "web", "ben")
	serves()

	n.StartDaemon() // takes over
	serves()
	n.KillDaemon()
	if got := listening(n, a.Host); got != "" {
		t.Errorf("listening in a sandbox without a daemon: %s", got)
	}
	n.StartDaemon()
	serves()
	n.Fairlead("network", "disconnect", "lan", "anna")
	if got := listening(n, a.Host); got != "" {
		t.Errorf("listening in a sandbox without a network: %s", got)
	}
	n.Remove(b)
	n.digs(e.Host, "NXDOMAIN", "@"+resolver, "www")

	// The addresses of members of a network without IPAM are not known.
	n.Fairlead("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipam-driver", "null", "bare")
	for _, args := range [][]string{
		{"sandbox", "create", "--network", "bare", "--network-alias", "www", "fred"},
		{"run", "--rm", "--network", "bare", "--network-alias", "once", "true"},
		{"network", "connect", "--alias", "both", "bare", "late"},
	} {
		if r := n.Try(args...); r.Code != 0 || strings.Count(r.Stderr, "warning: Aliases in network bare have no addresses") != 1 {
			t.Errorf("%q: status %d, %q; want a warning", args, r.Code, r.Stderr)
		}
	}
}

// The name server in a namespace of the user's does not outlive it: when another namespace is at the sandbox's path, names are served there, and
// when there is none, nothing holds the last one.
func TestNamesFollowNamespaces(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "-d", "macvlan", "quiet")
	path := filepath.Join(t.TempDir(), "netns")
	// namespace makes a namespace that the path is of from now on. Its end of a cable exists as long as it does.
	namespace := func(name string) (_ *world.Host, end func()) {
		t.Helper()
		h, err := world.New(name)
		if err != nil {
			t.Fatal(err)
		}
		end = sync.OnceFunc(h.Close)
		t.Cleanup(end)
		err = errors.Join(world.Cable(world.End{Host: n.Host, Device: "of" + name}, world.End{Host: h, Device: "cable"}),
			os.Symlink(h.NetNS(), path+".next"), os.Rename(path+".next", path))
		if err != nil {
			t.Fatal(err)
		}
		return h, end
	}
	ends := func(name string) {
		t.Helper()
		n.Eventually(10*time.Second, func() error {
			if r := n.Run(n.Host, "ip", "link", "show", "of"+name); r.Code == 0 {
				return fmt.Errorf("namespace %s still exists", name)
			}
			return nil
		})
	}
	serves := func(h *world.Host) {
		t.Helper()
		n.Eventually(10*time.Second, func() error {
			if !strings.Contains(listening(n, h), "127.0.0.11:11053") {
				return errors.New("nothing listens")
			}
			if got, want := n.dig(h, "@"+resolver, "anna"), n.Inspect("anna").NetworkSettings.Networks["quiet"].IPAddress; got != want {
				return fmt.Errorf("%q, want %q", got, want)
			}
			return nil
		})
	}
	first, end := namespace("one")
	n.Fairlead("sandbox", "create", "--netns", path, "--network", "quiet", "anna")
	serves(first)
	conn, err := first.Dial(net.Dialer{}, "tcp4", resolver+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	second, end2 := namespace("two")
	serves(second)
	if got := listening(n, first); got != "" {
		t.Errorf("listening in the former namespace: %s", got)
	}
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a connection in the former namespace: %v, want its end", err)
	}
	conn.Close()
	end()
	ends("one")

	n.KillDaemon()
	end2()
	ends("two") // no other process holds it
	third, end3 := namespace("three")
	n.StartDaemon()
	serves(third)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	end3()
	ends("three")
	n.Fairlead("rm", "anna")
}

// listening returns what listens in a sandbox.
func listening(n *names, h *world.Host) string {
	n.Helper()
	return n.Must(h, "ss", "-Hlntu")
}
