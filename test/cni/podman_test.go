// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// podman is Debian's podman on the lab's host.
type podman struct {
	*apart
	args []string
}

func newPodman(t *testing.T) *podman {
	t.Helper()
	r := newRuntime(t, lab.Config{})
	r.Write("podman.conf", fmt.Sprintf("[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [%q, %q]\n"+
		"[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nenable_port_reservation = false\nruntime = \"crun\"\n", r.plugins, debianPlugins))
	p := &podman{r.apart("mount -t tmpfs cgroup /sys/fs/cgroup"), []string{
		"CONTAINERS_CONF=" + filepath.Join(r.Dir("."), "podman.conf"),
		"podman", "--root", r.Dir("podman/root"), "--runroot", "/run/containers", "--tmpdir", "/run/libpod",
		"--storage-driver", "vfs", "--network-config-dir", r.Dir("podman/net"),
	}}
	t.Cleanup(func() { p.try("rm", "--all", "--force", "--time", "0") })
	return p
}

func (p *podman) try(args ...string) world.Result {
	p.Helper()
	return p.apart.try("env", slices.Concat(p.args, args)...)
}

func (p *podman) do(args ...string) string {
	p.Helper()
	return p.apart.do("env", slices.Concat(p.args, args)...)
}

// A container of podman's is published, reaches others, stops and starts again.
func TestPodman(t *testing.T) {
	t.Parallel()
	p := newPodman(t)
	p.Write("podman/net/pods.conflist", documented(t))
	p.image()
	p.do("run", "-d", "--name", "web", "--cgroups", "disabled", "--network", "pods", "--ip", "10.77.0.9", "-p", "8080:80", "box", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www")
	served := func() {
		t.Helper()
		p.served(p.Outside, lab.Host4, 8080, "served")
		p.served(p.Host, "127.0.0.1", 8080, "served")
	}
	served()
	if got := p.do("run", "--rm", "--cgroups", "disabled", "--network", "pods", "box", "/bin/busybox", "ping", "-c", "1", "10.77.0.9"); !strings.Contains(got, " 0% packet loss") {
		t.Errorf("ping between containers:\n%s", got)
	}
	id := p.do("inspect", "--format", "{{.Id}}", "web")[:12]
	p.wantSandboxes("cni-"+id+" pods", 1)
	if got, want := p.Fairlead("port", "cni-"+id), "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080"; got != want {
		t.Errorf("fairlead port: %q, want %q", got, want)
	}
	if got := p.Inspect("cni-" + id).Config.Labels["io.kubernetes.pod.name"]; got != "web" {
		t.Errorf("label %q, want podman's name", got)
	}
	var state []struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := json.Unmarshal([]byte(p.do("inspect", "web")), &state); err != nil || state[0].NetworkSettings.Networks["pods"].IPAddress != "10.77.0.9" {
		t.Errorf("podman inspect: %+v, %v", state, err)
	}
	p.do("restart", "--time", "0", "web")
	served()
	p.do("stop", "--time", "0", "web")
	p.wantSandboxes("", 0)
	p.KillDaemon()
	p.StartDaemon()
	p.do("start", "web")
	served()
	p.do("rm", "--force", "--time", "0", "web")
	p.wantSandboxes("", 0)
}

// Containers of podman's find each other by name and alias, at the address each has now,
// and what is outside by the host's resolver; from an internal network nothing leaves.
func TestPodmanNames(t *testing.T) {
	t.Parallel()
	p := newPodman(t)
	outside := p.Resolver()
	p.Write("podman/net/pods.conflist", documented(t))
	p.Write("podman/net/quiet.conflist", `{ "cniVersion": "1.0.0", "name": "quiet", "plugins": [
		{ "type": "fairlead-cni", "internal": true, "capabilities": { "ips": true, "aliases": true } } ] }`)
	p.image()
	run := func(name, network string, more ...string) (id string) {
		t.Helper()
		args := slices.Concat([]string{"run", "-d", "--name", name, "--cgroups", "disabled", "--network", network}, more,
			[]string{"box", "/bin/busybox", "sleep", "1000"})
		return p.do(args...)[:12]
	}
	// want wants what a container finds to be this address, or this to be said.
	want := func(from, name, want string) {
		t.Helper()
		r := p.try("exec", from, "/bin/busybox", "nslookup", "-type=a", name)
		if !strings.Contains(r.Stdout, "Address: "+want+"\n") && !strings.Contains(r.Output(), ": "+want+"\n") {
			t.Errorf("%s asks for %s, want %s:\n%s", from, name, want, r.Output())
		}
	}
	address := func(name string) string {
		t.Helper()
		return p.do("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)
	}
	run("client", "pods")
	id := run("web", "pods", "--network-alias", "www")
	before := address("web")
	for _, name := range []string{"web", "WWW", id, "web.pods", "cni-" + id} {
		want("client", name, before)
	}
	want("client", "example.com", lab.Internet4)
	want("client", "nobody", "NXDOMAIN")
	p.do("stop", "--time", "0", "web")
	want("client", "web", "NXDOMAIN")
	run("between", "pods", "--ip", before) // so that it gets another address
	p.do("start", "web")
	if after := address("web"); after == before {
		t.Errorf("web has %s again", after)
	} else {
		want("client", "www", after)
	}
	p.KillDaemon()
	p.StartDaemon()
	want("client", "between", before)
	p.do("rm", "--force", "--time", "0", "web")
	want("client", "web", "NXDOMAIN")

	run("lone", "quiet")
	run("near", "quiet")
	asked := outside.Asked.Load()
	want("lone", "near", address("near"))
	want("lone", "client", "NXDOMAIN")
	want("lone", "example.com", "NXDOMAIN")
	if got := outside.Asked.Load() - asked; got != 0 {
		t.Errorf("the resolver outside was asked %d times from an internal network", got)
	}
}

// In networks without a gateway on the host, containers have the name servers that podman configures, and the daemon opens no socket in
// them.
func TestPodmanWithoutGateway(t *testing.T) {
	t.Parallel()
	p := newPodman(t)
	p.Write("podman/net/alone.conflist", `{ "cniVersion": "1.0.0", "name": "alone", "plugins": [
		{ "type": "fairlead-cni", "internal": true, "options": { "com.docker.network.bridge.gateway_mode_ipv4": "isolated" } } ] }`)
	p.image()
	p.do("run", "-d", "--name", "web", "--cgroups", "disabled", "--network", "alone", "--dns", "192.0.2.53", "box", "/bin/busybox", "sleep", "1000")
	if got := p.do("exec", "web", "/bin/busybox", "cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver 192.0.2.53") {
		t.Errorf("resolv.conf:\n%s", got)
	}
	for _, table := range []string{"/proc/net/udp", "/proc/net/tcp"} {
		if got := p.do("exec", "web", "/bin/busybox", "cat", table); strings.Count(got, "\n") > 0 {
			t.Errorf("sockets in the container:\n%s", got)
		}
	}
	if r := p.try("exec", "web", "/bin/busybox", "nslookup", "-type=a", "web", "127.0.0.11"); !strings.Contains(r.Output(), "refused") {
		t.Errorf("a query to 127.0.0.11:\n%s", r.Output())
	}
}

// documented is the configuration in docs/cni.md.
func documented(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/cni.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(page), "pods.conflist <<'E'\n")
	conf, _, end := strings.Cut(after, "\nE\n")
	if !ok || !end {
		t.Fatal("docs/cni.md shows no configuration")
	}
	return conf
}

// image imports a file system with nothing but busybox.
func (p *podman) image() {
	p.Helper()
	p.do("import", p.rootfs(), "box")
}
