// SPDX-License-Identifier: Apache-2.0

package programs

import "testing"

// Only the removal of a filter by others causes a check.
func TestOwnRemovalIsNoNews(t *testing.T) {
	var s suspects
	s.expectRemoval(5)
	for i, want := range []bool{false, true} {
		if got := s.add(5); got != want {
			t.Errorf("removal %d of a filter causes a check: %t, want %t", i+1, got, want)
		}
	}
	if got := s.take(); len(got) != 1 || !got[5] {
		t.Errorf("suspects are %v", got)
	}
}
