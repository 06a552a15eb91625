// SPDX-License-Identifier: Apache-2.0

// Package contestant holds what is compared: ways to give a program a network.
// Each is the real thing, in a world of its own; one that cannot run here, or
// has no such path, says so.
package contestant

import (
	"context"
	"net/netip"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// Port is where servers listen, and what the host publishes it as.
const Port = 8080

// Contestant is one way of networking.
type Contestant interface {
	Name() string
	// Version says what would run. It fails with Absent if that cannot be had
	// here.
	Version(ctx context.Context) (string, error)
	// Lacks says why it cannot take part in a case; "": it can.
	Lacks(c cases.Case) string
	// Build makes its network for a path in a world that is fresh. What it starts
	// ends with the world or with the network's Close, which comes first.
	Build(ctx context.Context, t *topology.Topology, path cases.Path) (Network, error)
}

// Network is a contestant's network in one world.
type Network interface {
	// Container makes one that runs args until the world ends, as its only
	// program, or none if there are no args. It publishes as many ports, the first
	// of which is Port.
	Container(ctx context.Context, name string, ports int, args ...string) (Container, error)
	// Published is the address at which the client of a path reaches the port
	// that a container publishes.
	Published(path cases.Path, server Container, family int) netip.Addr
	Close() error
}

// Container is a place for programs.
type Container interface {
	Run(ctx context.Context, args ...string) (string, error)
	// Address is the one its peers and the host know.
	Address(family int) netip.Addr
}

// Absent says why a contestant is not there. It is no failure.
type Absent struct{ Reason string }

func (a Absent) Error() string { return "absent: " + a.Reason }

// All are the contestants, the yardstick first. self is the program that makes
// the loads and is Fairlead.
func All(self string) []Contestant {
	return []Contestant{
		limit{}, fairlead{self}, direct{fairlead{self}}, few{fairlead{self}}, bridge{},
		docker20(self), docker29(self), underDocker20(self), untrackedDocker20(self),
	}
}

// unmanaged says why what has no daemon has no such case.
func unmanaged(c cases.Case) string {
	if c.Path.Grows() || c.Path == cases.Setup {
		return "it has nothing that grows, nor anyone who makes it"
	}
	return ""
}

// onHost is where a host publishes ports: at its own addresses.
func onHost(path cases.Path, family int) netip.Addr {
	if path == cases.Localhost {
		return topology.Loopback(family)
	}
	return topology.HostAddress(family)
}
