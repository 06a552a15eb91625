// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// newSwarm is hosts whose engines form a swarm with the managed plugin. The first is a manager, the others have the role. Their
// daemons share a store on the first host.
func newSwarm(t *testing.T, role string, addresses ...string) (hosts []*docker) {
	t.Helper()
	lab.EmbeddedStore(t)
	if err := os.Setenv("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1"); err != nil { // do not look for a registry
		t.Fatal(err)
	}
	dir := makePlugin(t)
	var labs []*lab.Lab
	for range addresses {
		d := newHost(t, iptables, false)
		d.orphan = true
		hosts, labs = append(hosts, d), append(labs, d.Lab)
	}
	lab.Route(labs...)
	a := hosts[0]
	a.Spawn(a.Host, "fairlead-store", "--dir", a.Dir("store"), "--listen", addresses[0]+":2379")
	var all []string
	for i, d := range hosts {
		d.startEngine()
		d.importImage()
		name := string(rune('a' + i))
		d.enablePlugin(dir, "--docker-scope global --store etcd://"+addresses[0]+":2379 --node-name "+name+" --advertise "+addresses[i])
		all = append(all, name+" up")
	}
	// Without a swarm the driver's networks are those of one host.
	a.docker("network", "create", "-d", "fairlead:latest", "alone")
	a.docker("run", "--rm", "--network", "alone", image, "/bin/busybox", "true")
	a.docker("network", "rm", "alone")
	a.docker("swarm", "init", "--advertise-addr", addresses[0])
	token := a.docker("swarm", "join-token", "-q", role)
	for i, d := range hosts[1:] {
		d.docker("swarm", "join", "--advertise-addr", addresses[i+1], "--token", token, addresses[0]+":2377")
	}
	for _, d := range hosts {
		d.pluginSays(strings.Join(all, "\n"), "node", "ls", "--format", "{{.Name}} {{.Status}}")
	}
	return hosts
}

// nothingInSwarm expects that nothing of the swarm's networks is left, and removes the plugins.
func nothingInSwarm(hosts []*docker) {
	for _, d := range hosts {
		d.Helper()
		d.Eventually(20*time.Second, func() error {
			networks, err1 := d.askPlugin("network", "ls", "--format", "{{.Name}}")
			sandboxes, err2 := d.askPlugin("ps", "-a", "-q")
			if networks != "bridge\nhost\nnone" || sandboxes != "" {
				return fmt.Errorf("left are networks %q and sandboxes %q", networks, sandboxes)
			}
			return errors.Join(err1, err2)
		})
	}
	for _, d := range hosts {
		d.removePlugin()
	}
}

// pluginSays waits until a command to the plugin's daemon prints a text, whether it fails or not.
func (d *docker) pluginSays(text string, args ...string) {
	d.Helper()
	d.Eventually(20*time.Second, func() error {
		out, err := d.askPlugin(args...)
		if err == nil && !strings.Contains(out, text) {
			err = fmt.Errorf("fairlead %s: %s", strings.Join(args, " "), out)
		}
		return err
	})
}

// askPlugin returns what a command to the plugin's daemon prints.
func (d *docker) askPlugin(args ...string) (string, error) {
	d.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	command := d.toPlugin(args...)
	r, err := d.Host.RunCommand(world.Command(ctx, command[0], command[1:]...))
	return strings.TrimSpace(r.Output()), err
}

