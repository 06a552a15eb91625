// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/bench/cases"
)

// Subject is who the run is about; the others are compared with it.
const Subject = "fairlead"

// enough is how many rounds it takes to judge a target.
const enough = 12

// significance is the probability, that rounds without any difference come out
// as lopsided as these or more, below which a difference is shown.
const significance = 0.05

// Verdict is what the rounds show of the subject.
type Verdict string

// The verdicts.
const (
	Better       Verdict = "better"
	Worse        Verdict = "worse"
	NoDifference Verdict = "no difference"
	TooFew       Verdict = "too few rounds" // to show one, whatever they are
)

// Comparison is one case's measure, one contestant's beside another's.
type Comparison struct {
	Case, Against    string
	Measure          cases.Measure
	Ours, Theirs     float64 // medians
	Ratio, Low, High float64 // of the rounds' ratios ours/theirs: median and range
	Wins, Rounds     int     // rounds in which it did better, of those both measured
	Verdict          Verdict
	Target           *Target
}

// Target is a bound on a ratio, or on a figure.
type Target struct {
	Bound  float64
	Most   bool // it is to be this at most
	Met    bool
	Judged bool // there were enough rounds
}

// Compare compares the subject with everyone in every case.
func (r *Run) Compare() []Comparison { return r.compare(Subject, r.Order) }

// CompareUnder compares Fairlead as an engine's driver, Under or Untracked, with the
// engines' own networks. It is to keep the subject's targets against them.
func (r *Run) CompareUnder(driver string) []Comparison {
	return r.compare(driver, slices.DeleteFunc(slices.Clone(r.Order), func(name string) bool { return !isDocker(name) }))
}

// compare compares one with others in every case.
func (r *Run) compare(one string, others []string) []Comparison {
	var all []Comparison
	for _, c := range r.Cases {
		for _, m := range cases.Measures() {
			all = append(all, c.compareAll(m, one, others)...)
		}
	}
	return all
}

// isDocker reports whether a contestant is Docker with a network of its own.
func isDocker(name string) bool { return strings.HasPrefix(name, cases.Docker) }

func (c Case) compareAll(m cases.Measure, one string, others []string) []Comparison {
	var list []Comparison
	var docker []int // indexes in list
	for _, other := range others {
		cmp, ok := c.compare(m, one, other)
		if !ok {
			continue
		}
		cmp.aim(other)
		if isDocker(other) {
			docker = append(docker, len(list))
		}
		list = append(list, cmp)
	}
	if len(docker) > 0 {
		strongest := slices.MinFunc(docker, func(a, b int) int { return list[a].better(list[b]) })
		list[strongest].aim(cases.Docker)
	}
	return list
}

// compare compares two contestants; false: they have no round in common.
func (c Case) compare(m cases.Measure, one, other string) (Comparison, bool) {
	cmp := Comparison{Case: c.Name, Against: other, Measure: m}
	ratios := c.ratios(m, one, other)
	if len(ratios) == 0 {
		return cmp, false
	}
	losses := 0
	for _, ratio := range ratios {
		switch {
		case ratio == 1:
		case (ratio < 1) == m.Lower:
			cmp.Wins++
		default:
			losses++
		}
	}
	cmp.Ours, cmp.Theirs = median(c.values(one, m.Name)), median(c.values(other, m.Name))
	cmp.Ratio = median(ratios)
	cmp.Low, cmp.High, cmp.Rounds = slices.Min(ratios), slices.Max(ratios), len(ratios)
	cmp.Verdict = verdict(cmp.Wins, losses)
	return cmp, true
}

// ratios are one's over another's, of the rounds that both measured.
func (c Case) ratios(m cases.Measure, one, other string) (list []float64) {
	for _, round := range c.Rounds {
		a, ok := round.Measured[one][m.Name]
		b, ok2 := round.Measured[other][m.Name]
		if ok && ok2 && one != other && b != 0 {
			list = append(list, a/b)
		}
	}
	return list
}

// better orders by how well it does, worst first.
func (c Comparison) better(other Comparison) int {
	if c.Measure.Lower {
		c, other = other, c
	}
	switch {
	case c.Ratio < other.Ratio:
		return -1
	case c.Ratio > other.Ratio:
		return 1
	}
	return 0
}

// aim looks the target up that the comparison is judged by.
func (c *Comparison) aim(against string) {
	bound, ok := cases.TargetOf(c.Case, c.Measure.Name, against)
	if !ok {
		return
	}
	most := c.Measure.Lower
	if against == cases.Under || against == cases.Untracked { // that the subject is no better is what is aimed at
		most = !most
	}
	t := judge(c.Ratio, bound, most, c.Rounds)
	c.Target = &t
}

// verdict is that of a two-sided sign test.
func verdict(wins, losses int) Verdict {
	switch {
	case signTest(wins+losses, 0) >= significance:
		return TooFew
	case signTest(wins, losses) >= significance:
		return NoDifference
	case wins > losses:
		return Better
	}
	return Worse
}

// signTest is how likely it is that fair coins fall as lopsidedly as this.
func signTest(wins, losses int) float64 {
	n := wins + losses
	p := 0.0
	for k := max(wins, losses); k <= n; k++ {
		p += math.Exp(lnFactorial(n) - lnFactorial(k) - lnFactorial(n-k) - float64(n)*math.Ln2)
	}
	return min(1, 2*p)
}

func lnFactorial(n int) float64 {
	v, _ := math.Lgamma(float64(n) + 1)
	return v
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
