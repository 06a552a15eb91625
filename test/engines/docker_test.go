// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// What works with every engine: one is started of each kind, for all scenes.
func TestDocker(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{engine20, engine29, iptables} {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			d := newDocker(t, k)
			if k.Name != iptables.Name {
				d.loses()
			}
			d.scene("publishes", publishes)
			d.scene("connects", connects)
			d.scene("rules", rulesHold)
			if k.Name != engine20.Name {
				d.scene("parted", parted)
			}
			if k.Name == iptables.Name { // another backend changes no more
				return
			}
			if k.Name != engine20.Name {
				d.scene("IPv6 alone", ipv6Alone)
			}
			d.scene("names", names)
			d.scene("default network", unusedDefault)
			d.scene("options", options)
			d.scene("option keys", optionKeys)
			d.scene("link-local addresses", linkLocal)
			d.scene("untracked", untracked)
			d.scene("IPv6 switched off", switchedOff)
			d.scene("ipam", fairleadIPAM)
			d.scene("lifecycle", lifecycle)
			d.scene("at once", atOnce)
			d.scene("ten lines", tenLines)
			d.scene("compose", compose)
			d.scene("moves", moves)
			d.scene("lost", lost)
			if k.Name != engine20.Name {
				d.defaultOptions()
			}
		})
	}
}

// Published ports of containers answer everybody, and are the host's to give
// once.
func publishes(d *docker) {
	theirs := d.run("theirs", "-p", "18200:80", "-p", "18201:5000/udp") // in Docker's own network
	d.UDP(theirs, "theirs", 5000)
	rules := d.rules()
	d.docker("network", "create", "-d", "fairlead", "web")
	d.docker("network", "create", "-d", "fairlead", "other")
	ben := d.run("ben", "--network", "web", "--network-alias", "benjamin", "-p", "18080:80", "-p", "127.0.0.1:18081:80", "-p", "80", "-p", "18090-18092:90-92", "-p", "5000:5000/udp")
	anna := d.run("anna", "--network", "web")
	otto := d.run("otto", "--network", "other")
	d.UDP(ben, "ben", 5000)

	address := d.address("anna", "web")
	d.Get(anna, d.address("ben", "web"), 80, "ben", address)
	d.Get(d.Outside, lab.Host4, 18080, "ben", lab.Outside4)
	d.Get(d.Host, "127.0.0.1", 18080, "ben", "")
	d.Get(d.Host, lab.Host4, 18080, "ben", "")
	gateway := d.gateway("ben", "web") // it stands for clients on this host
	d.Get(anna, lab.Host4, 18080, "ben", gateway)
	d.Get(otto, lab.Host4, 18080, "ben", gateway)
	d.Get(ben, lab.Host4, 18080, "ben", "")
	d.Get(d.Host, "127.0.0.1", 18081, "ben", "")
	d.NoGet(d.Outside, lab.Host4, 18081)
	d.NoGet(otto, d.address("ben", "web"), 80)
	d.Ask(d.Outside, lab.Host4, 5000, "ben", lab.Outside4)
	d.answersTo("anna", map[string]string{"ben": "ben " + address, "benjamin": "ben "})
	d.run("paul", "--network", "web", "--expose", "80", "-P")
	d.Get(d.Outside, lab.Host4, chosen(d, d.shown("paul", "{{.Ports}}")), "paul", lab.Outside4)
	d.HTTP(d.Outside, "outside", 8000)
	d.Get(ben, lab.Outside4, 8000, "outside", lab.Host4)

	ports := d.shown("ben", "{{.Ports}}")
	for _, want := range []string{"0.0.0.0:18080->80/tcp", "127.0.0.1:18081->80/tcp", "0.0.0.0:18090-18092->90-92/tcp", "0.0.0.0:5000->5000/udp"} {
		if !strings.Contains(ports, want) {
			d.Errorf("fairlead ps shows %q, not %q", ports, want)
		}
	}
	if got := d.Fairlead("port", "ben", "5000/udp"); got != "0.0.0.0:5000\n[::]:5000" {
		d.Errorf("fairlead port: %q", got)
	}
	d.Get(d.Outside, lab.Host4, chosen(d, ports), "ben", lab.Outside4)

	conflicts(d)
	d.run("linked", "--network", "web", "--link", "ben:db")
	d.answersTo("linked", map[string]string{"db": "ben "})
	d.Get(d.Outside, lab.Host4, 18200, "theirs", lab.Outside4)
	d.Get(theirs, lab.Host4, 18080, "ben", "")
	d.Get(anna, lab.Host4, 18200, "theirs", address)
	d.Ask(anna, lab.Host4, 18201, "theirs", address)

	if now := d.rules(); now != rules {
		d.Errorf("netfilter's rules were\n%s\nand are now\n%s", rules, now)
	}
	d.docker("rm", "-f", "ben", "anna", "otto", "paul", "cleo", "linked")
	d.docker("network", "rm", "web", "other")
	if now := d.rules(); now != rules {
		d.Errorf("netfilter's rules were\n%s\nand are in the end\n%s", rules, now)
	}
	d.docker("rm", "-f", "theirs")
}

