// SPDX-License-Identifier: Apache-2.0

// Package topology makes the world a contestant is measured in: a host, and an outside
// machine at the other end of its uplink.
//
//	outside 192.0.2.254 2001:db8:1::fe ── 192.0.2.1 2001:db8:1::1 eth0 host
//
// Every contestant has a world of its own. Programs that expect to have a host to themselves
// share nothing with another world but the kernel and the processors.
package topology

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Topology is one world.
type Topology struct {
	Host, Outside *world.Host
	Dir           string // for files, removed with the world
	Cgroup        *Cgroup
}

// HostAddress returns the host's address on the uplink.
func HostAddress(family int) netip.Addr {
	return of(family, "192.0.2.1", "2001:db8:1::1")
}

// OutsideAddress returns the address of the outside machine.
func OutsideAddress(family int) netip.Addr {
	return of(family, "192.0.2.254", "2001:db8:1::fe")
}

// Loopback returns the loopback address, which every host has.
func Loopback(family int) netip.Addr { return of(family, "127.0.0.1", "::1") }

func of(family int, v4, v6 string) netip.Addr {
	if family == 6 {
		return netip.MustParseAddr(v6)
	}
	return netip.MustParseAddr(v4)
}

// New makes a world. Its programs have directories of their own where daemons keep their
// files.
func New() (_ *Topology, retErr error) {
	t := new(Topology)
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, t.Close())
		}
	}()
	var err error
	if t.Dir, err = os.MkdirTemp("", prefix()); err != nil {
		return nil, fmt.Errorf("make directory of a world: %w", err)
	}
	if t.Cgroup, err = NewCgroup(); err != nil {
		return nil, err
	}
	if t.Host, err = world.New("host"); err != nil {
		return nil, err
	}
	if t.Outside, err = world.New("outside"); err != nil {
		return nil, err
	}
	err = world.Cable(
		world.End{Host: t.Host, Device: "eth0", Addresses: []string{"192.0.2.1/24", "2001:db8:1::1/64"}},
		world.End{Host: t.Outside, Device: "eth0", Addresses: []string{"192.0.2.254/24", "2001:db8:1::fe/64"}},
	)
	if err != nil {
		return nil, err
	}
	if err := t.Host.IP("route add default via 192.0.2.254", "route add ::/0 via 2001:db8:1::fe"); err != nil {
		return nil, err
	}
	return t, t.Host.Do(OwnDirectories)
}

// TwoHosts gives the outside machine, too, directories of its own for daemons.
func (t *Topology) TwoHosts() error { return t.Outside.Do(OwnDirectories) }

// OwnDirectories hides the machine's directories for daemons from the given host.
func OwnDirectories() error {
	for _, m := range []struct{ kind, path string }{
		{"tmpfs", "/run"}, {"tmpfs", "/var/lib"}, {"tmpfs", "/opt"}, {"bpf", "/sys/fs/bpf"},
	} {
		if err := unix.Mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount the host's own %s: %w", m.path, err)
		}
	}
	return nil
}

// Forward enables IP forwarding on the host, as an operator would.
func (t *Topology) Forward() error {
	for _, sysctl := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := t.Host.Sysctl(sysctl, "1"); err != nil {
			return fmt.Errorf("let the host forward: %w", err)
		}
	}
	return nil
}

// Close ends every program of the world and removes it.
func (t *Topology) Close() error {
	for _, h := range []*world.Host{t.Host, t.Outside} {
		if h != nil {
			h.Close()
		}
	}
	var errs []error
	if t.Cgroup != nil {
		errs = append(errs, t.Cgroup.Close())
	}
	if t.Dir != "" {
		errs = append(errs, os.RemoveAll(t.Dir))
	}
	return errors.Join(errs...)
}

// Place is where a program can be run.
type Place interface {
	// Run runs a program to its end and returns what it wrote to stdout.
	Run(ctx context.Context, args ...string) (string, error)
	// Start starts a program that runs until the world is closed.
	Start(args ...string) error
}

// On returns the place that a host of the world is.
func (t *Topology) On(h *world.Host) Place { return place{h, t.Cgroup} }

type place struct {
	host   *world.Host
	cgroup *Cgroup
}

func (p place) command(ctx context.Context, args []string) *exec.Cmd {
	args = p.cgroup.enter(args)
	cmd := world.Command(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = p.cgroup.Attr()
	return cmd
}

func (p place) Run(ctx context.Context, args ...string) (string, error) {
	r, err := p.host.RunCommand(p.command(ctx, args))
	switch {
	case err != nil:
		return "", err
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s on %s: %w", strings.Join(args, " "), p.host.Name, context.Cause(ctx))
	case r.Code != 0:
		return "", fmt.Errorf("%s on %s ended with status %d: %s", strings.Join(args, " "), p.host.Name, r.Code, strings.TrimSpace(r.Output()))
	}
	return r.Stdout, nil
}

func (p place) Start(args ...string) error {
	_, err := p.host.SpawnCommand(p.command(context.Background(), args))
	return err
}
