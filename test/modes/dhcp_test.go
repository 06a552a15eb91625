// SPDX-License-Identifier: Apache-2.0

package modes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/test/lab"
)

// dhcpServer is dnsmasq on the other end of the host's link.
type dhcpServer struct {
	*world.Process
	l      *lab.Lab
	leases string // file
}

// fourAddresses is a range of the link.
const fourAddresses = "192.0.2.100,192.0.2.103"

// serveDHCP starts a server of a range of addresses.
func serveDHCP(l *lab.Lab, addresses string, args ...string) *dhcpServer {
	l.Helper()
	s := &dhcpServer{l: l, leases: filepath.Join(l.Dir("dhcp"), "leases")}
	s.Process = l.Spawn(l.Outside, "dnsmasq", append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--port=0", "--interface=eth0", "--bind-interfaces", "--no-ping",
		"--dhcp-authoritative", "--dhcp-leasefile=" + s.leases, "--dhcp-range=" + addresses + ",1h", "--log-dhcp", "--log-facility=-",
		"--dhcp-option=option:dns-server,192.0.2.53", "--domain=example.net",
	}, args...)...)
	l.Eventually(5*time.Second, func() error {
		if !strings.Contains(s.Output(), "DHCP, IP range") {
			return fmt.Errorf("dnsmasq does not serve: %s", s.Output())
		}
		return nil
	})
	return s
}

// lease returns the line of an address in the server's file, "" if it is free.
func (s *dhcpServer) lease(address string) string {
	s.l.Helper()
	b, err := os.ReadFile(s.leases)
	if err != nil && !os.IsNotExist(err) {
		s.l.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 5 && f[2] == address {
			return line
		}
	}
	return ""
}

// dhcpNetwork creates the network lan, whose members get addresses from the server.
func dhcpNetwork(l *lab.Lab) {
	l.Helper()
	l.Fairlead("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipam-driver", "dhcp", "lan")
}

// leaseOf returns what inspect shows of a sandbox's lease in lan, and its address there.
func leaseOf(l *lab.Lab, sandbox string) (api.Lease, string) {
	l.Helper()
	ep := l.Inspect(sandbox).NetworkSettings.Networks["lan"]
	if ep.Lease == nil {
		l.Fatalf("%s has no lease: %+v", sandbox, ep)
	}
	return *ep.Lease, ep.IPAddress
}