// Docker's rules for its own networks hold for Fairlead's containers as for everybody.
func rulesHold(d *docker) {
	d.docker("network", "create", "--internal", "closed")
	d.docker("network", "create", "-d", "fairlead", "web")
	hidden, open := d.run("hidden", "--network", "closed"), d.run("open", "-p", "18200:80")
	anna := d.run("anna", "--network", "web", "-p", "18080:80")
	address := d.address("anna", "web")
	d.NoGet(anna, d.address("hidden", "closed"), 80)
	d.NoGet(hidden, address, 80)
	if d.kind.Name == engine20.Name { // which keeps nobody else from them
		d.Get(anna, d.address("open", "bridge"), 80, "open", address)
	}
	d.Get(anna, lab.Host4, 18200, "open", address)
	d.Get(open, lab.Host4, 18080, "anna", "")
	if d.kind.Name != engine29.Name {
		d.Must(d.Host, "iptables", "-I", "DOCKER-USER", "-s", address, "-j", "DROP")
		d.NoGet(anna, d.address("open", "bridge"), 80)
		d.NoGet(anna, lab.Host4, 18200)
		d.Must(d.Host, "iptables", "-D", "DOCKER-USER", "-s", address, "-j", "DROP")
		d.Get(anna, lab.Host4, 18200, "open", address)
	}
	d.docker("rm", "-f", "hidden", "open", "anna")
	d.docker("network", "rm", "closed", "web")
}

// conflicts wants host ports that are taken refused; 18080 is a container's.
func conflicts(d *docker) {
	d.refused("port is already allocated", "run", "--name", "cleo", "--network", "web", "-p", "18080:80", image)
	d.docker("rm", "-f", "cleo")
	l, err := d.Host.Listen("tcp", ":18100")
	if err != nil {
		d.Fatal(err)
	}
	d.refused("address already in use", "run", "--name", "cleo", "--network", "web", "-p", "18100:80", image)
	l.Close()
	d.docker("rm", "-f", "cleo")
	d.run("cleo", "--network", "web", "-p", "18100:80")
	d.Get(d.Outside, lab.Host4, 18100, "cleo", lab.Outside4)
	if l, err := d.Host.Listen("tcp", ":18100"); err == nil {
		l.Close()
		d.Error("the host can take a published port")
	}
}

// answersTo wants the engine's DNS in a container to know names: the sandbox behind each
// answers so.
func (d *docker) answersTo(container string, names map[string]string) {
	d.Helper()
	for name, want := range names {
		if got := d.docker("exec", container, "/bin/busybox", "wget", "-qO-", "http://"+name+"/"); !strings.HasPrefix(got, want) {
			d.Errorf("asked as %s, a container answers %q", name, got)
		}
	}
}

// chosen is the host port of those that lies in the ephemeral range.
func chosen(d *docker, ports string) int {
	d.Helper()
	for _, p := range strings.Split(ports, ", ") {
		var port int
		if _, err := fmt.Sscanf(p, "0.0.0.0:%d->80/tcp", &port); err == nil && port >= 32768 {
			return port
		}
	}
	d.Fatalf("no port was chosen: %q", ports)
	return 0
}

