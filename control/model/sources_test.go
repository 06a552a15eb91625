// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// Prefixes in any order are the same sources, as many as fit.
func TestSources(t *testing.T) {
	var texts []string
	for i := range MaxSources {
		texts = append(texts, fmt.Sprintf("10.%d.0.0/16", i))
	}
	all, err := ParseSources(texts)
	if err != nil || len(all.Prefixes()) != MaxSources || !slices.IsSortedFunc(all.Prefixes(), netip.Prefix.Compare) {
		t.Errorf("%d prefixes: %q, %v", MaxSources, all, err)
	}
	slices.Reverse(texts)
	if again, err := ParseSources(texts); again != all || err != nil {
		t.Errorf("in another order: %q, %v", again, err)
	}
	none, err := ParseSources(nil)
	if none != "" || err != nil || none.Texts() != nil || none.Prefixes() != nil {
		t.Errorf("no prefixes: %q, %v", none, err)
	}
}

// A prefix of a family from which no client comes is found.
func TestSourcesMiss(t *testing.T) {
	of := func(f Family) func(Family) bool { return func(g Family) bool { return f == g } }
	for _, tt := range []struct {
		sources Sources
		family  Family
		want    string
	}{
		{"", V4, "invalid Prefix"},
		{"10.0.0.0/8,10.0.0.1/32", V4, "invalid Prefix"},
		{"10.0.0.0/8,::/0", V4, "::/0"},
		{"10.0.0.0/8,::/0", V6, "10.0.0.0/8"},
		{"::1/128", V6, "invalid Prefix"},
	} {
		if got, found := tt.sources.Misses(of(tt.family)); got.String() != tt.want || found != got.IsValid() {
			t.Errorf("%q in %v misses %v, %t; want %s", tt.sources, tt.family, got, found, tt.want)
		}
	}
}
