// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"github.com/fairlead-net/fairlead/control/metrics"
	"github.com/fairlead-net/fairlead/control/model"
)

// stats collects the values of all metrics.
func (d *daemon) stats() (metrics.Stats, error) {
	s, err := metrics.Read(d.datapath.Maps(), d.controller.Snapshot())
	s.Repairs = d.reconciler.Stats().Repairs
	s.Cluster = d.clusterStats()
	d.countRemote(s.Services)
	s.Announced, s.Taken = d.countAnnounced()
	s.Leases, s.Asked = d.leases.Counts()
	s.Questions, s.Unserved = d.dns.Counts(), len(d.dns.Unserved())
	return s, err
}

// countAnnounced counts announced addresses by where they are, and how often this host took one.
func (d *daemon) countAnnounced() (where map[string]int, taken uint64) {
	states, taken := d.announcer.States()
	where = map[string]int{"here": 0, "elsewhere": 0, "nowhere": 0}
	for _, st := range states {
		switch {
		case st.Here:
			where["here"]++
		case st.Owner != model.MAC{}:
			where["elsewhere"]++
		default:
			where["nowhere"]++
		}
	}
	return where, taken
}