// TestSwarm is a swarm of two engines whose containers and tasks are in networks of the driver.
func TestSwarm(t *testing.T) {
	t.Parallel()
	hosts := newSwarm(t, "worker", lab.RoutedA, lab.RoutedB)
	a, b := hosts[0], hosts[1]
	a.docker("network", "create", "-d", "fairlead:latest", "--attachable", "-o", "fairlead.network=web", "-o", "com.docker.network.driver.mtu=1400", "web")
	a.docker("network", "create", "-d", "fairlead:latest", "--attachable", "--subnet", "10.64.0.0/24", "other")
	ben, tom := a.run("ben", "--network", "web"), b.run("tom", "--network", "web", "-p", "18080:80")
	between := func() {
		t.Helper()
		atBen, atTom := a.address("ben", "web"), b.address("tom", "web")
		a.Get(ben, atTom, 80, "tom", atBen)
		b.Get(tom, atBen, 80, "ben", atTom)
		b.Get(b.Outside, lab.Host4, 18080, "tom", lab.Outside4)
	}
	between()
	a.asks("ben", "tom")
	b.asks("tom", "ben")
	if out := a.docker("exec", "ben", "/bin/busybox", "ip", "link"); !strings.Contains(out, "mtu 1400") || strings.Contains(out, "eth1") {
		t.Errorf("the devices of a container are\n%s", out)
	}
	a.pluginSays("swarm", "run", "--rm", "--network", "web", "true")
	a.pluginSays("swarm", "service", "create", "--network", "web", "shop")

	a.docker("service", "create", "--detach", "--no-resolve-image", "--name", "shop", "--replicas", "2", "--endpoint-mode", "dnsrr", "--stop-grace-period", "100ms",
		"--network", "web", "--network", "other", "--publish", "mode=host,published=18090,target=80", "--env", "NAME=task{{.Task.Slot}}", image)
	tasks := map[*docker]string{}
	for _, d := range []*docker{a, b} {
		d.Eventually(patience, func() error {
			if tasks[d] = d.docker("ps", "-q", "--filter", "name=shop"); tasks[d] == "" {
				return fmt.Errorf("no task runs: %s", a.docker("service", "ps", "--no-trunc", "shop"))
			}
			return nil
		})
	}
	for d, id := range tasks {
		name := d.docker("exec", id, "/bin/busybox", "sh", "-c", "echo $NAME")
		d.Get(d.Outside, lab.Host4, 18090, name, lab.Outside4)
	}
	for _, network := range []string{"web", "other"} {
		for from, to := range map[*docker]*docker{a: b, b: a} {
			from.docker("exec", tasks[from], "/bin/busybox", "wget", "-qO-", "http://"+to.address(tasks[to], network)+"/cgi-bin/index.cgi")
		}
	}
	seen := map[string]bool{}
	b.Eventually(20*time.Second, func() error {
		got, err := b.try("exec", "tom", "/bin/busybox", "wget", "-qO-", "http://shop/cgi-bin/index.cgi")
		name, _, _ := strings.Cut(got, " ")
		if seen[name] = true; err != nil || !seen["task1"] || !seen["task2"] {
			return fmt.Errorf("tasks that answered: %v, %v", seen, err)
		}
		return nil
	})

	// The daemon of b is killed, and started by its engine.
	c, err := b.try("network", "inspect", "--format", "{{.Id}}", "web")
	if err != nil || len(c) != 25 {
		t.Errorf("the network on b is %q, %v", c, err)
	}
	b.inEngine("kill -9 $(pidof fairlead)")
	between()
	b.pluginSays("tom", "ps")

	a.docker("service", "rm", "shop")
	a.docker("rm", "-f", "ben")
	b.docker("rm", "-f", "tom")
	a.removeNetworks("web", "other")
	b.docker("swarm", "leave")
	a.docker("swarm", "leave", "--force")
	nothingInSwarm(hosts)
}

// removeNetworks removes networks of the swarm, once their last containers have ended.
func (d *docker) removeNetworks(names ...string) {
	d.Helper()
	for _, name := range names {
		d.Eventually(patience, func() error {
			_, err := d.try("network", "rm", name)
			if err != nil && strings.Contains(err.Error(), "not found") {
				err = nil // it was removed before, though the answer was an error
			}
			return err
		})
	}
}

// leader waits until the swarm's leader is one of these hosts, and returns it.
func leader(hosts ...*docker) (found *docker) {
	hosts[0].Helper()
	hosts[0].Eventually(patience, func() error {
		for _, d := range hosts {
			if out, err := d.try("node", "inspect", "--format", "{{.ManagerStatus.Leader}}", "self"); err == nil && out == "true" {
				found = d
				return nil
			}
		}
		return errors.New("the swarm has no leader")
	})
	return found
}

