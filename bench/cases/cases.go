// SPDX-License-Identifier: Apache-2.0

// Package cases defines what the benchmarks measure: paths, loads and the targets for them.
// It is data; other packages run and report it.
package cases

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Path is the network path from a client to a server.
type Path string

// The paths. A container is whatever the contestant calls a container.
const (
	Published Path = "published" // outside → a port the host publishes → container
	Outbound  Path = "outbound"  // container → masquerade → outside
	Peers     Path = "peers"     // container → container of the same network
	Host      Path = "host"      // host → container
	Localhost Path = "localhost" // host → 127.0.0.1 or ::1, published → container
	Hairpin   Path = "hairpin"   // container → published port of its host → another container
	Overlay   Path = "overlay"   // container → container of the same network on another host
)

// Paths lists the paths that every load is measured on.
func Paths() []Path {
	return []Path{Published, Outbound, Peers, Host, Localhost, Hairpin, Overlay}
}

// Load is the traffic on a path.
type Load struct {
	Name    string
	Kind    string // as in package load
	Size    int    // bytes per message; for a setup, the number of objects it makes
	Streams int
	Fresh   bool // every round has a new world, and nothing is warmed up
}

// Loads lists the loads that are measured on every path.
func Loads() []Load {
	return []Load{
		{Name: "rr", Kind: "rr", Size: 1},
		{Name: "rr16", Kind: "rr", Size: 16},
		{Name: "rr256", Kind: "rr", Size: 256},
		{Name: "rr1400", Kind: "rr", Size: 1400},
		{Name: "rr8900", Kind: "rr", Size: 8900},
		{Name: "crr", Kind: "crr", Size: 1},
		{Name: "http", Kind: "http", Streams: 16},
		{Name: "httpclose", Kind: "httpclose", Streams: 16},
		{Name: "udp64", Kind: "udp", Size: 64},
		{Name: "stream", Kind: "stream", Streams: 1},
		{Name: "streams", Kind: "stream", Streams: 4},
	}
}

// Case is one combination of path, load and family to measure.
type Case struct {
	Path   Path
	Load   Load
	Family int // 4 or 6
	// Alone excludes Docker, which would take hours.
	Alone bool
}

// Name is "published/rr/4".
func (c Case) Name() string { return fmt.Sprintf("%s/%s/%d", c.Path, c.Load.Name, c.Family) }

// All returns every path with every load in both families, and the cases of growth.
func All() []Case {
	var all []Case
	for _, family := range []int{4, 6} {
		for _, p := range Paths() {
			for _, l := range Loads() {
				all = append(all, Case{Path: p, Load: l, Family: family})
			}
		}
	}
	return append(all, growth()...)
}

// headline lists the cases that have a target, and the main cases of IPv6.
var headline = []string{
	"published/{rr,crr,http,httpclose,udp64,stream}/4", "outbound/{rr,crr,udp64,stream}/4", "peers/{rr,crr,udp64,stream}/4",
	"localhost/{rr,crr}/4", "host/rr/4", "hairpin/rr/4", "published/{rr,crr}/6", "peers/rr/6",
	"ports10000/crr/4", "flows1000000/rr/4", "setup/connect50/4",
}

// headlineAlone lists the cases with a target that take Docker too long to be measured with
// the others; Docker is measured on them in growth.
var headlineAlone = []string{"localhost/crr60000/4", "setup/publish{1000,10000}/4"}

// engine lists the cases that compare a Docker Engine's containers in Fairlead's network with
// Fairlead's sandboxes: every kind of load at the edge of the host, and between two
// containers.
var engine = []string{"published/{rr,crr,http,httpclose,udp64,stream}/4", "peers/{rr,crr,udp64,stream}/4"}

// overlay lists the cases that compare networks of two hosts with each other and with the network
// between the hosts.
var overlay = []string{"overlay/{rr,crr,udp64,stream}/4", "overlay/{rr,stream}/6"}

// smoke lists a few cases that together cover every path, kind of load and family, and the
// quick ones of growth.
var smoke = []string{
	"published/udp64/4", "outbound/crr/4", "peers/stream/4", "host/http/4", "localhost/httpclose/4", "hairpin/rr/6", "overlay/rr/4",
	"ports10000/crr/4", "setup/publish10000/4",
}

// choice is a pattern that selects cases, and how they are then measured.
type choice struct {
	pattern string
	alone   bool
}

// lists maps the words that select several cases.
func lists() map[string][]choice {
	choose := func(alone bool, patterns ...string) (list []choice) {
		for _, p := range patterns {
			list = append(list, choice{p, alone})
		}
		return list
	}
	var grown []string
	for _, c := range growth() {
		if !c.long() {
			grown = append(grown, c.Name())
		}
	}
	return map[string][]choice{
		"all": choose(false, "*/*/*"), "smoke": choose(false, smoke...), "engine": choose(false, engine...), "overlay": choose(false, overlay...), "growth": choose(false, grown...),
		"headline": append(choose(false, headline...), choose(true, headlineAlone...)...),
	}
}

// Select returns the cases that match the patterns, in the order of All. A pattern is a name
// with *, or {a,b}, or one of the words all, headline, engine, overlay, growth and smoke.
func Select(patterns []string) ([]Case, error) {
	var choices []choice
	for _, p := range patterns {
		if list, ok := lists()[p]; ok {
			choices = append(choices, list...)
		} else {
			choices = append(choices, choice{pattern: p})
		}
	}
	var selected []Case
	matched := make(map[choice]bool)
	for _, c := range All() {
		c.Alone = true
		hit := false
		for _, ch := range choices {
			if matches(ch.pattern, c.Name()) {
				hit, matched[ch] = true, true
				c.Alone = c.Alone && ch.alone
			}
		}
		if hit {
			selected = append(selected, c)
		}
	}
	for _, ch := range choices {
		if !matched[ch] {
			return nil, fmt.Errorf("no case is called %q (a case is PATH/LOAD/FAMILY, as in published/rr/4)", ch.pattern)
		}
	}
	return selected, nil
}

// matches reports whether a pattern fits a name.
func matches(pattern, name string) bool {
	return slices.ContainsFunc(expand(pattern), func(p string) bool {
		ok, err := path.Match(p, name)
		return err == nil && ok
	})
}

// expand expands each {a,b} of a pattern.
func expand(pattern string) []string {
	before, rest, open := strings.Cut(pattern, "{")
	list, after, closed := strings.Cut(rest, "}")
	if !open || !closed {
		return []string{pattern}
	}
	var out []string
	for word := range strings.SplitSeq(list, ",") {
		out = append(out, expand(before+word+after)...)
	}
	return out
}
