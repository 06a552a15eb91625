// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/kernel"
	"github.com/fairlead-net/fairlead/bench/load"
	"github.com/fairlead-net/fairlead/bench/report"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// Limits for steps that hang when something is wrong.
const (
	buildTimeout   = 5 * time.Minute // docker may publish a thousand ports
	measureTimeout = 2 * time.Minute // in addition to the measurement itself
)

// arena is a contestant's world, ready to measure one case.
type arena struct {
	name    string
	world   *topology.Topology
	network contestant.Network // nil until it is built
	client  interface {
		Run(ctx context.Context, args ...string) (string, error)
	}
	reach   func(family int) netip.Addr // what the client connects to
	command []string                    // of the client, without the duration
}

// newArena makes a world, the contestant's network in it, and the server of the case.
func newArena(ctx context.Context, cfg Config, entrant contestant.Contestant, env report.Environment, c cases.Case) (_ *arena, retErr error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	a := &arena{name: entrant.Name()}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, a.close())
		}
	}()
	var err error
	if a.world, err = topology.New(); err != nil {
		return nil, err
	}
	network, err := entrant.Build(ctx, a.world, c.Path)
	if err != nil {
		return nil, err
	}
	a.network = network
	a.reach, err = a.open(ctx, c, command(cfg.Self, "serve", c.Load, env.ServerCPU, anywhere(c.Family)))
	if err != nil {
		return nil, err
	}
	a.command = command(cfg.Self, "run", c.Load, env.ClientCPU, a.reach(c.Family))
	return a, nil
}

// command returns the command of a load's server or client.
func command(self, role string, l cases.Load, cpu int, at netip.Addr) []string {
	return []string{
		self, "bench-load", role, l.Kind,
		"--address", netip.AddrPortFrom(at, contestant.Port).String(), "--cpu", strconv.Itoa(cpu),
		"--size", strconv.Itoa(l.Size), "--streams", strconv.Itoa(l.Streams),
	}
}

// anywhere is the address that servers listen on.
func anywhere(family int) netip.Addr {
	if family == 6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// open starts the server at its end of the path, chooses the client's place and returns how the client reaches
// the server.
func (a *arena) open(ctx context.Context, c cases.Case, serve []string) (reach func(family int) netip.Addr, err error) {
	host, outside := a.world.On(a.world.Host), a.world.On(a.world.Outside)
	if c.Path == cases.Outbound {
		if a.client, err = a.network.Container(ctx, "client", 0); err != nil {
			return nil, err
		}
		return topology.OutsideAddress, outside.Start(serve...)
	}
	ports := c.Path.Growth().Ports
	if c.Path == cases.Published || c.Path == cases.Localhost || c.Path == cases.Hairpin || c.Path.Grows() {
		ports = max(1, ports)
	}
	server, err := a.network.Container(ctx, "server", ports, serve...)
	if err != nil {
		return nil, err
	}
	if err := a.crowd(ctx, c.Path.Growth().Endpoints-1); err != nil {
		return nil, err
	}
	switch c.Path {
	default: // published, and the paths of growth
		a.client = outside
	case cases.Host, cases.Localhost:
		a.client = host
	case cases.Peers, cases.Hairpin:
		if a.client, err = a.network.Container(ctx, "client", 0); err != nil {
			return nil, err
		}
	case cases.Overlay:
		network, ok := a.network.(contestant.Spanning)
		if !ok {
			return nil, fmt.Errorf("the network of %s is on one host", a.name)
		}
		if a.client, err = network.Far(ctx, "client"); err != nil {
			return nil, err
		}
	}
	if ports > 0 {
		return func(family int) netip.Addr { return a.network.Published(c.Path, server, family) }, nil
	}
	return server.Address, nil
}

// crowd starts n more containers, which stay idle.
func (a *arena) crowd(ctx context.Context, more int) error {
	managed, _ := a.network.(contestant.Managed)
	for i := range more {
		if _, err := managed.Start(ctx, fmt.Sprintf("other%d", i), 0); err != nil {
			return err
		}
	}
	return nil
}

// measure runs the client once. Where the machine counts cycles, the cycles per transaction
// include everything the machine did from the client's start to its end.
func (a *arena) measure(ctx context.Context, d time.Duration) (load.Measures, error) {
	cycles, err := kernel.StartCycles()
	if err != nil {
		return nil, err
	}
	m, err := a.run(ctx, d, "--duration", d.String())
	var spent uint64
	if cycles != nil {
		var counted error
		spent, counted = cycles.Stop()
		err = errors.Join(err, counted)
	}
	if err != nil {
		return nil, err
	}
	if n := m["rate"] * d.Seconds(); spent > 0 && n > 0 {
		m["cycles"] = float64(spent) / n
	}
	return m, nil
}

// run runs the client with additional arguments, which make it measure for the duration d.
func (a *arena) run(ctx context.Context, d time.Duration, args ...string) (m load.Measures, err error) {
	ctx, cancel := context.WithTimeout(ctx, d+measureTimeout)
	defer cancel()
	out, err := a.client.Run(ctx, slices.Concat(a.command, args)...)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		return nil, fmt.Errorf("read what the client measured: %w", err)
	}
	return m, nil
}

// close removes the world.
func (a *arena) close() error {
	var errs []error
	if a.network != nil {
		errs = append(errs, a.network.Close())
	}
	if a.world != nil {
		errs = append(errs, a.world.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the world of %s: %w", a.name, err)
	}
	return nil
}
