// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/engine"
	"github.com/fairlead-net/fairlead/bench/load"
	"github.com/fairlead-net/fairlead/bench/topology"
	"github.com/fairlead-net/fairlead/bench/world"
)

// Limits of what it may take.
const (
	maxDockerPorts      = 1000
	maxDockerContainers = 100
)

// docker is an installed Docker Engine: its dockerd, containerd, runc and docker-proxy, a
// network, and containers whose image holds the programs of the loads.
//
// The daemon has a PID namespace of its own, so that everything it has started ends with it.
// Containers run without a seccomp filter: the other contestants have none, and its cost is
// not a cost of the network.
type docker struct {
	name, self string
	// find returns the path of dockerd, or an error that names what is missing.
	find    func(ctx context.Context) (string, error)
	flags   []string          // additional flags of dockerd
	options map[string]string // of its networks
	config  map[string]any    // what can be set only in a file; DIR in it stands for the world's directory
}

// docker20 is Docker Engine 20.10 as Debian ships it: bridge, iptables and
// docker-proxy.
func docker20(self string) docker {
	return docker{
		name: "docker20", self: self, find: engine.Debian,
		flags:  []string{"--experimental", "--ip6tables"},
		config: engine.DebianFile(),
	}
}

// docker29 is Docker Engine 29, built from its Go module with its docker-proxy and the runc
// it needs: bridge and nftables. containerd comes from Debian.
func docker29(self string) docker {
	return docker{
		name: "docker29", self: self, find: engine.Built,
		flags: []string{"--firewall-backend", "nftables"},
	}
}

func (d docker) Name() string { return d.name }

func (docker) Lacks(c cases.Case) string {
	switch {
	case oneHost(c) != "":
		return oneHost(c)
	case c.Alone:
		return "it would take hours; make bench-growth measures it"
	case c.Path.Growth().Flows > 0:
		return "its flows are in the kernel's own table, which cannot be filled from here"
	case c.Path.Growth().Ports > maxDockerPorts || c.Load.Kind == cases.Publish && c.Load.Size > maxDockerPorts:
		return fmt.Sprintf("it is not asked for more than %d ports, which are two processes each", maxDockerPorts)
	case c.Path.Growth().Endpoints > maxDockerContainers:
		return fmt.Sprintf("it is not asked for more than %d containers, which are several processes each", maxDockerContainers)
	}
	return ""
}

func (d docker) Version(ctx context.Context) (string, error) {
	daemon, err := d.find(ctx)
	if err != nil {
		return "", contestant.Absent{Reason: err.Error()}
	}
	out, err := world.Command(ctx, daemon, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", daemon, err)
	}
	version := strings.TrimSpace(string(out))
	// A dockerd built by go install knows only the version of its module.
	if info, err := buildinfo.ReadFile(daemon); err == nil && strings.HasPrefix(info.Main.Version, "v") {
		version = fmt.Sprintf("%s (%s %s)", version, info.Main.Path, info.Main.Version)
	}
	return version, nil
}

func (d docker) Build(ctx context.Context, t *topology.Topology, _ cases.Path) (contestant.Network, error) {
	return d.build(ctx, t, "bridge")
}

// build starts the engine and makes a network of the driver.
func (d docker) build(ctx context.Context, t *topology.Topology, driver string) (*dockerNetwork, error) {
	if err := t.Forward(); err != nil { // with nftables the engine does not do so itself
		return nil, err
	}
	n, err := d.start(ctx, t, t.Host, driver)
	if err != nil {
		return nil, err
	}
	if err := n.CreateNetwork(ctx, "bench", subnet4, subnet6); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// The subnets of the network that is measured.
const subnet4, subnet6 = "10.99.0.0/24", "fd00:99::/64"

// start starts the engine of a machine, waits until it serves, and makes the image there.
func (d docker) start(ctx context.Context, t *topology.Topology, host *world.Host, driver string) (_ *dockerNetwork, retErr error) {
	daemon, err := d.find(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(t.Dir, host.Name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "docker.sock")
	n := &dockerNetwork{self: d.self, driver: driver, options: d.options, Client: engine.New(d.name, socket), cgroup: t.Cgroup.Containers()}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, n.Close())
		}
	}()
	n.daemon, err = engine.Start(host, engine.Config{
		Program: daemon, Socket: socket, Dir: dir, CgroupParent: n.cgroup,
		Flags: d.flags, File: d.config, Attr: t.Cgroup.Attr(),
	})
	if err != nil {
		return nil, err
	}
	return n, n.prepare(ctx)
}