// A member gets its address, router, names and lease from the server, keeps the address through renewals, and gives it back.
func TestDHCP(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	server := serveDHCP(l, fourAddresses, "--dhcp-option=option:T1,3", "--dhcp-option=option:T2,6")
	l.HTTP(l.Outside, "outside", 80)
	dhcpNetwork(l)
	began := time.Now()
	b := l.Sandbox("ben", "--network", "lan", "--ip", "192.0.2.103")
	a := l.Sandbox("anna", "--network", "lan")
	first, address := leaseOf(l, "anna")
	if b.IP4.String() != "192.0.2.103" || a.IP4 == b.IP4 || a.IP4.String() != address || !strings.HasPrefix(address, "192.0.2.10") {
		l.Errorf("the addresses are %v, %v and %s", a.IP4, b.IP4, address)
	}
	if first.State != "bound" || first.Server != lab.Outside4 || first.Domain != "example.net" || fmt.Sprint(first.DNS) != "[192.0.2.53]" || first.Expires.Sub(began) < time.Minute || first.Renew.Sub(first.Obtained) != 3*time.Second {
		l.Errorf("the lease is %+v", first)
	}
	if out := l.Fairlead("exec", "anna", "cat", "/etc/resolv.conf"); !strings.Contains(out, "nameserver 127.0.0.11\nsearch example.net\n") || !strings.Contains(out, "ExtServers: [192.0.2.53]\n") {
		l.Errorf("resolv.conf is %s", out)
	}
	// Names that no sandbox has are those of the link's own server, which is asked from the sandbox.
	l.IP(l.Outside, "addr add 192.0.2.53/24 dev eth0")
	l.Spawn(l.Outside, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--log-queries", "--bind-interfaces", "--listen-address=192.0.2.53", "--address=/printer.example.net/192.0.2.7")
	l.Eventually(10*time.Second, func() error {
		for name, want := range map[string]string{"printer": "192.0.2.7", "ben": "192.0.2.103"} {
			if r := l.Try("exec", "anna", "getent", "ahostsv4", name); !strings.HasPrefix(r.Stdout, want+" ") {
				return fmt.Errorf("getent says %q of %s, want %s", r.Output(), name, want)
			}
		}
		return nil
	})
	if out := l.Must(a.Host, "ip", "addr", "show", "eth0"); !strings.Contains(out, address+"/24") || !strings.Contains(out, "dynamic") {
		l.Errorf("the address is not one that ends: %s", out)
	}
	l.Ping(a.Host, b.IP4.String())
	l.Get(a.Host, lab.Outside4, 80, "outside", address)
	l.Ping(a.Host, lab.Internet4) // by the server's router
	if line := server.lease(address); !strings.Contains(line, " anna ") {
		l.Errorf("the server has %q", line)
	}
	l.Eventually(20*time.Second, func() error {
		now, is := leaseOf(l, "anna")
		if is != address || !now.Expires.After(first.Expires) || strings.Count(server.Output(), "DHCPACK(eth0) "+address) < 2 {
			return fmt.Errorf("not renewed: %+v, first %+v", now, first)
		}
		return nil
	})
	// If the server of a lease does not answer, any other is asked.
	const other = "192.0.2.253"
	server.Kill()
	l.IP(l.Outside, "addr del "+lab.Outside4+"/24 dev eth0", "addr add "+other+"/24 dev eth0")
	server = serveDHCP(l, fourAddresses)
	l.Eventually(20*time.Second, func() error {
		now, is := leaseOf(l, "anna")
		if out := l.Must(a.Host, "ip", "route", "show", "default"); is != address || now.Server != other || !strings.Contains(out, "via "+other) {
			return fmt.Errorf("another server does not renew the lease: %+v, default route %s", now, out)
		}
		if now, _ := leaseOf(l, "ben"); now.Server != other {
			return fmt.Errorf("another server does not renew the lease of ben: %+v", now)
		}
		return nil
	})
	l.Ping(a.Host, lab.Internet4)
	l.Remove(a)
	l.Fairlead("network", "disconnect", "lan", "ben")
	l.Eventually(5*time.Second, func() error {
		if left := server.lease(address) + server.lease("192.0.2.103"); left != "" {
			return fmt.Errorf("the server still has %q", left)
		}
		return nil
	})
	l.Remove(b)
	l.Fairlead("network", "rm", "lan")
}

// The address is kept through a crash of the daemon, with and without a server.
func TestDHCPRestart(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	server := serveDHCP(l, fourAddresses)
	dhcpNetwork(l)
	a := l.Sandbox("anna", "--network", "lan")
	first, address := leaseOf(l, "anna")
	l.KillDaemon()
	l.Ping(l.Outside, address)
	l.StartDaemon()
	l.Eventually(10*time.Second, func() error {
		now, is := leaseOf(l, "anna")
		if is != address || !now.Expires.After(first.Expires) || strings.Contains(server.Output(), "NAK") {
			return fmt.Errorf("not confirmed: %+v, first %+v", now, first)
		}
		return nil
	})
	server.Kill()
	l.KillDaemon()
	l.StartDaemon()
	l.Eventually(20*time.Second, func() error { // the server is asked in vain
		if m := l.Metrics(); m[`fairlead_dhcp_requests_total{result="unanswered"}`] != 1 || m[`fairlead_dhcp_leases{state="bound"}`] != 1 {
			return fmt.Errorf("metrics are %v", m)
		}
		return nil
	})
	l.Ping(l.Outside, address)
	l.Ping(a.Host, lab.Internet4)
	l.Timed("removal without a server", 3*time.Second, func() { l.Remove(a) })
	l.Fairlead("network", "rm", "lan")
}

// A server that knows the address no longer gives another, which replaces it on the interface, in names and in inspect.
func TestDHCPAnotherAddress(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	server := serveDHCP(l, fourAddresses, "--dhcp-option=option:T1,3", "--dhcp-option=option:T2,20")
	dhcpNetwork(l)
	a := l.Sandbox("anna", "--network", "lan")
	_, address := leaseOf(l, "anna")
	server.Kill()
	if err := os.Remove(server.leases); err != nil {
		l.Fatal(err)
	}
	serveDHCP(l, "192.0.2.110,192.0.2.113")
	l.Eventually(30*time.Second, func() error {
		_, is := leaseOf(l, "anna")
		if out := l.Must(a.Host, "ip", "-4", "addr", "show", "eth0"); !strings.HasPrefix(is, "192.0.2.11") || strings.Contains(out, address+"/") || !strings.Contains(out, is+"/24") {
			return fmt.Errorf("the address is %s, was %s: %s", is, address, out)
		}
		if out := l.Fairlead("exec", "anna", "cat", "/etc/hosts"); !strings.Contains(out, is+"\t") || strings.Contains(out, address+"\t") {
			return fmt.Errorf("/etc/hosts is %s", out)
		}
		return nil
	})
	l.Ping(a.Host, lab.Internet4)
	l.Remove(a)
}

// Without a server, without a free address and without the requested address, the verb fails in one line and leaves nothing.
func TestDHCPRefusals(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	server := serveDHCP(l, fourAddresses)
	dhcpNetwork(l)
	a := l.Sandbox("anna", "--network", "lan", "--ip", "192.0.2.102")
	l.Refused(125, []string{"192.0.2.102 is not available in network lan: DHCP server 192.0.2.254 offers 192.0.2.10", "choose a free address of that server, or leave out --ip"},
		"run", "--network", "lan", "--ip", "192.0.2.102", "true")
	for i := range 3 {
		l.Sandbox(fmt.Sprint("more", i), "--network", "lan")
	}
	none := []string{"no DHCP server gave sandbox", "an address in network lan within 10s (a server must answer on the link of eth0 and have a free address)"}
	l.Refused(125, none, "run", "--network", "lan", "true")
	if !strings.Contains(server.Output(), "no address available") {
		l.Errorf("the server says %s", server.Output())
	}
	server.Kill()
	l.Fairlead("sandbox", "create", "--network", "none", "idle")
	l.Fairlead("sandbox", "create", "ben")
	l.Refused(1, none, "network", "connect", "lan", "ben")
	if out := l.Fairlead("exec", "ben", "ip", "-br", "link"); strings.Contains(out, "eth1") {
		l.Errorf("ben still has %s", out)
	}
	if got := l.Fairlead("ps", "-a", "--format", "{{.Names}}"); len(strings.Fields(got)) != 6 {
		l.Errorf("the sandboxes are %s", got)
	}
	if n := l.Network("lan"); len(n.Containers) != 4 || n.IPAM.Driver != "dhcp" {
		l.Errorf("the network is %+v", n)
	}
	l.Remove(a)
}
