// SPDX-License-Identifier: Apache-2.0

package daemon

import "github.com/fairlead-net/fairlead/control/metrics"

// stats collects the values of all metrics.
func (d *daemon) stats() (metrics.Stats, error) {
	s, err := metrics.Read(d.datapath.Maps(), d.controller.Snapshot())
	s.Repairs = d.reconciler.Stats().Repairs
	s.Cluster = d.clusterStats()
	d.countRemote(s.Services)
	s.Questions, s.Unserved = d.dns.Counts(), len(d.dns.Unserved())
	return s, err
}
