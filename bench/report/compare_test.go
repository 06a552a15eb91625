// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"testing"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/load"
)

// twelve returns a case whose rounds have these measures of limit and the Docker versions,
// and twelve times that of fairlead.
func twelve(name, measure string, fairlead func(round int) float64, others map[string]float64) Case {
	c := Case{Name: name}
	for i := range 12 {
		m := map[string]load.Measures{"fairlead": {measure: fairlead(i)}}
		for other, v := range others {
			m[other] = load.Measures{measure: v}
		}
		c.Rounds = append(c.Rounds, Round{Measured: m})
	}
	return c
}

func steady(v float64) func(int) float64 { return func(int) float64 { return v } }

// sometimes returns 8 in some rounds and 12 in the others.
func sometimes(low int) func(int) float64 {
	return func(round int) float64 {
		if round < low {
			return 8
		}
		return 12
	}
}

func TestVerdict(t *testing.T) {
	for _, tc := range []struct {
		name, measure string
		fairlead      func(int) float64
		want          Verdict
		wins          int
		ratio         float64
	}{
		{"lower latency is better", "p50", steady(9), Better, 12, 0.9},
		{"higher latency is worse", "p50", steady(11), Worse, 0, 1.1},
		{"higher rate is better", "rate", steady(11), Better, 12, 1.1},
		{"lower rate is worse", "rate", steady(9), Worse, 0, 0.9},
		{"equal is no win", "rate", steady(10), TooFew, 0, 1},
		{"10 of 12 wins", "p50", sometimes(10), Better, 10, 0.8},
		{"9 of 12 wins", "p50", sometimes(9), NoDifference, 9, 0.8},
		{"10 of 12 losses", "rate", sometimes(10), Worse, 2, 0.8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Run{Order: []string{"fairlead", "limit"}, Cases: []Case{
				twelve("peers/rr/4", tc.measure, tc.fairlead, map[string]float64{"limit": 10}),
			}}
			got := r.Compare()
			if len(got) != 1 {
				t.Fatalf("%d comparisons, want 1", len(got))
			}
			c := got[0]
			if c.Verdict != tc.want || c.Wins != tc.wins || math.Abs(c.Ratio-tc.ratio) > 1e-9 {
				t.Errorf("%s, %d wins, ratio %g; want %s, %d, %g", c.Verdict, c.Wins, c.Ratio, tc.want, tc.wins, tc.ratio)
			}
		})
	}
}

// The ratio is the median of the rounds' own ratios: a slow phase that affected both does not
// count, as it would in the ratio of the medians.
func TestRatioIsPaired(t *testing.T) {
	c := Case{Name: "peers/rr/4"}
	for _, slow := range []float64{1, 1, 5, 7, 9} {
		c.Rounds = append(c.Rounds, Round{Measured: map[string]load.Measures{
			"fairlead": {"p50": 22 * slow}, "limit": {"p50": 20 * slow},
		}})
	}
	r := Run{Order: []string{"fairlead", "limit"}, Cases: []Case{c}}
	if got := r.Compare()[0]; math.Abs(got.Low-1.1) > 1e-9 || math.Abs(got.High-1.1) > 1e-9 || got.Verdict != TooFew {
		t.Errorf("range %g to %g, %s; want 1.1 in all of too few rounds", got.Low, got.High, got.Verdict)
	}
}

func TestTargetsAreJudgedByTheStrongerDocker(t *testing.T) {
	r := Run{Order: []string{"fairlead", "docker20", "docker29"}, Cases: []Case{
		twelve("peers/crr/4", "rate", steady(12), map[string]float64{"docker20": 8, "docker29": 11}),
	}}
	var against []string
	for _, c := range r.Compare() {
		if c.Target != nil {
			against = append(against, c.Against)
			if c.Target.Met || !c.Target.Judged || c.Target.Bound != 1.2 {
				t.Errorf("target %+v with ratio %g, want one of 1.2, judged and missed", *c.Target, c.Ratio)
			}
		}
	}
	if len(against) != 1 || against[0] != "docker29" {
		t.Errorf("judged against %v, want docker29", against)
	}
}

// TestUnderDockerIsToBeAlike checks that the bound against Fairlead as a driver limits how
// much better the command line's sandboxes are, not how much worse.
func TestUnderDockerIsToBeAlike(t *testing.T) {
	for _, tc := range []struct {
		name, measure string
		under         float64 // the subject's figure is 10
		want          string
	}{
		{"peers/rr/4", "p50", 10.4, "≥ 0.95 met"}, {"peers/rr/4", "p50", 12, "≥ 0.95 missed"}, {"peers/rr/4", "p50", 5, "≥ 0.95 met"},
		{"peers/stream/4", "gbps", 9.6, "≤ 1.05 met"}, {"peers/stream/4", "gbps", 9, "≤ 1.05 missed"}, {"peers/stream/4", "gbps", 20, "≤ 1.05 met"},
	} {
		for _, driver := range []string{cases.Under, cases.Untracked} {
			r := Run{Order: []string{Subject, driver}, Cases: []Case{
				twelve(tc.name, tc.measure, steady(10), map[string]float64{driver: tc.under}),
			}}
			if got := r.Compare()[0].target(); got != tc.want {
				t.Errorf("%s, %s of 10 beside %s's %g: %q, want %q", tc.name, tc.measure, driver, tc.under, got, tc.want)
			}
		}
	}
}

// TestUnderDockerKeepsTheRatios checks that the driver is judged by the subject's bound
// against the better Docker, and is not compared with anything else.
func TestUnderDockerKeepsTheRatios(t *testing.T) {
	for _, tc := range []struct {
		under float64
		want  string
	}{
		{12.6, "≥ 1.25 met"}, {12.4, "≥ 1.25 missed"},
	} {
		r := Run{Order: []string{Subject, "limit", "docker20", "docker29", cases.Under}, Cases: []Case{
			twelve("published/crr/4", "rate", steady(20), map[string]float64{"limit": 9, "docker20": 9, "docker29": 10, cases.Under: tc.under}),
		}}
		got := r.CompareUnder(cases.Under)
		if len(got) != 2 || got[0].target() != "" || got[1].Against != "docker29" || got[1].target() != tc.want {
			t.Errorf("with %g: %+v, want docker20 without a target and docker29's %q", tc.under, got, tc.want)
		}
	}
}

func TestSignTest(t *testing.T) {
	for _, tc := range []struct {
		wins, losses int
		want         float64
	}{
		{0, 0, 1}, {6, 6, 1}, {5, 0, 0.0625}, {6, 0, 0.03125}, {10, 2, 158.0 / 4096}, {2, 10, 158.0 / 4096}, {9, 3, 598.0 / 4096},
	} {
		if got := signTest(tc.wins, tc.losses); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("signTest(%d, %d) = %g, want %g", tc.wins, tc.losses, got, tc.want)
		}
	}
}

func TestFailedRoundsAreShown(t *testing.T) {
	c := twelve("peers/rr/4", "p50", steady(9), map[string]float64{"limit": 10})
	delete(c.Rounds[3].Measured, "fairlead")
	c.Rounds[3].Failed = map[string]string{"fairlead": "broken"}
	r := Run{Order: []string{"fairlead", "limit"}, Cases: []Case{c}}
	if got := r.Compare()[0]; got.Rounds != 11 {
		t.Errorf("%d rounds compared, want 11", got.Rounds)
	}
	want := "peers/rr/4: round 4: fairlead: broken"
	if got := r.Failures(); len(got) != 1 || got[0] != want {
		t.Errorf("failures %q, want %q", got, want)
	}
}
