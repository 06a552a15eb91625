// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/host"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestNetworkOptions(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		l.HTTP(l.Outside, "outside", 80)
		local := network(l, "local", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1")
		b := l.Sandbox("ben", "--network", local, "-p", "8080:80")
		l.HTTP(b.Host, "ben", 80)
		l.Get(l.Host, "127.0.0.1", 8080, "ben", "")
		l.NoGet(l.Host, lab.Host4, 8080)
		l.NoGet(l.Outside, lab.Host4, 8080)

		plain := network(l, "plain", "-o", "com.docker.network.bridge.enable_ip_masquerade=false")
		a := l.Sandbox("anna", "--network", plain)
		for _, f := range lab.Families() {
			l.IP(l.Outside, "route add "+a.IP(f)+" via "+f.Of(lab.Host4, lab.Host6))
			l.Get(a.Host, f.Of(lab.Outside4, lab.Outside6), 80, "outside", a.IP(f))
		}
	})
}

// A sandbox has the requested addresses, and its default route is through a network that has
// one.
func TestAddressesAndRoutes(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.HTTP(l.Outside, "outside", 80)
	inside := network(l, "inside", "--internal")
	web := network(l, "web", "--subnet", "10.5.0.0/24", "--subnet", "fd00:5::/64")
	a := l.Sandbox("anna", "--network", web, "--ip", "10.5.0.77", "--ip6", "fd00:5::77", "--mac-address", "02:00:00:00:00:77")
	b := l.Sandbox("ben", "--network", inside)
	if out := l.Must(a.Host, "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, "02:00:00:00:00:77") ||
		!strings.Contains(out, "10.5.0.77/24") || !strings.Contains(out, "fd00:5::77/64") {
		l.Errorf("the device of anna does not have the requested addresses:\n%s", out)
	}
	free := network(l, "free")
	l.Case("in subnets that nobody chose", func(l *lab.Lab) {
		fixed := map[string]string{}
		for _, f := range lab.Families() {
			fixed[f.String()] = lab.Address(l.Gateway(free, f)).Next().Next().String()
		}
		c := l.Sandbox("cleo", "--network", free, "--ip", fixed["4"], "--ip6", fixed["6"])
		if c.IP4.String() != fixed["4"] || c.IP6.String() != fixed["6"] {
			l.Errorf("cleo has %v and %v, want %v", c.IP4, c.IP6, fixed)
		}
	})
	l.Case("chosen interface names", func(l *lab.Lab) {
		const key = "com.docker.network.endpoint.ifname="
		l.Fairlead("sandbox", "create", "--network", "name="+web+",driver-opt="+key+"lan0", "dora")
		l.Fairlead("network", "connect", "--driver-opt", key+"wan0", inside, "dora")
		for _, name := range []string{"lan0", "wan0"} {
			if out := l.Fairlead("exec", "dora", "ip", "-brief", "link", "show", name); !strings.Contains(out, "UP") {
				l.Errorf("the device %s of dora is %q", name, out)
			}
		}
		l.Refused(1, []string{"already has an interface lan0"}, "sandbox", "create", "--network", "name="+web+",driver-opt="+key+"lan0",
			"--network", "name="+inside+",driver-opt="+key+"lan0", "emil")
		l.Refused(1, []string{"emil"}, "inspect", "emil")
		l.Fairlead("rm", "-f", "dora")
	})
	l.Case("settings of interfaces", func(l *lab.Lab) {
		const key = "com.docker.network.endpoint.sysctls="
		l.Fairlead("sandbox", "create", "--network", "name="+web+`,"driver-opt=`+key+`net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2"`, "dora")
		l.Fairlead("network", "connect", "--driver-opt", key+"net.ipv6.conf.IFNAME.disable_ipv6=1,net.ipv4.neigh.IFNAME.ucast_solicit=7", free, "dora")
		set := func() error {
			for path, want := range map[string]string{
				"ipv4/conf/eth0/log_martians": "1", "ipv6/conf/eth0/accept_ra": "2", "ipv6/conf/eth1/accept_ra": "0",
				"ipv6/conf/eth1/disable_ipv6": "1", "ipv4/neigh/eth1/ucast_solicit": "7",
			} {
				if is := l.Fairlead("exec", "dora", "cat", "/proc/sys/net/"+path); is != want {
					return fmt.Errorf("%s of dora is %s, want %s", path, is, want)
				}
			}
			return nil
		}
		l.Eventually(0, set)
		if out := l.Fairlead("exec", "dora", "ip", "-6", "addr", "show", "dev", "eth1"); out != "" {
			l.Errorf("an interface with IPv6 disabled has %s", out)
		}
		if out := l.Fairlead("inspect", "-f", "{{index .NetworkSettings.Networks \""+free+"\" \"DriverOpts\"}}", "dora"); !strings.Contains(out, "ipv4.neigh.IFNAME.ucast_solicit=7") {
			l.Errorf("inspect shows the options %s", out)
		}
		l.Fairlead("exec", "dora", "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra; echo 3 > /proc/sys/net/ipv4/neigh/eth1/ucast_solicit")
		l.Eventually(10*time.Second, set)
		l.Refused(1, []string{"sysctl net.ipv4.conf.IFNAME.bogus does not exist in this kernel"}, "sandbox", "create", "--network", "name="+web+",driver-opt="+key+"net.ipv4.conf.IFNAME.bogus=1", "emil")
		l.Refused(1, []string{"sysctl net.ipv6.conf.IFNAME.accept_ra cannot be x: invalid argument"}, "network", "connect", "--driver-opt", key+"net.ipv6.conf.IFNAME.accept_ra=x", inside, "dora")
		l.Refused(1, []string{"emil"}, "inspect", "emil")
		if out := l.Fairlead("exec", "dora", "ip", "-brief", "link"); strings.Contains(out, "eth2") {
			l.Errorf("a refused connect left %s", out)
		}
		l.Fairlead("rm", "-f", "dora")
	})
	families(t, l, func(l *lab.Lab, f lab.Family) {
		outside := f.Of(lab.Outside4, lab.Outside6)
		l.Get(a.Host, outside, 80, "outside", "")
		l.NoGet(b.Host, outside, 80)
	})
	l.Fairlead("network", "connect", web, "ben")
	for _, f := range lab.Families() {
		l.Get(b.Host, f.Of(lab.Outside4, lab.Outside6), 80, "outside", "")
	}
	l.Fairlead("network", "disconnect", web, "ben")
	for _, f := range lab.Families() {
		l.NoGet(b.Host, f.Of(lab.Outside4, lab.Outside6), 80)
	}
}

// A network may have IPv4 link-local addresses, like those for the credentials of some
// clouds, and works like any other.
func TestLinkLocalSubnet(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead("network", "create", "--subnet", "169.254.170.0/24", "credentials")
	a := l.Sandbox("anna", "--network", "credentials", "--ip", "169.254.170.2", "-p", "8080:80")
	b := l.Sandbox("ben", "--network", "credentials")
	l.HTTP(a.Host, "anna", 80)
	l.HTTP(l.Outside, "outside", 8000)
	l.Get(b.Host, "169.254.170.2", 80, "anna", b.IP(lab.IPv4))
	l.Get(l.Host, "169.254.170.2", 80, "anna", "169.254.170.1")
	l.Get(l.Host, "127.0.0.1", 8080, "anna", "")
	l.Get(l.Outside, lab.Host4, 8080, "anna", lab.Outside4)
	l.Get(b.Host, lab.Outside4, 8000, "outside", lab.Host4)
	l.Ping(b.Host, lab.Internet4)
}

// A program may share a namespace, the host's or another sandbox's, or have one without a
// network; a sandbox may be a namespace that another program made.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	a := l.Sandbox("anna", "--network", web)
	for mode, want := range map[string]string{
		"none": "lo", "host": lab.Host4 + "/24", "container:anna": a.IP4.String() + "/16",
	} {
		out := l.Fairlead("run", "--rm", "--network", mode, "ip", "-brief", "addr")
		if !strings.Contains(out, want) || (mode == "none" && strings.Count(out, "\n") > 0) {
			l.Errorf("run --network %s sees\n%s\nwant %s", mode, out, want)
		}
	}
	sharedIsKept(l, web)
	l.Refused(1, []string{"is the host's own", l.Host.NetNS()}, "sandbox", "create", "--netns", l.Host.NetNS(), "--network", web, "mine")
	if out := l.Fairlead("ps", "-a", "--format", "{{.Names}}"); out != "anna" {
		l.Errorf("sandboxes are %q, want anna", out)
	}
	foreign := l.NewHost("foreign")
	l.HTTP(foreign, "foreign", 80)
	l.Fairlead("sandbox", "create", "--netns", foreign.NetNS(), "--network", web, "-p", "8080:80", "foreign")
	for _, f := range lab.Families() {
		l.Get(l.Outside, f.Of(lab.Host4, lab.Host6), 8080, "foreign", f.Of(lab.Outside4, lab.Outside6))
	}
	l.Fairlead("rm", "-f", "foreign")
	if out := l.Must(foreign, "ip", "-brief", "link"); strings.Contains(out, "eth0") {
		l.Errorf("its device is left in the foreign namespace:\n%s", out)
	}
}

// sharedIsKept checks that a sandbox whose namespace others share is not removed, and that the refusal, also of a forced
// removal, ends no program in it.
func sharedIsKept(l *lab.Lab, web string) {
	l.Helper()
	l.Fairlead("run", "-d", "--name", "owner", "--network", web, "sleep", "1000")
	l.Fairlead("run", "-d", "--name", "joiner", "--network", "container:owner", "sleep", "1000")
	for _, force := range []string{"--force=false", "--force"} {
		l.Refused(1, []string{"owner"}, "rm", force, "owner")
		for _, s := range []string{"owner", "joiner"} {
			if program := l.Inspect(s).State; !program.Running || !host.ProcessAlive(program.Pid, program.PidStart) {
				l.Errorf("rm %s of the owner of a shared namespace is refused, and %s does not run any more", force, s)
			}
		}
	}
	l.Fairlead("rm", "-f", "joiner", "owner")
}
