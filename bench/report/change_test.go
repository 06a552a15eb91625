// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"testing"

	"github.com/fairlead-net/fairlead/bench/cases"
)

func TestMannWhitney(t *testing.T) {
	for _, tc := range []struct {
		name  string
		a, b  []float64
		p     float64 // as in R: wilcox.test(a, b, exact = FALSE)
		rises bool
	}{
		{"apart", []float64{1, 2, 3, 4, 5}, []float64{6, 7, 8, 9, 10}, 0.01219, true},
		{"apart, falling", []float64{6, 7, 8, 9, 10}, []float64{1, 2, 3, 4, 5}, 0.01219, false},
		{"the same", []float64{1, 2, 3}, []float64{1, 2, 3}, 1, false},
		{"all tied", []float64{1, 1}, []float64{1, 1}, 1, false},
	} {
		p, rises := mannWhitney(tc.a, tc.b)
		if math.Abs(p-tc.p) > 1e-5 || rises != tc.rises {
			t.Errorf("%s: p = %.5f, rises %t; want %.5f, %t", tc.name, p, rises, tc.p, tc.rises)
		}
	}
}

func TestChanges(t *testing.T) {
	limit := map[string]float64{"limit": 10}
	around := func(v float64) func(int) float64 {
		return func(round int) float64 { return v + 0.1*float64(round%5) }
	}
	for _, tc := range []struct {
		name, measure string
		before, after float64
		want          Verdict
	}{
		{"latency falls", "p50", 11, 9, Better},
		{"latency rises", "p50", 9, 11, Worse},
		{"rate rises", "rate", 9, 11, Better},
		{"rate falls", "rate", 11, 9, Worse},
		{"nothing", "p50", 10, 10, NoDifference},
		{"noise", "p50", 10, 10.05, NoDifference},
	} {
		run := func(v float64) *Run {
			return &Run{Cases: []Case{twelve("peers/rr/4", tc.measure, around(v), limit)}}
		}
		got := Changes(run(tc.before), run(tc.after))
		if len(got) != 1 || got[0].Verdict != tc.want {
			t.Errorf("%s: %+v, want %s", tc.name, got, tc.want)
		}
	}
	p50 := cases.Measure{Name: "p50", Lower: true}
	if got := changeVerdict(p50, []float64{1, 2, 3}, []float64{7, 8, 9}); got != TooFew {
		t.Errorf("three rounds each: %s, want %s", got, TooFew)
	}
}
