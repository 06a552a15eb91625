// SPDX-License-Identifier: Apache-2.0

// Package engines drives real container engines on top of the real fairlead:
// each in a host of its own, with directories of its own.
package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/engine"
	"github.com/fairlead-net/fairlead/bench/topology"
	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// docker is a lab with a Docker Engine that has the plugin.
type docker struct {
	*lab.Lab
	kind   kind
	engine *world.Process
	live   bool          // containers outlive the engine
	orphan bool          // what a killed engine has started goes on until it is back
	lost   []string      // networks that the engine has no more, and Fairlead may have yet
	took   time.Duration // the engine's first start; more when much else runs
	// cgroups are left when the engine is killed; the first is its containers'.
	cgroups []string
}

// kind is a version of the engine.
type kind = lab.Engine

// The engines under test: Debian's, and 29 with each of its firewall backends.
var (
	engine20 = lab.Engine20()
	engine29 = lab.Engine29("29", "nftables")
	iptables = lab.Engine29("29 with iptables", "iptables")
)

const (
	socket   = "/run/docker.sock"
	plugins  = "/run/docker/plugins"
	cli      = "/usr/bin/docker" // the package's
	image    = "answerer"
	patience = time.Minute
)

// eachVersion runs a test with both versions of the engine, side by side.
func eachVersion(t *testing.T, part func(t *testing.T, k kind)) {
	for _, k := range []kind{engine20, engine29} {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			part(t, k)
		})
	}
}

func newDocker(t *testing.T, k kind) *docker { return newDockerLive(t, k, false) }

func newDockerLive(t *testing.T, k kind, live bool) *docker {
	t.Helper()
	d := newHost(t, k, live)
	d.StartDaemon()
	d.startEngine()
	d.importImage()
	return d
}

// newHost is a host that an engine can be started on.
func newHost(t *testing.T, k kind, live bool) *docker {
	t.Helper()
	l := lab.New(t, lab.Config{NoDaemon: true, DockerPlugins: plugins})
	if err := l.Host.Do(topology.OwnDirectories); err != nil {
		t.Fatal(err)
	}
	d := &docker{Lab: l, kind: k, live: live, cgroups: []string{"/fl-lab-" + filepath.Base(filepath.Dir(l.Dir("docker")))}}
	for _, sysctl := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		l.Sysctl(l.Host, sysctl, "1") // with nftables the engine wants that of the operator
	}
	t.Cleanup(d.close)
	return d
}

// config is how the engine is started.
func (d *docker) config() engine.Config {
	d.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	program, err := d.kind.Find(ctx)
	if err != nil {
		d.Fatal(err)
	}
	flags := slices.Clone(d.kind.Flags)
	if d.live {
		flags = append(flags, "--live-restore")
	}
	return engine.Config{
		Program: program, Socket: socket, Dir: d.Dir("docker"), CgroupParent: d.cgroups[0],
		Flags: flags, File: d.kind.File, Attr: &syscall.SysProcAttr{Setpgid: true}, Outlived: d.live || d.orphan,
	}
}

// scene runs a part of a test on an engine that others have too: it finds and
// leaves neither containers nor networks.
func (d *docker) scene(name string, part func(d *docker)) {
	d.Helper()
	d.Case(name, func(l *lab.Lab) {
		in := *d
		in.Lab = l
		in.Cleanup(func() {
			if in.Failed() { // the others go on
				in.sweep()
			}
		})
		part(&in)
		in.nothingLeft()
	})
}

// sweep removes all containers and networks.
func (d *docker) sweep() {
	if ids, _ := d.try("ps", "-a", "-q"); ids != "" {
		_, _ = d.try(append([]string{"rm", "-f"}, strings.Fields(ids)...)...) // may be broken
	}
	_, _ = d.try("network", "prune", "-f")
}

// startEngine starts dockerd and waits until it serves.
func (d *docker) startEngine() {
	d.Helper()
	d.removePIDFiles()
	began := time.Now()
	var err error
	if d.engine, err = engine.Start(d.Host, d.config()); err != nil {
		d.Fatal(err)
	}
	d.waitForEngine()
	if d.took == 0 {
		d.took = time.Since(began)
	}
}

// exchangeEngine ends dockerd with a signal, while its containers go on, and starts it
// again.
func (d *docker) exchangeEngine(signal string) {
	d.Helper()
	d.endEngine(signal)
	d.resumeEngine()
}

// endEngine ends dockerd with a signal, while its containers go on.
func (d *docker) endEngine(signal string) {
	d.Helper()
	d.inEngine("pid=$(cat /run/docker.pid); kill -" + signal + " $pid; while kill -0 $pid; do sleep 0.02; done 2>/dev/null")
}

// resumeEngine starts dockerd again where it was ended.
func (d *docker) resumeEngine() {
	d.Helper()
	d.removePIDFiles()
	again, err := engine.Resume(d.Host, d.config(), d.pid())
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() {
		if d.Failed() {
			d.Logf("log of the second dockerd:\n%s", again.Output())
		}
		again.Kill()
	})
	d.waitForEngine()
}

// removePIDFiles removes what an engine that was killed left: the process IDs in there
// are another's by now, in a namespace of its own.
func (d *docker) removePIDFiles() {
	d.Helper()
	d.Must(d.Host, "rm", "-f", "/run/docker.pid", "/run/docker/containerd/containerd.pid")
}

