// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dirs are the directories of a daemon. Two daemons on one machine share none of them.
type Dirs struct {
	State string // state that must survive a reboot; default /var/lib/fairlead
	Run   string // socket, lock, namespaces; default /run/fairlead
	BPF   string // pins; on a bpffs, or a place to mount one; default /sys/fs/bpf/fairlead
	// DockerPlugins is where a Docker Engine looks for plugins, usually /run/docker/plugins. If
	// it is "", Docker is not served.
	DockerPlugins string
}

// Validate checks that the paths are absolute and different. Its errors name the flags.
func (d Dirs) Validate() error {
	named := []struct{ flag, path string }{
		{"--state-dir", d.State}, {"--run-dir", d.Run}, {"--bpf-dir", d.BPF},
	}
	for i, dir := range named {
		if !filepath.IsAbs(dir.path) || filepath.Clean(dir.path) == "/" {
			return fmt.Errorf("%s is %q (want an absolute path of a directory of its own)", dir.flag, dir.path)
		}
		for _, other := range named[:i] {
			if filepath.Clean(dir.path) == filepath.Clean(other.path) {
				return fmt.Errorf("%s and %s are both %q (each needs a directory of its own)", other.flag, dir.flag, dir.path)
			}
		}
	}
	if d.DockerPlugins != "" && (!filepath.IsAbs(d.DockerPlugins) || len(d.PluginSocket()) > MaxSocketPath) {
		return fmt.Errorf(`--docker-plugin-dir is %q (want a short absolute path, as in /run/docker/plugins, or "" for none)`, d.DockerPlugins)
	}
	return nil
}

// MaxSocketPath is the longest path a unix socket can have, in bytes.
const MaxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// The names in the run directory.
const (
	lockName   = "daemon.lock"
	socketName = "api.sock"
	namespaces = "netns"    // of the sandboxes with owned namespaces
	tunnels    = "tunnels"  // the namespace of the devices that make the kernel aggregate
	stations   = "stations" // records of MACs that devices of the host accept
	etcFiles   = "etc"      // files of sandboxes
	logs       = "logs"     // output of detached programs
)

// StateFile returns the path of the stored state.
func (d Dirs) StateFile() string { return filepath.Join(d.State, "fairlead.db") }

// Socket returns the path of the API socket.
func (d Dirs) Socket() string { return filepath.Join(d.Run, socketName) }

// NetNS returns the directory of the sandboxes' namespaces.
func (d Dirs) NetNS() string { return filepath.Join(d.Run, namespaces) }

// Tunnels returns the path of the namespace of the devices that make the kernel aggregate the packets of tunnels.
func (d Dirs) Tunnels() string { return filepath.Join(d.Run, tunnels) }

// Stations is the directory of the records of the MACs that devices of the host accept for members of networks.
func (d Dirs) Stations() string { return filepath.Join(d.Run, stations) }

// EtcFiles is the directory of the files of sandboxes.
func (d Dirs) EtcFiles() string { return filepath.Join(d.Run, etcFiles) }

// PluginSocket returns the path where a Docker Engine finds the drivers.
func (d Dirs) PluginSocket() string { return filepath.Join(d.DockerPlugins, "fairlead.sock") }

// RemoveRun removes Fairlead's files in its run directory, and the directories if they are
// empty then. It removes the lock last.
func (d Dirs) RemoveRun() error {
	files, err := filepath.Glob(filepath.Join(d.Run, logs, "*.log"))
	if err != nil {
		return fmt.Errorf("list logs: %w", err)
	}
	if err := os.RemoveAll(d.EtcFiles()); err != nil {
		return fmt.Errorf("clean run directory: %w", err)
	}
	for _, name := range []string{logs, namespaces, socketName, lockName, ""} {
		files = append(files, filepath.Join(d.Run, name))
	}
	for _, file := range files {
		err := os.Remove(file)
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
			continue
		}
		return fmt.Errorf("clean run directory: %w", err)
	}
	return nil
}
