// SPDX-License-Identifier: Apache-2.0

// Package demo demonstrates Fairlead: a daemon on a simulated host, networks and
// sandboxes with real programs, a second host that forms a cluster with the first, and an
// external machine, all in namespaces that are removed when the demo ends.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/cluster/launch"
)

// Config is the configuration of the demo.
type Config struct {
	Self string    // required: the fairlead binary
	Out  io.Writer // required
}

// programs are the programs that the demo needs, with their Debian packages.
var programs = map[string]string{
	"ip": "iproute2", "ping": "iputils-ping", "curl": "curl", "nginx": "nginx-light", "iperf3": "iperf3",
}

// Run plays all scenes. It returns an error if a step failed, or if ctx ended before the
// last one. It removes everything in either case.
func Run(ctx context.Context, cfg Config) (retErr error) {
	for name, pkg := range programs {
		if cmd := world.Command(ctx, name); cmd.Err != nil {
			return fmt.Errorf("the demo needs %s, which is not installed (apt-get install %s, or use make demo)", name, pkg)
		}
	}
	s, err := newStage(cfg)
	if err != nil {
		return err
	}
	// Remove everything also when the demo was interrupted.
	defer func() { retErr = errors.Join(retErr, s.close()) }()
	began := time.Now()
	for _, scene := range scenes() {
		if err := ctx.Err(); err != nil {
			return errors.New("interrupted; everything is removed")
		}
		s.play(ctx, scene)
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; everything is removed")
	}
	fmt.Fprintf(cfg.Out, "\n%d of %d steps passed in %.1f s.\n", s.passed, s.passed+s.failed, time.Since(began).Seconds())
	if s.failed > 0 {
		return fmt.Errorf("%d steps of the demo failed", s.failed)
	}
	return nil
}

// stage holds the machines and programs of the demo.
type stage struct {
	cfg            Config
	dir            string // working directory of every program
	machines       [roles]machine
	passed, failed int
}

// role is what a machine is in the demo.
//
//	host 192.0.2.1 ── 192.0.2.2 outside 198.51.100.2 ── 198.51.100.1 second
type role int

const (
	first   role = iota // a host with Fairlead
	second              // another one
	outside             // a machine without Fairlead, which routes between the hosts
	roles
)

// hosts are the machines on which Fairlead runs.
var hosts = []role{first, second}

// machine is a simulated machine.
type machine struct {
	*world.Host                // nil: not created yet
	daemon      *world.Process // nil: not running
}

func newStage(cfg Config) (_ *stage, retErr error) {
	dir, err := os.MkdirTemp("", "fairlead-demo-")
	if err != nil {
		return nil, fmt.Errorf("make directory of the demo: %w", err)
	}
	s := &stage{cfg: cfg, dir: dir}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, s.close())
		}
	}()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of the demo: %w", err)
	}
	store, err := launch.Find()
	if err != nil {
		return nil, err
	}
	for name, program := range map[string]string{"fairlead": cfg.Self, launch.Program: store} {
		if err := os.Symlink(program, filepath.Join(dir, "bin", name)); err != nil {
			return nil, fmt.Errorf("make the command %s: %w", name, err)
		}
	}
	for _, site := range []string{"server", "outside"} {
		config := fmt.Sprintf(nginxConfig, site, site)
		if err := os.WriteFile(filepath.Join(dir, site+".conf"), []byte(config), 0o644); err != nil {
			return nil, fmt.Errorf("write nginx's configuration: %w", err)
		}
	}
	for role, name := range [roles]string{first: "host", second: "second", outside: "outside"} {
		if s.machines[role].Host, err = world.New(name); err != nil {
			return nil, err
		}
	}
	return s, s.connect()
}

// connect connects both hosts to the external machine.
func (s *stage) connect() error {
	router := s.machines[outside].Host
	for _, setting := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := router.Sysctl(setting, "1"); err != nil {
			return err
		}
	}
	for _, role := range hosts {
		h, subnet4, subnet6 := s.machines[role].Host, "192.0.2", "2001:db8:"
		if role == second {
			subnet4, subnet6 = "198.51.100", "2001:db8:2:"
		}
		if err := errors.Join(world.Cable(
			world.End{Host: h, Device: "eth0", Addresses: []string{subnet4 + ".1/24", subnet6 + ":1/64"}},
			world.End{Host: router, Device: fmt.Sprint("eth", int(role)), Addresses: []string{subnet4 + ".2/24", subnet6 + ":2/64"}},
		), h.IP("route add default via "+subnet4+".2", "route add ::/0 via "+subnet6+":2"), h.Do(mountDirectories)); err != nil {
			return err
		}
	}
	return nil
}

// mountDirectories gives a simulated host its own copies of the daemon's default
// directories, so that the commands of the demo are the same as on any host.
func mountDirectories() error {
	for _, m := range []struct{ kind, path string }{{"tmpfs", "/run"}, {"tmpfs", "/var/lib"}, {"bpf", "/sys/fs/bpf"}} {
		if err := unix.Mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount the host's own %s: %w", m.path, err)
		}
	}
	return nil
}

// nginxConfig configures a server that answers with its name and the client's address.
const nginxConfig = `daemon off; master_process off; pid %s.pid; error_log stderr error;
events {}
http {
  access_log off;
  client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server {
    listen 80; listen [::]:80;
    location / { return 200 "this is %s, you are $remote_addr\n"; }
  }
}
`

// close ends every program and removes what is left.
func (s *stage) close() error {
	var errs []error
	for _, role := range hosts {
		m := &s.machines[role]
		if m.daemon != nil {
			m.daemon.Stop(5 * time.Second)
		}
		if m.Host != nil {
			errs = append(errs, s.sweep(m.Host))
		}
	}
	for _, m := range s.machines {
		if m.Host != nil {
			m.Close()
		}
	}
	errs = append(errs, os.RemoveAll(s.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the demo's world: %w", err)
	}
	return nil
}

// sweep ends the programs in sandboxes that have outlived the daemon and the client, and
// removes what the daemon created. After the last scene nothing is left to remove.
func (s *stage) sweep(host *world.Host) error {
	for _, pid := range host.ProcessesIn("/run/fairlead/netns/*") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := host.RunCommand(s.command(ctx, s.cfg.Self, "cleanup"))
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("fairlead cleanup: %s", strings.TrimSpace(r.Output()))
	}
	return err
}
