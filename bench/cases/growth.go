// SPDX-License-Identifier: Apache-2.0

package cases

import "fmt"

// Paths of growth: Published, on a host with more objects.
const (
	Ports100      Path = "ports100" // the container publishes 100 ports
	Ports1000     Path = "ports1000"
	Ports10000    Path = "ports10000"
	Endpoints10   Path = "endpoints10" // its network has 10 endpoints
	Endpoints100  Path = "endpoints100"
	Endpoints1000 Path = "endpoints1000"
	Flows100000   Path = "flows100000" // conntrack holds 100 000 entries of idle flows
	Flows1000000  Path = "flows1000000"
)

// Setup is not a path: these cases measure how long it takes to set up a network.
const Setup Path = "setup"

// Grown holds the number of objects that a path has.
type Grown struct{ Ports, Endpoints, Flows int }

// Growth returns the growth of a path, the zero value for a path without growth.
func (p Path) Growth() Grown {
	return map[Path]Grown{
		Ports100: {Ports: 100}, Ports1000: {Ports: 1000}, Ports10000: {Ports: 10_000},
		Endpoints10: {Endpoints: 10}, Endpoints100: {Endpoints: 100}, Endpoints1000: {Endpoints: 1000},
		Flows100000: {Flows: 100_000}, Flows1000000: {Flows: 1_000_000},
	}[p]
}

// Grows reports whether the path is a path of growth.
func (p Path) Grows() bool { return p.Growth() != Grown{} }

// Kinds of setups.
const (
	Publish = "publish" // start a container that publishes Size ports
	Connect = "connect" // connect a running container to a second network and disconnect it, Size times
)

// growth lists the cases with more objects, and of making more of them.
func growth() []Case {
	crr, rr := Load{Name: "crr", Kind: "crr", Size: 1}, Load{Name: "rr", Kind: "rr", Size: 1}
	list := []Case{
		{Path: Ports100, Load: crr, Family: 4}, {Path: Ports1000, Load: crr, Family: 4}, {Path: Ports10000, Load: crr, Family: 4},
		{Path: Endpoints10, Load: crr, Family: 4}, {Path: Endpoints100, Load: crr, Family: 4}, {Path: Endpoints1000, Load: crr, Family: 4},
		{Path: Flows100000, Load: rr, Family: 4}, {Path: Flows1000000, Load: rr, Family: 4},
		{Path: Localhost, Load: Load{Name: "crr60000", Kind: "crr60000", Size: 1, Fresh: true}, Family: 4},
	}
	for _, n := range []int{1, 100, 1000, 10_000} {
		list = append(list, Case{Path: Setup, Load: Load{Name: fmt.Sprint(Publish, n), Kind: Publish, Size: n, Fresh: true}, Family: 4})
	}
	for _, n := range []int{50, 1000} {
		list = append(list, Case{Path: Setup, Load: Load{Name: fmt.Sprint(Connect, n), Kind: Connect, Size: n}, Family: 4})
	}
	return list
}

// long lists a case that takes too long to be selected by the word growth.
func (c Case) long() bool {
	return c.Load.Kind == Connect && c.Load.Size > 50
}
