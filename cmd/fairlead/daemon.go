// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fairlead-net/fairlead/cmd/fairlead/knobs"
	"github.com/fairlead-net/fairlead/control/daemon"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// directories are the directories of a daemon.
type directories struct {
	state, run, bpf, dockerPlugins string
}

func (d *directories) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&d.state, "state-dir", "/var/lib/fairlead", "directory of the state that survives a reboot")
	f.StringVar(&d.run, "run-dir", "/run/fairlead", "directory of the socket, the namespaces and the logs")
	f.StringVar(&d.bpf, "bpf-dir", "/sys/fs/bpf/fairlead", "directory of the pins, in a bpffs (mounted if there is none)")
	f.StringVar(&d.dockerPlugins, "docker-plugin-dir", "/run/docker/plugins", `directory where Docker looks for plugins; "" disables the plugin`)
}

// daemonOptions are the validated flags of the daemon.
type daemonOptions struct {
	directories
	dockerSocket             string
	dockerScope              string
	metricsListen            string
	uplinks                  []string
	pools                    []ipam.DefaultPool
	snatPorts                daemon.PortRange
	ctMax                    uint32 // 0: the default
	ctTimeouts               daemon.Timeouts
	maxEndpoints, maxPublish uint32 // 0: the default
	cacheAfter               int
	forceClsact              bool
	cgroupRoot               string
	logFormat, logLevel      string
	cluster                  daemon.ClusterConfig
	maxPeers                 uint32 // 0: the default
	defaults                 model.Defaults
}

func newDaemonCommand(e *env) *cobra.Command {
	var o daemonOptions
	var config, snatPorts string
	var pools, timeouts []string
	var cluster clusterFlags
	var docker knobs.Flags
	refuse := func(cmd *cobra.Command, err error) error {
		if err != nil {
			e.node.refuse(cmd.Context(), err)
		}
		return err
	}
	cmd := &cobra.Command{
		Use:   "daemon [flags]",
		Short: "Run the daemon",
		Long: `Run the daemon of this host in the foreground until SIGTERM. Networks, sandboxes
and their traffic outlive it; see "fairlead cleanup". A daemon that finds another
one in its run directory takes over from it.

--config names a file with one flag per line, without dashes: "uplink = eth0".
Flags on the command line take precedence.`,
		Args:              func(cmd *cobra.Command, args []string) error { return refuse(cmd, exactArgs()(cmd, args)) },
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.needsCapabilities(cmd); err != nil {
				return err
			}
			if err := readConfig(cmd.Flags(), config); err != nil {
				return refuse(cmd, err)
			}
			if err := errors.Join(o.check(snatPorts, pools, timeouts), cluster.check(&o.cluster)); err != nil {
				return refuse(cmd, err)
			}
			var err error
			if o.defaults, err = docker.Defaults(); err != nil {
				return refuse(cmd, usageError{err})
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return e.node.daemon(ctx, o)
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return refuse(cmd, usageError{err}) })
	o.register(cmd)
	f := cmd.Flags()
	f.StringVar(&o.dockerSocket, "docker-socket", "/var/run/docker.sock", `Docker API socket, to look up the names of networks and containers; "" disables this`)
	f.StringVar(&o.dockerScope, "docker-scope", "local", "scope of the driver for Docker: local, or global to share networks in a swarm, which needs --store")
	f.StringVar(&o.metricsListen, "metrics-listen", "127.0.0.1:9477", `listen address of the Prometheus metrics; "" disables them`)
	cluster.register(f)
	docker.Register(f)
	f.StringArrayVar(&o.uplinks, "uplink", nil, "uplink device; repeatable (default: detected, and updated when devices change)")
	f.StringArrayVar(&pools, "default-address-pool", nil, "pool to allocate subnets from, base=PREFIX,size=LENGTH; repeatable")
	f.StringVar(&snatPorts, "snat-ports", "", "source ports of masqueraded flows, A-B (default 32768-60999)")
	f.Uint32Var(&o.ctMax, "ct-max", 0, "size of the conntrack table, two entries per flow; new TCP connections are refused when 15/16 are in use (default 524288)")
	f.StringArrayVar(&timeouts, "ct-timeout", nil, "idle timeout of flows in a state, STATE=DURATION as in udp_stream=3m; repeatable (default: that of nf_conntrack)")
	f.Uint32Var(&o.maxEndpoints, "max-endpoints", 0, "size of the endpoint tables, one entry per sandbox in a network and one per network (default 16384)")
	f.Uint32Var(&o.maxPublish, "max-publishes", 0, "size of the table of published ports, one entry per port for each of IPv4 and IPv6 (default 131072)")
	f.Uint32Var(&o.maxPeers, "max-peers", 0, "size of the table of sandboxes on other nodes, one entry per sandbox in a network (default 131072)")
	f.IntVar(&o.cacheAfter, "cache-after", 0, "datagram of a UDP flow, in each direction, from which on its path is cached (default 4); -1 never, nor that of connections")
	f.BoolVar(&o.forceClsact, "force-clsact", false, "attach with clsact filters even where the kernel has tcx")
	f.StringVar(&o.cgroupRoot, "cgroup-root", "", "cgroup whose processes can reach published ports (default: the cgroup2 mount)")
	f.StringVar(&config, "config", "", "file with more flags")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (o *daemonOptions) check(snatPorts string, pools, timeouts []string) error {
	if o.logFormat != "text" && o.logFormat != "json" {
		return usagef("--log-format %q: want text or json", o.logFormat)
	}
	switch o.dockerScope {
	case "local", "global":
	default:
		return usagef("--docker-scope %q: want local or global", o.dockerScope)
	}
	switch o.logLevel {
	case "debug", "info", "warn", "error":
	default:
		return usagef("--log-level %q: want debug, info, warn or error", o.logLevel)
	}
	if snatPorts != "" {
		var err error
		if o.snatPorts, err = daemon.ParsePortRange(snatPorts); err != nil {
			return usagef("--snat-ports %q: %v", snatPorts, err)
		}
	}
	for _, s := range timeouts {
		state, text, _ := strings.Cut(s, "=")
		d, err := time.ParseDuration(text)
		if err != nil {
			return usagef("--ct-timeout %q: want STATE=DURATION, as in udp_stream=3m", s)
		}
		if err := o.ctTimeouts.Set(state, d); err != nil {
			return usagef("--ct-timeout: %v", err)
		}
	}
	for _, s := range pools {
		p, err := ipam.ParseDefaultPool(s)
		if err != nil {
			return usagef("--default-address-pool: %v", err)
		}
		o.pools = append(o.pools, p)
	}
	return nil
}

// readConfig sets the flags that a file names, unless the command line has set them. An
// empty path means no file.
func readConfig(flags *pflag.FlagSet, path string) error {
	if path == "" {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	defer file.Close()
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "config" || key == "help" || flags.Lookup(key) == nil {
			return usagef("%s:%d: want FLAG = VALUE with a flag of the daemon, not %q", path, n, line)
		}
		if given[key] {
			continue
		}
		if err := flags.Set(key, value); err != nil {
			return usagef("%s:%d: %v", path, n, err)
		}
	}
	return errors.Join(lines.Err())
}
