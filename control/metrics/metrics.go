// SPDX-License-Identifier: Apache-2.0

// Package metrics shows the daemon's numbers to Prometheus. Those of the
// datapath are read when they are asked for: nothing is kept between two
// scrapes, and a scrape that could not read everything shows none of them.
// Labels are bounded: by an enum of the datapath, by the number of maps, or by
// the number of networks.
package metrics

import (
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Counter counts packets and their bytes.
type Counter struct {
	Packets, Bytes uint64
}

// Network is what is known of one network.
type Network struct {
	Name           string
	FromEndpoint   Counter // sent by its members, the host among them
	ToEndpoint     Counter // delivered to them
	Endpoints      int
	PublishedPorts int // host ports, a range counted one by one
}

// Fill is how full a table is.
type Fill struct {
	Name    string // the map's name; of conntrack: confirmed or unconfirmed
	Entries int
	Limit   int
}

// Stats are all numbers of one moment.
type Stats struct {
	Networks  []Network
	Sandboxes int
	Uplinks   int
	Arrived   Counter            // at uplinks
	Left      Counter            // by uplinks, what from_endpoint sent there itself left out
	Drops     map[string]Counter // by reason
	Paths     map[string]Counter // by the way a packet took
	Events    map[string]uint64  // by name
	Conntrack []Fill
	Maps      []Fill
	Repairs   map[string]uint64 // by kind of what others broke and reconcile mended
	Questions map[string]uint64 // of DNS, by result
	Unserved  int               // addresses where names are not served, another program having the port
}

// Config says what a [Metrics] shows.
type Config struct {
	// Stats reads the numbers; called once a scrape, by one caller at a time.
	Stats func() (Stats, error)
	// Version and Revision of the program, for fairlead_build_info.
	Version, Revision, GoVersion string
	Log                          *slog.Logger
}

// Metrics is a registry of everything Fairlead shows.
type Metrics struct {
	registry *prometheus.Registry
	duration *prometheus.HistogramVec
	errors   *prometheus.CounterVec
	log      *slog.Logger
}

// Operations of the reconciler that are timed.
const (
	Apply  = "apply"  // a verb's change is made real
	Resync = "resync" // everything is read back and repaired
)

// New makes the registry.
func New(cfg Config) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		log:      cfg.Log,
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fairlead_reconcile_duration_seconds",
			Help:    "Time to bring the kernel to the desired state, by operation (apply: a verb's change; resync: a full read-back).",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14), // 1 ms to 8 s
		}, []string{"operation"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_reconcile_errors_total",
			Help: "Reconcile operations that ended with an error, by operation.",
		}, []string{"operation"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fairlead_build_info",
		Help: "Always 1; its labels say what is running.",
	}, []string{"version", "revision", "goversion"})
	build.WithLabelValues(cfg.Version, cfg.Revision, cfg.GoVersion).Set(1)
	for _, operation := range []string{Apply, Resync} { // so that they are there before the first
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

// sorted returns a map's keys in order, so that two scrapes look alike.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
