// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/loader"
)

// Dirs are the directories that make a daemon: two daemons of one machine share
// none of them.
type Dirs struct {
	State string // what must survive a reboot; default /var/lib/fairlead
	Run   string // socket, lock, namespaces; default /run/fairlead
	BPF   string // pins; on a bpffs, or a place to mount one; default /sys/fs/bpf/fairlead
	// DockerPlugins is where a Docker Engine looks for plugins, as a rule
	// /run/docker/plugins; "": Docker is not served.
	DockerPlugins string
}

// validate wants different absolute paths.
func (d Dirs) validate() error {
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
	if d.DockerPlugins != "" && (!filepath.IsAbs(d.DockerPlugins) || len(pluginSocket(d.DockerPlugins)) > maxSocketPath) {
		return fmt.Errorf(`--docker-plugin-dir is %q (want a short absolute path, as in /run/docker/plugins, or "" for none)`, d.DockerPlugins)
	}
	return nil
}

// maxSocketPath is the longest path a unix socket can have, in bytes.
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// Config is all that a daemon can be told.
type Config struct {
	Dirs Dirs // required

	// DockerSocket is where the API of the Docker Engine is that Dirs.DockerPlugins
	// serves: the names of its networks and containers are asked for there. "": they
	// are not.
	DockerSocket string
	// MetricsListen is the address of the metrics' HTTP server; "": none.
	MetricsListen string
	// Uplinks are the names of the devices that lead out; none: found from
	// routes and addresses, and followed as they come and go.
	Uplinks []string
	// DefaultPools are cut into subnets for networks that name none; none:
	// Docker's, and for IPv6 a unique local prefix.
	DefaultPools []ipam.DefaultPool
	// SNATMin to SNATMax, inclusive, are the ports that masqueraded flows may be
	// given whose own is taken; zero: 32768 to 60999.
	SNATMin, SNATMax uint16
	// CTMax is the number of entries of the table of confirmed flows, two a
	// flow; 0: 524288.
	CTMax uint32
	// CTTimeouts is when idle flows are forgotten, by state; absent:
	// nf_conntrack's default.
	CTTimeouts map[string]time.Duration
	// MaxEndpoints and MaxPublishes size the tables of those; 0: the default.
	MaxEndpoints, MaxPublishes uint32
	// ForceClsact attaches with clsact filters even where the kernel has tcx.
	ForceClsact bool
	// CgroupRoot is where the socket programs are attached; "": the cgroup2
	// mount.
	CgroupRoot string
	// MemoryLimit is the heap size, in bytes, near which the garbage collector
	// works harder; 0: 150 MiB, or what GOMEMLIMIT says.
	MemoryLimit int64

	// Version and Revision say what is running.
	Version, Revision string
	Log               *slog.Logger // required
}

func (c Config) validate() error {
	if c.Log == nil {
		return errors.New("no logger")
	}
	if err := c.Dirs.validate(); err != nil {
		return err
	}
	if c.DockerSocket != "" && !filepath.IsAbs(c.DockerSocket) {
		return fmt.Errorf(`--docker-socket is %q (want an absolute path, as in /var/run/docker.sock, or "" not to ask for names)`, c.DockerSocket)
	}
	if c.MetricsListen != "" {
		if _, err := net.ResolveTCPAddr("tcp", c.MetricsListen); err != nil {
			return fmt.Errorf("--metrics-listen is %q (want HOST:PORT, as in 127.0.0.1:9477): %w", c.MetricsListen, err)
		}
	}
	if err := c.checkCgroupRoot(); err != nil {
		return err
	}
	if n := len(filepath.Join(c.Dirs.Run, socketName)); n > maxSocketPath {
		return fmt.Errorf("--run-dir is %q (%d bytes too long for the path of a socket in it; name a shorter one)", c.Dirs.Run, n-maxSocketPath)
	}
	for _, name := range c.Uplinks {
		if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/: \t\n") {
			return fmt.Errorf("--uplink is %q (want the name of a device, as in eth0; repeat the flag for more)", name)
		}
	}
	if (c.SNATMin == 0) != (c.SNATMax == 0) || c.SNATMax < c.SNATMin {
		return fmt.Errorf("--snat-ports is %d-%d (want A-B with 1 <= A <= B <= 65535)", c.SNATMin, c.SNATMax)
	}
	if _, err := c.timeouts(); err != nil {
		return fmt.Errorf("--ct-timeout: %w", err)
	}
	for _, pool := range c.DefaultPools {
		if err := pool.Validate(); err != nil {
			return fmt.Errorf("--default-address-pool: %w", err)
		}
	}
	return nil
}

// checkCgroupRoot: programs can be attached to a directory of cgroup2 only.
func (c Config) checkCgroupRoot() error {
	if c.CgroupRoot == "" {
		return nil
	}
	var st unix.Statfs_t
	err := unix.Statfs(c.CgroupRoot, &st)
	if err == nil && st.Type != unix.CGROUP2_SUPER_MAGIC {
		err = errors.New("it is in no cgroup2 file system")
	}
	if err != nil {
		return fmt.Errorf("--cgroup-root is %q (want a directory where cgroup2 is mounted, as in /sys/fs/cgroup): %w", c.CgroupRoot, err)
	}
	return nil
}

func (c Config) timeouts() (t loader.Timeouts, err error) {
	for state, d := range c.CTTimeouts {
		if err := t.Set(state, d); err != nil {
			return t, err
		}
	}
	return t, nil
}
