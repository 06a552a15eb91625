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

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const (
	patience = time.Minute
	image    = "box"
)

// trixie is the directory of Debian's root; nothing is written to it.
var trixie = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("./root.sh")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
})

// built is the directory of the program as it ships, without the race detector. What
// is in TMPDIR goes with the tests.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bin")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "github.com/fairlead-net/fairlead/cmd/fairlead-netavark")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
})

// plugin is the path of the program.
func plugin(tb testing.TB) string {
	tb.Helper()
	dir, err := built()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, "fairlead-netavark")
}

// engine is podman on the lab's host, with the root of trixie, in namespaces of
// processes and mounts that end with the test.
type engine struct {
	*lab.Lab
	pid string // of the first process in its namespaces
}

// settings are what a machine without systemd needs.
const settings = `[containers]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
`

// newEngine starts the namespaces. The daemon sees what podman mounts under /run, where
// the network namespaces are.
func newEngine(t *testing.T) *engine { return newEngineWith(t, lab.Config{}) }

// newEngineWith starts them on a lab of that kind.
func newEngineWith(t *testing.T, cfg lab.Config) *engine {
	t.Helper()
	lower, err := trixie()
	if err != nil {
		t.Fatalf("root.sh: %v", err)
	}
	e := &engine{Lab: lab.New(t, cfg)}
	e.pid = e.ApartIn(lower)
	e.Must(e.Host, "ln", "-s", filepath.Dir(e.Socket()), "/run/fairlead")
	e.write("etc/resolv.conf", "nameserver "+lab.Outside4+"\n") // which refuses, so nothing waits for it
	e.write("etc/containers/containers.conf", settings)
	t.Cleanup(func() { e.try("rm", "--all", "--force", "--time", "0") })
	return e
}

// path is that of a file in podman's root.
func (e *engine) path(name string) string { return filepath.Join("/proc", e.pid, "root", name) }

// write makes a file in podman's root.
func (e *engine) write(name, content string) {
	e.Helper()
	err := os.MkdirAll(filepath.Dir(e.path(name)), 0o755)
	if err == nil {
		err = os.WriteFile(e.path(name), []byte(content), 0o644)
	}
	if err != nil {
		e.Fatal(err)
	}
}

// install puts a program into podman's root.
func (e *engine) install(program, name string) {
	e.Helper()
	e.Must(e.Host, "install", "-D", program, e.path(name))
}

// installPlugin puts the plugin where the Makefile does.
func (e *engine) installPlugin() {
	e.Helper()
	e.install(plugin(e), "usr/local/lib/netavark/fairlead")
	e.write("etc/containers/containers.conf.d/fairlead.conf", "[engine]\nenable_port_reservation = false\n")
}

// inside runs a program in podman's root and namespaces.
func (e *engine) inside(args ...string) world.Result {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := e.Host.RunCommand(world.Command(ctx, "nsenter", slices.Concat([]string{
		"--target", e.pid, "--pid", "--mount", "--", "env", "-i", "HOME=/root",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PODMAN_IGNORE_CGROUPSV1_WARNING=1",
	}, args)...))
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
	rootfs := e.Dir("rootfs")
	e.Must(e.Host, "sh", "-ec", `
		for dir in bin www etc proc sys dev; do mkdir -p "$1/$dir"; done
		echo served >"$1/www/index.html"
		cp "$(command -v busybox)" "$1/bin/busybox"
		for name in sh httpd sleep ping wget cat ip; do ln -s busybox "$1/bin/$name"; done
		tar -C "$1" -cf "$2" .`, "sh", rootfs, e.path("tmp/rootfs.tar"))
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
