// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/engine"
	"github.com/fairlead-net/fairlead/bench/topology"
	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// docker is a Docker Engine whose networks are of one driver.
type docker struct {
	*lab.Lab
	driver string
	engine *world.Process
	socket string
	pid    string // of the first process in the engine's namespaces
}

// kind is a version of the engine.
type kind struct{ lab.Engine }

var engine20, engine29 = kind{lab.Engine20()}, kind{lab.Engine29("29", "nftables")}

// bridge starts an engine with its own driver.
func (k kind) bridge(t *testing.T) (*lab.Lab, face) {
	l := newLab(t, lab.Config{})
	return l, k.start(t, "bridge", l)
}

// fairlead starts an engine with Fairlead's driver.
func (k kind) fairlead(t *testing.T) (*lab.Lab, face) {
	l := newLab(t, lab.Config{DockerPlugins: "/run/docker/plugins"})
	return l, k.start(t, "fairlead", l)
}

// start starts an engine, whose containers outlive it.
func (k kind) start(t *testing.T, driver string, l *lab.Lab) face {
	if err := l.Host.Do(topology.OwnDirectories); err != nil {
		t.Fatal(err)
	}
	if driver == "fairlead" {
		l.StartDaemon()
	}
	if k.File == nil { // with nftables the engine wants that of the operator
		l.Sysctl(l.Host, "ipv4/ip_forward", "1")
		l.Sysctl(l.Host, "ipv6/conf/all/forwarding", "1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	program := must[string](l)(k.Find(ctx))
	f := &docker{Lab: l, driver: driver, socket: filepath.Join(l.Dir("docker"), "docker.sock")}
	cgroup := "/fl-lab-" + filepath.Base(filepath.Dir(l.Dir("docker")))
	var err error
	f.engine, err = engine.Start(l.Host, engine.Config{
		Program: program, Socket: f.socket, Dir: l.Dir("docker"), CgroupParent: cgroup,
		Flags: append([]string{"--live-restore"}, k.Flags...), File: k.File, Attr: &syscall.SysProcAttr{Setpgid: true}, Outlived: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log := f.engine.Output()
			t.Logf("dockerd's log:\n%s", log[max(0, len(log)-4000):])
		}
		f.engine.Kill()
		if err := topology.RemoveCgroups(cgroup); err != nil {
			t.Error(err)
		}
	})
	client := engine.New("docker", f.socket)
	defer client.Close()
	if err := client.WaitFor(ctx, f.engine); err != nil {
		t.Fatal(err)
	}
	children := must[[]byte](l)(os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", f.engine.Pid())))
	f.pid = strings.TrimSpace(string(children))
	must[string](l)(f.do("import", image(l), "peer"))
	return f
}

func (f *docker) do(args ...string) (string, error) {
	return on(f.Host, "/usr/bin/docker", append([]string{"--host", "unix://" + f.socket}, args...)...)
}

func (f *docker) act(args ...string) error {
	_, err := f.do(args...)
	return err
}

func (f *docker) createNetwork(n network) error {
	return f.act(append([]string{"network", "create", "-d", f.driver}, n.flags()...)...)
}

func (f *docker) removeNetwork(name string) error { return f.act("network", "rm", name) }

func (f *docker) run(c container) error {
	err := f.act(append(append(append([]string{"run"}, c.flags()...), "peer"), c.serve("/peer")...)...)
	if err != nil {
		_ = f.remove(c.name) // what could not be started may have been made
	}
	return err
}

func (f *docker) restart(name string) error { return f.act("restart", "-t", "5", name) }

func (f *docker) remove(name string) error { return f.act("rm", "-f", name) }

func (f *docker) connect(network, name string) error {
	return f.act("network", "connect", network, name)
}

func (f *docker) disconnect(network, name string) error {
	return f.act("network", "disconnect", network, name)
}

func (f *docker) exec(name string, args ...string) (string, error) {
	return f.do(append([]string{"exec", name, "/peer"}, args...)...)
}

func (f *docker) netns(name string) (string, error) {
	key, err := f.do("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)
	return filepath.Join("/proc", f.pid, "root", key), err
}

func (f *docker) id(name string) (string, error) { return f.do("inspect", "--format", "{{.ID}}", name) }

func (f *docker) ports(name string) (string, error) { return f.do("port", name) }

func (f *docker) published(name string) (string, error) {
	if f.driver != "fairlead" {
		return f.ports(name)
	}
	key, err := f.netns(name)
	if err != nil {
		return "", err
	}
	return command(f.Host, f.Command, f.Binary, "port", "docker-"+filepath.Base(key))
}

func (f *docker) kill() {
	if f.driver == "fairlead" {
		f.KillDaemon()
		return
	}
	f.Must(f.Host, "nsenter", "--target", f.pid, "--pid", "--mount", "sh", "-c", "kill -9 $(cat /run/docker.pid)")
	f.Eventually(10*time.Second, func() error {
		if f.act("version") == nil {
			return fmt.Errorf("the engine serves yet")
		}
		return nil
	})
}