// keys begin the names of Docker's options.
const keys = "com.docker.network."

// What docker network create and docker run can ask for.
func options(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "--subnet", "10.77.0.0/24", "--ipv6", "--subnet", "fd00:77::/64",
		"--aux-address", "r1=10.77.0.2", "-o", keys+"driver.mtu=1400", "-o", keys+"bridge.host_binding_ipv4="+lab.Host6, "web")
	anna := d.run("anna", "--network", "web", "--ip", "10.77.0.20", "--ip6", "fd00:77::20", "--mac-address", "02:11:22:33:44:55")
	ben := d.run("ben", "--network", "web", "-p", "18080:8080")
	d.HTTP(ben, "ben", 8080)
	d.Get(d.Outside, lab.Host6, 18080, "ben", lab.Outside6)
	d.NoGet(d.Outside, lab.Host4, 18080)
	link := d.Must(anna, "ip", "addr", "show", "eth0")
	for _, want := range []string{"10.77.0.20/24", "fd00:77::20/64", "02:11:22:33:44:55", "mtu 1400"} {
		if !strings.Contains(link, want) {
			d.Errorf("the container's device lacks %s:\n%s", want, link)
		}
	}
	d.Ping(ben, "10.77.0.20")
	d.Ping(ben, "fd00:77::20")
	d.Ping(anna, lab.Outside6)
	d.Ping(ben, "10.77.0.1")
	d.refused("Address already in use", "run", "--network", "web", "--ip", "10.77.0.20", image)
	d.refused("unknown option foo", "network", "create", "-d", "fairlead", "-o", "foo=bar", "x")
	d.refused("overlaps", "network", "create", "-d", "fairlead", "--subnet", "10.77.0.0/16", "x")

	d.docker("network", "create", "-d", "fairlead", "--internal", "cellar")
	in1, in2 := d.run("in1", "--network", "cellar"), d.run("in2", "--network", "cellar")
	d.Ping(in1, d.address("in2", "cellar"))
	d.NoPing(in1, lab.Outside4)
	if routes := d.Must(in2, "ip", "route"); strings.Contains(routes, "default") {
		d.Errorf("an internal network has a way out:\n%s", routes)
	}
	d.refused("can only be used for an internal network", "network", "create", "-d", "fairlead", "-o", model.OptGateMode4+"=isolated", "vault")
	d.docker("network", "create", "-d", "fairlead", "--internal", "-o", model.OptGateMode4+"=isolated", "vault")
	d.docker("network", "connect", "vault", "in1")
	d.docker("network", "connect", "vault", "in2")
	d.Ping(in1, d.address("in2", "vault"))
	d.NoPing(d.Host, d.address("in2", "vault"))

	d.docker("network", "create", "-d", "fairlead", "-o", "com.docker.network.bridge.enable_icc=false", "cells")
	c1 := d.run("c1", "--network", "cells")
	d.run("c2", "--network", "cells")
	d.NoPing(c1, d.address("c2", "cells"))
	d.Ping(c1, lab.Outside4)

	names := strings.Split(strings.TrimSpace(d.docker("ps", "-q", "-a")), "\n")
	d.docker(append([]string{"rm", "-f"}, names...)...)
	d.docker("network", "rm", "web", "cellar", "vault", "cells")
}

