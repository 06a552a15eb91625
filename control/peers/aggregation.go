// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
)

// Aggregation are the devices that make the kernel aggregate the packets of tunnels on arrival.
type Aggregation interface {
	// Ensure makes sure that these families have a device, and no others.
	Ensure(families []model.Family) error
}

// aggregate has packets aggregated that arrive from nodes in clear text. Those of encrypted networks arrive by
// the device that encrypts.
func (p *Peers) aggregate(nodes []reachedNode) {
	var families []model.Family
	if p.aggregating = hasNetworks(p.snapshot.Load(), false); p.aggregating {
		for _, n := range nodes {
			if f := model.FamilyOf(n.entry.Remote); n.entry.Remote.IsValid() && !slices.Contains(families, f) {
				families = append(families, f)
			}
		}
	}
	err := p.cfg.Aggregation.Ensure(families)
	if p.notAggregated.IsNew(err) {
		p.cfg.Log.Warn("packets of tunnels arrive one by one; large transfers take more processor time", "err", err)
	}
}
