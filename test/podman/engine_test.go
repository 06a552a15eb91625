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

// mounts make podman's root of Debian's, what is written to which stays in memory. The
// containers are beside it, for one overlay is no place for another.
const mounts = `
	mount -t tmpfs upper "$3"
	mkdir "$3/upper" "$3/work"
	mount -t overlay -o "lowerdir=$1,upperdir=$3/upper,workdir=$3/work" root "$2"
	mkdir -p "$2/var/lib/containers" "$2$4"
	mount -t tmpfs containers "$2/var/lib/containers"
	mount --bind "$4" "$2$4"
	mount --bind /run "$2/run"
	mount --rbind /dev "$2/dev"
	mount -t tmpfs shm "$2/dev/shm"
	mount --rbind /sys "$2/sys"
	mount -t tmpfs cgroup "$2/sys/fs/cgroup"
	mount -t proc proc "$2/proc"
	echo ready
	sleep infinity & wait`

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
	e.Must(e.Host, "sh", "-ec", `mount -t tmpfs run /run && mount --make-shared /run && ln -s "$0" /run/fairlead`, filepath.Dir(e.Socket()))
	first := e.Spawn(e.Host, "unshare", "--pid", "--mount", "--propagation", "unchanged", "--fork", "--kill-child",
		"sh", "-ec", mounts, "sh", lower, e.root, e.Dir("memory"), filepath.Dir(e.Socket()))
	e.Eventually(patience, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", first.Pid(), first.Pid()))
		e.pid = strings.TrimSpace(string(children))
		if err == nil && !strings.Contains(first.Output(), "ready") {
			err = fmt.Errorf("not ready: %s", first.Output())
		}
		return err
	})
	e.write("etc/resolv.conf", "nameserver "+lab.Outside4+"\n") // which refuses, so nothing waits for it
	e.write("etc/containers/containers.conf", settings)
	if configure {
		e.write("etc/containers/containers.conf.d/fairlead.conf", "[engine]\nenable_port_reservation = false\n")
		e.install(program)
	}
	t.Cleanup(func() { e.try("rm", "--all", "--force", "--time", "0") })
	return e
}

// install puts the plugin where the Makefile does.
func (e *engine) install(program string) {
	e.Helper()
	e.shell(`install -D "$1" "$2"`, program, e.root+"/usr/local/lib/netavark/fairlead")
}

// write makes a file in podman's root.
func (e *engine) write(name, content string) {
	e.Helper()
	e.shell(`mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"`, filepath.Join(e.root, name), content)
}

// shell runs a script in podman's namespaces, outside of its root.
func (e *engine) shell(script string, args ...string) {
	e.Helper()
	e.Must(e.Host, "nsenter", slices.Concat([]string{"--target", e.pid, "--pid", "--mount", "--", "sh", "-ec", script, "sh"}, args)...)
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
	e.shell(`
		for dir in bin www etc proc sys dev; do mkdir -p "$1/tmp/rootfs/$dir"; done
		echo served >"$1/tmp/rootfs/www/index.html"
		cp "$(command -v busybox)" "$1/tmp/rootfs/bin/busybox"
		for name in sh httpd sleep ping wget cat ip; do ln -s busybox "$1/tmp/rootfs/bin/$name"; done
		tar -C "$1/tmp/rootfs" -cf "$1/tmp/rootfs.tar" .`, e.root)
	e.podman("import", "/tmp/rootfs.tar", image)
}

// httpd runs a container that serves port 80.
func (e *engine) httpd(name string, flags ...string) {
	e.Helper()
	e.podman(slices.Concat([]string{"run", "-d", "--cap-add", "NET_RAW", "--name", name}, flags, []string{image, "httpd", "-f", "-p", "80", "-h", "/www"})...)
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

// want wants these sandboxes, name/networks each in the order of names, and as many
// endpoints.
func (e *engine) want(endpoints int, sandboxes ...string) {
	e.Helper()
	var got []string
	for line := range strings.Lines(e.Fairlead("ps", "--all", "--format", "{{.Names}}/{{.Networks}}")) {
		name, list, _ := strings.Cut(strings.TrimSpace(line), "/")
		networks := strings.Split(list, ",") // in netavark's order, which is none
		slices.Sort(networks)
		got = append(got, name+"/"+strings.Join(networks, ","))
	}
	slices.Sort(got)
	if !slices.Equal(got, sandboxes) {
		e.Errorf("sandboxes %q, want %q", got, sandboxes)
	}
	if got := e.Devices("fairlead:endpoint:"); len(got) != endpoints {
		e.Errorf("devices %v, want %d", got, endpoints)
	}
}
