// SPDX-License-Identifier: Apache-2.0

package modes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

// onLink are the flags of a network of driver lan in the subnets of the link between the host and outside.
func onLink(more ...string) []string {
	return append([]string{"network", "create", "-d", "lan", "-o", "parent=eth0", "--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.64/26", "--gateway", "192.0.2.254",
		"--ipv6", "--subnet", "2001:db8:1::/64", "--ip-range", "2001:db8:1::100/120", "--gateway", "2001:db8:1::fe"}, more...)
}

// stations returns the MACs that the parent accepts besides its own, without groups.
func stations(l *lab.Lab) string {
	l.Helper()
	return accepted(l, func(mac string) bool { return strings.HasPrefix(mac, "02:") })
}

// accepted returns the MACs that the parent accepts besides its own, those of which is true.
func accepted(l *lab.Lab, which func(string) bool) string {
	l.Helper()
	var list []string
	for line := range strings.Lines(l.Must(l.Host, "bridge", "fdb", "show", "dev", "eth0")) {
		if mac := strings.Fields(line)[0]; which(mac) {
			list = append(list, mac)
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// device returns the index and the MAC of a host's eth0.
func device(l *lab.Lab, h *world.Host) (index, mac string) {
	l.Helper()
	words := strings.Fields(l.Must(h, "ip", "-o", "link", "show", "eth0"))
	return strings.TrimSuffix(words[0], ":"), words[slices.Index(words, "link/ether")+1]
}

// linkLocal returns the address that an interface derives from its MAC.
func linkLocal(t *lab.Lab, mac string) string {
	t.Helper()
	var m model.MAC
	if err := m.UnmarshalText([]byte(mac)); err != nil {
		t.Fatal(err)
	}
	return m.LinkLocal().String()
}

// Members of a lan network, the link and the host reach each other at the members' own addresses; so do members of other networks
// of the host. Nothing is translated.
func TestLAN(t *testing.T) {
	t.Parallel()
	for _, clsact := range []bool{false, true} {
		t.Run(fmt.Sprintf("clsact=%v", clsact), func(t *testing.T) {
			t.Parallel()
			l := lab.New(t, lab.Config{Clsact: clsact})
			l.Fairlead(onLink("lan")...)
			l.Fairlead("network", "create", "--ipv6", "web")
			a, b := l.Sandbox("anna", "--network", "lan"), l.Sandbox("ben", "--network", "lan", "--ip", "192.0.2.99", "--mac-address", "02:00:00:00:00:99")
			c := l.Sandbox("cleo", "--network", "web", "-p", "8080:80")
			both := l.Sandbox("dora", "--network", "name=web,gw-priority=1", "--network", "name=lan,ip=192.0.2.98")
			l.HTTP(both.Host, "dora", 80)
			l.HTTP(b.Host, "ben", 80)
			l.HTTP(c.Host, "cleo", 80)
			l.HTTP(l.Host, "host", 81)
			l.HTTP(l.Outside, "outside", 80)
			if now := stations(l); !strings.Contains(now, "02:00:00:00:00:99") || !strings.Contains(now, a.MAC) {
				l.Errorf("the parent accepts %s", now)
			}
			reach := func(l *lab.Lab) {
				for _, f := range lab.Families() {
					outside, host := f.Of(lab.Outside4, lab.Outside6), f.Of(lab.Host4, lab.Host6)
					l.Ping(a.Host, b.IP(f))
					l.Get(a.Host, b.IP(f), 80, "ben", a.IP(f))
					l.Ping(a.Host, outside)
					l.Get(a.Host, outside, 80, "outside", a.IP(f))
					l.Ping(a.Host, f.Of(lab.Internet4, lab.Internet6)) // by the router of the link
					l.Ping(l.Outside, a.IP(f))
					l.Get(l.Outside, b.IP(f), 80, "ben", outside)
					l.Ping(l.Host, a.IP(f))
					l.Get(l.Host, b.IP(f), 80, "ben", host)
					l.Ping(a.Host, host)
					l.Get(a.Host, host, 81, "host", a.IP(f))
					l.Get(a.Host, host, 8080, "cleo", a.IP(f))
					l.Get(l.Outside, host, 8080, "cleo", outside)
					l.Get(c.Host, b.IP(f), 80, "ben", host) // masqueraded, as to any host of the link
					l.NoPing(a.Host, c.IP(f))
				}
			}
			l.Case("at first", reach)
			if out := l.Fairlead("exec", "anna", "getent", "ahostsv4", "ben"); !strings.Contains(out, "192.0.2.99") {
				l.Errorf("anna resolves ben to %s", out)
			}
			l.Get(l.Outside, "192.0.2.98", 80, "dora", lab.Outside4)
			l.Get(a.Host, "192.0.2.98", 80, "dora", a.IP4.String())
			for kind, n := range l.Metrics().Repairs() {
				if n != 0 {
					l.Errorf("%v repairs of kind %s", n, kind)
				}
			}
			// Every machine of the link hears a group, once, whichever of them sends to it.
			for from, others := range map[*world.Host][]string{
				a.Host: {"host", "outside", b.MAC}, l.Host: {"outside", a.MAC, b.MAC}, l.Outside: {"host", a.MAC, b.MAC},
			} {
				out := l.Run(from, "ping", "-n", "-w2", "-i1", "ff02::1%eth0").Stdout
				for _, name := range others {
					mac := name
					if h := map[string]*world.Host{"host": l.Host, "outside": l.Outside}[name]; h != nil {
						_, mac = device(l, h)
					}
					if n := strings.Count(out, "from "+linkLocal(l, mac)+"%eth0: icmp_seq=1 "); n != 1 {
						l.Errorf("%s: %s answers a ping of all nodes %d times:\n%s", from.Name, name, n, out)
					}
				}
			}
			l.KillDaemon()
			l.Case("without a daemon", reach)
			l.StartDaemon()
			l.Case("after a restart", reach)
			// The host's networks are closed to members as to other machines of the link.
			for _, f := range lab.Families() {
				l.IP(a.Host, fmt.Sprintf("route add %s via %s", c.IP(f), f.Of(lab.Host4, lab.Host6)))
				l.Dropped("direct", 1, func() { l.NoPing(a.Host, c.IP(f)) })
			}
			l.IP(b.Host, "addr add 192.0.2.97/24 dev eth0")
			l.Dropped("spoofed_ip", 1, func() { l.Run(b.Host, "ping", "-c1", "-W1", "-I", "192.0.2.97", lab.Outside4) })
			l.Remove(both)
			l.Remove(a)
			if now := stations(l); now != "02:00:00:00:00:99" {
				l.Errorf("without anna the parent accepts %s", now)
			}
			l.Ping(b.Host, lab.Outside4)
			l.Remove(b)
			l.Fairlead("network", "rm", "lan")
			if now := stations(l); now != "" {
				l.Errorf("after the removal the parent accepts %s", now)
			}
			l.Get(l.Outside, lab.Host4, 8080, "cleo", lab.Outside4)
		})
	}
}

// What others delete is restored; a parent with another MAC is found; a daemon that is killed before it removed a member's MAC
// removes it at the next start, and cleanup removes all.
func TestLANRepairs(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	const others = "02:00:00:00:00:55" // which someone else added, and keeps
	l.Must(l.Host, "bridge", "fdb", "add", others, "dev", "eth0", "self")
	l.Fairlead(onLink("lan")...)
	a := l.Sandbox("anna", "--network", "lan")
	mtu, low := "1500", a.IP6.As16()
	group := fmt.Sprintf("33:33:ff:%02x:%02x:%02x", low[13], low[14], low[15])
	isGroup := func(mac string) bool { return strings.HasPrefix(mac, "33:33:ff:") }
	works := func() error {
		for _, f := range lab.Families() {
			for _, h := range []string{f.Of(lab.Outside4, lab.Outside6), f.Of(lab.Host4, lab.Host6)} {
				if r := l.Run(a.Host, "ping", "-c1", "-W1", h); r.Code != 0 {
					return fmt.Errorf("anna does not reach %s: %s", h, r.Output())
				}
			}
		}
		if now := stations(l); now != a.MAC+" "+others && now != others+" "+a.MAC {
			return fmt.Errorf("the parent accepts %q, want %s and %s", now, a.MAC, others)
		}
		if now := accepted(l, isGroup); !strings.Contains(now, group) {
			return fmt.Errorf("the parent accepts the groups %s, want %s", now, group)
		}
		for h, device := range map[*world.Host]string{a.Host: "eth0", l.Host: l.Device("fairlead:endpoint:")} {
			if out := l.Must(h, "ip", "-o", "link", "show", device); !strings.Contains(out, " mtu "+mtu) {
				return fmt.Errorf("want MTU %s: %s", mtu, out)
			}
		}
		return nil
	}
	l.Eventually(4*time.Second, works)
	index, _ := device(l, l.Host)
	record := l.Dir("run/stations") + "/" + index + "-020000007777"
	for name, harm := range map[string]func(){
		"MAC deleted":   func() { l.Must(l.Host, "bridge", "fdb", "del", a.MAC, "dev", "eth0", "self") },
		"group deleted": func() { l.Must(l.Host, "bridge", "fdb", "del", group, "dev", "eth0", "self") },
		"other MAC": func() {
			l.IP(l.Host, "link set eth0 address 02:00:00:00:07:07")
			l.IP(a.Host, "neigh flush all") // as every machine of the link, it has the former one for a while
			l.IP(l.Outside, "neigh flush all")
		},
		"other MTU":        func() { mtu = "1400"; l.IP(l.Host, "link set eth0 mtu 1400") },
		"uplinks erased":   func() { l.EmptyMap("fl_uplink") },
		"members erased":   func() { l.EmptyMap("fl_fdb") },
		"endpoints erased": func() { l.EmptyMap("fl_endpoint") },
		"killed while it removed a member": func() {
			l.KillDaemon()
			l.Must(l.Host, "touch", record)
			l.Must(l.Host, "bridge", "fdb", "add", "02:00:00:00:77:77", "dev", "eth0", "self")
			l.StartDaemon()
		},
	} {
		l.Case(name, func(l *lab.Lab) { harm(); l.Eventually(12*time.Second, works) })
	}
	// The same while it removed the network.
	l.Remove(a)
	l.Fairlead("network", "rm", "lan")
	if now := stations(l); now != others {
		l.Errorf("without a network the parent accepts %s", now)
	}
	l.KillDaemon()
	l.Must(l.Host, "touch", record)
	l.Must(l.Host, "bridge", "fdb", "add", "02:00:00:00:77:77", "dev", "eth0", "self")
	l.StartDaemon()
	if now := stations(l); now != others {
		l.Errorf("without a network a started daemon leaves %s", now)
	}
	l.Fairlead(onLink("lan")...)
	l.Sandbox("anna", "--network", "lan")
	l.KillDaemon()
	l.RunCleanup()
	if now := stations(l); now != others {
		l.Errorf("after cleanup the parent accepts %s", now)
	}
	if now := accepted(l, isGroup); strings.Contains(now, group) {
		l.Errorf("after cleanup the parent accepts the groups %s", now)
	}
}

// Members of a network without icc reach the link and the host, and each other not, also not by way of the host.
func TestLANWithoutICC(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(onLink("-o", "com.docker.network.bridge.enable_icc=false", "lan")...)
	a, b := l.Sandbox("anna", "--network", "lan"), l.Sandbox("ben", "--network", "lan")
	l.Sysctl(l.Host, "ipv4/ip_forward", "1")
	l.Sysctl(l.Host, "ipv6/conf/all/forwarding", "1")
	for _, f := range lab.Families() {
		host := f.Of(lab.Host4, lab.Host6)
		l.Dropped("icc", 1, func() { l.NoPing(a.Host, b.IP(f)) })
		for _, h := range []*world.Host{a.Host, b.Host} {
			l.Ping(h, host)
			l.Ping(h, f.Of(lab.Outside4, lab.Outside6))
		}
		l.Ping(l.Host, a.IP(f))
		l.Ping(l.Outside, b.IP(f))
		l.IP(a.Host, fmt.Sprintf("route add %s via %s", b.IP(f), host))
		l.Dropped("icc", 1, func() { l.NoPing(a.Host, b.IP(f)) })
	}
}

// Members of two networks are on different links.
func TestLANOnTwoLinks(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	dmz := l.NewHost("dmz")
	l.Cable(dmz, "dmz0", "198.18.7.1", "2001:db8:7::1", "198.18.7.2", "2001:db8:7::2")
	l.Fairlead(onLink("lan")...)
	l.Fairlead("network", "create", "-d", "lan", "-o", "parent=dmz0", "--subnet", "198.18.7.0/24", "--ip-range", "198.18.7.64/26", "--ipv6", "--subnet", "2001:db8:7::/64", "--ip-range", "2001:db8:7::100/120", "dmz")
	a, b := l.Sandbox("anna", "--network", "lan"), l.Sandbox("ben", "--network", "dmz")
	for _, f := range lab.Families() {
		l.Ping(b.Host, f.Of("198.18.7.2", "2001:db8:7::2"))
		l.Ping(b.Host, f.Of("198.18.7.1", "2001:db8:7::1"))
		l.Ping(dmz, b.IP(f))
		l.Ping(a.Host, f.Of(lab.Outside4, lab.Outside6))
		l.NoPing(a.Host, b.IP(f))
		l.NoPing(b.Host, a.IP(f)) // it has no gateway
		l.IP(b.Host, fmt.Sprintf("route add %s dev eth0", a.IP(f)))
		l.NoPing(b.Host, a.IP(f))
	}
}

// A parent that is down or does not exist is in doctor's report, and serves the members when it is back.
func TestLANParent(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	dmz := l.NewHost("dmz")
	cable := func() {
		l.Cable(dmz, "dmz0", "198.18.7.1", "2001:db8:7::1", "198.18.7.2", "2001:db8:7::2")
	}
	cable()
	l.Fairlead("network", "create", "-d", "lan", "-o", "parent=dmz0", "--subnet", "198.18.7.0/24", "--ip-range", "198.18.7.64/26", "dmz")
	a := l.Sandbox("anna", "--network", "dmz")
	works := func() error {
		for _, h := range []string{"198.18.7.1", "198.18.7.2"} {
			if r := l.Run(a.Host, "ping", "-c1", "-W1", h); r.Code != 0 {
				return fmt.Errorf("anna does not reach %s: %s", h, r.Output())
			}
		}
		return nil
	}
	doctor := func(text string) {
		l.Helper()
		if out := l.Try("doctor").Stdout; strings.Contains(out, "on dmz0") != (text != "") || !strings.Contains(out, text) {
			l.Errorf("doctor does not say %q:\n%s", text, out)
		}
	}
	l.Eventually(4*time.Second, works)
	doctor("")
	if n := l.Network("dmz"); n.Uncarried || n.Driver != "lan" || n.Options["parent"] != "dmz0" {
		l.Errorf("inspect shows %+v", n)
	}
	l.IP(l.Host, "link set dmz0 down")
	doctor("dmz: on dmz0; that is down")
	l.IP(l.Host, "link set dmz0 up")
	l.Eventually(8*time.Second, works)
	l.IP(l.Host, "link del dmz0")
	doctor("dmz: on dmz0; that does not exist")
	l.Refused(125, []string{"dmz0"}, "run", "--network", "dmz", "true")
	cable()
	l.IP(a.Host, "neigh flush all") // as every machine of the link, it has the former MACs for a while
	l.Eventually(12*time.Second, works)
	l.Remove(a)
	l.Fairlead("network", "rm", "dmz")
	// The host need not have an address on the link, nor the members one of both families.
	l.IP(l.Host, "addr flush dev dmz0")
	l.Fairlead("network", "create", "-d", "lan", "-o", "parent=dmz0", "--ipv4=false", "--ipv6", "--subnet", "2001:db8:7::/64", "--ip-range", "2001:db8:7::100/120", "dmz")
	b := l.Sandbox("ben", "--network", "dmz")
	l.Eventually(4*time.Second, func() error {
		if r := l.Run(b.Host, "ping", "-c1", "-W1", "2001:db8:7::2"); r.Code != 0 {
			return fmt.Errorf("ben does not reach the link: %s", r.Output())
		}
		return nil
	})
	l.Ping(dmz, b.IP6.String())
}

// Each refusal is one line, and leaves nothing.
func TestLANRefusals(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(onLink("lan")...)
	l.IP(l.Host, "tuntap add tun7 mode tun")
	for _, c := range []struct{ flags, text string }{
		{"", "a network of driver lan needs a parent"},
		{"-o parent=eth9", "the parent interface eth9 of network n does not exist on this host"},
		{"-o parent=eth0.50", "would be a VLAN, which is not supported"},
		{"-o parent=lo", "loopback interface is not a valid lan parent link"},
		{"-o parent=eth0", "network lan is already using parent interface eth0"},
		{"-o parent=tun7", "is not an Ethernet device"},
		{"-o parent=eth9 --internal", "is not internal"},
		{"-o parent=eth9 -o fairlead.antispoof=false", "is always true"},
		{"-o parent=eth9 -o fairlead.host_access=true", "unknown option fairlead.host_access of driver lan"},
		{"-o parent=eth9 --ipam-driver null", "IPAM driver null is for networks of drivers macvlan and ipvlan"},
		{"-o parent=eth9 -o com.docker.network.bridge.enable_ip_masquerade=false", "its members are on the link of the parent"},
		{"-o parent=eth9 -o macvlan_mode=bridge", "unknown option macvlan_mode of driver lan"},
	} {
		l.Refused(1, []string{c.text}, append(append([]string{"network", "create", "-d", "lan", "--subnet", "10.77.0.0/24"}, strings.Fields(c.flags)...), "n")...)
	}
	l.Refused(1, []string{"lan network lan is already using parent interface eth0"}, "network", "create", "-d", "macvlan", "-o", "parent=eth0", "n")
	l.Refused(1, []string{"so it has no services"}, "service", "create", "--network", "lan", "svc")
	if out := l.Fairlead("network", "ls", "-q", "--filter", "name=^n$"); out != "" {
		l.Errorf("a network is left: %s", out)
	}
	r := l.Try("sandbox", "create", "--network", "lan", "-p", "80:80", "anna")
	if r.Code != 0 || !strings.Contains(r.Stderr, "Published ports are not served while the default route is through a network of driver lan") {
		l.Errorf("-p: status %d, %q", r.Code, r.Stderr)
	}
}