// inEngine runs a shell's command where dockerd sees its processes and mounts.
func (d *docker) inEngine(command string) {
	d.Helper()
	d.Must(d.Host, "nsenter", "--target", d.pid(), "--pid", "--mount", "sh", "-c", command)
}

func (d *docker) waitForEngine() {
	d.Helper()
	d.Eventually(patience, func() error {
		_, err := d.try("version")
		return err
	})
}

func (d *docker) close() {
	if d.engine == nil {
		return
	}
	if d.Failed() {
		d.Logf("dockerd's log:\n%s", d.engine.Output())
	}
	d.engine.Kill()
	for _, name := range d.cgroups {
		if err := topology.RemoveCgroups(name); err != nil {
			d.Error(err)
		}
	}
}

// try runs a command of the engine's.
func (d *docker) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := d.Host.RunCommand(world.Command(ctx, cli, append([]string{"--host", "unix://" + socket}, args...)...))
	if err == nil && r.Code != 0 {
		err = errors.New(strings.TrimSpace(r.Output()))
	}
	return strings.TrimSuffix(r.Stdout, "\n"), err
}

// docker runs a command that must succeed and returns what it wrote to stdout,
// without the last newline.
func (d *docker) docker(args ...string) string {
	d.Helper()
	out, err := d.try(args...)
	if err != nil {
		d.Fatalf("docker %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// refused runs a command that must fail, with a message that holds the text.
func (d *docker) refused(text string, args ...string) {
	d.Helper()
	out, err := d.try(args...)
	if err == nil || !strings.Contains(err.Error(), text) {
		d.Errorf("docker %s: got %q, %v; want an error that says %q", strings.Join(args, " "), out, err, text)
	}
}

// importImage imports what lab.WriteImage makes.
func (d *docker) importImage() {
	d.Helper()
	path := filepath.Join(d.Dir("docker"), "rootfs.tar")
	d.WriteImage(path)
	d.docker("import", "--change", lab.ImageCommand, path, image)
}

// run starts a container of that name with these flags, whose server answers.
func (d *docker) run(name string, flags ...string) *world.Host {
	d.Helper()
	d.docker(append(append([]string{"run", "-d", "--name", name, "-e", "NAME=" + name}, flags...), image)...)
	h := d.enter(name)
	d.Cleanup(h.Close)
	d.WaitTCP(h, "127.0.0.1:80")
	return h
}

// enter makes a host of a container's network namespace, which the caller closes.
// Only the engine sees its mount.
func (d *docker) enter(name string) *world.Host {
	d.Helper()
	key := d.docker("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)
	h, err := d.Host.Enter(name, filepath.Join("/proc", d.pid(), "root", key))
	if err != nil {
		d.Fatal(err)
	}
	return h
}

// pid is dockerd's own: the process started is the one that waits for it.
func (d *docker) pid() string {
	d.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", d.engine.Pid()))
	if err != nil {
		d.Fatal(err)
	}
	return strings.TrimSpace(string(children))
}

// address is a container's in a network.
func (d *docker) address(name, network string) string {
	d.Helper()
	return d.docker("inspect", "--format", `{{(index .NetworkSettings.Networks "`+network+`").IPAddress}}`, name)
}

// gateway is that of a container in a network.
func (d *docker) gateway(name, network string) string {
	d.Helper()
	return d.docker("inspect", "--format", `{{(index .NetworkSettings.Networks "`+network+`").Gateway}}`, name)
}

// rules are netfilter's, of both its faces, without counters.
func (d *docker) rules() string {
	d.Helper()
	return d.Must(d.Host, "sh", "-c", "{ iptables-save; ip6tables-save; nft list ruleset; } | sed -e '/^#/d' -e 's/\\[[0-9:]*\\]//' -e 's/counter packets [0-9]* bytes [0-9]*//'")
}

// shown returns what `fairlead ps` prints about a container, once Fairlead knows its name.
func (d *docker) shown(name, format string) (out string) {
	d.Helper()
	d.Eventually(10*time.Second, func() error {
		if out = d.Fairlead("ps", "--filter", "name=^"+name+"$", "--format", format); out == "" {
			return fmt.Errorf("fairlead ps knows no %s", name)
		}
		return nil
	})
	return out
}

// nothingLeft wants no trace of containers and networks, and that none of it
// was taken for damage.
func (d *docker) nothingLeft() {
	d.Helper()
	if ps := d.Fairlead("ps", "-a", "-q"); ps != "" {
		d.Errorf("sandboxes are left:\n%s", d.Fairlead("ps", "-a"))
	}
	names := slices.DeleteFunc(d.networks(), func(name string) bool { return slices.Contains(d.lost, name) })
	if !slices.Equal(names, []string{"bridge", "host", "none"}) {
		d.Errorf("networks are left: %q", names)
	}
	for _, line := range strings.Split(d.Must(d.Host, "ip", "-o", "link"), "\n") {
		if strings.Contains(line, "alias fairlead:endpoint") || strings.Contains(line, ": fls") {
			d.Errorf("device is left: %s", line)
		}
	}
	for kind, n := range d.Metrics().Repairs() {
		if n > 0 {
			d.Errorf("%v repairs of kind %s, want none", n, kind)
		}
	}
}
