// SPDX-License-Identifier: Apache-2.0

package contestant

import (
	"context"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// few is Fairlead on a host that bears little: one published port, one endpoint, a
// thousand entries in conntrack. It is the yardstick of growth only.
type few struct{ fairlead }

// fewFlows are its entries where growth is of them.
const fewFlows = 1000

func (few) Name() string { return "few" }

func (few) Lacks(c cases.Case) string {
	if !c.Path.Grows() {
		return "only growth is measured by it"
	}
	return ""
}

// Build makes tables as large as the other's.
func (f few) Build(ctx context.Context, t *topology.Topology, path cases.Path) (Network, error) {
	n, err := f.build(ctx, t, path.Growth().Flows, min(fewFlows, path.Growth().Flows))
	return fewNetwork{n}, err
}

type fewNetwork struct{ *fairleadNetwork }

func (n fewNetwork) Container(ctx context.Context, name string, ports int, args ...string) (Container, error) {
	return n.fairleadNetwork.Container(ctx, name, min(1, ports), args...)
}

// Start makes none: what comes this way is growth.
func (fewNetwork) Start(context.Context, string, int) (time.Duration, error) { return 0, nil }