// TestSwarmLeader kills the leader of a swarm of three managers, its engine and then its daemon: networks and connections
// stay, another manager makes and removes what is asked for, and the host comes back.
func TestSwarmLeader(t *testing.T) {
	t.Parallel()
	hosts := newSwarm(t, "manager", lab.RoutedA, lab.RoutedB, lab.RoutedC)
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.createInSwarm("web")
	b.run("ben", "--network", "web")
	c.run("tom", "--network", "web")
	a.Case("connections", func(l *lab.Lab) {
		first := *a
		first.Lab = l // what is in the network namespace of its container ends with the case, as the container does
		first.dies(b, c)
	})
	next := leader(b, c)
	other := map[*docker]*docker{b: c, c: b}[next]

	dora := next.run("dora", "--network", "web")
	next.Get(dora, b.address("ben", "web"), 80, "ben", next.address("dora", "web"))
	next.Get(dora, c.address("tom", "web"), 80, "tom", next.address("dora", "web"))
	next.createInSwarm("more")
	next.run("mo", "--network", "more")
	mia := other.run("mia", "--network", "more")
	other.Get(mia, next.address("mo", "more"), 80, "mo", other.address("mia", "more"))
	next.docker("service", "create", "--detach", "--no-resolve-image", "--name", "shop", "--mode", "global", "--endpoint-mode", "dnsrr",
		"--stop-grace-period", "100ms", "--network", "web", "--env", "NAME=shop", image)
	task := func(d *docker) string {
		t.Helper()
		var id string
		d.Eventually(patience, func() error {
			if id = d.docker("ps", "-q", "--filter", "name=shop"); id == "" {
				return fmt.Errorf("no task runs: %s", next.docker("service", "ps", "--no-trunc", "shop"))
			}
			return nil
		})
		return d.address(id, "web")
	}
	next.Get(dora, task(b), 80, "shop", "")
	next.Get(dora, task(c), 80, "shop", "")

	// The engine ends the containers that it finds when it is back.
	a.resumeEngine()
	a.pluginSays("a up\nb up\nc up", "node", "ls", "--format", "{{.Name}} {{.Status}}")
	a.Eventually(patience, func() error {
		_, err := a.try("start", "anna")
		return err
	})
	next.Get(dora, a.address("anna", "web"), 80, "anna", next.address("dora", "web"))
	next.Get(dora, task(a), 80, "shop", "")
	mary := a.run("mary", "--network", "more")
	a.Get(mary, other.address("mia", "more"), 80, "mia", a.address("mary", "more"))

	next.docker("service", "rm", "shop")
	a.docker("rm", "-f", "anna", "mary")
	b.docker("rm", "-f", "ben")
	c.docker("rm", "-f", "tom")
	next.docker("rm", "-f", "dora", "mo")
	other.docker("rm", "-f", "mia")
	next.removeNetworks("web", "more")
	nothingInSwarm(hosts)
}

// createInSwarm creates a network in which containers may be that are not of a service.
func (d *docker) createInSwarm(name string) {
	d.Helper()
	d.docker("network", "create", "-d", "fairlead:latest", "--attachable", "-o", "fairlead.network="+name, name)
}

// dies kills the engine, which is the leader of the swarm of b and c, and its daemon: no connection of its container or
// of theirs, ben and tom, breaks until another is the leader, and the network stays.
func (d *docker) dies(b, c *docker) {
	d.Helper()
	anna, ben, tom := d.run("anna", "--network", "web", "--stop-timeout", "1"), b.enter("ben"), c.enter("tom")
	defer ben.Close()
	defer tom.Close()
	id := d.docker("network", "inspect", "--format", "{{.Id}}", "web")
	loads := d.StartLoads(map[string]lab.Path{
		"to the leader's host": {Client: tom, Server: d.Echo(anna, 7), Address: net.JoinHostPort(d.address("anna", "web"), "7")},
		"between the others":   {Client: ben, Server: d.Echo(tom, 7), Address: net.JoinHostPort(c.address("tom", "web"), "7")},
	})
	d.endEngine("KILL")
	d.inEngine("kill -9 $(pidof fairlead)")
	leader(b, c)
	for _, other := range []*docker{b, c} {
		if got := other.docker("network", "inspect", "--format", "{{.Id}}", "web"); got != id {
			d.Errorf("the network was %s and is %s", id, got)
		}
		other.pluginSays("web", "network", "ls", "--format", "{{.Name}}")
	}
	for name, load := range loads {
		report := load.Stop()
		if d.Log(name, report); len(report.Errors) > 0 {
			d.Errorf("connections %s broke: %q", name, report.Errors)
		}
	}
}
