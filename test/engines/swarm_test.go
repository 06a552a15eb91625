// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// newSwarm is two hosts whose engines form a swarm, of which the first is the manager, with the managed
// plugin. Its daemons share a store on the first host.
func newSwarm(t *testing.T) (a, b *docker) {
	t.Helper()
	lab.EmbeddedStore(t)
	if err := os.Setenv("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1"); err != nil { // do not look for a registry
		t.Fatal(err)
	}
	dir := makePlugin(t)
	a, b = newHost(t, iptables, false), newHost(t, iptables, false)
	lab.Route(a.Lab, b.Lab)
	a.Spawn(a.Host, "fairlead-store", "--dir", a.Dir("store"), "--listen", lab.RoutedA+":2379")
	for name, d := range map[string]*docker{"a": a, "b": b} {
		d.startEngine()
		d.importImage()
		address := map[string]string{"a": lab.RoutedA, "b": lab.RoutedB}[name]
		d.enablePlugin(dir, "--docker-scope global --store etcd://"+lab.RoutedA+":2379 --node-name "+name+" --advertise "+address)
	}
	// Without a swarm the driver's networks are those of one host.
	a.docker("network", "create", "-d", "fairlead:latest", "alone")
	a.docker("run", "--rm", "--network", "alone", image, "/bin/busybox", "true")
	a.docker("network", "rm", "alone")
	a.docker("swarm", "init", "--advertise-addr", lab.RoutedA)
	b.docker("swarm", "join", "--advertise-addr", lab.RoutedB, "--token", a.docker("swarm", "join-token", "-q", "worker"), lab.RoutedA+":2377")
	for _, d := range []*docker{a, b} {
		d.pluginSays("a up\nb up", "node", "ls", "--format", "{{.Name}} {{.Status}}")
	}
	return a, b
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
	a, b := newSwarm(t)
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
	a.Eventually(patience, func() error {
		_, err := a.try("network", "rm", "web", "other")
		if err != nil && strings.Contains(err.Error(), "not found") {
			err = nil // the one that was removed before
		}
		return err
	})
	for _, d := range []*docker{a, b} {
		d.Eventually(20*time.Second, func() error {
			networks, err1 := d.askPlugin("network", "ls", "--format", "{{.Name}}")
			sandboxes, err2 := d.askPlugin("ps", "-a", "-q")
			if networks != "bridge\nhost\nnone" || sandboxes != "" {
				return fmt.Errorf("left are networks %q and sandboxes %q", networks, sandboxes)
			}
			return errors.Join(err1, err2)
		})
	}
	b.docker("swarm", "leave")
	a.docker("swarm", "leave", "--force")
	a.removePlugin()
	b.removePlugin()
}
