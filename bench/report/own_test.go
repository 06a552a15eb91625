// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/bench/load"
)

func TestBounds(t *testing.T) {
	for _, tc := range []struct {
		name, measure string
		figure        float64
		rounds        int
		want          string // in the table; "" if it has no target
	}{
		{"setup/publish1000/4", "took", 99, 12, "≤ 100.00 met"},
		{"setup/publish1000/4", "took", 101, 12, "≤ 100.00 missed"},
		{"setup/publish1000/4", "took", 99, 11, "≤ 100.00 not judged"},
		{"localhost/crr60000/4", "kept", 0.95, 12, "≥ 0.90 met"},
		{"localhost/crr60000/4", "kept", 0.12, 12, "≥ 0.90 missed"},
		{"setup/publish1/4", "took", 5, 12, ""},
	} {
		c := Case{Name: tc.name}
		for range tc.rounds {
			c.Rounds = append(c.Rounds, Round{Measured: map[string]load.Measures{Subject: {tc.measure: tc.figure}}})
		}
		run := &Run{Order: []string{Subject}, Cases: []Case{c}}
		var out strings.Builder
		if err := run.WriteTable(&out); err != nil {
			t.Fatal(err)
		}
		_, alone, found := strings.Cut(out.String(), "FAIRLEAD ALONE")
		if found != (tc.want != "") || !strings.Contains(alone, tc.want) {
			t.Errorf("%s, %s %v in %d rounds: want %q in\n%s", tc.name, tc.measure, tc.figure, tc.rounds, tc.want, out.String())
		}
	}
}

func TestCostsAreShown(t *testing.T) {
	run := &Run{Cases: []Case{{Name: "published/rr/4", Costs: map[string]Cost{"from_uplink": {Runs: 7, Nanoseconds: 123}}}}}
	var out strings.Builder
	if err := run.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	if want := []string{"published/rr/4", "from_uplink", "7", "123"}; !strings.Contains(strings.Join(strings.Fields(out.String()), " "), strings.Join(want, " ")) {
		t.Errorf("no %v in\n%s", want, out.String())
	}
}
