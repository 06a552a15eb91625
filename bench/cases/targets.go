// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"slices"
	"strings"
)

// Measure is a figure that loads report, by the name it has there.
type Measure struct {
	Name, Unit string
	Lower      bool // is better
}

// Measures lists the figures that contestants are compared by, in the order shown.
func Measures() []Measure {
	return []Measure{
		{"p50", "µs", true}, {"p99", "µs", true}, {"p999", "µs", true},
		{"rate", "/s", false}, {"gbps", "Gbit/s", false},
		{"cycles", "", true}, {"leave50", "µs", true}, {"leave99", "µs", true},
		{"kept", "", false}, {"took", "ms", true}, {"memory", "kB", true}, {"processes", "", true},
	}
}

// Docker as the other side of a target means the version of Docker that does better.
const Docker = "docker"

// DockerOverlay is Docker's network of several hosts, which has no other version beside it.
const DockerOverlay = "docker-overlay"

// Under is Fairlead as a Docker Engine's network driver, and Untracked the same where the
// kernel does not track the containers' connections. A target against Under, which also
// applies to Untracked, bounds how much better the command line's sandboxes may be.
const (
	Under     = "fairlead-docker"
	Untracked = "fairlead-untracked"
)

// Itself marks a target that bounds Fairlead's own figure.
const Itself = "itself"

// Target is the goal for a case: a bound on the median of paired ratios (Fairlead's figure
// over the other's), or on the figure itself (Itself).
type Target struct {
	Paths         []Path
	Load, Measure string
	Against       string  // a contestant, Docker or Itself
	Bound         float64 // at most this if lower is better, else at least; against Under the reverse
}

// Targets lists all targets.
func Targets() []Target {
	edge := []Path{Published, Outbound}
	peers := []Path{Peers}
	localhost := []Path{Localhost}
	setup := []Path{Setup}
	overlay := []Path{Overlay}
	return []Target{
		{edge, "rr", "p50", "limit", 1.04}, {edge, "rr", "p50", Docker, 0.90},
		{edge, "rr", "p99", "limit", 1.08}, {edge, "rr", "p99", Docker, 0.92},
		{edge, "rr", "rate", "limit", 0.96}, {edge, "rr", "rate", Docker, 1.12},
		{edge, "crr", "rate", "limit", 0.94}, {edge, "crr", "rate", Docker, 1.25},
		{edge, "udp64", "rate", "limit", 0.95}, {edge, "udp64", "rate", Docker, 1.20},
		{edge, "stream", "gbps", "limit", 0.97}, {edge, "stream", "gbps", Docker, 1.00},
		{peers, "rr", "p50", "limit", 1.03}, {peers, "rr", "p50", Docker, 0.88},
		{peers, "crr", "rate", "limit", 0.93}, {peers, "crr", "rate", Docker, 1.20},
		{peers, "udp64", "rate", Docker, 1.50}, {peers, "stream", "gbps", Docker, 1.00},
		{localhost, "rr", "rate", "direct", 0.97}, {localhost, "rr", "rate", Docker, 1.75},
		{localhost, "crr", "rate", "direct", 0.97}, {localhost, "crr", "rate", Docker, 3.00},
		{localhost, "crr60000", "kept", Itself, 0.90},
		{overlay, "rr", "p50", "limit", 1.08}, {overlay, "rr", "rate", "bridge", 1.25},
		{overlay, "crr", "rate", "bridge", 1.60}, {overlay, "stream", "gbps", "bridge", 1.30},
		{[]Path{Ports10000}, "crr", "rate", "few", 0.98}, {[]Path{Flows1000000}, "rr", "rate", "few", 0.95},
		{setup, "publish1000", "took", Itself, 100}, {setup, "publish10000", "took", Itself, 500},
		{setup, "publish1000", "processes", Itself, 0}, {setup, "publish10000", "processes", Itself, 0},
		{setup, "publish10000", "memory", Itself, 10_000}, {setup, "connect50", "p50", Docker, 0.25},
		{append(edge, Peers, Host, Localhost, Hairpin), "rr", "p50", Under, 0.95}, {append(edge, Peers, Localhost), "crr", "rate", Under, 1.05},
		{append(edge, Peers), "udp64", "rate", Under, 1.05}, {append(edge, Peers), "stream", "gbps", Under, 1.05},
		{[]Path{Published}, "http", "rate", Under, 1.05}, {[]Path{Published}, "httpclose", "rate", Under, 1.05},
	}
}

// TargetOf returns the bound for a case by name, a measure and a contestant, Docker or
// Itself.
func TargetOf(name, measure, against string) (bound float64, ok bool) {
	if against == Untracked {
		against = Under
	}
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return 0, false
	}
	for _, t := range Targets() {
		if slices.Contains(t.Paths, Path(parts[0])) && t.Load == parts[1] && t.Measure == measure && t.Against == against {
			return t.Bound, true
		}
	}
	return 0, false
}
