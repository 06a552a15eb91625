// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// Addresses of two hosts with a router between them: that of the engine, and one whose daemon has the
// cluster's store.
const (
	overlayHost, overlayOther = lab.RoutedA, lab.RoutedB
	overlayStore              = "etcd://" + overlayOther + ":2379"
)

// newCluster is an engine on a host that shares networks with another host, whose sandboxes are of the
// command line. Containers outlive the engine.
func newCluster(t *testing.T, k kind) (d *docker, other *lab.Lab) {
	t.Helper()
	lab.EmbeddedStore(t)
	d = newHost(t, k, true)
	d.Config.DaemonArgs = []string{"--store", overlayStore, "--advertise", overlayHost, "--node-name", "a"}
	other = lab.New(t, lab.Config{NoDaemon: true, DaemonArgs: []string{"--store", "embed", "--store-token", "none", "--advertise", overlayOther, "--node-name", "b"}})
	lab.Route(d.Lab, other)
	other.StartDaemon()
	d.StartDaemon()
	d.startEngine()
	d.importImage()
	for _, l := range []*lab.Lab{d.Lab, other} {
		l.Eventually(20*time.Second, func() error {
			if up := l.Fairlead("node", "ls", "--format", "{{.Name}} {{.Status}}"); up != "a up\nb up" {
				return fmt.Errorf("nodes: %q", up)
			}
			return nil
		})
	}
	return d, other
}

// knows waits until a network of the cluster exists on a host, or does not.
func knows(l *lab.Lab, network string, want bool) {
	l.Helper()
	l.Eventually(10*time.Second, func() error {
		if r := l.Try("network", "inspect", network); (r.Code == 0) != want {
			return fmt.Errorf("%s", r.Output())
		}
		return nil
	})
}

// resolve returns the address that a server has for a name, or "".
func resolve(h *world.Host, server, name string) string {
	c, err := h.Dial(net.Dialer{Timeout: 2 * time.Second}, "udp", net.JoinHostPort(server, "53"))
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	client := dns.Client{Timeout: 2 * time.Second}
	a, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), &dns.Conn{Conn: c})
	if err != nil {
		return err.Error()
	}
	for _, rr := range a.Answer {
		if rr, ok := rr.(*dns.A); ok {
			return rr.A.String()
		}
	}
	return dns.RcodeToString[a.Rcode]
}

// The options that make an engine's network the cluster's network web.
var ofCluster = []string{"network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--ipam-opt", "fairlead.network=web"}

// TestDockerOverlay makes a network of the cluster a network of an engine: its containers and the
// sandboxes of another host reach each other, whatever is killed.
func TestDockerOverlay(t *testing.T) {
	for _, k := range []kind{engine20, engine29} {
		t.Run(k.Name, func(t *testing.T) { overlay(t, k) })
	}
}