// More of the bridge driver's options: they mean the same, or are refused.
func optionKeys(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "--subnet", "10.79.0.0/24", "--aux-address", "DefaultGatewayIPv4=10.79.0.2", "-o", keys+"bridge.gateway_mode_ipv4=nat",
		"-o", keys+"container_iface_prefix=net", "-o", keys+"bridge.host_binding_ipv4=127.0.0.1", "-o", "fairlead.antispoof=false", "routed")
	router, behind := d.run("router", "--network", "routed"), d.run("behind", "--network", "routed", "-p", "18081:80")
	if route := d.Must(behind, "ip", "route", "show", "default"); !strings.Contains(route, "via 10.79.0.2 dev net0") {
		d.Errorf("the default route is %q", route)
	}
	d.NoPing(behind, lab.Outside4)
	d.IP(router, "addr add 10.79.0.2/24 dev net0")
	d.IP(router, "route replace default via 10.79.0.1")
	d.Sysctl(router, "ipv4/ip_forward", "1")
	d.Ping(behind, lab.Outside4)
	d.NoGet(d.Outside, lab.Host4, 18081)
	d.Get(d.Host, "127.0.0.1", 18081, "behind", "")
	d.docker("network", "create", "-d", "fairlead", "-o", keys+"enable_ipv6=true", "six") // accepted, as by the bridge driver
	d.Ping(d.run("sixth", "--network", "six"), lab.Outside4)
	d.docker("network", "create", "-d", "fairlead", "-o", model.OptIngress+"=20mbit", "slow")
	d.run("limited", "--network", "slow")
	shaped := func(rate string) {
		d.Helper()
		if q := d.Must(d.Host, "tc", "qdisc", "show"); strings.Count(q, "tbf") != 1 || !strings.Contains(q, "rate "+rate+" ") {
			d.Errorf("qdiscs are %s, want one with a rate of %s", q, rate)
		}
	}
	shaped("20Mbit")
	d.Eventually(patience, func() error { // until the daemon knows the container's name
		if res := d.Try("update", "limited", "--bandwidth-in", "40mbit"); res.Code != 0 {
			return errors.New(res.Stderr)
		}
		return nil
	})
	shaped("40Mbit")
	d.Refused(1, []string{"Fairlead limits only what containers of an engine receive"}, "update", "limited", "--bandwidth-out", "40mbit")
	d.refused("limits only what containers of an engine receive", "network", "create", "-d", "fairlead", "-o", model.OptEgress+"=20mbit", "x")
	d.docker("rm", "-f", "limited")
	d.docker("network", "rm", "slow")

	d.docker("network", "create", "-d", "fairlead", "-o", model.OptGateMode4+"=routed", "open")
	d.run("opened", "--network", "open", "-p", "18082:80")
	own := d.address("opened", "open")
	d.IP(d.Outside, "route add "+own+" via "+lab.Host4)
	d.Get(d.Outside, own, 80, "opened", lab.Outside4)
	d.NoGet(d.Outside, lab.Host4, 18082)
	d.docker("rm", "-f", "opened")
	d.docker("network", "rm", "open")

	const chosen = "192.0.2.7"
	d.IP(d.Host, "addr add "+chosen+"/32 dev eth0")
	d.docker("network", "create", "-d", "fairlead", "-o", model.OptHostIPv4+"="+chosen, "chosen")
	web := d.HTTP(d.Outside, "out", 18083)
	d.Get(d.run("leaver", "--network", "chosen"), lab.Outside4, 18083, "out", chosen)
	web.Kill()
	d.refused("no effect without masquerading", "network", "create", "-d", "fairlead", "-o", model.OptHostIPv4+"="+chosen, "-o", model.OptMasquerade+"=false", "x")
	d.docker("rm", "-f", "leaver")
	d.docker("network", "rm", "chosen")
	d.IP(d.Host, "addr del "+chosen+"/32 dev eth0")

	d.refused("there is no bridge", "network", "create", "-d", "fairlead", "-o", keys+"bridge.name=br7", "x")
	d.refused("Docker ignores names", "run", "--name", "named", "--network", "name=routed,driver-opt="+keys+"endpoint.ifname=foo0", image)
	d.docker("rm", "-f", "router", "behind", "named", "sixth")
	d.docker("network", "rm", "routed", "six")
}

// defaultOptions starts the engine again, with an option that it adds to every network.
func (d *docker) defaultOptions() {
	d.engine.Kill()
	d.kind.Flags = append(slices.Clone(d.kind.Flags), "--default-network-opt=fairlead="+keys+"enable_ipv6=true")
	d.startEngine()
	d.scene("default options", func(d *docker) {
		// The client of 20.10 always says false.
		d.Must(d.Host, "curl", "-sS", "--fail-with-body", "--unix-socket", socket, "-H", "Content-Type: application/json",
			"-d", `{"Name":"plain","Driver":"fairlead"}`, "http://engine/networks/create")
		if six := d.docker("network", "inspect", "-f", "{{.EnableIPv6}}", "plain"); six != "true" {
			d.Errorf("IPv6 of the network: %s, want the engine's default, true", six)
		}
		member := d.run("member", "--network", "plain")
		d.Ping(member, lab.Outside4)
		d.Ping(member, lab.Outside6)
		d.docker("rm", "-f", "member")
		d.docker("network", "rm", "plain")
	})
}

