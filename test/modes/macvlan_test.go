// SPDX-License-Identifier: Apache-2.0

// Package modes tests networks whose members' devices are on top of a device of the host, with the real daemon and real
// traffic.
package modes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// lan are the flags of a network in the subnets of the link between the host and outside.
func lan(more ...string) []string {
	return append([]string{"network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.64/26",
		"--ipv6", "--subnet", "2001:db8:1::/64", "--ip-range", "2001:db8:1::100/120"}, more...)
}

// Members reach each other and the link with addresses of it, and the host not; no device of them is on the host, and no
// program sees their packets.
func TestMacvlan(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(lan("--gateway", "192.0.2.254", "--gateway", "2001:db8:1::fe", "lan")...)
	before := l.Devices("fairlead:")
	a, b := l.Sandbox("anna", "--network", "lan"), l.Sandbox("ben", "--network", "lan", "--ip", "192.0.2.99", "--mac-address", "02:00:00:00:00:99")
	if now := l.Devices("fairlead:"); len(now) != len(before) {
		l.Errorf("the host has devices of sandboxes: %v, before %v", now, before)
	}
	if b.IP4.String() != "192.0.2.99" || b.MAC != "02:00:00:00:00:99" || a.IP4.String() != "192.0.2.64" {
		l.Errorf("addresses are %v %v, %v", a.IP4, b.IP4, b.MAC)
	}
	l.HTTP(b.Host, "ben", 80)
	for _, f := range lab.Families() {
		outside := f.Of(lab.Outside4, lab.Outside6)
		l.Ping(a.Host, b.IP(f))
		l.Get(a.Host, b.IP(f), 80, "ben", a.IP(f))
		l.Ping(a.Host, outside)
		l.Ping(a.Host, f.Of(lab.Internet4, lab.Internet6)) // by the default route
		l.Get(l.Outside, b.IP(f), 80, "ben", outside)
		l.NoPing(l.Host, b.IP(f))
		l.NoPing(b.Host, f.Of(lab.Host4, lab.Host6))
	}
	// Without IPAM, the sandbox configures its addresses, and repairs leave them alone.
	l.Fairlead("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipam-driver", "null", "--ipv6", "bare")
	l.Fairlead("sandbox", "create", "--network", "bare", "cleo")
	if out := l.Fairlead("exec", "cleo", "ip", "-4", "addr", "show", "eth0"); out != "" {
		l.Errorf("in a network without IPAM cleo has %s", out)
	}
	l.Fairlead("exec", "cleo", "ip", "addr", "add", "192.0.2.98/24", "dev", "eth0")
	l.Fairlead("exec", "cleo", "ip", "addr", "add", "2001:db8:1::98/64", "dev", "eth0", "nodad")
	for _, f := range lab.Families() {
		l.Fairlead("exec", "cleo", "ping", "-c", "1", "-W", "5", b.IP(f))
	}
	l.Fairlead("rm", "-f", "cleo")
	l.Fairlead("network", "rm", "bare")
	l.Remove(a)
	l.Remove(b)
	l.Fairlead("network", "rm", "lan")
	// Two subnets of one family: each sandbox has the gateway of its own.
	l.Fairlead("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "10.60.0.0/24", "--gateway", "10.60.0.1", "--subnet", "10.61.0.0/24", "--gateway", "10.61.0.1", "two")
	c, d := l.Sandbox("cleo", "--network", "two"), l.Sandbox("dora", "--network", "two", "--ip", "10.61.0.9")
	e := l.Sandbox("emil", "--network", "two", "--ip", "10.61.0.10")
	l.Ping(e.Host, "10.61.0.9")
	for want, h := range map[string]*lab.Sandbox{"via 10.60.0.1": c, "via 10.61.0.1": d} {
		if out := l.Must(h.Host, "ip", "route", "show", "default"); !strings.Contains(out, want) {
			l.Errorf("the default route is %s, want it %s", out, want)
		}
	}
	for _, s := range []*lab.Sandbox{c, d, e} {
		l.Remove(s)
	}
	l.Fairlead("network", "rm", "two")
	if now := l.Devices("fairlead:"); len(now) != 0 {
		l.Errorf("left on the host: %v", now)
	}
}

// Each mode works: private members do not reach each other, and with passthru one member has the parent for itself.
func TestMacvlanModes(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.HTTP(l.Outside, "outside", 80)
	for _, mode := range []string{"private", "vepa", "passthru"} {
		l.Case(mode, func(l *lab.Lab) {
			l.Fairlead(lan("-o", "macvlan_mode="+mode, "lan")...)
			a := l.Sandbox("anna", "--network", "lan")
			if out := l.Must(a.Host, "ip", "-d", "link", "show", "eth0"); !strings.Contains(out, "macvlan mode "+mode) {
				l.Errorf("the device is %s", out)
			}
			if mode == "passthru" {
				l.Refused(125, []string{"has room for one sandbox, which is anna"}, "run", "--network", "lan", "true")
				if a.MAC != "" || !strings.Contains(l.Must(a.Host, "ip", "link", "show", "eth0"), mac(l, "eth0")) {
					l.Errorf("the member's MAC is %q", a.MAC)
				}
			} else {
				b := l.Sandbox("ben", "--network", "lan")
				l.Get(b.Host, lab.Outside4, 80, "outside", b.IP4.String())
				l.NoPing(a.Host, b.IP4.String()) // with vepa the link would have to send the frames back
				l.Remove(b)
			}
			l.Get(a.Host, lab.Outside4, 80, "outside", a.IP4.String())
			l.Remove(a)
			l.Fairlead("network", "rm", "lan")
		})
	}
}

// mac returns the MAC of a device of the host.
func mac(l *lab.Lab, device string) string {
	l.Helper()
	return strings.Fields(l.Must(l.Host, "ip", "-br", "link", "show", device))[2]
}

// Without a parent, members reach each other only; the network is internal.
func TestMacvlanWithoutParent(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead("network", "create", "-d", "macvlan", "alone")
	a, b := l.Sandbox("anna", "--network", "alone"), l.Sandbox("ben", "--network", "alone")
	if n := l.Network("alone"); !n.Internal || len(n.IPAM.Config) != 1 || n.IPAM.Config[0].Gateway != "" {
		l.Errorf("the network is %+v", n)
	}
	works := func() error {
		if r := l.Run(a.Host, "ping", "-c1", "-W1", b.IP4.String()); r.Code != 0 {
			return fmt.Errorf("anna does not reach ben: %s", r.Output())
		}
		return nil
	}
	l.Eventually(2*time.Second, works)
	l.IP(l.Host, "link del "+l.Devices("fairlead:parent:")[0])
	l.Case("parent deleted", func(l *lab.Lab) { l.Eventually(8*time.Second, works) })
	l.NoPing(l.Host, b.IP4.String())
	l.KillDaemon()
	l.StartDaemon()
	l.Eventually(8*time.Second, works)
	l.Remove(a)
	l.Remove(b)
	l.Fairlead("network", "rm", "alone")
	if now := l.Devices("fairlead:"); len(now) != 0 {
		l.Errorf("left on the host: %v", now)
	}
}

// A sandbox in networks of three kinds has its default routes and published ports through the one of the highest priority.
func TestSeveralKinds(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(lan("--gateway", "192.0.2.254", "lan")...)
	l.Fairlead("network", "create", "--ipv6", "web")
	web := l.Sandbox("box", "--network", "web", "--network", "name=lan,ip=192.0.2.70", "-p", "8080:80")
	l.HTTP(web.Host, "box", 80)
	via := func(device string) {
		l.Helper()
		if out := l.Must(web.Host, "ip", "route", "get", lab.Internet4); !strings.Contains(out, "dev "+device+" ") {
			l.Errorf("the default route is %s, want dev %s", out, device)
		}
	}
	via("eth0") // web has more gateways
	l.Get(l.Outside, lab.Host4, 8080, "box", lab.Outside4)
	l.Get(l.Outside, "192.0.2.70", 80, "box", lab.Outside4)
	l.Fairlead("network", "disconnect", "lan", "box")
	l.NoPing(l.Outside, "192.0.2.70")
	l.Fairlead("network", "connect", "--gw-priority", "1", "--ip", "192.0.2.71", "lan", "box")
	via("eth1")
	l.Ping(web.Host, lab.Internet4)
	l.NoGet(l.Outside, lab.Host4, 8080)
	l.Get(l.Outside, lab.Host6, 8080, "box", lab.Outside6) // lan has no IPv6 gateway
	l.Fairlead("network", "disconnect", "lan", "box")
	via("eth0")
	l.Get(l.Outside, lab.Host4, 8080, "box", lab.Outside4)
}

// The option gives the host a device of its own, by which it and the members reach each other, also after repairs.
func TestHostAccess(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(lan("-o", "fairlead.host_access=true", "lan")...)
	own := l.Network("lan").HostAddrs
	if len(own) != 2 || own[0] != "192.0.2.64" {
		l.Fatalf("the host's addresses are %v", own)
	}
	a := l.Sandbox("anna", "--network", "lan")
	l.HTTP(a.Host, "anna", 80)
	l.HTTP(l.Host, "host", 81)
	works := func() error {
		for _, f := range lab.Families() {
			if r := l.Run(l.Host, "ping", "-c1", "-W1", a.IP(f)); r.Code != 0 {
				return fmt.Errorf("the host does not reach %s: %s", a.IP(f), r.Output())
			}
		}
		return nil
	}
	l.Eventually(4*time.Second, works)
	for _, f := range lab.Families() {
		l.Get(l.Host, a.IP(f), 80, "anna", own[f.Of("0", "1")[0]-'0'])
		l.Get(a.Host, own[f.Of("0", "1")[0]-'0'], 81, "host", a.IP(f))
		l.Ping(l.Host, f.Of(lab.Outside4, lab.Outside6))
		l.Ping(a.Host, f.Of(lab.Outside4, lab.Outside6))
	}
	l.Get(a.Host, lab.Host4, 81, "host", a.IP4.String()) // the address on the parent
	if out := l.Must(l.Host, "ip", "route", "get", lab.Outside4); !strings.Contains(out, "dev eth0 ") {
		l.Errorf("the host's route to the link is %s", out)
	}
	device := l.Devices("fairlead:access:")[0]
	for name, harm := range map[string]func(){
		"device deleted":  func() { l.IP(l.Host, "link del "+device) },
		"device down":     func() { l.IP(l.Host, "link set "+device+" down") },
		"route deleted":   func() { l.IP(l.Host, "route del "+a.IP4.String()+" dev "+device) },
		"address deleted": func() { l.IP(l.Host, "addr flush dev "+device) },
		"restart":         func() { l.KillDaemon(); l.StartDaemon() },
	} {
		harm()
		l.Case(name, func(l *lab.Lab) { l.Eventually(8*time.Second, works) })
	}
	l.Remove(a)
	if out := l.Must(l.Host, "ip", "route", "show", "dev", device); strings.Contains(out, a.IP4.String()) {
		l.Errorf("the route of a removed member is left: %s", out)
	}
	l.Refused(1, []string{"is for macvlan networks in mode bridge"}, "network", "create", "-d", "macvlan", "-o", "fairlead.host_access=true", "-o", "macvlan_mode=private", "n")
	l.Fairlead("network", "rm", "lan")
	if now := l.Devices("fairlead:"); len(now) != 0 {
		l.Errorf("left on the host: %v", now)
	}
}

// A parent that is renamed keeps its members; one that returns after it was deleted gets them again, and other networks
// do not notice.
func TestMacvlanParent(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	cable := func() {
		l.IP(l.Host, "link add par0 type veth peer name par1", "link set par0 up", "link set par1 up", "addr add 10.99.0.254/24 dev par1")
	}
	cable()
	l.Fairlead("network", "create", "-d", "macvlan", "-o", "parent=par0", "--subnet", "10.99.0.0/24", "lan")
	l.Fairlead("network", "create", "web")
	a := l.Sandbox("anna", "--network", "lan", "--network", "web")
	works := func() error {
		if r := l.Run(a.Host, "ping", "-c1", "-W1", "10.99.0.254"); r.Code != 0 {
			return fmt.Errorf("the parent's link is not reached: %s", r.Output())
		}
		return nil
	}
	l.Eventually(4*time.Second, works)
	doctor := func(text string) {
		l.Helper()
		if out := l.Try("doctor").Stdout; !strings.Contains(out, text) {
			l.Errorf("doctor does not say %q:\n%s", text, out)
		}
	}
	// A member may be created while the parent is down.
	l.IP(l.Host, "link set par0 down")
	l.Fairlead("sandbox", "create", "--network", "lan", "ben")
	l.IP(l.Host, "link set par0 up")
	l.Eventually(4*time.Second, func() error {
		if r := l.Try("exec", "ben", "ping", "-c1", "-W1", "10.99.0.254"); r.Code != 0 {
			return fmt.Errorf("ben does not reach the link: %s", r.Output())
		}
		return works()
	})
	l.Fairlead("rm", "-f", "ben")
	doctor("  lan: macvlan on par0\n")
	if n := l.Network("lan"); !n.Uncarried || l.Network("web").Uncarried {
		l.Errorf("inspect shows %+v", n)
	}
	l.IP(l.Host, "link set par0 down", "link set par0 name other", "link set other up")
	l.Eventually(4*time.Second, works)
	doctor("lan: macvlan on par0; that does not exist")
	l.Refused(125, []string{"par0"}, "run", "--network", "lan", "true")
	l.KillDaemon()
	l.StartDaemon()
	l.Eventually(4*time.Second, works) // the daemon leaves the device alone
	l.IP(l.Host, "link set other down", "link set other name par0", "link set par0 up")
	l.Eventually(8*time.Second, works)
	l.IP(l.Host, "link del par0")
	l.Ping(a.Host, l.Gateway("web", lab.IPv4))
	cable()
	l.Eventually(12*time.Second, works)
}

// Each refusal is one line, and leaves nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(lan("lan")...)
	l.IP(l.Host, "link add br0 type bridge")
	l.IP(l.Host, "link add port type veth peer name other", "link set port master br0")
	for _, c := range []struct{ flags, text string }{
		{"-d macvlan -o parent=eth9", "the parent interface eth9 of network n does not exist on this host"},
		{"-d macvlan -o parent=eth9.5", "this host has no device eth9"},
		{"-d macvlan -o parent=eth0.4095", "does not exist"},
		{"-d macvlan -o parent=lo", "loopback interface is not a valid macvlan parent link"},
		{"-d macvlan -o parent=a/b", `invalid value "a/b"`},
		{"-d macvlan -o parent=eth0 -o macvlan_mode=source", "requested macvlan mode 'source' is not valid"},
		{"-d macvlan -o parent=eth0 -o macvlan_mode=passthru", "cannot use mode passthru, macvlan network lan is already using parent interface eth0"},
		{"-d macvlan -o parent=eth0 -o ipvlan_mode=l2", "option ipvlan_mode is for networks of driver ipvlan"},
		{"-d macvlan -o parent=eth0 -o com.docker.network.bridge.enable_icc=false", "no program of Fairlead sees its packets"},
		{"-d macvlan -o parent=eth0 -o colour=red", "unknown option colour of driver macvlan"},
		{"-d macvlan -o parent=eth0 --subnet 192.0.2.0/25", "Pool overlaps with other one"},
		{"-d ipvlan -o parent=eth0", "cannot have devices of both kinds"},
		{"-o parent=eth0", "unknown option parent of driver bridge"},
	} {
		l.Refused(1, []string{c.text}, append(append([]string{"network", "create"}, strings.Fields(c.flags)...), "n")...)
	}
	l.Refused(1, []string{"has no services"}, "service", "create", "--network", "lan", "svc")
	if r := l.Run(l.Host, "ip", "link", "add", "probe", "type", "ipvlan"); strings.Contains(r.Output(), "not supported") || strings.Contains(r.Output(), "Unknown") {
		l.Refused(1, []string{"CONFIG_IPVLAN"}, "network", "create", "-d", "ipvlan", "-o", "parent=other", "n")
	}
	if r := l.Run(l.Host, "ip", "link", "add", "link", "eth0", "name", "probe", "type", "vlan", "id", "7"); r.Code != 0 {
		l.Refused(1, []string{"CONFIG_VLAN_8021Q"}, "network", "create", "-d", "macvlan", "-o", "parent=eth0.50", "n")
	}
	l.Fairlead("network", "create", "-d", "macvlan", "-o", "parent=port", "taken")
	l.Refused(125, []string{"the parent device cannot have this macvlan device"}, "run", "--network", "taken", "true")
	if out := l.Fairlead("ps", "-aq"); out != "" {
		l.Errorf("sandboxes are left: %s", out)
	}
	r := l.Try("sandbox", "create", "--network", "lan", "-p", "80:80", "anna")
	if r.Code != 0 || !strings.Contains(r.Stderr, "Published ports are not served while the default route is through a network of driver macvlan") {
		l.Errorf("-p: status %d, %q", r.Code, r.Stderr)
	}
}

