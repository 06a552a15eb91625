// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"log/slog"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// datapath converts Stats to metrics at scrape time.
type datapath struct {
	mu    sync.Mutex // one reader of the maps at a time
	stats func() (Stats, error)
	log   *slog.Logger

	up                                 *prometheus.Desc
	networks, sandboxes, uplinks       *prometheus.Desc
	endpoints, ports, backends         *prometheus.Desc
	networkPackets, networkBytes       *prometheus.Desc
	uplinkPackets, uplinkBytes         *prometheus.Desc
	dropPackets, dropBytes             *prometheus.Desc
	pathPackets, pathBytes             *prometheus.Desc
	events, repairs                    *prometheus.Desc
	questions, unserved                *prometheus.Desc
	ctEntries, ctLimit, entries, limit *prometheus.Desc
	storeUp, nodes, members, waiting   *prometheus.Desc
	pathWorks, roundTrip               *prometheus.Desc
	announced, taken                   *prometheus.Desc
	leases, asked                      *prometheus.Desc
}

func newDatapath(stats func() (Stats, error), log *slog.Logger) *datapath {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("fairlead_"+name, help, labels, nil)
	}
	return &datapath{
		stats: stats,
		log:   log,

		up: desc("datapath_up", "1 if the datapath's maps could be read for this scrape. If it is 0, their metrics are missing."),

		networks:  desc("networks", "Networks, including the predefined ones."),
		sandboxes: desc("sandboxes", "Sandboxes."),
		uplinks:   desc("uplinks", "Host devices through which traffic leaves the host."),
		endpoints: desc("endpoints", "Endpoints of a network.", "network"),
		backends:  desc("service_backends", "Backends of a service, by state: active ones get new flows, drained ones keep theirs.", "network", "service", "state"),
		ports:     desc("published_ports", "Published host ports of a network. Each port of a range counts.", "network"),

		networkPackets: desc("network_packets_total", "Packets of a network's members, including the host, by direction from the host's point of view.", "network", "direction"),
		networkBytes:   desc("network_bytes_total", "Bytes of a network's members, including the host, by direction from the host's point of view.", "network", "direction"),
		uplinkPackets:  desc("uplink_packets_total", "Packets seen by the datapath's programs at uplinks, by direction, without packets of sandboxes that the datapath redirected there itself.", "direction"),
		uplinkBytes:    desc("uplink_bytes_total", "Bytes of the packets seen by the datapath's programs at uplinks.", "direction"),
		dropPackets:    desc("dropped_packets_total", "Packets dropped by the datapath. Each is counted under exactly one reason.", "reason"),
		dropBytes:      desc("dropped_bytes_total", "Bytes of the packets dropped by the datapath.", "reason"),
		pathPackets:    desc("forwarded_packets_total", "Packets forwarded by the datapath, by path. On path pass they are passed to the host's stack at an uplink, or leave through it.", "path"),
		pathBytes:      desc("forwarded_bytes_total", "Bytes forwarded by the datapath, by path.", "path"),
		events:         desc("datapath_events_total", "Events in the datapath other than forwarding and dropping.", "event"),
		repairs:        desc("reconcile_repairs_total", "Kernel objects that differed from the desired state and were repaired, by kind.", "kind"),
		questions:      desc("dns_questions_total", "DNS queries of sandboxes to their gateways, by result.", "result"),
		unserved:       desc("dns_unserved_addresses", "Addresses and ports where DNS should be served and is not, mostly because another program uses them."),

		ctEntries: desc("conntrack_entries", "Entries of the flow tables, two per flow.", "table"),
		ctLimit:   desc("conntrack_entries_limit", "Maximum number of entries of a flow table.", "table"),
		entries:   desc("map_entries", "Entries of a BPF map.", "map"),
		limit:     desc("map_entries_limit", "Maximum number of entries of a BPF map.", "map"),

		announced: desc("announced_addresses", "Addresses that services have announced and that are in the subnet of a device here, by where they are: here, elsewhere, or nowhere as long as no host answers for one.", "where"),
		taken:     desc("announced_addresses_taken_total", "Announced addresses that this host took because no other one answered for them."),

		leases: desc("dhcp_leases", "Endpoints whose addresses DHCP servers allocate, by the state of their leases: none is without an address, renewing and rebinding are late.", "state"),
		asked:  desc("dhcp_requests_total", "Exchanges with DHCP servers, by result.", "result"),

		storeUp:   desc("cluster_store_up", "1 if the store of the cluster answers. Without it what runs goes on, and removals work."),
		nodes:     desc("cluster_nodes", "Other nodes of the cluster, by state.", "state"),
		members:   desc("cluster_members", "Sandboxes on other nodes, in networks that have sandboxes here."),
		waiting:   desc("cluster_unpublished_networks", "Networks whose sandboxes on this node are not published to other nodes yet."),
		pathWorks: desc("cluster_path_works", "1 if probes to a node are answered, small and large ones.", "node", "encrypted"),
		roundTrip: desc("cluster_path_round_trip_seconds", "Median round trip of the last probes to a node through the datapath.", "node", "encrypted"),
	}
}

