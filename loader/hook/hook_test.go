// SPDX-License-Identifier: Apache-2.0

package hook

import "testing"

func TestParsePinName(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ifindex int
		hook    Hook
		ok      bool
	}{
		{"from_endpoint-7", 7, FromEndpoint, true},
		{"to_uplink-12", 12, ToUplink, true},
		{"from_uplink-1", 1, FromUplink, true},
		{"from_uplink-01", 0, "", false},
		{"from_uplink-7_next", 0, "", false},
		{"from_uplink--7", 0, "", false},
		{"cgroup-connect4", 0, "", false},
		{"x-7", 0, "", false},
		{"", 0, "", false},
	} {
		at, ok := parsePinName(tt.name)
		if ok != tt.ok || at != (point{tt.ifindex, tt.hook}) {
			t.Errorf("%q: %+v, %v", tt.name, at, ok)
		}
	}
}
