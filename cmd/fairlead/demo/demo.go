// SPDX-License-Identifier: Apache-2.0

// Package demo demonstrates Fairlead: a daemon on a simulated host, networks and
// sandboxes with real programs, and an external machine, all in namespaces that are
// removed when the demo ends.
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

// stage holds the hosts and programs of the demo.
type stage struct {
	cfg            Config
	dir            string // working directory of every program
	host, outside  *world.Host
	daemon         *world.Process // nil: not running
	passed, failed int
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
	if err := os.Symlink(cfg.Self, filepath.Join(dir, "bin", "fairlead")); err != nil {
		return nil, fmt.Errorf("make the command fairlead: %w", err)
	}
	for _, site := range []string{"server", "outside"} {
		config := fmt.Sprintf(nginxConfig, site, site)
		if err := os.WriteFile(filepath.Join(dir, site+".conf"), []byte(config), 0o644); err != nil {
			return nil, fmt.Errorf("write nginx's configuration: %w", err)
		}
	}
	if s.host, err = world.New("host"); err != nil {
		return nil, err
	}
	if s.outside, err = world.New("outside"); err != nil {
		return nil, err
	}
	err = world.Cable(
		world.End{Host: s.host, Device: "eth0", Addresses: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		world.End{Host: s.outside, Device: "eth0", Addresses: []string{"192.0.2.2/24", "2001:db8::2/64"}},
	)
	if err != nil {
		return nil, err
	}
	if err := s.host.IP("route add default via 192.0.2.2", "route add ::/0 via 2001:db8::2"); err != nil {
		return nil, err
	}
	return s, s.host.Do(mountDirectories)
}

// mountDirectories gives the simulated host its own copies of the daemon's default
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
	if s.daemon != nil {
		s.daemon.Stop(5 * time.Second)
	}
	if s.host != nil {
		errs = append(errs, s.sweep())
		s.host.Close()
	}
	if s.outside != nil {
		s.outside.Close()
	}
	errs = append(errs, os.RemoveAll(s.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the demo's world: %w", err)
	}
	return nil
}

// sweep ends the programs in sandboxes that have outlived the daemon and the client, and
// removes what the daemon created. After the last scene nothing is left to remove.
func (s *stage) sweep() error {
	for _, pid := range s.host.ProcessesIn("/run/fairlead/netns/*") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := s.host.RunCommand(s.command(ctx, s.cfg.Self, "cleanup"))
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("fairlead cleanup: %s", strings.TrimSpace(r.Output()))
	}
	return err
}