// Describe implements [prometheus.Collector].
func (d *datapath) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		d.up, d.networks, d.sandboxes, d.uplinks, d.endpoints, d.ports, d.backends,
		d.networkPackets, d.networkBytes, d.uplinkPackets, d.uplinkBytes, d.dropPackets, d.dropBytes, d.pathPackets, d.pathBytes,
		d.events, d.repairs, d.questions, d.unserved, d.ctEntries, d.ctLimit, d.entries, d.limit,
		d.storeUp, d.nodes, d.members, d.waiting, d.pathWorks, d.roundTrip, d.announced, d.taken, d.leases, d.asked,
	} {
		ch <- desc
	}
}

// Collect implements [prometheus.Collector].
func (d *datapath) Collect(ch chan<- prometheus.Metric) {
	d.mu.Lock()
	defer d.mu.Unlock()
	stats, err := d.stats()
	if err != nil {
		d.log.Warn("cannot read the datapath for metrics", "err", err)
		ch <- gauge(d.up, 0)
		return
	}
	ch <- gauge(d.up, 1)
	ch <- gauge(d.networks, len(stats.Networks))
	ch <- gauge(d.sandboxes, stats.Sandboxes)
	ch <- gauge(d.uplinks, stats.Uplinks)
	for _, n := range stats.Networks {
		ch <- gauge(d.endpoints, n.Endpoints, n.Name)
		ch <- gauge(d.ports, n.PublishedPorts, n.Name)
		both(ch, d.networkPackets, d.networkBytes, n.FromEndpoint, n.Name, "from_endpoint")
		both(ch, d.networkPackets, d.networkBytes, n.ToEndpoint, n.Name, "to_endpoint")
	}
	for _, s := range stats.Services {
		for _, state := range sorted(s.Backends) {
			ch <- gauge(d.backends, s.Backends[state], s.Network, s.Name, state)
		}
	}
	both(ch, d.uplinkPackets, d.uplinkBytes, stats.Arrived, "arrived")
	both(ch, d.uplinkPackets, d.uplinkBytes, stats.Left, "left")
	for _, reason := range sorted(stats.Drops) {
		both(ch, d.dropPackets, d.dropBytes, stats.Drops[reason], reason)
	}
	for _, path := range sorted(stats.Paths) {
		both(ch, d.pathPackets, d.pathBytes, stats.Paths[path], path)
	}
	for _, where := range sorted(stats.Announced) {
		ch <- gauge(d.announced, stats.Announced[where], where)
	}
	ch <- counter(d.taken, stats.Taken)
	for _, state := range sorted(stats.Leases) {
		ch <- gauge(d.leases, stats.Leases[state], state)
	}
	for _, result := range sorted(stats.Asked) {
		ch <- counter(d.asked, stats.Asked[result], result)
	}
	for _, event := range sorted(stats.Events) {
		ch <- counter(d.events, stats.Events[event], event)
	}
	for _, kind := range sorted(stats.Repairs) {
		ch <- counter(d.repairs, stats.Repairs[kind], kind)
	}
	for _, result := range sorted(stats.Questions) {
		ch <- counter(d.questions, stats.Questions[result], result)
	}
	ch <- gauge(d.unserved, stats.Unserved)
	fill(ch, d.ctEntries, d.ctLimit, stats.Conntrack)
	fill(ch, d.entries, d.limit, stats.Maps)
	if c := stats.Cluster; c != nil {
		ch <- gauge(d.storeUp, oneIf(c.Up))
		ch <- gauge(d.nodes, c.Nodes-c.Down, "up")
		ch <- gauge(d.nodes, c.Down, "down")
		ch <- gauge(d.members, c.Members)
		ch <- gauge(d.waiting, c.Waiting)
		for _, p := range c.Paths {
			ch <- gauge(d.pathWorks, oneIf(p.Works), p.Node, strconv.FormatBool(p.Encrypted))
			if p.RoundTrip > 0 {
				ch <- prometheus.MustNewConstMetric(d.roundTrip, prometheus.GaugeValue, p.RoundTrip, p.Node, strconv.FormatBool(p.Encrypted))
			}
		}
	}
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}

// fill emits the entries and the limit of each table.
func fill(ch chan<- prometheus.Metric, entries, limit *prometheus.Desc, tables []Fill) {
	for _, table := range tables {
		ch <- gauge(entries, table.Entries, table.Table)
		ch <- gauge(limit, table.Max, table.Table)
	}
}

// both emits a Counter's packets and bytes.
func both(ch chan<- prometheus.Metric, packets, bytes *prometheus.Desc, c Counter, labels ...string) {
	ch <- counter(packets, c.Packets, labels...)
	ch <- counter(bytes, c.Bytes, labels...)
}

func gauge(d *prometheus.Desc, v int, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
}

func counter(d *prometheus.Desc, v uint64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}
