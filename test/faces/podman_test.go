// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// podman is podman with networks of Fairlead, through CNI or netavark.
type podman struct {
	*lab.Lab
	prefix []string // of a command
	create func(n network) error
}

// startPodman4 starts Debian 12's, with CNI. It makes no networks for others' plugins.
func startPodman4(t *testing.T) (*lab.Lab, face) {
	l := newLab(t, lab.Config{})
	l.StartDaemon()
	pid := l.Apart("mount -t tmpfs cgroup /sys/fs/cgroup")
	conf := l.Write("containers.conf", fmt.Sprintf("[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [%q]\n"+
		"[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nenable_port_reservation = false\nruntime = \"crun\"\n", filepath.Dir(plugin)))
	f := &podman{Lab: l, prefix: []string{
		"--target", pid, "--pid", "--mount", "--", "env", "CONTAINERS_CONF=" + conf, "podman",
		"--root", l.Dir("podman/root"), "--runroot", "/run/containers", "--tmpdir", "/run/libpod",
		"--storage-driver", "vfs", "--network-config-dir", l.Dir("podman/net"),
	}}
	f.create = func(n network) error {
		return os.WriteFile(filepath.Join(l.Dir("podman/net"), n.name+".conflist"), n.conflist(l.Socket()), 0o644)
	}
	return l, f.ready(image(l))
}

// startPodman5 starts Debian 13's, in a root of its own, with netavark.
func startPodman5(t *testing.T) (*lab.Lab, face) {
	l := newLab(t, lab.Config{})
	l.StartDaemon()
	lower := must[string](l)(on(l.Host, "../podman/root.sh"))
	pid := l.ApartIn(lower)
	root := filepath.Join("/proc", pid, "root")
	l.Must(l.Host, "ln", "-s", filepath.Dir(l.Socket()), "/run/fairlead") // where the plugin looks
	l.Must(l.Host, "install", "-D", filepath.Join(filepath.Dir(plugin), "fairlead-netavark"), root+"/usr/local/lib/netavark/fairlead")
	l.Must(l.Host, "install", "-m", "644", "/etc/resolv.conf", image(l), root+"/etc")
	l.Must(l.Host, "install", "-D", l.Write("containers.conf", "[containers]\ncgroups = \"disabled\"\n"+
		"[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nenable_port_reservation = false\nruntime = \"crun\"\n"),
		root+"/etc/containers/containers.conf")
	f := &podman{Lab: l, prefix: []string{
		"--target", pid, "--pid", "--mount", "--", "env", "-i", "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"PODMAN_IGNORE_CGROUPSV1_WARNING=1", "podman",
	}}
	f.create = func(n network) error {
		return f.act(append([]string{"network", "create", "-d", "fairlead"}, n.flags()...)...)
	}
	return l, f.ready("/etc/rootfs.tar")
}

// ready imports the image.
func (f *podman) ready(image string) face {
	must[string](f.Lab)(f.do("import", image, "peer"))
	f.Cleanup(func() {
		if f.Daemon == nil {
			f.StartDaemon()
		}
		_ = f.act("rm", "--all", "--force", "--time", "0") // the lab looks what is left
	})
	return f
}

func (f *podman) do(args ...string) (string, error) {
	return on(f.Host, "nsenter", slices.Concat(f.prefix, args)...)
}

func (f *podman) act(args ...string) error {
	_, err := f.do(args...)
	return err
}

func (f *podman) createNetwork(n network) error { return f.create(n) }

func (f *podman) removeNetwork(name string) error { return f.act("network", "rm", name) }

func (f *podman) run(c container) error {
	err := f.act(slices.Concat([]string{"run", "--cgroups", "disabled"}, c.flags(), []string{"peer"}, c.serve("/peer"))...)
	if err != nil {
		_ = f.remove(c.name) // what could not be started may have been made
	}
	return err
}

func (f *podman) restart(name string) error { return f.act("restart", "--time", "5", name) }

func (f *podman) remove(name string) error { return f.act("rm", "--force", "--time", "0", name) }

func (f *podman) connect(network, name string) error {
	return f.act("network", "connect", network, name)
}

func (f *podman) disconnect(network, name string) error {
	return f.act("network", "disconnect", network, name)
}

func (f *podman) exec(name string, args ...string) (string, error) {
	return f.do(append([]string{"exec", name, "/peer"}, args...)...)
}

func (f *podman) netns(name string) (string, error) {
	return f.do("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)
}

func (f *podman) id(name string) (string, error) {
	return f.do("inspect", "--format", "{{.Id}}", name)
}

func (f *podman) ports(name string) (string, error) { return f.do("port", name) }

func (f *podman) published(name string) (string, error) { return f.ports(name) }

func (f *podman) kill() { f.KillDaemon() }
