// SPDX-License-Identifier: Apache-2.0

// Package contestant defines what is compared: ways to give a program a network. Package roster
// has the real implementations, each in a world of its own. A contestant that cannot run here, or does not
// have such a path, reports that.
package contestant

import (
	"context"
	"net/netip"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// Port is the port that servers listen on and that the host publishes it as.
const Port = 8080

// Contestant is one way of networking.
type Contestant interface {
	Name() string
	// Version returns the version that would run. It returns Absent if that version is not
	// available here.
	Version(ctx context.Context) (string, error)
	// Lacks returns why the contestant cannot take part in a case, or "" if it can.
	Lacks(c cases.Case) string
	// Build makes the contestant's network for a path in a fresh world. What it starts ends
	// with the world or with the network's Close, which comes first.
	Build(ctx context.Context, t *topology.Topology, path cases.Path) (Network, error)
}

// Network is a contestant's network in one world.
type Network interface {
	// Container makes a container that runs args until the world ends, as its only program,
	// or no program if there are no args. It publishes the given number of ports, the first
	// of which is Port.
	Container(ctx context.Context, name string, ports int, args ...string) (Container, error)
	// Published returns the address at which the client of a path reaches the port that a
	// container publishes.
	Published(path cases.Path, server Container, family int) netip.Addr
	Close() error
}

// Spanning is a network that the outside machine has containers in, too. The overlay cases measure it.
type Spanning interface {
	Network
	// Far makes a container without a program on the outside machine.
	Far(ctx context.Context, name string) (Container, error)
}

// Container is a place that programs run in.
type Container interface {
	Run(ctx context.Context, args ...string) (string, error)
	// Address returns the address that its peers and the host use.
	Address(family int) netip.Addr
}

// Absent is the reason why a contestant is not available. It does not count as a failure.
type Absent struct{ Reason string }

func (a Absent) Error() string { return "absent: " + a.Reason }
