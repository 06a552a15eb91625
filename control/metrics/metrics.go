// SPDX-License-Identifier: Apache-2.0

// Package metrics exports the daemon's metrics to Prometheus. Those of the datapath are read at
// scrape time: nothing is kept between two scrapes, and a scrape that cannot read everything
// exports none of them. The number of label values is bounded: by an enum of the datapath, by the
// number of maps, or by the number of networks or services.
package metrics

import (
	"log/slog"
	stdmaps "maps"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fairlead-net/fairlead/maps"
)

// The numbers of the datapath's tables, as they are read.
type (
	Counter = maps.Counter
	Fill    = maps.Fill
)

// Network are the numbers of one network.
type Network struct {
	Name           string
	FromEndpoint   Counter // sent by its members, including the host
	ToEndpoint     Counter // delivered to them
	Endpoints      int
	PublishedPorts int // host ports; each port of a range counts
}

// Service are the numbers of one service.
type Service struct {
	ID, Network, Name string
	Backends          map[string]int // by state
}

// Stats are all numbers at one moment.
type Stats struct {
	Networks  []Network
	Services  []Service
	Sandboxes int
	Uplinks   int
	Arrived   Counter            // at uplinks
	Left      Counter            // by uplinks, without what from_endpoint redirected there
	Drops     map[string]Counter // by reason
	Paths     map[string]Counter // by path
	Events    map[string]uint64  // by name
	Conntrack []Fill             // by confirmed or unconfirmed, which stands for the table
	Maps      []Fill
	Repairs   map[string]uint64 // by kind
	Questions map[string]uint64 // DNS queries, by result
	Unserved  int               // addresses and ports where DNS should be served and is not
	Announced map[string]int    // addresses of services, by where they are
	Taken     uint64            // addresses that this host took
	Leases    map[string]int    // of DHCP, by state
	Asked     map[string]uint64 // DHCP servers, by result
	Cluster   *Cluster          // nil: the host is not part of one
}

// Cluster are the numbers of the host's part in a cluster.
type Cluster struct {
	Up      bool // the store answers
	Nodes   int  // others
	Down    int  // of those
	Members int  // on other nodes, in networks that have members here
	Waiting int  // networks whose members here are not published yet
	Paths   []ClusterPath
}

// ClusterPath is what the last probes say of a path to another node.
type ClusterPath struct {
	Node      string // its name
	Encrypted bool
	Works     bool    // small and large packets, in both directions
	RoundTrip float64 // in seconds; 0: none was answered
}

// Config configures [Metrics].
type Config struct {
	// Stats reads the numbers. It is called once per scrape, never concurrently.
	Stats func() (Stats, error)
	// Version and Revision of the program, for fairlead_build_info.
	Version, Revision, GoVersion string
	Log                          *slog.Logger
}

// Metrics is the registry of all metrics.
type Metrics struct {
	registry *prometheus.Registry
	duration *prometheus.HistogramVec
	errors   *prometheus.CounterVec
	log      *slog.Logger
}

// Operations of the reconciler that are timed.
const (
	Apply  = "apply"  // a verb's change is applied
	Resync = "resync" // everything is read back and repaired
)

// New creates the registry.
func New(cfg Config) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		log:      cfg.Log,
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fairlead_reconcile_duration_seconds",
			Help:    "Time to bring the kernel to the desired state, by operation (apply: a verb's change, resync: a full read-back).",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14), // 1 ms to 8 s
		}, []string{"operation"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_reconcile_errors_total",
			Help: "Reconcile operations that ended with an error, by operation.",
		}, []string{"operation"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fairlead_build_info",
		Help: "Always 1. The labels identify the build.",
	}, []string{"version", "revision", "goversion"})
	build.WithLabelValues(cfg.Version, cfg.Revision, cfg.GoVersion).Set(1)
	for _, operation := range []string{Apply, Resync} { // so that they exist before the first operation
		m.duration.WithLabelValues(operation)
		m.errors.WithLabelValues(operation)
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.duration, m.errors, build,
		newDatapath(cfg.Stats, cfg.Log),
	)
	return m
}

// Observe records one operation of the reconciler.
func (m *Metrics) Observe(operation string, took time.Duration, err error) {
	m.duration.WithLabelValues(operation).Observe(took.Seconds())
	if err != nil {
		m.errors.WithLabelValues(operation).Inc()
	}
}

// Handler serves the registry over HTTP.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
	})
}

// sorted returns a map's keys in order, so that scrapes are comparable.
func sorted[V any](m map[string]V) []string { return slices.Sorted(stdmaps.Keys(m)) }
