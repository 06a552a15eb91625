// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// The plugin that make docker-plugin makes: the engine starts and stops it.
func TestDockerManagedPlugin(t *testing.T) {
	t.Parallel()
	dir := makePlugin(t)
	eachVersion(t, func(t *testing.T, k kind) { managedPlugin(t, k, dir) })
}

// makePlugin returns the directory of what docker plugin create needs.
func makePlugin(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	out, err := exec.CommandContext(t.Context(), "make", "-C", filepath.Join("..", ".."), "docker-plugin", "PLUGINDIR="+dir).CombinedOutput()
	if err != nil {
		t.Fatalf("make docker-plugin: %v\n%s", err, out)
	}
	return dir
}

// enablePlugin creates the plugin and starts it with more flags.
func (d *docker) enablePlugin(dir, flags string) {
	d.Helper()
	d.docker("plugin", "create", "fairlead", dir)
	d.cgroups = append(d.cgroups, d.docker("plugin", "inspect", "--format", "{{.Id}}", "fairlead"))
	d.docker("plugin", "set", "fairlead", "args="+flags)
	d.docker("plugin", "enable", "fairlead")
}

// removePlugin removes it, and what it left in the kernel.
func (d *docker) removePlugin() {
	d.Helper()
	d.docker("plugin", "disable", "fairlead")
	d.docker("plugin", "rm", "fairlead")
	d.Must(d.Host, d.Binary, "cleanup")
}

// toPlugin prepares a command to the plugin's daemon.
func (d *docker) toPlugin(args ...string) []string {
	d.Helper()
	return append([]string{"nsenter", "-t", d.pid(), "-p", "-m", d.Binary}, args...)
}

func managedPlugin(t *testing.T, k kind, dir string) {
	d := newHost(t, k, false)
	d.startEngine()
	d.importImage()
	d.enablePlugin(dir, "--log-level debug")
	d.docker("network", "create", "-d", "fairlead:latest", "web")
	ben := d.run("ben", "--network", "web", "-p", "18080:80")
	d.Get(d.Outside, lab.Host4, 18080, "ben", lab.Outside4)
	d.Get(d.Host, "127.0.0.1", 18080, "ben", "")
	d.Get(ben, lab.Host4, 18080, "ben", "")
	fairlead := func(args ...string) string {
		d.Helper()
		command := d.toPlugin(args...)
		return d.Must(d.Host, command[0], command[1:]...)
	}
	d.Eventually(10*time.Second, func() error {
		if ps := fairlead("ps"); !strings.Contains(ps, "ben") || !strings.Contains(ps, "0.0.0.0:18080->80/tcp") {
			return errors.New("fairlead ps shows " + ps)
		}
		return nil
	})
	if out := fairlead("run", "--rm", "ip", "route", "show", "default"); !strings.Contains(out, "dev eth0") {
		t.Errorf("a sandbox of the plugin's daemon has the routes %q", out)
	}
	// Killed, it is started by the engine; and with the engine, before its containers.
	killed := strings.TrimSpace(fairlead("status", "--format", "{{.Pid}}"))
	d.inEngine("kill -9 " + killed)
	d.Get(d.Outside, lab.Host4, 18080, "ben", lab.Outside4)
	d.Eventually(patience, func() error {
		if _, err := d.try("network", "create", "-d", "fairlead:latest", "other"); err != nil {
			return err
		}
		return nil
	})
	d.engine.Kill()
	d.startEngine()
	d.docker("start", "ben")
	d.answers()
	d.docker("rm", "-f", "ben")
	d.docker("network", "rm", "web", "other")
	d.removePlugin()
}
