// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
)

// WriteTable writes the results for a human reader.
func (r *Run) WriteTable(w io.Writer) error {
	var b bytes.Buffer
	r.writeHead(&b)
	if slices.Contains(r.Order, Subject) {
		r.writeComparisons(&b)
		r.writeBounds(&b)
	}
	r.writeFigures(&b)
	r.writeCosts(&b)
	r.writeAbsences(&b)
	_, err := b.WriteTo(w)
	return err
}

func (r *Run) writeHead(b *bytes.Buffer) {
	e := r.Environment
	fmt.Fprintf(b, "%s, Linux %s %s, %d × %s; clients on processor %d, servers on %d\n",
		r.Began.Format(time.DateOnly), e.Kernel, e.Machine, e.CPUs, e.CPU, e.ClientCPU, e.ServerCPU)
	fmt.Fprintf(b, "%d rounds of %g s, in %s\n", r.Rounds, r.Seconds, r.Took)
	for _, name := range r.Order {
		fmt.Fprintf(b, "  %s: %s\n", name, r.Contestants[name])
	}
	fmt.Fprintln(b)
}

func (r *Run) writeComparisons(b *bytes.Buffer) {
	fmt.Fprintf(b, `Ratio: the median of the rounds' own ratios, %s over the other, and their range.
Wins: rounds in which %s did better. A difference is shown if a two-sided sign
test gives p < %g (10 of 12 wins). A target is judged with %d rounds or more.

`, Subject, Subject, significance, enough)
	tabulate(b, Subject, r.Compare())
	for _, driver := range []string{cases.Under, cases.Untracked} {
		if under := r.CompareUnder(driver); len(under) > 0 {
			fmt.Fprintf(b, "The same for %s beside Docker's own networks.\n\n", driver)
			tabulate(b, driver, under)
		}
	}
}

// tabulate writes a table of one contestant beside others.
func tabulate(b *bytes.Buffer, name string, list []Comparison) {
	tab := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tab, "CASE\tMEASURE\t%s\tOTHER\t\tRATIO\tRANGE\tWINS\tSHOWN\tTARGET\n", strings.ToUpper(name))
	for _, c := range list {
		fmt.Fprintf(tab, "%s\t%s %s\t%s\t%s\t%s\t%.2f\t%.2f–%.2f\t%d/%d\t%s\t%s\n",
			c.Case, c.Measure.Name, c.Measure.Unit, figure(c.Ours), figure(c.Theirs), c.Against,
			c.Ratio, c.Low, c.High, c.Wins, c.Rounds, c.Verdict, c.target())
	}
	tab.Flush()
	fmt.Fprintln(b)
}

// target returns the target of a comparison, or nothing.
func (c Comparison) target() string {
	if c.Target == nil {
		return ""
	}
	return c.Target.text()
}

// text returns the target as in "≤ 1.04 met".
func (t Target) text() string {
	sign, word := "≥", "missed"
	if t.Most {
		sign = "≤"
	}
	switch {
	case !t.Judged:
		word = "not judged"
	case t.Met:
		word = "met"
	}
	return fmt.Sprintf("%s %.2f %s", sign, t.Bound, word)
}

// figure formats a number with three significant digits.
func figure(v float64) string {
	switch size := math.Abs(v); {
	case size >= 100:
		return fmt.Sprintf("%.0f", v)
	case size >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// writeFigures writes what each contestant measured, as medians of its rounds.
func (r *Run) writeFigures(b *bytes.Buffer) {
	measures := append(cases.Measures(), cases.Measure{Name: "sent", Unit: "/s"}, cases.Measure{Name: "loss", Lower: true})
	tab := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tab, "MEDIANS\t\t%s\n", strings.ToUpper(strings.Join(r.Order, "\t")))
	for _, c := range r.Cases {
		for _, m := range measures {
			line, any := fmt.Sprintf("%s\t%s %s", c.Name, m.Name, m.Unit), false
			for _, name := range r.Order {
				cell := "–"
				if list := c.values(name, m.Name); len(list) > 0 {
					cell, any = figure(median(list)), true
				}
				line += "\t" + cell
			}
			if any {
				fmt.Fprintln(tab, line)
			}
		}
	}
	tab.Flush()
}

// values returns what a contestant measured in the rounds.
func (c Case) values(name, measure string) (list []float64) {
	for _, round := range c.Rounds {
		if v, ok := round.Measured[name][measure]; ok {
			list = append(list, v)
		}
	}
	return list
}

// writeAbsences writes which contestants did not take part in which cases, and what failed.
func (r *Run) writeAbsences(b *bytes.Buffer) {
	fmt.Fprintln(b)
	for _, c := range r.Cases {
		for _, name := range slices.Sorted(maps.Keys(c.Absent)) {
			fmt.Fprintf(b, "%s: no %s: %s\n", c.Name, name, c.Absent[name])
		}
		for _, failure := range c.failures() {
			fmt.Fprintf(b, "%s: FAILED: %s\n", c.Name, failure)
		}
	}
}

// Failures returns what should have been measured and was not, one per line.
func (r *Run) Failures() (all []string) {
	for _, c := range r.Cases {
		for _, failure := range c.failures() {
			all = append(all, c.Name+": "+failure)
		}
	}
	return all
}

func (c Case) failures() (all []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Failed)) {
		all = append(all, fmt.Sprintf("%s: %s", name, c.Failed[name]))
	}
	for i, round := range c.Rounds {
		for _, name := range slices.Sorted(maps.Keys(round.Failed)) {
			all = append(all, fmt.Sprintf("round %d: %s: %s", i+1, name, round.Failed[name]))
		}
	}
	return all
}
