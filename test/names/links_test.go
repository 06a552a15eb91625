// SPDX-License-Identifier: Apache-2.0

package names

import (
	"net"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// server answers every query on a host with an address, and counts them.
func (n *names) server(h *world.Host, address, answer string) *atomic.Int32 {
	n.Helper()
	packets, err := h.ListenPacket("udp", net.JoinHostPort(address, "53"))
	if err != nil {
		n.Fatal(err)
	}
	streams, err := h.Listen("tcp", net.JoinHostPort(address, "53"))
	if err != nil {
		n.Fatal(err)
	}
	count := new(atomic.Int32)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		count.Add(1)
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(answer)}}
		_ = w.WriteMsg(a)
	})
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		go func() { _ = s.ActivateAndServe() }()
		n.Cleanup(func() { _ = s.Shutdown() })
	}
	return count
}

// A link is another name of a sandbox that only the sandbox with the link knows. It may precede its target, and
// follows it.
func TestLinks(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "web")
	n.Fairlead("network", "create", "db")
	a := n.Sandbox("anna", "--network", "web", "--link", "ben:store", "--link", "carl")
	b := n.Sandbox("other", "--network", "web", "--network-alias", "store")
	at := "@" + resolver
	n.digs(a.Host, b.IP4.String(), at, "store")
	ben := n.Sandbox("ben", "--network", "web")
	n.digs(a.Host, ben.IP4.String(), at, "STORE")
	n.digs(a.Host, ben.IP4.String(), at, "store.web")
	n.digs(a.Host, "NOERROR", at, "store", "AAAA")
	n.digs(b.Host, b.IP4.String(), at, "store")
	n.Remove(ben)
	n.digs(a.Host, b.IP4.String(), at, "store")
	ben = n.Sandbox("ben", "--network", "web")
	n.digs(a.Host, ben.IP4.String(), at, "store")

	n.Fairlead("network", "connect", "--alias", "base", "--link", "carl:keeper", "db", "anna")
	carl := n.Sandbox("carl", "--network", "db")
	n.digs(a.Host, carl.IP4.String(), at, "keeper")
	n.digs(carl.Host, "NXDOMAIN", at, "keeper")
	n.digs(carl.Host, n.Inspect("anna").NetworkSettings.Networks["db"].IPAddress, at, "base")
	n.Fairlead("network", "disconnect", "db", "anna")
	n.digs(a.Host, "NXDOMAIN", at, "keeper")
	n.digs(carl.Host, "NXDOMAIN", at, "base")
	n.KillDaemon()
	n.StartDaemon()
	n.digs(a.Host, ben.IP4.String(), at, "store")

	// A renamed target keeps its alias for the one with the link, and has its new name for all, at once. So it is in
	// the default network.
	n.Fairlead("rename", "ben", "berta")
	n.digs(a.Host, ben.IP4.String(), at, "store")
	n.digs(b.Host, ben.IP4.String(), at, "berta")
	n.digs(b.Host, "NXDOMAIN", at, "ben")
	n.contains(n.Must(b.Host, "dig", "+short", at, "-x", ben.IP4.String()), "berta.web.")
	n.Fairlead("rename", "berta", "ben")
	n.digs(b.Host, ben.IP4.String(), at, "ben")
	n.Refused(1, []string{`The sandbox name "anna" is already in use`}, "rename", "ben", "anna")

	// In the default network it is a line of /etc/hosts, of a sandbox that exists.
	n.Refused(1, []string{"no such sandbox: dora"}, "sandbox", "create", "--link", "dora:d", "emil")
	n.Refused(1, []string{"cannot link", "ben"}, "sandbox", "create", "--link", "ben:d", "emil")
	n.Refused(1, []string{"bad format for links"}, "sandbox", "create", "--network", "web", "--link", ":d", "emil")
	n.Refused(1, []string{"bad format for links: anna:d. (want NAME or NAME:ALIAS, without a dot at the end)"}, "sandbox", "create", "--network", "web", "--link", "anna:d.", "emil")
	n.Refused(2, []string{"--link"}, "sandbox", "create", "--network", "container:ben", "--link", "anna", "emil")
	d := n.Sandbox("dora")
	n.Sandbox("emil", "--link", "dora:d")
	n.contains(n.in("emil", "cat", "/etc/hosts"), d.IP4.String()+"\td "+n.Inspect("dora").ID[:12]+" dora")
	n.Fairlead("rename", "dora", "doris")
	n.contains(n.in("emil", "cat", "/etc/hosts"), d.IP4.String()+"\td "+n.Inspect("doris").ID[:12]+" doris")
}

// A program that ended has no name any more.
func TestEndedProgram(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "web")
	a := n.Sandbox("anna", "--network", "web")
	n.Fairlead("run", "--name", "ben", "--network", "web", "true")
	n.digs(a.Host, "NXDOMAIN", "@"+resolver, "ben")
}

// The servers that a user chooses are queried from the sandbox, also in an internal network; those of the host from
// the host.
func TestChosenServers(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "--internal", "db")
	server := n.Sandbox("server", "--network", "db", "--network-alias", "ns")
	asked := n.server(server.Host, server.IP4.String(), "192.0.2.77")
	a := n.Sandbox("anna", "--network", "db", "--dns", "192.0.2.99", "--dns", server.IP4.String(), "--dns", resolver)
	b := n.Sandbox("ben", "--network", "db")
	for _, protocol := range []string{"+notcp", "+tcp"} {
		n.digs(a.Host, "192.0.2.77", protocol, "@"+resolver, "example.com")
	}
	n.digs(a.Host, b.IP4.String(), "@"+resolver, "ben")
	n.digs(b.Host, "NXDOMAIN", "@"+resolver, "example.com")
	if asked.Load() != 2 || n.Asked.Load() != 0 {
		t.Errorf("%d queries from the sandbox, want 2; %d from the host, want none", asked.Load(), n.Asked.Load())
	}
	// One in the sandbox itself.
	n.Fairlead("network", "create", "web")
	c := n.Sandbox("carl", "--network", "web", "--dns", "127.0.0.1")
	n.server(c.Host, "127.0.0.1", "192.0.2.78")
	n.digs(c.Host, "192.0.2.78", "@"+resolver, "example.com")
	// The name server does not query itself.
	d := n.Sandbox("dora", "--network", "web", "--dns", resolver, "--dns", n.Gateway("web", lab.IPv4))
	n.digs(d.Host, "SERVFAIL", "@"+resolver, "example.com")
}
