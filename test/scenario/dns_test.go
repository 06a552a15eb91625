// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// question queries a server from a host and returns the answer as text: an address, or the
// response code if there is none.
func question(h *world.Host, protocol, server, name string, qtype uint16) (string, error) {
	c, err := h.Dial(net.Dialer{Timeout: time.Second}, protocol, net.JoinHostPort(server, "53"))
	if err != nil {
		return "", err
	}
	defer c.Close()
	client := dns.Client{Net: protocol, Timeout: 2 * time.Second}
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

// names is a lab whose host uses a resolver outside.
type names struct {
	*lab.Lab
	*lab.Resolver
}

func newNames(t *testing.T) *names {
	t.Helper()
	l := lab.New(t, lab.Config{})
	return &names{l, l.Resolver()}
}

func (n *names) want(h *world.Host, protocol, server, name string, qtype uint16, want string) {
	n.Helper()
	if got, err := question(h, protocol, server, name, qtype); got != want {
		n.Errorf("%s asks %s for %s by %s: %q, %v; want %s", h.Name, server, name, protocol, got, err, want)
	}
}

// Members of a network with DNS resolve each other's names, and outside names through the
// host's resolver; members of only an internal network do not get outside names.
func TestNames(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "-o", "fairlead.dns=true", "--ipv6", "web")
	n.Fairlead("network", "create", "-o", "fairlead.dns=true", "--internal", "quiet")
	n.Fairlead("network", "create", "mute")
	a, b := n.Sandbox("anna", "--network", "web"), n.Sandbox("ben", "--network", "web")
	gw4, gw6 := n.Gateway("web", lab.IPv4), n.Gateway("web", lab.IPv6)
	for _, protocol := range []string{"udp", "tcp"} {
		for _, gw := range []string{gw4, gw6} {
			n.want(a.Host, protocol, gw, "ben.", dns.TypeA, b.IP4.String())
			n.want(a.Host, protocol, gw, "BEN.web.", dns.TypeAAAA, b.IP6.String())
		}
	}
	n.want(a.Host, "udp", gw4, "example.com.", dns.TypeA, lab.Internet4)
	n.want(a.Host, "udp", gw4, "nobody.", dns.TypeA, "NXDOMAIN")
	n.want(n.Host, "udp", gw4, "anna.", dns.TypeA, a.IP4.String())

	asked := n.Asked.Load()
	lone, mute := n.Sandbox("lone", "--network", "quiet"), n.Sandbox("mute", "--network", "mute")
	quiet := n.Gateway("quiet", lab.IPv4)
	n.want(lone.Host, "udp", quiet, "lone.", dns.TypeA, lone.IP4.String())
	n.want(lone.Host, "udp", quiet, "example.com.", dns.TypeA, "NXDOMAIN")
	n.want(lone.Host, "udp", quiet, "anna.", dns.TypeA, "NXDOMAIN")
	if got := n.Asked.Load(); got != asked {
		t.Errorf("the resolver outside was queried %d times from an internal network", got-asked)
	}
	n.want(mute.Host, "udp", gw4, "anna.", dns.TypeA, "REFUSED")
	n.want(mute.Host, "tcp", quiet, "example.com.", dns.TypeA, "REFUSED")
	n.want(n.Host, "udp", gw4, "example.com.", dns.TypeA, "REFUSED")
	if got, err := question(mute.Host, "tcp", n.Gateway("mute", lab.IPv4), "mute.", dns.TypeA); err == nil {
		t.Errorf("a network without names answers %s", got)
	}

	n.Fairlead("network", "connect", "web", "lone")
	n.want(lone.Host, "udp", quiet, "anna.", dns.TypeA, a.IP4.String())
	n.want(lone.Host, "udp", quiet, "example.com.", dns.TypeA, lab.Internet4)
	n.Remove(b)
	n.want(a.Host, "udp", gw4, "ben.", dns.TypeA, "NXDOMAIN")
	b = n.Sandbox("ben", "--network", "web")
	n.want(a.Host, "udp", gw4, "ben.", dns.TypeA, b.IP4.String())

	n.StartDaemon() // takes over
	n.want(a.Host, "udp", gw4, "ben.", dns.TypeA, b.IP4.String())
	n.KillDaemon()
	n.StartDaemon()
	n.want(a.Host, "tcp", gw4, "ben.", dns.TypeA, b.IP4.String())
	for what, want := range map[string]float64{"local": 1, "forwarded": 0, "failed": 0} {
		if got := n.Metrics()[fmt.Sprintf(`fairlead_dns_questions_total{result=%q}`, what)]; got != want {
			t.Errorf("%v questions were %s, want %v", got, what, want)
		}
	}
}

