// SPDX-License-Identifier: Apache-2.0

package names

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// resolver is the name server of sandboxes.
const resolver = "127.0.0.11"

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

// dig queries the name server from a host with dig and returns the answers, one a line, or the code.
func (n *names) dig(h *world.Host, args ...string) string {
	n.Helper()
	out := n.Run(h, "dig", append([]string{"+tries=1", "+time=2", "+noall", "+comments", "+answer"}, args...)...)
	var answers []string
	for line := range strings.Lines(out.Stdout) {
		if f := strings.Fields(line); len(f) == 5 && f[0][0] != ';' {
			answers = append(answers, f[4])
		}
	}
	if len(answers) > 0 {
		return strings.Join(answers, " ")
	}
	_, after, found := strings.Cut(out.Stdout, "status: ")
	if !found {
		return strings.TrimSpace(out.Output())
	}
	code, _, _ := strings.Cut(after, ",")
	return code
}

func (n *names) digs(h *world.Host, want string, args ...string) {
	n.Helper()
	if got := n.dig(h, args...); got != want {
		n.Errorf("dig %s in %s: %q, want %q", strings.Join(args, " "), h.Name, got, want)
	}
}

// exchange sends a query from a socket of the host that is not connected, and returns the address and
// the sender of the reply.
func exchange(h *world.Host, name string) (answer, sender string, err error) {
	c, err := h.ListenPacket("udp4", ":0")
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	q, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		return "", "", err
	}
	if _, err := c.WriteTo(q, &net.UDPAddr{IP: net.ParseIP(resolver), Port: 53}); err != nil {
		return "", "", err
	}
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", "", err
	}
	b := make([]byte, 512)
	got, from, err := c.ReadFrom(b)
	if err != nil {
		return "", "", err
	}
	a := new(dns.Msg)
	if err := a.Unpack(b[:got]); err != nil {
		return "", "", err
	}
	if len(a.Answer) == 1 {
		answer = a.Answer[0].(*dns.A).A.String()
	}
	return answer, from.String(), nil
}

// A sandbox in networks of the user's has a name server at 127.0.0.11, which knows the names of all of
// them, for sockets of every kind, and through a restart of the daemon.
func TestResolver(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "--ipv6", "web")
	n.Fairlead("network", "create", "--internal", "db")
	n.Fairlead("network", "create", "--ipv6", "--ipv4=false", "six")
	a, b := n.Sandbox("anna", "--network", "web"), n.Sandbox("ben", "--network", "web")
	c := n.Sandbox("carl", "--network", "db")

	serves := func() {
		t.Helper()
		for _, protocol := range []string{"+notcp", "+tcp"} {
			n.digs(a.Host, b.IP4.String(), "@"+resolver, protocol, "ben")
			n.digs(a.Host, b.IP6.String(), "@"+resolver, protocol, "BEN.web", "AAAA")
			n.digs(a.Host, lab.Internet4, "@"+resolver, protocol, "example.com")
			n.digs(c.Host, c.IP4.String(), "@"+resolver, protocol, "carl")
		}
		answer, sender, err := exchange(a.Host, "ben.")
		if want := resolver + ":53"; answer != b.IP4.String() || sender != want || err != nil {
			t.Errorf("a socket that is not connected: %s from %s, %v; want %s from %s", answer, sender, err, b.IP4, want)
		}
	}
	serves()
	n.digs(a.Host, "NXDOMAIN", "@"+resolver, "carl")
	n.digs(c.Host, "NXDOMAIN", "@"+resolver, "example.com")
	// An IPv6 socket reaches it too, and sees the address that it used.
	peer, err := a.Host.Dial(net.Dialer{Timeout: time.Second}, "tcp", "["+"::ffff:"+resolver+"]:53")
	if err != nil {
		t.Error(err)
	} else {
		peer.Close()
	}
	// Names of the default network are not served, and 127.0.0.11 is not the host's to others.
	d := n.Sandbox("dora")
	for _, h := range []*world.Host{d.Host, n.Host, n.Outside} {
		if _, _, err := exchange(h, "ben."); err == nil {
			t.Errorf("%s has a name server at %s", h.Name, resolver)
		}
	}

	n.Fairlead("network", "connect", "db", "anna")
	n.digs(a.Host, c.IP4.String(), "@"+resolver, "carl")
	n.Fairlead("network", "disconnect", "web", "anna")
	n.digs(a.Host, c.IP4.String(), "@"+resolver, "carl")
	n.digs(a.Host, "NXDOMAIN", "@"+resolver, "ben")
	n.Fairlead("network", "connect", "web", "anna")
	n.Fairlead("network", "disconnect", "db", "anna")

	// A sandbox without IPv4 queries the gateway itself.
	e := n.Sandbox("emil", "--network", "six")
	n.digs(e.Host, e.IP6.String(), "@"+n.Gateway("six", lab.IPv6), "emil", "AAAA")
	n.digs(e.Host, e.IP6.String(), "+tcp", "@"+n.Gateway("six", lab.IPv6), "emil", "AAAA")

	n.StartDaemon() // takes over
	serves()
	n.KillDaemon()
	n.StartDaemon()
	serves()
	n.Remove(b)
	n.digs(a.Host, "NXDOMAIN", "@"+resolver, "ben")
}
