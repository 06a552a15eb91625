// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/store"
)

// A misconfiguration is refused in one line that names the flag, before any kernel object is
// touched.
func TestMisnamed(t *testing.T) {
	n := newNode(t)
	if l, err := n.host.Listen("tcp", testMetrics); err != nil {
		t.Fatal(err)
	} else {
		defer l.Close()
	}
	served := t.TempDir()
	if l, err := net.Listen("unix", Dirs{DockerPlugins: served}.PluginSocket()); err != nil {
		t.Fatal(err)
	} else {
		defer l.Close()
	}
	readOnly := t.TempDir()
	if r, err := n.host.Run(t.Context(), "mount", "-t", "tmpfs", "-o", "ro", "none", readOnly); err != nil || r.Code != 0 {
		t.Fatalf("mount: %v\n%s", err, r.Output())
	}
	damaged := stateDir(t, func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte{7}, 1<<16), 0o600) })
	short := stateDir(t, func(path string) error { return os.Truncate(path, 9000) })
	for _, test := range []struct {
		name    string
		misname func(*Config)
		want    []string
	}{
		{"docker-socket-relative", func(c *Config) { c.DockerSocket = "docker.sock" }, []string{"--docker-socket", "want an absolute path"}},
		{"metrics-no-port", func(c *Config) { c.MetricsListen = "nonsense" }, []string{"--metrics-listen", "want HOST:PORT"}},
		{"metrics-bad-port", func(c *Config) { c.MetricsListen = "127.0.0.1:99999" }, []string{"--metrics-listen", "want HOST:PORT"}},
		{"metrics-in-use", func(c *Config) { c.MetricsListen = testMetrics }, []string{"--metrics-listen", "name another", "address already in use"}},
		{"metrics-not-ours", func(c *Config) { c.MetricsListen = "192.0.2.1:80" }, []string{"--metrics-listen", "name another"}},
		{"state-cannot-be", func(c *Config) { c.Dirs.State = "/proc/nope" }, []string{"--state-dir", "/proc/nope", "name a directory"}},
		{"state-read-only", func(c *Config) { c.Dirs.State = readOnly }, []string{"--state-dir", readOnly, "read-only"}},
		{"run-read-only", func(c *Config) { c.Dirs.Run = readOnly }, []string{"--run-dir", readOnly, "read-only"}},
		{"run-too-long", func(c *Config) { c.Dirs.Run = "/run/" + strings.Repeat("x", 94) }, []string{"--run-dir", "1 bytes too long"}},
		{"docker-relative", func(c *Config) { c.Dirs.DockerPlugins = "plugins" }, []string{"--docker-plugin-dir", "want a short absolute path"}},
		{"docker-read-only", func(c *Config) { c.Dirs.DockerPlugins = readOnly }, []string{"--docker-plugin-dir", readOnly, "read-only"}},
		{"docker-served", func(c *Config) { c.Dirs.DockerPlugins = served }, []string{"--docker-plugin-dir", "another daemon serves Docker"}},
		{"cgroup-absent", func(c *Config) { c.CgroupRoot = "/sys/fs/cgroup/nowhere" }, []string{"--cgroup-root", "no such file"}},
		{"cgroup-elsewhere", func(c *Config) { c.CgroupRoot = readOnly }, []string{"--cgroup-root", "not in a cgroup2 file system"}},
		{"uplink-no-name", func(c *Config) { c.Uplinks = []string{"eth0,eth1,eth2,eth3"} }, []string{"--uplink", "want the name of a device"}},
		{"state-damaged", func(c *Config) { c.Dirs.State = damaged }, []string{"--state-dir", "it is damaged", "mv " + damaged}},
		{"state-cut-short", func(c *Config) { c.Dirs.State = short }, []string{"--state-dir", "it is damaged", "mv " + short}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			cfg := Config{Dirs: testDirs(n.dir), Log: slog.New(slog.DiscardHandler)}
			test.misname(&cfg)
			err := n.host.Do(func() error { return Run(ctx, cfg) })
			if err == nil {
				t.Fatal("not refused")
			}
			for _, want := range append(test.want, "(") { // the remedy
				if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("refused with %q, want one line with %q", err, want)
				}
			}
			if devices := n.devices(); len(devices) > 0 {
				t.Errorf("devices %q were created", devices)
			}
			if _, err := os.Stat(filepath.Join(n.dir, "bpf")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("directory of pins: %v, want none", err)
			}
		})
	}
}

// stateDir returns a state directory whose file was damaged.
func stateDir(t *testing.T, spoil func(path string) error) string {
	t.Helper()
	dir := t.TempDir()
	path := Dirs{State: dir}.StateFile()
	s, err := store.OpenBolt(store.BoltConfig{Path: path})
	if err == nil {
		_, err = s.Commit(t.Context(), store.Put("network/x", bytes.Repeat([]byte("x"), 1<<14)))
		err = errors.Join(err, s.Close(), spoil(path))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A pinned uplink may appear later, so there is a warning and not a refusal.
func TestAbsentUplinkIsWarnedOf(t *testing.T) {
	n := newNode(t)
	if err := n.host.IP("link add ext0 type veth peer name far0"); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := &daemon{cfg: Config{Uplinks: []string{"ext0", "ext1"}}, log: slog.New(slog.NewTextHandler(&log, nil))}
	err := n.host.Do(func() (err error) {
		if d.handle, err = rtnl.New(); err != nil {
			return err
		}
		return errors.Join(d.warnUplinks(), d.handle.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "uplink=ext1") {
		t.Errorf("the log is %q, want one warning of ext1", got)
	}
}