// The engine gives a container link-local addresses without a word to a plugin: packets from
// them are dropped and counted, ARP for them is not answered, and the others go on.
func linkLocal(d *docker) {
	const address = "169.254.8.8"
	d.docker("network", "create", "-d", "fairlead", "web")
	anna, ben := d.run("anna", "--network", "web", "--link-local-ip", address), d.run("ben", "--network", "web")
	cleo := d.run("cleo", "--network", "none")
	d.docker("network", "disconnect", "none", "cleo")
	d.docker("network", "connect", "--link-local-ip", "169.254.9.9", "web", "cleo")
	d.IP(ben, "route add 169.254.0.0/16 dev eth0")
	for h, own := range map[*world.Host]string{anna: address, cleo: "169.254.9.9"} {
		if has := d.Must(h, "ip", "-4", "-o", "addr", "show", "dev", "eth0"); !strings.Contains(has, " "+own+"/16 ") {
			d.Errorf("%s has %s, want %s", h.Name, has, own)
		}
		d.NoPing(ben, own)
		// ben may still repeat its ARP request.
		d.Dropped("spoofed_ip", 1, func() { d.Run(h, "ping", "-c", "1", "-W", "0.3", "-I", own, d.address("ben", "web")) }, "arp_unknown")
		d.Get(ben, d.address(h.Name, "web"), 80, h.Name, d.address("ben", "web"))
		d.Get(h, d.address("ben", "web"), 80, "ben", d.address(h.Name, "web"))
		d.Ping(h, lab.Outside4)
	}
	d.docker("rm", "-f", "anna", "ben", "cleo")
	d.docker("network", "rm", "web")
}

// Because of the engine's DNS the kernel tracks every connection in a container; where
// the network does not want it, only those to the DNS.
func untracked(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "tracked")
	d.docker("network", "create", "-d", "fairlead", "-o", model.OptUntracked+"=true", "fast")
	d.refused("want true or false", "network", "create", "-d", "fairlead", "-o", model.OptUntracked+"=yes", "x")
	plain := d.run("plain", "--network", "tracked", "-p", "18081:80")
	anna, ben := d.run("anna", "--network", "fast"), d.run("ben", "--network", "fast", "-p", "18080:80")
	d.becomesUntracked("anna", "ben")
	before := d.tracked(anna, ben)
	d.Get(d.Outside, lab.Host4, 18080, "ben", lab.Outside4)
	d.Get(anna, d.address("ben", "fast"), 80, "ben", d.address("anna", "fast"))
	if after := d.tracked(anna, ben); after > before {
		d.Errorf("%d connections are tracked, %d were before", after, before)
	}
	d.answersTo("anna", map[string]string{"ben": "ben "})

	d.docker("network", "connect", "tracked", "anna")
	before = d.tracked(anna, plain)
	d.Get(anna, d.address("plain", "tracked"), 80, "plain", d.address("anna", "tracked"))
	if after := d.tracked(anna, plain); after != before+2 {
		d.Errorf("of the other network's connections %d are tracked, %d were before; want two more", after, before)
	}
	d.docker("restart", "-t", "0", "ben")
	d.becomesUntracked("ben")
	d.docker("rm", "-f", "plain", "anna", "ben")
	d.docker("network", "rm", "tracked", "fast")
}

// tracked is how many connections the kernel tracks in namespaces.
func (d *docker) tracked(hosts ...*world.Host) (all int) {
	d.Helper()
	for _, h := range hosts {
		n, err := strconv.Atoi(strings.TrimSpace(d.Must(h, "cat", "/proc/sys/net/netfilter/nf_conntrack_count")))
		if err != nil {
			d.Fatal(err)
		}
		all += n
	}
	return all
}

