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

// podman4 is Debian's podman, whose networks are CNI's.
type podman4 struct {
	*lab.Lab
	prefix []string // of a command
}

func startPodman4(t *testing.T) (*lab.Lab, face) {
	l := newLab(t, lab.Config{})
	l.StartDaemon()
	pid := l.Apart("mount -t tmpfs cgroup /sys/fs/cgroup")
	conf := l.Write("containers.conf", fmt.Sprintf("[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [%q]\n"+
		"[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nenable_port_reservation = false\nruntime = \"crun\"\n", filepath.Dir(plugin)))
	f := &podman4{l, []string{
		"--target", pid, "--pid", "--mount", "--", "env", "CONTAINERS_CONF=" + conf, "podman",
		"--root", l.Dir("podman/root"), "--runroot", "/run/containers", "--tmpdir", "/run/libpod",
		"--storage-driver", "vfs", "--network-config-dir", l.Dir("podman/net"),
	}}
	must[string](l)(f.do("import", image(l), "peer"))
	t.Cleanup(func() {
		if l.Daemon == nil {
			l.StartDaemon()
		}
		_ = f.act("rm", "--all", "--force", "--time", "0") // the lab looks what is left
	})
	return l, f
}

func (f *podman4) do(args ...string) (string, error) {
	return on(f.Host, "nsenter", slices.Concat(f.prefix, args)...)
}

func (f *podman4) act(args ...string) error {
	_, err := f.do(args...)
	return err
}

// createNetwork writes a configuration: podman makes none for other plugins.
func (f *podman4) createNetwork(n network) error {
	return os.WriteFile(filepath.Join(f.Dir("podman/net"), n.name+".conflist"), n.conflist(f.Socket()), 0o644)
}

func (f *podman4) removeNetwork(name string) error { return f.act("network", "rm", name) }

func (f *podman4) run(c container) error {
	err := f.act(slices.Concat([]string{"run", "--cgroups", "disabled"}, c.flags(), []string{"peer"}, c.serve("/peer"))...)
	if err != nil {
		_ = f.remove(c.name) // what could not be started may have been made
	}
	return err
}

func (f *podman4) restart(name string) error { return f.act("restart", "--time", "5", name) }

func (f *podman4) remove(name string) error { return f.act("rm", "--force", "--time", "0", name) }

func (f *podman4) connect(network, name string) error {
	return f.act("network", "connect", network, name)
}

func (f *podman4) disconnect(network, name string) error {
	return f.act("network", "disconnect", network, name)
}

func (f *podman4) exec(name string, args ...string) (string, error) {
	return f.do(append([]string{"exec", name, "/peer"}, args...)...)
}

func (f *podman4) netns(name string) (string, error) {
	return f.do("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)
}

func (f *podman4) id(name string) (string, error) {
	return f.do("inspect", "--format", "{{.Id}}", name)
}

func (f *podman4) ports(name string) (string, error) { return f.do("port", name) }

func (f *podman4) published(name string) (string, error) { return f.ports(name) }

func (f *podman4) kill() { f.KillDaemon() }
