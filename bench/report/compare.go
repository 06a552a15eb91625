// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/bench/cases"
)

// Subject is the contestant that the run is about; the others are compared with it.
const Subject = "fairlead"

// enough is the number of rounds needed to judge a target.
const enough = 12

// significance is the significance level: a difference is shown if rounds without any
// difference would be at least this lopsided with a lower probability.
const significance = 0.05

// Verdict is what the rounds show about the subject.
type Verdict string

// The verdicts.
const (
	Better       Verdict = "better"
	Worse        Verdict = "worse"
	NoDifference Verdict = "no difference"
	TooFew       Verdict = "too few rounds" // to show one, whatever they are
)

// Comparison compares one case's measure for two contestants.
type Comparison struct {
	Case, Against    string
	Measure          cases.Measure
	Ours, Theirs     float64 // medians
	Ratio, Low, High float64 // median and range of the rounds' ratios ours/theirs
	Wins, Rounds     int     // rounds in which ours did better, of those that both measured
	Verdict          Verdict
	Target           *Target
}

// Target is a bound on a ratio, or on a figure.
type Target struct {
	Bound  float64
	Most   bool // the bound is an upper one
	Met    bool
	Judged bool // whether there were enough rounds
}

// Compare compares the subject with every other contestant in every case.
func (r *Run) Compare() []Comparison { return r.compare(Subject, r.Order) }

// CompareUnder compares Fairlead as an engine's driver, Under or Untracked, with the engines'
// own networks. It has to meet the subject's targets against them.
func (r *Run) CompareUnder(driver string) []Comparison {
	return r.compare(driver, slices.DeleteFunc(slices.Clone(r.Order), func(name string) bool { return !isDocker(name) }))
}

// compare compares one contestant with others in every case.
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

// compare compares two contestants. It returns false if they have no round in common.
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

// ratios returns one contestant's figures over another's, for the rounds that both measured.
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

// better orders contestants by their results, worst first.
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
	if against == cases.Under || against == cases.Untracked { // the goal is that the subject is not better
		most = !most
	}
	t := judge(c.Ratio, bound, most, c.Rounds)
	c.Target = &t
}

// verdict returns the verdict of a two-sided sign test.
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

// signTest returns the probability that fair coin tosses are at least this lopsided.
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
