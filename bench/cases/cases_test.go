// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"slices"
	"testing"
)

func names(list []Case) (out []string) {
	for _, c := range list {
		out = append(out, c.Name())
	}
	return out
}

func TestSelect(t *testing.T) {
	for _, tc := range []struct {
		patterns, want []string
	}{
		{[]string{"peers/rr/6"}, []string{"peers/rr/6"}},
		{[]string{"peers/{crr,rr}/*"}, []string{"peers/rr/4", "peers/crr/4", "peers/rr/6", "peers/crr/6"}},
		{[]string{"{host,peers}/{rr,crr}/6"}, []string{"peers/rr/6", "peers/crr/6", "host/rr/6", "host/crr/6"}},
		{[]string{"host/crr/4", "host/rr/4", "host/rr/4"}, []string{"host/rr/4", "host/crr/4"}},
	} {
		got, err := Select(tc.patterns)
		if err != nil || !slices.Equal(names(got), tc.want) {
			t.Errorf("Select(%v) = %v, %v; want %v", tc.patterns, names(got), err, tc.want)
		}
	}
	for _, list := range []string{"all", "headline", "engine", "growth", "smoke"} {
		if got, err := Select([]string{list}); err != nil || len(got) == 0 {
			t.Errorf("Select(%q) = %d cases, %v", list, len(got), err)
		}
	}
	if got, err := Select([]string{"peers/rr/4", "peers/rr/5"}); err == nil {
		t.Errorf("Select of a case that does not exist = %v", names(got))
	}
}

// A case is measured without Docker only where the patterns do not ask for Docker.
func TestAlone(t *testing.T) {
	for pattern, want := range map[string]bool{"headline": true, "growth": false, "localhost/crr60000/4": false} {
		selected, err := Select([]string{pattern})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(selected, func(c Case) bool { return c.Name() == "localhost/crr60000/4" })
		if i < 0 || selected[i].Alone != want {
			t.Errorf("%s: crr60000 is number %d, alone must be %t", pattern, i, want)
		}
	}
}

// Each target belongs to a case that make bench measures, or make bench-overlay.
func TestTargetsAreMeasured(t *testing.T) {
	selected, err := Select([]string{"headline", "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range Targets() {
		for _, p := range target.Paths {
			name := string(p) + "/" + target.Load + "/4"
			if !slices.Contains(names(selected), name) {
				t.Errorf("%s has a target and is in neither list", name)
			}
		}
		if !slices.ContainsFunc(Measures(), func(m Measure) bool { return m.Name == target.Measure }) {
			t.Errorf("measure %q of a target does not exist", target.Measure)
		}
	}
}

// Each case of make bench-engine has a target for comparing the two.
func TestEngineIsJudged(t *testing.T) {
	selected, err := Select([]string{"engine"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range selected {
		if !slices.ContainsFunc(Measures(), func(m Measure) bool {
			_, ok := TargetOf(c.Name(), m.Name, Under)
			return ok
		}) {
			t.Errorf("%s has no target against %s", c.Name(), Under)
		}
	}
}

// Together the cases of make bench-smoke cover everything once.
func TestSmokeTouchesEverything(t *testing.T) {
	selected, err := Select([]string{"smoke"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Paths() {
		if !slices.ContainsFunc(selected, func(c Case) bool { return c.Path == p }) {
			t.Errorf("no case has path %s", p)
		}
	}
	for _, l := range Loads() {
		if !slices.ContainsFunc(selected, func(c Case) bool { return c.Load.Kind == l.Kind }) {
			t.Errorf("no case has a load of kind %s", l.Kind)
		}
	}
	for _, family := range []int{4, 6} {
		if !slices.ContainsFunc(selected, func(c Case) bool { return c.Family == family }) {
			t.Errorf("no case has family %d", family)
		}
	}
}