type dockerNetwork struct {
	*engine.Client
	self    string
	driver  string            // of its networks
	options map[string]string // of these
	daemon  *world.Process
	cgroup  string // parent of the containers'
}

// prepare waits for the daemon, then makes the image.
func (n *dockerNetwork) prepare(ctx context.Context) error {
	if err := n.WaitFor(ctx, n.daemon); err != nil {
		return err
	}
	files, err := imageFiles(ctx, n.self)
	if err != nil {
		return err
	}
	return n.ImportImage(ctx, "bench", files)
}

// imageFiles returns the files that containers run: the program that generates the loads and,
// where they are installed, the programs of the http loads with their libraries.
func imageFiles(ctx context.Context, self string) ([]string, error) {
	files := []string{self}
	for _, name := range []string{load.Nginx, load.Wrk} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue // a case that needs it fails for all contestants
		}
		out, err := world.Command(ctx, "ldd", path).Output()
		if err != nil {
			return nil, fmt.Errorf("libraries of %s: %w", path, err)
		}
		files = append(files, path)
		for word := range strings.FieldsSeq(string(out)) {
			if filepath.IsAbs(word) && !slices.Contains(files, word) {
				files = append(files, word)
			}
		}
	}
	return files, nil
}

// start creates and starts a container, and returns how long the start took: that is when
// docker publishes the ports.
func (n *dockerNetwork) start(ctx context.Context, name string, ports int, args []string) (time.Duration, error) {
	if len(args) == 0 {
		args = []string{n.self, "bench-load", "idle"}
	}
	exposed, bindings := published(ports)
	err := n.Call(ctx, http.MethodPost, "/containers/create?name="+name, map[string]any{
		"Image": "bench", "Cmd": args, "ExposedPorts": exposed,
		"HostConfig": map[string]any{
			"NetworkMode": "bench", "CgroupParent": n.cgroup, "SecurityOpt": []string{"seccomp=unconfined"},
			"PortBindings": bindings,
		},
	}, nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = n.Call(ctx, http.MethodPost, "/containers/"+name+"/start", nil, nil)
	return time.Since(began), err
}

func (n *dockerNetwork) Start(ctx context.Context, name string, ports int) (time.Duration, error) {
	return n.start(ctx, name, ports, nil)
}

// CreateNetwork makes a network with the driver.
func (n *dockerNetwork) CreateNetwork(ctx context.Context, name string, subnets ...string) error {
	return n.Client.CreateNetwork(ctx, n.driver, n.options, name, subnets...)
}

func (n *dockerNetwork) Usage() (contestant.Usage, error) { return usageOf(n.daemon.Pid()) }

func (n *dockerNetwork) Container(ctx context.Context, name string, ports int, args ...string) (contestant.Container, error) {
	if _, err := n.start(ctx, name, ports, args); err != nil {
		return nil, err
	}
	var inspected struct {
		NetworkSettings struct {
			Networks map[string]struct {
				IPAddress, GlobalIPv6Address netip.Addr
			}
		}
	}
	if err := n.Call(ctx, http.MethodGet, "/containers/"+name+"/json", nil, &inspected); err != nil {
		return nil, err
	}
	endpoint := inspected.NetworkSettings.Networks["bench"]
	return &dockerContainer{n.Client, name, endpoint.IPAddress, endpoint.GlobalIPv6Address}, nil
}

func (*dockerNetwork) Published(path cases.Path, _ contestant.Container, family int) netip.Addr {
	return onHost(path, family)
}

// Close stops the daemon with everything in its PID namespace; the cgroups that remain are
// removed with the world.
func (n *dockerNetwork) Close() error {
	n.Client.Close()
	if n.daemon != nil {
		n.daemon.Kill()
	}
	return nil
}

type dockerContainer struct {
	engine *engine.Client
	name   string
	v4, v6 netip.Addr
}

func (c *dockerContainer) Run(ctx context.Context, args ...string) (string, error) {
	return c.engine.Exec(ctx, c.name, args)
}

func (c *dockerContainer) Address(family int) netip.Addr {
	if family == 6 {
		return c.v6
	}
	return c.v4
}