func overlay(t *testing.T, k kind) {
	d, b := newCluster(t, k)
	create := func(more ...string) []string { return append(append([]string{}, ofCluster...), more...) }
	d.refused("network web does not exist in the cluster", create("web")...)
	b.Fairlead("network", "create", "-d", "overlay", "--ipv6", "-o", "fairlead.dns=true", "web")
	knows(d.Lab, "web", true)
	d.refused("--subnet", create("--subnet", "10.9.0.0/24", "web")...)
	gateway, subnet := b.Gateway("web", lab.IPv4), b.Network("web").IPAM.Config[0].Subnet
	inside := strings.TrimSuffix(gateway, ".1") + ".200"
	d.refused("--gateway", create("--subnet", subnet, "--gateway", inside, "web")...)
	d.refused("--aux-address", create("--subnet", subnet, "--aux-address", "r="+inside, "web")...)
	d.refused("one host cannot change it", create("-o", "com.docker.network.driver.mtu=1300", "web")...)
	d.refused("--internal", create("--internal", "web")...)
	d.refused("--ipam-opt", "network", "create", "-d", "fairlead", "-o", "fairlead.network=web", "web")
	d.docker(create("--ipv6", "--subnet", subnet, "web")...) // which the engine requires for --ip
	d.refused("already", create("again")...)
	two := b.Sandbox("two", "--network", "web")
	b.HTTP(two.Host, "two", 8080)
	ben := d.run("ben", "--network", "web", "--dns", gateway, "-p", "18080:80")
	anna := d.run("anna", "--network", "web", "--ip", inside, "--mac-address", "02:00:00:00:00:07")
	reached := func() {
		t.Helper()
		address := d.address("ben", "web")
		d.Get(ben, two.IP4.String(), 8080, "two", address)
		d.Get(ben, two.IP6.String(), 8080, "two", "")
		b.Get(two.Host, address, 80, "ben", two.IP4.String())
		b.Get(two.Host, d.address("anna", "web"), 80, "anna", "")
		d.Get(anna, address, 80, "ben", d.address("anna", "web"))
		d.Get(d.Outside, lab.Host4, 18080, "ben", lab.Outside4)
	}
	reached()
	d.refused("Address already in use", "run", "--rm", "--network", "web", "--ip", two.IP4.String(), image)
	b.Refused(1, []string{"Address already in use", "node a"}, "sandbox", "create", "--network", "web", "--ip", d.address("ben", "web"), "extra")
	if got := d.docker("exec", "ben", "/bin/busybox", "wget", "-qO-", "http://two:8080/"); !strings.HasPrefix(got, "two ") {
		t.Errorf("asked as two, the container of b answers %q", got)
	}
	b.Eventually(10*time.Second, func() error {
		if got := resolve(two.Host, gateway, "ben.web"); got != d.address("ben", "web") {
			return fmt.Errorf("the name of the container on a is %s on b", got)
		}
		return nil
	})
	d.Refused(1, []string{"docker network rm"}, "network", "rm", "web")
	b.Refused(1, []string{"active endpoints"}, "network", "rm", "web")

	d.KillDaemon()
	reached()
	d.StartDaemon()
	d.exchangeEngine("KILL")
	reached()
	d.docker("restart", "-t", "0", "ben")
	ben = d.enter("ben")
	defer ben.Close()
	d.WaitTCP(ben, "127.0.0.1:80")
	reached()

	b.KillDaemon() // and the store with it, a moment later
	b.Eventually(10*time.Second, func() error {
		c, err := b.Host.Dial(net.Dialer{Timeout: time.Second}, "tcp", overlayOther+":2379")
		if err != nil {
			return nil
		}
		return errors.Join(errors.New("the store still runs"), c.Close())
	})
	d.timed("a container without the store", 5*time.Second, func() {
		d.refused("cluster", "run", "--name", "late", "--network", "web", image)
	})
	reached()
	d.timed("the removal of containers without the store", 5*time.Second, func() { d.docker("rm", "-f", "anna", "late") })
	b.StartDaemon()
	d.Eventually(20*time.Second, func() error {
		_, err := d.try("run", "--rm", "--network", "web", image, "/bin/busybox", "true")
		return err
	})
	b.Eventually(10*time.Second, func() error {
		if held := b.Fairlead("ipam", "ls", "-q", "web"); strings.Contains(held, ".200") {
			return fmt.Errorf("held: %s", held)
		}
		return nil
	})
	d.docker("rm", "-f", "ben")
	d.docker("network", "rm", "web")
	knows(d.Lab, "web", true)
	b.Remove(two)
	b.Eventually(10*time.Second, func() error {
		if r := b.Try("network", "rm", "web"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	knows(d.Lab, "web", false)
	d.docker("tag", image, "box")
	if out := d.printed("Networks of several hosts"); !strings.Contains(out, "hello") {
		t.Errorf("the commands said\n%s", out)
	}
	d.nothingLeft()
}
