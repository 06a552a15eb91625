// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// in runs a program in a sandbox and returns its output.
func (n *names) in(sandbox string, command ...string) string {
	n.Helper()
	return n.Fairlead(append([]string{"exec", sandbox}, command...)...)
}

func (n *names) contains(text string, wanted ...string) {
	n.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			n.Errorf("want %q in:\n%s", w, text)
		}
	}
}

// Programs in a sandbox have /etc/hosts, /etc/hostname and /etc/resolv.conf of their own, made by Docker's rules. The
// host's stay what they are.
func TestFiles(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	hosts, hostname := n.Must(n.Host, "cat", "/etc/hosts"), n.Must(n.Host, "hostname")
	n.Fairlead("network", "create", "--ipv6", "web")
	n.Fairlead("network", "create", "--ipv6", "--ipv4=false", "six")
	n.Sandbox("ben", "--network", "web")
	a := n.Sandbox("anna", "--network", "web", "--hostname", "box", "--domainname", "example.org", "--add-host", "db:192.0.2.7",
		"--add-host", "host.internal=host-gateway", "--dns-search", "corp.example", "--dns-option", "timeout:1")
	text := n.in("anna", "cat", "/etc/hosts")
	n.contains(text, "127.0.0.1\tlocalhost\n", "192.0.2.7\tdb\n", n.Gateway("web", lab.IPv4)+"\thost.internal\n", n.Gateway("web", lab.IPv6)+"\thost.internal\n",
		a.IP4.String()+"\tbox.example.org box\n", a.IP6.String()+"\tbox.example.org box")
	n.contains(n.in("anna", "cat", "/etc/resolv.conf"), "nameserver 127.0.0.11\nsearch corp.example\noptions timeout:1 ndots:0\n",
		"# ExtServers: [host("+lab.Outside4+")]", "# Overrides: [search options]")
	if got := n.in("anna", "hostname", "-f"); got != "box.example.org" || n.in("anna", "cat", "/etc/hostname") != "box" {
		t.Errorf("the host name is %s", got)
	}
	// What glibc makes of them.
	if got := n.in("anna", "getent", "ahostsv4", "ben"); !strings.Contains(got, n.Entered("ben").IP4.String()) {
		t.Errorf("getent says %q of ben", got)
	}
	n.contains(n.in("anna", "getent", "hosts", "db"), "192.0.2.7")
	n.contains(n.in("ben", "getent", "ahostsv4", "example.com"), lab.Internet4)
	if got := n.in("ben", "cat", "/etc/hostname"); !strings.HasPrefix(n.Inspect("ben").ID, got) || len(got) != 12 {
		t.Errorf("the default host name is %q", got)
	}
	n.contains(n.Fairlead("run", "--rm", "--network", "container:anna", "cat", "/etc/hostname", "/etc/resolv.conf"), "box\n", "nameserver 127.0.0.11")
	n.Sandbox("emil", "--network", "six")
	n.contains(n.in("emil", "cat", "/etc/resolv.conf"), "nameserver "+n.Gateway("six", lab.IPv6)+"\n")
	n.contains(n.in("emil", "getent", "hosts", "emil"), n.Entered("emil").IP6.String())
	n.Sandbox("dora")
	n.contains(n.in("dora", "cat", "/etc/resolv.conf"), "nameserver "+lab.Outside4+"\n")

	// Networks come and go; the host's resolv.conf changes; a file that a user edited stays.
	n.Fairlead("network", "connect", "six", "ben")
	six := n.Inspect("ben").NetworkSettings.Networks["six"].GlobalIPv6Address
	n.contains(n.in("ben", "cat", "/etc/hosts"), six+"\t")
	n.in("anna", "sh", "-c", "echo 192.0.2.9 mine >>/etc/hosts; echo nameserver 192.0.2.53 >/etc/resolv.conf")
	if err := os.WriteFile(n.Dir("etc")+"/resolv.conf", []byte("nameserver "+lab.Outside4+"\nnameserver 192.0.2.54\nsearch new.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Eventually(10*time.Second, func() error {
		if got := n.in("ben", "cat", "/etc/resolv.conf"); !strings.Contains(got, "search new.example\n") {
			return fmt.Errorf("resolv.conf is\n%s", got)
		}
		return nil
	})
	n.KillDaemon()
	n.StartDaemon()
	n.Fairlead("network", "disconnect", "six", "ben")
	if got := n.in("anna", "cat", "/etc/resolv.conf"); got != "nameserver 192.0.2.53" {
		t.Errorf("the edited resolv.conf is\n%s", got)
	}
	n.contains(n.in("anna", "cat", "/etc/hosts"), "192.0.2.9 mine")
	if got := n.in("ben", "cat", "/etc/hosts"); strings.Contains(got, six) {
		t.Errorf("after the disconnection /etc/hosts is\n%s", got)
	}
	if got := n.Must(n.Host, "cat", "/etc/hosts"); got != hosts || n.Must(n.Host, "hostname") != hostname {
		t.Errorf("the host's /etc/hosts became\n%s", got)
	}
	n.Refused(2, []string{"--dns"}, "sandbox", "create", "--dns", "dns.example", "x1")
	n.Refused(2, []string{"add-host", "NAME:ADDRESS"}, "sandbox", "create", "--add-host", "db", "x1")
	n.Refused(1, []string{"not a valid domain"}, "sandbox", "create", "--dns-search", "a..b", "x1")
	n.Refused(1, []string{"invalid domain name"}, "sandbox", "create", "--domainname", "a b", "x1")
	n.Refused(1, []string{"invalid option"}, "sandbox", "create", "--dns-option", "a b", "x1")
	n.Refused(2, []string{"--add-host"}, "sandbox", "create", "--network", "container:anna", "--add-host", "a:192.0.2.1", "x1")
}
