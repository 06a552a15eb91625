// SPDX-License-Identifier: Apache-2.0

// Package cases says what the benchmarks measure: paths, loads, and what they
// ought to show. It is data; others run and report it.
package cases

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Path is the way from a client to a server.
type Path string

// The paths. A container is what the contestant calls one.
const (
	Published Path = "published" // outside → a port the host publishes → container
	Outbound  Path = "outbound"  // container → masquerade → outside
	Peers     Path = "peers"     // container → container of the same network
	Host      Path = "host"      // host → container
	Localhost Path = "localhost" // host → 127.0.0.1 or ::1, published → container
	Hairpin   Path = "hairpin"   // container → published port of its host → another container
)

// Paths are those that every load passes along.
func Paths() []Path { return []Path{Published, Outbound, Peers, Host, Localhost, Hairpin} }

// Load is what passes along it.
type Load struct {
	Name    string
	Kind    string // as package load has it
	Size    int    // bytes a message; of a setup, how many of what it makes
	Streams int
	Fresh   bool // every round has a new world; there is nothing to warm up
}

// Loads are those that pass along every path.
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

// Case is one thing to measure.
type Case struct {
	Path   Path
	Load   Load
	Family int // 4 or 6
	// Alone: Docker does not take part, which would take it hours.
	Alone bool
}

// Name is "published/rr/4".
func (c Case) Name() string { return fmt.Sprintf("%s/%s/%d", c.Path, c.Load.Name, c.Family) }

// All are every path with every load in both families, and growth.
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

// headline are the cases that have a target, and IPv6's main ones.
var headline = []string{
	"published/{rr,crr,http,httpclose,udp64,stream}/4", "outbound/{rr,crr,udp64,stream}/4", "peers/{rr,crr,udp64,stream}/4",
	"localhost/{rr,crr}/4", "host/rr/4", "hairpin/rr/4", "published/{rr,crr}/6", "peers/rr/6",
	"ports10000/crr/4", "flows1000000/rr/4", "setup/connect50/4",
}

// headlineAlone are those that have a target and that Docker has no time for
// among the others; it has its turn in growth.
var headlineAlone = []string{"localhost/crr60000/4", "setup/publish{1000,10000}/4"}

// engine are those that tell a Docker Engine's containers in Fairlead's network from
// Fairlead's sandboxes: every kind of load at the edge of the host, and between two.
var engine = []string{"published/{rr,crr,http,httpclose,udp64,stream}/4", "peers/{rr,crr,udp64,stream}/4"}

// smoke are a few that together touch every path, kind of load and family, and
// of growth what is quick.
var smoke = []string{
	"published/udp64/4", "outbound/crr/4", "peers/stream/4", "host/http/4", "localhost/httpclose/4", "hairpin/rr/6",
	"ports10000/crr/4", "setup/publish10000/4",
}

// choice is a pattern that chooses cases, and how they are measured then.
type choice struct {
	pattern string
	alone   bool
}

// lists are the words that choose several cases.
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
		"all": choose(false, "*/*/*"), "smoke": choose(false, smoke...), "engine": choose(false, engine...), "growth": choose(false, grown...),
		"headline": append(choose(false, headline...), choose(true, headlineAlone...)...),
	}
}

// Select returns the cases that patterns name, in the order of All. A pattern
// is a name with *, or {a,b}, or one of the words all, headline,
// engine, growth and smoke.
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

// expand writes each {a,b} of a pattern out.
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
