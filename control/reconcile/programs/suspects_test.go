// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"testing"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/loader"
)

// Only the removal of a filter by others causes a check.
func TestOwnRemovalIsNoNews(t *testing.T) {
	var s suspects
	s.expectRemoval(5)
	for i, want := range []bool{false, true} {
		if got := s.add(5); got != want {
			t.Errorf("removal %d of a filter causes a check: %t, want %t", i+1, got, want)
		}
	}
	if got := s.take(nil); len(got) != 1 || !got[5] {
		t.Errorf("suspects are %v", got)
	}
}

// A device that a pass works on stays a suspect for the check after that.
func TestBusySuspectStays(t *testing.T) {
	var s suspects
	s.add(5)
	s.add(6)
	busy := map[device.Place]bool{{IfIndex: 5, Hook: loader.FromEndpoint}: true, {IfIndex: 5, Hook: loader.FromUplink}: true}
	if got := s.take(busy); len(got) != 1 || !got[6] {
		t.Errorf("suspects are %v, want that of the device that is not busy", got)
	}
	if got := s.take(nil); len(got) != 1 || !got[5] {
		t.Errorf("suspects are then %v, want the other one", got)
	}
}
