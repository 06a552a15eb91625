// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// Bounds on how far Fairlead may be from the table.
const (
	exact = 0.01 // where the environment is the same
	// relative bounds the ratio to the limit where the environment differs. Another kernel
	// changes one figure slightly more than the other.
	relative = 0.03
)

// otherwise describes how Fairlead is compared with a table of another environment.
func (t *table) otherwise(here environment) string {
	return fmt.Sprintf("%s was counted with %s; here are %s: ratios to the limit are compared, within %.0f %%, until make bench-count counts again",
		tablePath, t.Environment, here, 100*relative)
}

// difference is a case whose count differs from the table.
type difference struct {
	name          string
	before, after float64
	bound         float64
	toLimit       bool // both are ratios to the limit
}

func (d difference) String() string {
	what, before, after := "instructions", fmt.Sprintf("%.0f", d.before), fmt.Sprintf("%.0f", d.after)
	if d.toLimit {
		what, before, after = "of the limit", fmt.Sprintf("%.3f", d.before), fmt.Sprintf("%.3f", d.after)
	}
	return fmt.Sprintf("%s: fairlead takes %s %s, the table has %s: %+.1f %%, bound %.0f %%",
		d.name, after, what, before, 100*(d.after/d.before-1), 100*d.bound)
}

// compare compares the counts with the table: directly where the environment is the table's,
// and by their ratios to the limit elsewhere.
func compare(have, got *table) ([]difference, error) {
	toLimit := have.Environment != got.Environment
	var found []difference
	for _, name := range slices.Sorted(maps.Keys(have.counts)) {
		d := difference{name: name, before: have.counts[name]["fairlead"], after: got.counts[name]["fairlead"], bound: exact, toLimit: toLimit}
		if toLimit {
			d.before, d.after, d.bound = d.before/have.counts[name]["limit"], d.after/got.counts[name]["limit"], relative
		}
		if !finite(d.before) || !finite(d.after) {
			return nil, fmt.Errorf("case %s was not counted", name)
		}
		if math.Abs(d.after/d.before-1) > d.bound {
			found = append(found, d)
		}
	}
	return found, nil
}

func finite(n float64) bool { return n > 0 && !math.IsInf(n, 0) }
