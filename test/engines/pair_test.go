// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// newPair is two hosts with an engine each, whose daemons share the store of the first. Containers outlive
// the engines.
func newPair(t *testing.T, ofA, ofB kind) (a, b *docker) {
	t.Helper()
	lab.EmbeddedStore(t)
	a, b = newHost(t, ofA, true), newHost(t, ofB, true)
	a.Config.DaemonArgs = []string{"--store", "embed", "--store-token", "none", "--advertise", lab.RoutedA, "--node-name", "a"}
	b.Config.DaemonArgs = []string{"--store", "etcd://" + lab.RoutedA + ":2379", "--advertise", lab.RoutedB, "--node-name", "b"}
	lab.Route(a.Lab, b.Lab)
	for _, d := range []*docker{a, b} {
		d.StartDaemon()
		d.startEngine()
		d.importImage()
	}
	for _, d := range []*docker{a, b} {
		d.bothUp()
	}
	return a, b
}

// bothUp waits until a host knows of both.
func (d *docker) bothUp() {
	d.Helper()
	d.Eventually(20*time.Second, func() error {
		if up := d.Fairlead("node", "ls", "--format", "{{.Name}} {{.Status}}"); up != "a up\nb up" {
			return fmt.Errorf("nodes: %q", up)
		}
		return nil
	})
}

// asks expects that a container gets an answer from another one by its name.
func (d *docker) asks(from, name string) {
	d.Helper()
	d.Eventually(10*time.Second, func() error {
		got, err := d.try("exec", from, "/bin/busybox", "wget", "-qO-", "http://"+name+"/cgi-bin/index.cgi")
		if err == nil && !strings.HasPrefix(got, name+" ") {
			err = fmt.Errorf("%s answers", got)
		}
		if err != nil {
			return fmt.Errorf("%s asks %s: %w", from, name, err)
		}
		return nil
	})
}

// served connects until each name has answered, and expects no other.
func served(h *world.Host, address string, port int, names ...string) error {
	seen := map[string]bool{}
	for i := 0; i < 10 || len(seen) < len(names) && i < 60; i++ {
		c, err := lab.Greeting(h, address, port)
		if err != nil {
			return fmt.Errorf("%s to %s port %d: %w", h.Name, address, port, err)
		}
		c.Close()
		if !slices.Contains(names, c.Name) {
			return fmt.Errorf("%s at %s port %d: %s answered, want %q", h.Name, address, port, c.Name, names)
		}
		seen[c.Name] = true
	}
	if len(seen) != len(names) {
		return fmt.Errorf("%s at %s port %d: only %v answered, want %q", h.Name, address, port, seen, names)
	}
	return nil
}

// serviceOfBoth makes a service of the alias that two containers were started with, one on each host.
func serviceOfBoth(a, b *docker, ben, tom *world.Host) {
	a.Helper()
	a.Fairlead("service", "create", "--network", "web", "-p", "18081:81", "shop")
	vip := a.Fairlead("service", "ls", "--format", "{{.IPv4}}")
	for _, way := range []struct {
		d       *docker
		from    *world.Host
		address string
		port    int
	}{{a, ben, vip, 81}, {b, tom, vip, 81}, {a, a.Outside, lab.Host4, 18081}, {b, b.Outside, lab.Host4, 18081}, {b, b.Host, "127.0.0.1", 18081}} {
		way.d.Eventually(10*time.Second, func() error { return served(way.from, way.address, way.port, "ben", "tom") })
	}
	b.docker("network", "disconnect", "web", "tom")
	a.Eventually(10*time.Second, func() error { return served(a.Outside, lab.Host4, 18081, "ben") })
	b.docker("network", "connect", "--alias", "shop", "web", "tom")
	a.Eventually(10*time.Second, func() error { return served(a.Outside, lab.Host4, 18081, "ben", "tom") })
	b.Fairlead("service", "rm", "shop")
}

// TestTwoEngines is two engines, of both versions, whose networks are one of the cluster.
func TestTwoEngines(t *testing.T) {
	a, b := newPair(t, engine29, engine20)
	a.Fairlead("network", "create", "-d", "overlay", "-o", "fairlead.dns=true", "web")
	knows(b.Lab, "web", true)
	gateway := a.Gateway("web", lab.IPv4)
	join := func(d *docker, name string) *world.Host {
		d.Helper()
		return d.run(name, "--network", "web", "--network-alias", "shop", "--dns", gateway, "-p", "18080:80")
	}
	for _, d := range []*docker{a, b} {
		d.docker(append(ofCluster, "web")...)
	}
	ben, tom := join(a, "ben"), join(b, "tom")
	reached := func() {
		t.Helper()
		atBen, atTom := a.address("ben", "web"), b.address("tom", "web")
		a.Get(ben, atTom, 80, "tom", atBen)
		b.Get(tom, atBen, 80, "ben", atTom)
		a.asks("ben", "tom")
		b.asks("tom", "ben")
		a.Get(a.Outside, lab.Host4, 18080, "ben", lab.Outside4)
		b.Get(b.Outside, lab.Host4, 18080, "tom", lab.Outside4)
		a.Get(ben, lab.RoutedB, 18080, "tom", "")
	}
	reached()

	// Connections between containers, both ways, and one to a published port.
	a.Greet(ben, "ben", 81)
	b.Greet(tom, "tom", 81)
	serviceOfBoth(a, b, ben, tom)
	var open []*lab.Greeted
	for _, c := range []struct {
		from *world.Host
		to   string
	}{{ben, b.address("tom", "web")}, {tom, a.address("ben", "web")}} {
		g, err := lab.Greeting(c.from, c.to, 81)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		open = append(open, g)
	}
	went := func(what string) {
		t.Helper()
		for _, g := range open {
			if err := g.Works(); err != nil {
				t.Errorf("%s: the connection to %s: %v", what, g.Name, err)
			}
		}
	}
	b.KillDaemon()
	went("fairlead killed on b")
	b.StartDaemon()
	went("fairlead started on b")
	b.exchangeEngine("KILL")
	went("dockerd killed on b")
	a.KillDaemon() // and with it the store
	went("fairlead killed on a")
	a.StartDaemon()
	a.exchangeEngine("KILL")
	went("dockerd killed on a")
	b.bothUp()
	reached()

	// Each engine removes its own; the other host's goes on.
	a.docker("rm", "-f", "ben")
	a.docker("network", "rm", "web")
	b.Get(b.Outside, lab.Host4, 18080, "tom", lab.Outside4)
	a.Refused(1, []string{"active endpoints"}, "network", "rm", "web")
	b.refused("active endpoints", "network", "rm", "web")
	a.docker(append(ofCluster, "web")...)
	ben = join(a, "ben")
	reached()
	b.docker("rm", "-f", "tom")
	b.docker("network", "rm", "web")
	a.docker("rm", "-f", "ben")
	a.docker("network", "rm", "web")
	b.Fairlead("network", "rm", "web") // at once, though the container was on the other host
	knows(a.Lab, "web", false)
	a.nothingLeft()
	b.nothingLeft()
}