// A restart finds the devices, and damage is repaired.
func TestMacvlanRepairs(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(lan("lan")...)
	a := l.Sandbox("anna", "--network", "lan")
	works := func() error {
		if r := l.Run(l.Outside, "ping", "-c1", "-W1", a.IP4.String()); r.Code != 0 {
			return fmt.Errorf("outside does not reach %v: %s", a.IP4, r.Output())
		}
		if out := l.Must(a.Host, "ip", "-d", "link", "show", "eth0"); !strings.Contains(out, "macvlan mode bridge") || !strings.Contains(out, a.MAC) {
			return fmt.Errorf("eth0 is %s", out)
		}
		return nil
	}
	for name, harm := range map[string]func(){
		"device deleted":  func() { l.IP(a.Host, "link del eth0") },
		"device down":     func() { l.IP(a.Host, "link set eth0 down") },
		"mode changed":    func() { l.IP(a.Host, "link set eth0 type macvlan mode private") },
		"MAC changed":     func() { l.IP(a.Host, "link set eth0 address 02:00:00:00:00:77") },
		"address deleted": func() { l.IP(a.Host, "addr flush dev eth0") },
		"killed":          func() { l.KillDaemon(); l.StartDaemon() },
		"deleted while killed": func() {
			l.KillDaemon()
			l.IP(a.Host, "link del eth0")
			l.StartDaemon()
		},
		"parent down": func() {
			l.IP(l.Host, "link set eth0 down")
			time.Sleep(300 * time.Millisecond)
			l.IP(l.Host, "link set eth0 up")
		},
	} {
		harm()
		l.Case(name, func(l *lab.Lab) { l.Eventually(8*time.Second, works) })
	}
}
