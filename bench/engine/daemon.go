// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Config describes how an engine is started. All fields but Flags and File are required.
type Config struct {
	Program      string // dockerd's path; runc and docker-proxy may be beside it
	Socket       string // it listens there
	Dir          string // for its configuration file
	CgroupParent string // of its containers' cgroups
	Flags        []string
	// File is what can be set only in a file; DIR in it stands for Dir.
	File map[string]any
	Attr *syscall.SysProcAttr
	// Outlived keeps the processes it has started alive when the engine is killed, until the
	// process that Start returns is killed; see Resume.
	Outlived bool
}

// Start starts an engine on a host that has directories of its own. It also has a PID
// namespace of its own, so that everything it has started ends with it.
func Start(h *world.Host, cfg Config) (*world.Process, error) {
	args := []string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"}
	if cfg.Outlived {
		// The first process of a PID namespace has to reap orphans.
		args = append(args, "sh", "-c", `"$@" & while :; do wait; sleep 0.1; done`, "sh")
	}
	return spawn(h, cfg, args)
}

// Resume starts an engine again that was started with Outlived and killed, in the namespaces
// of the process with this ID.
func Resume(h *world.Host, cfg Config, pid string) (*world.Process, error) {
	return spawn(h, cfg, []string{"nsenter", "--target", pid, "--pid", "--mount", "--"})
}

// spawn starts dockerd through another program.
func spawn(h *world.Host, cfg Config, by []string) (*world.Process, error) {
	file, err := writeFile(cfg)
	if err != nil {
		return nil, err
	}
	args := append(by[1:], cfg.Program,
		"--host", "unix://"+cfg.Socket, "--config-file", file, "--cgroup-parent", cfg.CgroupParent,
		"--data-root", "/var/lib/docker", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid",
	)
	cmd := world.Command(context.Background(), by[0], append(args, cfg.Flags...)...)
	cmd.SysProcAttr = cfg.Attr
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(cfg.Program)+":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
	return h.SpawnCommand(cmd)
}

// writeFile writes the configuration file.
func writeFile(cfg Config) (string, error) {
	text, err := json.Marshal(cfg.File)
	if err != nil {
		return "", fmt.Errorf("encode docker's configuration: %w", err)
	}
	path := filepath.Join(cfg.Dir, "daemon.json")
	return path, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "DIR", cfg.Dir)), 0o644)
}

// WaitFor waits until the engine is ready.
func (e *Client) WaitFor(ctx context.Context, daemon *world.Process) error {
	for {
		err := e.Call(ctx, http.MethodGet, "/info", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-daemon.Done():
			return fmt.Errorf("dockerd ended:\n%s", daemon.Output())
		case <-ctx.Done():
			return fmt.Errorf("dockerd does not serve: %w; its log:\n%s", err, daemon.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Debian finds the dockerd of the package docker.io, and the programs it needs.
func Debian(ctx context.Context) (string, error) {
	for _, program := range []string{"dockerd", "containerd", "runc", "docker-proxy", "iptables"} {
		if world.Command(ctx, program).Err != nil {
			return "", fmt.Errorf("%s is not installed (apt-get install --no-install-recommends docker.io iptables)", program)
		}
	}
	return world.Command(ctx, "dockerd").Path, nil
}

// DebianFile returns Config.File for the dockerd that Debian finds.
func DebianFile() map[string]any {
	return map[string]any{"deprecated-key-path": "DIR/key.json"} // otherwise in /etc
}

// Built finds the dockerd of Engine 29 that bench/docker29.sh has built, and the programs it
// needs.
func Built(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find what was built: %w", err)
	}
	dir := filepath.Join(cache, "fairlead", "docker29")
	for _, program := range []string{"dockerd", "docker-proxy", "runc"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return "", fmt.Errorf("%s is not built (bench/docker29.sh builds it)", filepath.Join(dir, program))
		}
	}
	for _, program := range []string{"containerd", "nft"} {
		if world.Command(ctx, program).Err != nil {
			return "", fmt.Errorf("%s is not installed (make test and make bench install it)", program)
		}
	}
	return filepath.Join(dir, "dockerd"), nil
}
