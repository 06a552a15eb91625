// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"github.com/fairlead-net/fairlead/bench/cases"
)

// yardstick is the contestant that both runs are measured by before they are compared, so
// that a slower machine on one of the days does not matter.
const yardstick = "limit"

// changeSignificance is the significance level: a change is shown if two runs without any
// difference would differ at least this much with a lower probability. It is low because many
// cases are compared at once.
const changeSignificance = 0.01

// Change describes how the measure of one case changed between two runs.
type Change struct {
	Case     string
	Measure  cases.Measure
	Old, New float64 // median ratios to the yardstick
	Verdict  Verdict // on the new run
}

// Changes compares two runs, case by case, by the ratios of their rounds.
func Changes(before, after *Run) []Change {
	var all []Change
	for _, c := range before.Cases {
		i := slices.IndexFunc(after.Cases, func(other Case) bool { return other.Name == c.Name })
		if i < 0 {
			continue
		}
		for _, m := range cases.Measures() {
			a, b := c.ratios(m, Subject, yardstick), after.Cases[i].ratios(m, Subject, yardstick)
			if len(a) == 0 || len(b) == 0 {
				continue
			}
			all = append(all, Change{c.Name, m, median(a), median(b), changeVerdict(m, a, b)})
		}
	}
	return all
}

// WriteChanges writes the changes for a human reader.
func WriteChanges(w io.Writer, list []Change) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `Ratio: the median of the rounds' ratios, %s over %s. A change is shown if a
two-sided Mann-Whitney test over the rounds' ratios gives p < %g.

`, Subject, yardstick, changeSignificance)
	tab := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "CASE\tMEASURE\tOLD\tNEW\tCHANGE\tSHOWN")
	for _, c := range list {
		fmt.Fprintf(tab, "%s\t%s\t%.2f\t%.2f\t%+.0f %%\t%s\n", c.Case, c.Measure.Name, c.Old, c.New, 100*(c.New/c.Old-1), c.Verdict)
	}
	tab.Flush()
	_, err := b.WriteTo(w)
	return err
}

func changeVerdict(m cases.Measure, before, after []float64) Verdict {
	p, rises := mannWhitney(before, after)
	switch most, _ := mannWhitney(ascending(0, len(before)), ascending(len(before), len(after))); {
	case most >= changeSignificance:
		return TooFew
	case p >= changeSignificance:
		return NoDifference
	case rises != m.Lower:
		return Better
	}
	return Worse
}

// ascending returns n numbers: from, from+1, …
func ascending(from, n int) (list []float64) {
	for i := range n {
		list = append(list, float64(from+i))
	}
	return list
}

// mannWhitney returns the probability that two samples of the same distribution differ at
// least as much as these, by the normal approximation with corrections for ties and
// continuity, and whether the second is the higher one.
func mannWhitney(a, b []float64) (p float64, rises bool) {
	all := slices.Sorted(slices.Values(slices.Concat(a, b)))
	u, ties := 0.0, 0.0
	for _, x := range b {
		for _, y := range a {
			switch {
			case x > y:
				u++
			case x == y:
				u += 0.5
			}
		}
	}
	for i := 0; i < len(all); {
		same := i
		for same < len(all) && all[same] == all[i] {
			same++
		}
		t := float64(same - i)
		ties += t*t*t - t
		i = same
	}
	n, m := float64(len(a)), float64(len(b))
	mean := n * m / 2
	variance := n * m / 12 * (n + m + 1 - ties/((n+m)*(n+m-1)))
	if variance <= 0 {
		return 1, false
	}
	z := max(0, math.Abs(u-mean)-0.5) / math.Sqrt(variance)
	return math.Erfc(z / math.Sqrt2), u > mean
}