// becomesUntracked waits for the rules that exempt containers' one device.
func (d *docker) becomesUntracked(containers ...string) {
	d.Helper()
	for _, name := range containers {
		h := d.enter(name)
		d.Eventually(5*time.Second, func() error {
			if r := d.Run(h, "nft", "list", "table", "inet", "fairlead"); strings.Count(r.Stdout, "notrack") != 2 {
				return fmt.Errorf("%s has the rules %q%s", name, r.Stdout, r.Stderr)
			}
			return nil
		})
	}
}

// With --ipam-driver fairlead the addresses are Fairlead's choice.
func fairleadIPAM(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "auto")
	d.docker("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead",
		"--subnet", "10.78.0.0/24", "--ip-range", "10.78.0.128/25", "--gateway", "10.78.0.254", "named")
	d.refused("overlaps", "network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--subnet", "10.78.0.0/16", "x")
	d.refused("unknown --ipam-opt", "network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--ipam-opt", "k=v", "x")
	d.Refused(1, []string{"overlaps"}, "network", "create", "--subnet", "10.78.0.0/24", "x")
	anna := d.run("anna", "--network", "auto")
	ben := d.run("ben", "--network", "named", "-p", "18080:80")
	d.run("otto", "--network", "named", "--ip", "10.78.0.9")
	for name, want := range map[string]string{"ben": "10.78.0.128", "otto": "10.78.0.9"} {
		if got := d.address(name, "named"); got != want {
			d.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	d.Ping(ben, "10.78.0.254")
	d.Get(ben, "10.78.0.9", 80, "otto", "10.78.0.128")
	d.Get(anna, lab.Host4, 18080, "ben", "10.78.0.254")
	d.docker("rm", "-f", "anna", "ben", "otto")
	d.docker("network", "rm", "auto", "named")
	d.docker("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--subnet", "10.78.0.0/16", "x")
	d.docker("network", "rm", "x")
}

// Containers join and leave networks while they run; the published ports follow
// the default route.
func connects(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "beta")
	d.docker("network", "create", "-d", "fairlead", "alpha") // of two, the engine prefers this one
	ben := d.run("ben", "--network", "beta", "-p", "18080:80")
	anna := d.run("anna", "--network", "alpha")
	d.NoPing(anna, d.address("ben", "beta"))
	serves := func(network string) {
		d.Helper()
		client := lab.Outside4
		if network == "aaa" {
			client = "" // the engine's proxy may be in between
		}
		d.Get(d.Outside, lab.Host4, 18080, "ben", client)
		if route := d.Must(ben, "ip", "route", "get", lab.Outside4); !strings.Contains(route, "src "+d.address("ben", network)) {
			d.Errorf("the way out is not through %s: %s", network, route)
		}
	}
	serves("beta")
	for range 2 {
		d.docker("network", "connect", "alpha", "ben")
		d.Get(anna, d.address("ben", "alpha"), 80, "ben", d.address("anna", "alpha"))
		serves("alpha")
		if got := d.shown("ben", "{{.Networks}}"); !strings.Contains(got, "alpha") || !strings.Contains(got, "beta") {
			d.Errorf("fairlead ps shows the networks %q", got)
		}
		d.docker("network", "disconnect", "alpha", "ben")
		serves("beta")
		d.NoPing(anna, d.address("ben", "beta"))
	}
	// Docker's own networks are beside it.
	d.docker("network", "create", "theirs")
	d.docker("network", "connect", "theirs", "ben")
	d.Get(d.Host, d.address("ben", "theirs"), 80, "ben", "")
	d.docker("network", "disconnect", "theirs", "ben")
	serves("beta")
	// A network that the engine prefers takes the port over; once it is disconnected the port returns.
	d.docker("network", "create", "aaa")
	for range 2 {
		d.docker("network", "connect", "aaa", "ben")
		serves("aaa")
		if ports := d.shown("ben", "{{.Ports}}|"); ports != "|" {
			d.Errorf("fairlead ps shows %s, though Docker's own network serves the port", ports)
		}
		d.docker("network", "disconnect", "aaa", "ben")
		serves("beta")
		if ports := d.shown("ben", "{{.Ports}}"); ports != "0.0.0.0:18080->80/tcp, [::]:18080->80/tcp" {
			d.Errorf("fairlead ps shows %q", ports)
		}
	}
	// A container of theirs moves over with its port, and back.
	d.run("mary", "--network", "theirs", "-p", "18081:80")
	for _, move := range [][2]string{{"theirs", "beta"}, {"beta", "theirs"}} {
		d.Get(d.Outside, lab.Host4, 18081, "mary", "")
		d.docker("network", "connect", move[1], "mary")
		d.docker("network", "disconnect", move[0], "mary")
		d.Get(d.Outside, lab.Host4, 18081, "mary", "")
	}
	d.docker("rm", "-f", "ben", "anna", "mary")
	d.docker("network", "rm", "alpha", "beta", "theirs", "aaa")
}