// A program of the host that uses port 53 keeps it; names are served once it has exited.
func TestNamesBesideAServer(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	other, err := n.Host.ListenPacket("udp", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	n.Fairlead("network", "create", "-o", "fairlead.dns=true", "web")
	a := n.Sandbox("anna", "--network", "web")
	gw := n.Gateway("web", lab.IPv4)
	if got := n.Metrics()["fairlead_dns_unserved_addresses"]; got != 1 {
		t.Errorf("%v addresses are not served, want 1", got)
	}
	unserved := func() string { return n.Fairlead("network", "inspect", "-f", `{{index . "Unserved"}}`, "web") }
	if got := unserved(); got != "["+gw+"]" {
		t.Errorf("unserved are %s, want %s", got, gw)
	}
	other.Close()
	n.Eventually(10*time.Second, func() error {
		got, err := question(a.Host, "udp", gw, "anna.", dns.TypeA)
		if err == nil && got != a.IP4.String() {
			err = fmt.Errorf("answer %s", got)
		}
		return err
	})
	if got := n.Metrics()["fairlead_dns_unserved_addresses"]; got != 0 {
		t.Errorf("%v addresses are not served, want none", got)
	}
	if got := unserved(); got != "<no value>" {
		t.Errorf("unserved are %s, want none", got)
	}
	// What a removed network used is available to others.
	n.Remove(a)
	n.Fairlead("network", "rm", "web")
	again, err := n.Host.ListenPacket("udp", "0.0.0.0:53")
	if err != nil {
		t.Fatalf("port 53 after the network was removed: %v", err)
	}
	again.Close()
}

// A container may publish port 53 on every address of the host, except for the gateways where
// names are served, whichever came first.
func TestNamesBesideAPublishedServer(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "-o", "fairlead.dns=true", "web")
	a := n.Sandbox("anna", "--network", "web")
	own, err := n.Host.ListenPacket("udp", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	publish := []string{"sandbox", "create", "--network", "web", "-p", "53:53/udp", "-p", "53:53/tcp", "hole"}
	if r := n.Try(publish...); r.Code == 0 || !strings.Contains(r.Output(), "address already in use") {
		t.Errorf("published the port of a program of the host: %s", r.Output())
	}
	own.Close()
	hole := n.Sandbox("hole", publish[2:len(publish)-1]...)
	packets, err := hole.Host.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := hole.Host.Listen("tcp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	refuse := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNotAuth)) })
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: refuse}, {Listener: streams, Handler: refuse}} {
		go func() { _ = server.ActivateAndServe() }()
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	n.Fairlead("network", "create", "-o", "fairlead.dns=true", "later")
	n.Fairlead("network", "create", "mute")
	b, c := n.Sandbox("ben", "--network", "later"), n.Sandbox("carl", "--network", "mute")
	served := func() {
		t.Helper()
		for _, protocol := range []string{"udp", "tcp"} {
			n.want(a.Host, protocol, n.Gateway("web", lab.IPv4), "anna.", dns.TypeA, a.IP4.String())
			n.want(b.Host, protocol, n.Gateway("later", lab.IPv4), "ben.", dns.TypeA, b.IP4.String())
			n.want(n.Host, protocol, n.Gateway("web", lab.IPv4), "anna.", dns.TypeA, a.IP4.String())
			n.want(a.Host, protocol, lab.Host4, "anna.", dns.TypeA, "NOTAUTH")
			n.want(c.Host, protocol, n.Gateway("mute", lab.IPv4), "carl.", dns.TypeA, "NOTAUTH")
			n.want(n.Outside, protocol, lab.Host4, "anna.", dns.TypeA, "NOTAUTH")
			n.want(n.Host, protocol, "127.0.0.1", "anna.", dns.TypeA, "NOTAUTH")
		}
		if got := n.Metrics()["fairlead_dns_unserved_addresses"]; got != 0 {
			t.Errorf("%v addresses are not served, want none", got)
		}
	}
	served()
	n.StartDaemon() // takes over
	served()
	n.KillDaemon()
	n.StartDaemon()
	served()
	if l, err := n.Host.ListenPacket("udp", "0.0.0.0:53"); err == nil {
		l.Close()
		t.Error("a program of the host binds the published port")
	}
}
