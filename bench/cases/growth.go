// SPDX-License-Identifier: Apache-2.0

package cases

import "fmt"

// Paths of growth: Published, on a host that bears more.
const (
	Ports1000    Path = "ports1000"    // the container publishes 1 000 ports
	Ports10000   Path = "ports10000"   // 10 000
	Flows1000000 Path = "flows1000000" // conntrack holds 1 000 000 entries, of flows that are silent
)

// Setup is no path: what is measured is how a network is made.
const Setup Path = "setup"

// Grown says how much of what a path has.
type Grown struct{ Ports, Flows int }

// Growth is that of a path; the zero value: it has none.
func (p Path) Growth() Grown {
	return map[Path]Grown{
		Ports1000: {Ports: 1000}, Ports10000: {Ports: 10_000}, Flows1000000: {Flows: 1_000_000},
	}[p]
}

// Grows reports whether the path is one of growth.
func (p Path) Grows() bool { return p.Growth() != Grown{} }

// Kinds of setups.
const (
	Publish = "publish" // start a container that publishes Size ports
	Connect = "connect" // connect a running container to a second network and disconnect it, Size times
)

// growth are the cases of more, and of making more.
func growth() []Case {
	crr, rr := Load{Name: "crr", Kind: "crr", Size: 1}, Load{Name: "rr", Kind: "rr", Size: 1}
	list := []Case{
		{Ports1000, crr, 4}, {Ports10000, crr, 4}, {Flows1000000, rr, 4},
		{Localhost, Load{Name: "crr60000", Kind: "crr60000", Size: 1, Fresh: true}, 4},
	}
	for _, n := range []int{1, 1000, 10_000} {
		list = append(list, Case{Setup, Load{Name: fmt.Sprint(Publish, n), Kind: Publish, Size: n, Fresh: true}, 4})
	}
	for _, n := range []int{50, 1000} {
		list = append(list, Case{Setup, Load{Name: fmt.Sprint(Connect, n), Kind: Connect, Size: n}, 4})
	}
	return list
}

// long is a case that takes too long to be chosen by the word growth.
func (c Case) long() bool {
	return c.Load.Kind == Connect && c.Load.Size > 50
}
