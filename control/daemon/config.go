// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/instance"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/loader"
)

// Dirs are the directories of a daemon.
type Dirs = instance.Dirs

// The values of flags for the datapath, which are validated when they are parsed.
type (
	PortRange = loader.PortRange
	Timeouts  = loader.Timeouts
)

// ParsePortRange is [loader.ParsePortRange].
func ParsePortRange(text string) (PortRange, error) { return loader.ParsePortRange(text) }

// Config is the configuration of a daemon.
type Config struct {
	Dirs Dirs // required

	// DockerSocket is the API socket of the Docker Engine that Dirs.DockerPlugins serves. The
	// daemon queries it for names of networks and containers, unless it is "".
	DockerSocket string
	// DockerScope is the scope of the network driver for Docker, local or global; "" is local.
	DockerScope string
	// MetricsListen is the address of the HTTP server for metrics; "" for none.
	MetricsListen string
	// Uplinks are the names of the uplinks. If it is empty, they are found from routes and
	// addresses, and followed as they change.
	Uplinks []string
	// DefaultPools are cut into subnets for networks that specify none. The default is Docker's,
	// and for IPv6 a unique local prefix.
	DefaultPools []ipam.DefaultPool
	// Defaults configure the default network, and networks and sandboxes whose own flags do not say otherwise.
	Defaults model.Defaults
	// SNATPorts are the ports for masqueraded flows whose own port is taken.
	// The default, 0, is 32768 to 60999.
	SNATPorts PortRange
	// CTMax is the number of entries of the table of confirmed flows, two per flow. The default,
	// 0, is 524288.
	CTMax uint32
	// CTTimeouts are the timeouts of idle flows, by state. The default is nf_conntrack's.
	CTTimeouts Timeouts
	// MaxEndpoints, MaxPublishes and MaxPeers are the sizes of those tables; 0 is the default.
	MaxEndpoints, MaxPublishes, MaxPeers uint32
	// CacheAfter is the datagram of a UDP flow's direction from which on its path is cached; 0 is the
	// default, and a negative number never.
	CacheAfter int
	// ForceClsact attaches with clsact filters even if the kernel has tcx.
	ForceClsact bool
	// CgroupRoot is the cgroup that the socket programs are attached to. The default, "", is the
	// cgroup2 mount.
	CgroupRoot string
	// Cluster makes the host part of a cluster. The default is none.
	Cluster ClusterConfig
	// MemoryLimit is the heap size, in bytes, near which the garbage collector runs more often.
	// The default, 0, is 150 MiB, or GOMEMLIMIT if it is set.
	MemoryLimit int64

	// Version and Revision identify the build.
	Version, Revision string
	Log               *slog.Logger // required
}

func (c Config) validate() error {
	if c.Log == nil {
		return errors.New("no logger")
	}
	if err := c.Dirs.Validate(); err != nil {
		return err
	}
	if c.DockerSocket != "" && !filepath.IsAbs(c.DockerSocket) {
		return fmt.Errorf(`--docker-socket is %q (want an absolute path, as in /var/run/docker.sock, or "" not to query names)`, c.DockerSocket)
	}
	if c.MetricsListen != "" {
		if _, err := net.ResolveTCPAddr("tcp", c.MetricsListen); err != nil {
			return fmt.Errorf("--metrics-listen is %q (want HOST:PORT, as in 127.0.0.1:9477): %w", c.MetricsListen, err)
		}
	}
	if err := c.checkCgroupRoot(); err != nil {
		return err
	}
	if n := len(c.Dirs.Socket()) - instance.MaxSocketPath; n > 0 {
		return fmt.Errorf("--run-dir is %q (%d bytes too long for the path of a socket in it; name a shorter one)", c.Dirs.Run, n)
	}
	for _, name := range c.Uplinks {
		if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/: \t\n") {
			return fmt.Errorf("--uplink is %q (want the name of a device, as in eth0; repeat the flag for more)", name)
		}
	}
	return nil
}

// checkCgroupRoot checks that the directory is in a cgroup2 file system, since programs can be
// attached only there.
func (c Config) checkCgroupRoot() error {
	if c.CgroupRoot == "" {
		return nil
	}
	var st unix.Statfs_t
	err := unix.Statfs(c.CgroupRoot, &st)
	if err == nil && st.Type != unix.CGROUP2_SUPER_MAGIC {
		err = errors.New("it is not in a cgroup2 file system")
	}
	if err != nil {
		return fmt.Errorf("--cgroup-root is %q (want a directory where cgroup2 is mounted, as in /sys/fs/cgroup): %w", c.CgroupRoot, err)
	}
	return nil
}
