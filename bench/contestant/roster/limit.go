// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	"net/netip"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// limit does not use a container network at all: the programs run on the host. Two containers
// are then the same host twice, and their network is its loopback, or, if they are on two hosts, the network between these.
type limit struct{}

func (limit) Name() string                            { return "limit" }
func (limit) Version(context.Context) (string, error) { return "no container network", nil }

func (limit) Lacks(c cases.Case) string { return unmanaged(c) }

func (limit) Build(_ context.Context, t *topology.Topology, path cases.Path) (contestant.Network, error) {
	return limitNetwork{t, path}, nil
}

type limitNetwork struct {
	t    *topology.Topology
	path cases.Path
}

func (n limitNetwork) Container(_ context.Context, _ string, _ int, args ...string) (contestant.Container, error) {
	place := n.t.On(n.t.Host)
	if len(args) > 0 {
		if err := place.Start(args...); err != nil {
			return nil, err
		}
	}
	return limitContainer{place, n.path}, nil
}

func (n limitNetwork) Far(context.Context, string) (contestant.Container, error) {
	return limitContainer{n.t.On(n.t.Outside), n.path}, nil
}

func (limitNetwork) Published(path cases.Path, _ contestant.Container, family int) netip.Addr {
	return onHost(path, family)
}

func (limitNetwork) Close() error { return nil }

type limitContainer struct {
	topology.Place
	path cases.Path
}

func (c limitContainer) Address(family int) netip.Addr {
	if c.path == cases.Overlay {
		return topology.HostAddress(family)
	}
	return topology.Loopback(family)
}
