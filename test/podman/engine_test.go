// SPDX-License-Identifier: Apache-2.0

// Package podman drives podman 5 on top of the real fairlead: Debian trixie's, in a
// root of its own that root.sh makes once.
package podman

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const (
	patience = 30 * time.Second
	image    = "box"
)

// trixie is the directory of Debian's root; nothing is written to it.
var trixie = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("./root.sh")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
})

// plugin is the program as it ships, without the race detector. What is in TMPDIR goes
// with the tests.
var plugin = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bin")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "github.com/fairlead-net/fairlead/cmd/fairlead-netavark")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return filepath.Join(dir, "fairlead-netavark"), nil
})

// engine is podman on the lab's host, in the root of trixie, and in namespaces of
// processes and mounts that end with the test.
type engine struct {
	*lab.Lab
	root string
	pid  string // of the first process in its namespaces
}

// settings are the page's, and what a machine without systemd needs.
const settings = `[containers]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
`

// newEngine starts the namespaces. What podman writes is in memory; the daemon sees
// what it mounts under /run, where the network namespaces are.
func newEngine(t *testing.T, configure bool) *engine {
	t.Helper()
	lower, err := trixie()
	if err != nil {
		t.Fatalf("root.sh: %v", err)
	}
	program, err := plugin()
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{Lab: lab.New(t, lab.Config{})}
	e.root = e.Dir("root")
	e.Must(e.Host, "sh", "-ec", `
		mount -t tmpfs run /run && mount --make-shared /run
		mkdir /run/fairlead && mount --bind "$3" /run/fairlead
		mount -t tmpfs upper "$4" && mkdir "$4/upper" "$4/work"
		mount -t overlay -o "lowerdir=$1,upperdir=$4/upper,workdir=$4/work" root "$2"
		mount --bind /run "$2/run"
		mount -t tmpfs tmp "$2/tmp"
		mount --rbind /dev "$2/dev"
		mount -t tmpfs shm "$2/dev/shm"
		mount --rbind /sys "$2/sys"
		mount -t tmpfs cgroup "$2/sys/fs/cgroup"`,
		"sh", lower, e.root, filepath.Dir(e.Socket()), e.Dir("memory"))
	e.write("etc/containers/containers.conf", settings)
	if configure {
		e.write("etc/containers/containers.conf.d/fairlead.conf", "[engine]\nenable_port_reservation = false\n")
		e.install(program)
	}
	first := e.Spawn(e.Host, "unshare", "--pid", "--mount", "--propagation", "unchanged", "--fork", "--kill-child",
		"sh", "-c", `mount -t proc proc "$0/proc" && echo ready && sleep infinity & wait`, e.root)
	e.Eventually(patience, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", first.Pid(), first.Pid()))
		e.pid = strings.TrimSpace(string(children))
		if err == nil && !strings.Contains(first.Output(), "ready") {
			err = fmt.Errorf("not ready: %s", first.Output())
		}
		return err
	})
	t.Cleanup(func() { e.try("rm", "--all", "--force", "--time", "0") })
	return e
}

// install puts the plugin where the Makefile does.
func (e *engine) install(program string) {
	e.Helper()
	e.Must(e.Host, "install", "-D", program, filepath.Join(e.root, "usr/local/lib/netavark/fairlead"))
}

// write makes a file in podman's root.
func (e *engine) write(name, content string) {
	e.Helper()
	e.Must(e.Host, "sh", "-ec", `mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"`, "sh", filepath.Join(e.root, name), content)
}

// inside runs a program in podman's root and namespaces.
func (e *engine) inside(args ...string) world.Result {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := world.Command(ctx, "nsenter", slices.Concat([]string{
		"--target", e.pid, "--pid", "--mount", "--", "chroot", e.root, "env", "-i", "HOME=/root",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PODMAN_IGNORE_CGROUPSV1_WARNING=1",
	}, args)...)
	r, err := e.Host.RunCommand(cmd)
	if err != nil {
		e.Fatal(err)
	}
	return r
}

func (e *engine) try(args ...string) world.Result {
	e.Helper()
	return e.inside(append([]string{"podman"}, args...)...)
}

func (e *engine) podman(args ...string) string {
	e.Helper()
	r := e.try(args...)
	if r.Code != 0 {
		e.Fatalf("podman %s: status %d\n%s", strings.Join(args, " "), r.Code, r.Output())
	}
	return strings.TrimSpace(r.Stdout)
}

// refused runs a command that must fail, with a message that holds the text.
func (e *engine) refused(text string, args ...string) {
	e.Helper()
	if r := e.try(args...); r.Code == 0 || !strings.Contains(r.Stderr, text) {
		e.Errorf("podman %s: status %d, want a message with %q\n%s", strings.Join(args, " "), r.Code, text, r.Output())
	}
}

// importImage imports a file system with nothing but busybox.
func (e *engine) importImage() {
	e.Helper()
	e.Must(e.Host, "sh", "-ec", `
		for dir in bin www etc proc sys dev; do mkdir -p "$1/tmp/rootfs/$dir"; done
		echo served >"$1/tmp/rootfs/www/index.html"
		cp "$(command -v busybox)" "$1/tmp/rootfs/bin/busybox"
		for name in sh httpd sleep ping wget cat ip; do ln -s busybox "$1/tmp/rootfs/bin/$name"; done
		tar -C "$1/tmp/rootfs" -cf "$1/tmp/rootfs.tar" .`, "sh", e.root)
	e.podman("import", "/tmp/rootfs.tar", image)
}

// httpd runs a container that serves port 80.
func (e *engine) httpd(name string, flags ...string) {
	e.Helper()
	e.podman(slices.Concat([]string{"run", "-d", "--name", name}, flags, []string{image, "httpd", "-f", "-p", "80", "-h", "/www"})...)
}

// served wants the page at a URL, seen from a host.
func (e *engine) served(h *world.Host, url string) {
	e.Helper()
	e.Eventually(patience, func() error {
		r := e.Run(h, "curl", "-sS", "--noproxy", "*", "--max-time", "2", url)
		if r.Stdout != "served\n" {
			return fmt.Errorf("%s: curl %s: %s", h.Name, url, r.Output())
		}
		return nil
	})
}

// want wants these sandboxes, "name networks" each in the order of names, and as many
// endpoints.
func (e *engine) want(endpoints int, sandboxes ...string) {
	e.Helper()
	got := strings.Fields(strings.ReplaceAll(e.Fairlead("ps", "--all", "--format", "{{.Names}}/{{.Networks}}"), ", ", ","))
	slices.Sort(got)
	if !slices.Equal(got, sandboxes) {
		e.Errorf("sandboxes %q, want %q", got, sandboxes)
	}
	if got := e.Devices("fairlead:endpoint:"); len(got) != endpoints {
		e.Errorf("devices %v, want %d", got, endpoints)
	}
}
