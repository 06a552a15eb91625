// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	"net/netip"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// direct is Fairlead with a host that connects to the sandbox by its own address: the
// yardstick for a port published on 127.0.0.1.
type direct struct{ fairlead }

func (direct) Name() string { return "direct" }

func (direct) Lacks(c cases.Case) string {
	if c.Path != cases.Localhost {
		return "only 127.0.0.1 and ::1 are measured by it"
	}
	return ""
}

func (d direct) Build(ctx context.Context, t *topology.Topology, path cases.Path) (contestant.Network, error) {
	n, err := d.fairlead.Build(ctx, t, path)
	return directNetwork{n}, err
}

type directNetwork struct{ contestant.Network }

func (directNetwork) Published(_ cases.Path, server contestant.Container, family int) netip.Addr {
	return server.Address(family)
}
