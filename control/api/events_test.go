// SPDX-License-Identifier: Apache-2.0

package api

import "testing"

// Filters select events as Docker's do: one value of each key must match.
func TestEventFilters(t *testing.T) {
	connect := Event{Type: "network", Action: "connect", Actor: EventActor{ID: "abc123", Attributes: map[string]string{"name": "web", "container": "def456", "sandbox": "anna"}}}
	publish := Event{Type: "sandbox", Action: "publish", Actor: EventActor{ID: "def456", Attributes: map[string]string{"name": "anna"}}}
	repair := Event{Type: "datapath", Action: "repair"}
	for _, tc := range []struct {
		filters                  Filters
		connect, publish, repair bool
	}{
		{nil, true, true, true},
		{Filters{"type": {"network"}}, true, false, false},
		{Filters{"type": {"network", "sandbox"}, "event": {"publish"}}, false, true, false},
		{Filters{"network": {"web"}}, true, false, false},
		{Filters{"network": {"abc"}}, true, false, false},
		{Filters{"network": {"we", "anna", ""}}, false, false, false},
		{Filters{"sandbox": {"anna"}}, true, true, false},
		{Filters{"container": {"def"}}, true, true, false},
		{Filters{"container": {"web"}}, false, false, false},
		{Filters{"event": {"repair"}}, false, false, true},
	} {
		for e, want := range map[*Event]bool{&connect: tc.connect, &publish: tc.publish, &repair: tc.repair} {
			if got := tc.filters.Match(*e); got != want {
				t.Errorf("%v match the %s event: %t, want %t", tc.filters, e.Action, got, want)
			}
		}
	}
}