// Containers come, change networks and go at the same time, and while a request about
// another is under way.
func atOnce(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "web")
	finish := d.beginRequest()
	d.run("ben", "--network", "web", "-p", "18080:80")
	d.docker("rm", "-f", "ben")
	if answer := finish(); !strings.Contains(answer, "is not known to Fairlead") {
		d.Errorf("a request that began before a container came and went is answered with %q", answer)
	}
	d.docker("network", "create", "-d", "fairlead", "other")
	all := func(command func(name string, i int) []string) {
		d.Helper()
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				args := command(fmt.Sprint("c", i), i)
				if _, err := d.try(args...); err != nil {
					d.Errorf("docker %s: %v", strings.Join(args, " "), err)
				}
			})
		}
		wg.Wait()
	}
	all(func(name string, i int) []string {
		return []string{"run", "-d", "--name", name, "-e", "NAME=" + name, "--network", "web", "-p", fmt.Sprintf("%d:80", 18080+i), image}
	})
	for i := range 6 {
		d.WaitTCP(d.Outside, fmt.Sprint(lab.Host4, ":", 18080+i))
		d.Get(d.Outside, lab.Host4, 18080+i, fmt.Sprint("c", i), lab.Outside4)
	}
	all(func(name string, _ int) []string { return []string{"network", "connect", "other", name} })
	all(func(name string, _ int) []string { return []string{"network", "disconnect", "web", name} })
	all(func(name string, _ int) []string { return []string{"rm", "-f", name} })
	d.docker("network", "rm", "web", "other")
}

// Whatever ends a container, nothing of it stays; and it starts again.
func lifecycle(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "web")
	d.run("ben", "--network", "web", "-p", "18080:80")
	for what, end := range map[string]func(){
		"stop": func() { d.docker("stop", "-t", "1", "ben") },
		"kill": func() { d.docker("kill", "ben") },
		"kill -9": func() { // behind the engine's back
			d.inEngine("kill -9 " + d.docker("inspect", "--format", "{{.State.Pid}}", "ben"))
		},
	} {
		end()
		d.Eventually(5*time.Second, func() error {
			if d.Fairlead("ps", "-q") != "" {
				return fmt.Errorf("after %s the sandbox is there", what)
			}
			return nil
		})
		d.NoGet(d.Outside, lab.Host4, 18080)
		d.docker("start", "ben")
		d.answers()
	}
	d.docker("restart", "-t", "1", "ben")
	d.answers()
	d.docker("pause", "ben")
	d.NoGet(d.Outside, lab.Host4, 18080)
	d.docker("unpause", "ben")
	d.Get(d.Outside, lab.Host4, 18080, "ben", lab.Outside4)
	d.docker("network", "create", "-d", "fairlead", "unused")
	if pruned := d.docker("network", "prune", "-f"); !strings.Contains(pruned, "unused") || strings.Contains(pruned, "web") {
		d.Errorf("docker network prune: %s", pruned)
	}
	d.docker("rm", "-f", "ben")
	d.refused("no such file", "run", "--network", "web", "--name", "bad", image, "/no/such/program")
	d.docker("rm", "bad")
	d.docker("network", "rm", "web")
}
