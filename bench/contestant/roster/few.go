// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// few is Fairlead on a host with few objects: one published port, one endpoint, a thousand
// conntrack entries. It is the yardstick of growth only.
type few struct{ fairlead }

// fewFlows is the number of its conntrack entries in the cases in which these grow.
const fewFlows = 1000

func (few) Name() string { return "few" }

func (few) Lacks(c cases.Case) string {
	if !c.Path.Grows() {
		return "only growth is measured by it"
	}
	return ""
}

// Build makes tables of the same size as the other's.
func (f few) Build(ctx context.Context, t *topology.Topology, path cases.Path) (contestant.Network, error) {
	n, err := f.build(ctx, t, path.Growth().Flows, min(fewFlows, path.Growth().Flows))
	return fewNetwork{n}, err
}

type fewNetwork struct{ *fairleadNetwork }

func (n fewNetwork) Container(ctx context.Context, name string, ports int, args ...string) (contestant.Container, error) {
	return n.fairleadNetwork.Container(ctx, name, min(1, ports), args...)
}

// Start makes no container: everything that is started this way is growth.
func (fewNetwork) Start(context.Context, string, int) (time.Duration, error) { return 0, nil }
