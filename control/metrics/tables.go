// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/maps"
)

// flowTables returns the labels, in metrics, of the maps that hold flows.
func flowTables() map[string]string {
	return map[string]string{"fl_ct": "confirmed", "fl_ct_new": "unconfirmed"}
}

// formerTables names the tables that are also shown under their former name, for one release.
func formerTables() map[string]string { return map[string]string{"fl_service": "fl_publish"} }

// Read returns the numbers of the tables and of the desired state.
func Read(set *maps.Set, snapshot *desired.Snapshot) (Stats, error) {
	networks, err := networkStats(set.Counters, snapshot)
	if err != nil {
		return Stats{}, err
	}
	arrived, left, err := set.Counters.Traffic(maps.UplinkTraffic)
	if err != nil {
		return Stats{}, err
	}
	drops, err := set.Counters.Drops()
	if err != nil {
		return Stats{}, err
	}
	paths, err := set.Counters.Paths()
	if err != nil {
		return Stats{}, err
	}
	events, err := set.Counters.Events()
	if err != nil {
		return Stats{}, err
	}
	fills, err := set.Fills()
	if err != nil {
		return Stats{}, err
	}
	s := Stats{
		Networks:  networks,
		Services:  serviceStats(snapshot),
		Sandboxes: snapshot.Counts().Sandboxes,
		Uplinks:   set.Uplinks.Len(),
		Arrived:   arrived,
		Left:      left,
		Drops:     drops,
		Paths:     paths,
		Events:    make(map[string]uint64, len(events)),
		Maps:      fills,
	}
	for name, c := range events {
		s.Events[name] = c.Packets
	}
	for _, f := range fills {
		if name, ok := formerTables()[f.Table]; ok {
			s.Maps = append(s.Maps, Fill{Table: name, Entries: f.Entries, Max: f.Max})
		}
		if label, ok := flowTables()[f.Table]; ok {
			s.Conntrack = append(s.Conntrack, Fill{Table: label, Entries: f.Entries, Max: f.Max})
		}
	}
	return s, nil
}

// serviceStats returns the services, in no particular order.
func serviceStats(snapshot *desired.Snapshot) (list []Service) {
	for svc := range snapshot.Services() {
		row := Service{ID: svc.ID, Name: svc.Name, Backends: map[string]int{"active": 0, "drained": 0, "stopped": 0}}
		if n := snapshot.Network(svc.NetworkID); n != nil {
			row.Network = n.Name
		}
		for ep := range snapshot.Backends(svc) {
			state := "active"
			switch {
			case svc.IsDrained(ep.ID):
				state = "drained"
			case !ep.Serves(snapshot.Sandbox(ep.SandboxID)):
				state = "stopped"
			}
			row.Backends[state]++
		}
		list = append(list, row)
	}
	return list
}

// networkStats returns the networks sorted by name.
func networkStats(c *maps.Counters, snapshot *desired.Snapshot) ([]Network, error) {
	count := snapshot.Counts().Networks
	endpoints := make(map[string]int, count)
	for e := range snapshot.Endpoints() {
		endpoints[e.NetworkID]++
	}
	ports := make(map[string]int, count)
	for p := range snapshot.Publishes() {
		if e := snapshot.Endpoint(p.EndpointID); e != nil {
			ports[e.NetworkID] += int(p.Count)
		}
	}
	networks := make([]Network, 0, count)
	for n := range snapshot.Networks() {
		row := Network{Name: n.Name, Endpoints: endpoints[n.ID], PublishedPorts: ports[n.ID]}
		if n.Has().Entries {
			from, to, err := c.Traffic(n.Index)
			if err != nil {
				return nil, err
			}
			row.FromEndpoint, row.ToEndpoint = from, to
		}
		networks = append(networks, row)
	}
	slices.SortFunc(networks, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return networks, nil
}
