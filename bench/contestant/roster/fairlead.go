// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/engine"
	"github.com/fairlead-net/fairlead/bench/kernel"
	"github.com/fairlead-net/fairlead/bench/topology"
	"github.com/fairlead-net/fairlead/bench/world"
)

// fairlead is the program at this path: its daemon, a network and sandboxes. Across two hosts it is a daemon on
// each, with the embedded store on the first.
type fairlead struct{ self string }

func (fairlead) Name() string { return "fairlead" }

func (f fairlead) Version(ctx context.Context) (string, error) {
	out, err := world.Command(ctx, f.self, "version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", f.self, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (fairlead) Lacks(cases.Case) string { return "" }

func (f fairlead) Build(ctx context.Context, t *topology.Topology, path cases.Path) (contestant.Network, error) {
	if path == cases.Overlay {
		return f.span(ctx, t)
	}
	flows := path.Growth().Flows
	return f.build(ctx, t, flows, flows)
}

// span makes a network of both machines.
func (f fairlead) span(ctx context.Context, t *topology.Topology) (contestant.Network, error) {
	if err := t.TwoHosts(); err != nil {
		return nil, err
	}
	here, there := topology.HostAddress(4).String(), topology.OutsideAddress(4).String()
	n, err := f.start(ctx, t, t.Host, "--store", "embed", "--store-token", "none", "--advertise", here, "--node-name", "host")
	if err != nil {
		return nil, err
	}
	n.far, err = f.start(ctx, t, t.Outside, "--store", "etcd://"+here+":2379", "--advertise", there, "--node-name", "outside")
	if err != nil {
		return nil, err
	}
	_, err = until(ctx, func() (string, error) { // the store starts after the daemon
		return n.cli(ctx, "network", "create", "-d", "overlay", "--ipv6", "bench")
	})
	return spanning{n}, err
}

// spanning is a network of both machines.
type spanning struct{ *fairleadNetwork }

func (n spanning) Far(ctx context.Context, name string) (contestant.Container, error) {
	return until(ctx, func() (contestant.Container, error) { // the other daemon learns of the network
		return n.far.Container(ctx, name, 0)
	})
}

// until repeats what another machine has to be ready for.
func until[T any](ctx context.Context, do func() (T, error)) (T, error) {
	for {
		got, err := do()
		if err == nil {
			return got, nil
		}
		select {
		case <-ctx.Done():
			return got, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// build makes room for the requested flows in addition to those of the load, and fills the
// table with them.
func (f fairlead) build(ctx context.Context, t *topology.Topology, room, flows int) (*fairleadNetwork, error) {
	var args []string
	if room > 0 {
		args = append(args, "--ct-max", fmt.Sprint(2*room))
	}
	n, err := f.start(ctx, t, t.Host, args...)
	if err != nil {
		return nil, err
	}
	if _, err := n.cli(ctx, "network", "create", "--ipv6", "bench"); err != nil || flows == 0 {
		return n, err
	}
	return n, kernel.FillFlows(n.Pins(), flows)
}

// start starts the daemon of a machine and waits until it serves.
func (f fairlead) start(ctx context.Context, t *topology.Topology, host *world.Host, flags ...string) (*fairleadNetwork, error) {
	args := append([]string{"daemon", "--cgroup-root", t.Cgroup.Path, "--metrics-listen", ""}, flags...)
	daemon := world.Command(context.Background(), f.self, args...)
	daemon.SysProcAttr = t.Cgroup.Attr()
	p, err := host.SpawnCommand(daemon)
	if err != nil {
		return nil, err
	}
	n := &fairleadNetwork{self: f.self, t: t, host: host, daemon: p}
	n.Client = engine.New("fairlead", n.inside("/run/fairlead/api.sock"))
	return n, n.waitFor(ctx)
}

type fairleadNetwork struct {
	*engine.Client
	daemon     *world.Process
	self       string
	t          *topology.Topology
	host       *world.Host
	far        *fairleadNetwork // the same network on the outside machine, or nil
	containers []*fairleadContainer
}

// waitFor waits until the daemon is ready.
func (n *fairleadNetwork) waitFor(ctx context.Context) error {
	for {
		err := world.Listening(n.inside("/run/fairlead/api.sock"))
		if err == nil {
			_, err = n.cli(ctx, "status")
		}
		if err == nil {
			return nil
		}
		select {
		case <-n.daemon.Done():
			return fmt.Errorf("fairlead's daemon ended:\n%s", n.daemon.Output())
		case <-ctx.Done():
			return fmt.Errorf("fairlead's daemon does not serve: %w; its log:\n%s", err, n.daemon.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// inside returns the path by which the host reaches a file of the daemon's mount namespace.
func (n *fairleadNetwork) inside(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", n.daemon.Pid(), path)
}

// Pins returns the directory in which the daemon pins its programs and maps.
func (n *fairleadNetwork) Pins() string { return n.inside("/sys/fs/bpf/fairlead") }

// CreateNetwork makes another network.
func (n *fairleadNetwork) CreateNetwork(ctx context.Context, name string, subnets ...string) error {
	return n.Client.CreateNetwork(ctx, "bridge", nil, name, subnets...)
}

func (n *fairleadNetwork) Usage() (contestant.Usage, error) { return usageOf(n.daemon.Pid()) }

// Pause stops the daemon's process, and the store's if there is one, until they are killed.
func (n *fairleadNetwork) Pause() error {
	if n.far != nil {
		if err := n.far.Pause(); err != nil {
			return err
		}
	}
	pids, err := descendants(n.daemon.Pid())
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return fmt.Errorf("stop process %d: %w", pid, err)
		}
	}
	return nil
}

// cli runs a fairlead command on the daemon's machine.
func (n *fairleadNetwork) cli(ctx context.Context, args ...string) (string, error) {
	return n.t.On(n.host).Run(ctx, append([]string{n.self, "--host", "unix:///run/fairlead/api.sock"}, args...)...)
}

// fairleadContainer is a sandbox.
type fairleadContainer struct {
	topology.Place
	host   *world.Host
	v4, v6 netip.Addr
}

// Start makes a sandbox; a program would only have to enter it.
func (n *fairleadNetwork) Start(ctx context.Context, name string, ports int) (time.Duration, error) {
	exposed, bindings := published(ports)
	began := time.Now()
	err := n.Call(ctx, http.MethodPost, "/sandboxes/create?name="+name, map[string]any{
		"ExposedPorts": exposed, "HostConfig": map[string]any{"NetworkMode": "bench", "PortBindings": bindings},
	}, nil)
	return time.Since(began), err
}

func (n *fairleadNetwork) Container(ctx context.Context, name string, ports int, args ...string) (contestant.Container, error) {
	if _, err := n.Start(ctx, name, ports); err != nil {
		return nil, err
	}
	out, err := n.cli(ctx, "inspect", name)
	if err != nil {
		return nil, err
	}
	c, err := n.enter(name, out)
	if err != nil {
		return nil, err
	}
	n.containers = append(n.containers, c)
	if len(args) > 0 {
		return c, c.Start(args...)
	}
	return c, nil
}

// enter returns the place of the sandbox that `fairlead inspect` describes.
func (n *fairleadNetwork) enter(name, inspected string) (*fairleadContainer, error) {
	var list []struct {
		NetworkSettings struct {
			SandboxKey string
			Networks   map[string]struct {
				IPAddress, GlobalIPv6Address netip.Addr
			}
		}
	}
	if err := json.Unmarshal([]byte(inspected), &list); err != nil {
		return nil, fmt.Errorf("read what fairlead inspect says: %w", err)
	}
	if len(list) != 1 {
		return nil, errors.New("fairlead inspect does not show one sandbox")
	}
	s := list[0].NetworkSettings
	h, err := n.host.Enter(name, s.SandboxKey)
	if err != nil {
		return nil, err
	}
	endpoint := s.Networks["bench"]
	return &fairleadContainer{n.t.On(h), h, endpoint.IPAddress, endpoint.GlobalIPv6Address}, nil
}

func (*fairleadNetwork) Published(path cases.Path, _ contestant.Container, family int) netip.Addr {
	return onHost(path, family)
}

// Close stops the programs in sandboxes; the daemon, devices and BPF programs are removed
// with the world, whose namespaces and bpffs hold them.
func (n *fairleadNetwork) Close() error {
	n.Client.Close()
	for _, c := range n.containers {
		c.host.Close()
	}
	if n.far != nil {
		return n.far.Close()
	}
	return nil
}

func (c *fairleadContainer) Address(family int) netip.Addr {
	if family == 6 {
		return c.v6
	}
	return c.v4
}
