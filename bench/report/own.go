// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/fairlead-net/fairlead/bench/cases"
)

// Bounded is one of the subject's own figures that has a target.
type Bounded struct {
	Case    string
	Measure cases.Measure
	Median  float64
	Rounds  int
	Target  Target
}

// Bounds judges the figures that have a target of their own.
func (r *Run) Bounds() (all []Bounded) {
	for _, c := range r.Cases {
		for _, m := range cases.Measures() {
			values := c.values(Subject, m.Name)
			bound, ok := cases.TargetOf(c.Name, m.Name, cases.Itself)
			if !ok || len(values) == 0 {
				continue
			}
			b := Bounded{Case: c.Name, Measure: m, Median: median(values), Rounds: len(values)}
			b.Target = judge(b.Median, bound, m.Lower, b.Rounds)
			all = append(all, b)
		}
	}
	return all
}

// judge compares a result with a bound.
func judge(found, bound float64, most bool, rounds int) Target {
	met := found >= bound
	if most {
		met = found <= bound
	}
	return Target{Bound: bound, Most: most, Met: met, Judged: rounds >= enough}
}

func (r *Run) writeBounds(b *bytes.Buffer) {
	bounds := r.Bounds()
	if len(bounds) == 0 {
		return
	}
	tab := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "FAIRLEAD ALONE\tMEASURE\tMEDIAN\tROUNDS\tTARGET")
	for _, f := range bounds {
		fmt.Fprintf(tab, "%s\t%s %s\t%s\t%d\t%s\n", f.Case, f.Measure.Name, f.Measure.Unit, figure(f.Median), f.Rounds, f.Target.text())
	}
	tab.Flush()
	fmt.Fprintln(b)
}

// writeCosts shows what the subject's programs cost in each case.
func (r *Run) writeCosts(b *bytes.Buffer) {
	if !slices.ContainsFunc(r.Cases, func(c Case) bool { return len(c.Costs) > 0 }) {
		return
	}
	fmt.Fprintln(b, "\nFairlead's programs in the warm-up, timed by the kernel, which adds to each run.")
	tab := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "CASE\tPROGRAM\tRUNS\tNS A RUN")
	for _, c := range r.Cases {
		for _, name := range slices.Sorted(maps.Keys(c.Costs)) {
			fmt.Fprintf(tab, "%s\t%s\t%d\t%.0f\n", c.Name, name, c.Costs[name].Runs, c.Costs[name].Nanoseconds)
		}
	}
	tab.Flush()
}
