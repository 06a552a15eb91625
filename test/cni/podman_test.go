// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// podman is Debian's podman on the lab's host, in namespaces of processes and
// mounts that end with the test, and with what it keeps outside of its
// directories on file systems of its own.
type podman struct {
	*runtime
	pid  string // of the first process in its namespaces
	env  string
	args []string
}

// newPodman starts the namespaces. The daemon sees the mounts under /run, where
// podman puts network namespaces.
func newPodman(t *testing.T) *podman {
	t.Helper()
	r := newRuntime(t, lab.Config{})
	p := &podman{runtime: r, env: "CONTAINERS_CONF=" + filepath.Join(r.Dir("podman"), "containers.conf")}
	p.args = []string{
		"--root", r.Dir("podman/root"), "--runroot", "/run/containers", "--tmpdir", "/run/libpod",
		"--storage-driver", "vfs", "--network-config-dir", r.Dir("podman/net"),
	}
	conf := fmt.Sprintf("[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [%q, %q]\n"+
		"[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nenable_port_reservation = false\nruntime = \"crun\"\n", r.plugins, debianPlugins)
	r.write("podman/containers.conf", conf)
	r.Must(r.Host, "mount", "-t", "tmpfs", "run", "/run")
	r.Must(r.Host, "mount", "--make-shared", "/run")
	r.Must(r.Host, "ln", "-s", filepath.Dir(r.Socket()), "/run/fairlead") // where the plugin looks
	first := r.Spawn(r.Host, "unshare", "--pid", "--mount", "--propagation", "unchanged", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", "mount -t tmpfs lib /var/lib && mount -t tmpfs shm /dev/shm && mount -t tmpfs cgroup /sys/fs/cgroup && echo ready && sleep infinity & wait")
	r.Eventually(5*time.Second, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", first.Pid(), first.Pid()))
		p.pid = strings.TrimSpace(string(children))
		if err == nil && !strings.Contains(first.Output(), "ready") {
			err = fmt.Errorf("not ready: %s", first.Output())
		}
		return err
	})
	t.Cleanup(func() { p.try("rm", "--all", "--force", "--time", "0") })
	return p
}

func (r *runtime) write(name, content string) {
	r.Helper()
	if err := os.WriteFile(filepath.Join(r.Dir("."), name), []byte(content), 0o644); err != nil {
		r.Fatal(err)
	}
}

func (p *podman) try(args ...string) world.Result {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	all := slices.Concat([]string{"--target", p.pid, "--pid", "--mount", "--", "env", p.env, "podman"}, p.args, args)
	r, err := p.Host.Run(ctx, "nsenter", all...)
	if err != nil {
		p.Fatal(err)
	}
	return r
}

func (p *podman) do(args ...string) string {
	p.Helper()
	r := p.try(args...)
	if r.Code != 0 {
		p.Fatalf("podman %s: status %d\n%s", strings.Join(args, " "), r.Code, r.Output())
	}
	return strings.TrimSpace(r.Stdout)
}

// A container of podman's is published, reaches others, stops and starts again.
func TestPodman(t *testing.T) {
	t.Parallel()
	p := newPodman(t)
	p.write("podman/net/pods.conflist", documented(t))
	p.image()
	p.do("run", "-d", "--name", "web", "--cgroups", "disabled", "--network", "pods", "--ip", "10.77.0.9", "-p", "8080:80", "box", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www")
	get := func(h *world.Host, url string) {
		t.Helper()
		p.Eventually(5*time.Second, func() error {
			r := p.Run(h, "curl", "-sS", "--noproxy", "*", "--max-time", "2", url)
			if r.Stdout != "served\n" {
				return fmt.Errorf("%s: curl %s: %s", h.Name, url, r.Output())
			}
			return nil
		})
	}
	served := func() {
		t.Helper()
		get(p.Outside, "http://"+lab.Host4+":8080/")
		get(p.Host, "http://127.0.0.1:8080/")
	}
	served()
	if got := p.do("run", "--rm", "--cgroups", "disabled", "--network", "pods", "box", "/bin/busybox", "ping", "-c", "1", "10.77.0.9"); !strings.Contains(got, " 0% packet loss") {
		t.Errorf("ping between containers:\n%s", got)
	}
	id := p.do("inspect", "--format", "{{.Id}}", "web")[:12]
	p.wantSandboxes("cni-"+id+" pods", 1)
	if got, want := p.Fairlead("port", "cni-"+id), "80/tcp -> 0.0.0.0:8080"; got != want {
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
	root := p.Dir("rootfs")
	for _, dir := range []string{"bin", "www", "etc", "proc", "sys", "dev"} {
		p.Dir("rootfs/" + dir)
	}
	p.write("rootfs/www/index.html", "served\n")
	p.Must(p.Host, "cp", p.Must(p.Host, "sh", "-c", "printf %s $(command -v busybox)"), filepath.Join(root, "bin", "busybox"))
	tar := filepath.Join(p.Dir("."), strconv.Itoa(os.Getpid())+".tar")
	p.Must(p.Host, "tar", "-C", root, "-cf", tar, ".")
	p.do("import", tar, "box")
}
