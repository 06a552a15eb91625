// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"log/slog"
	"testing"
)

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

// Every kind of the table exists, and two kinds that serve one hook do not share a pin.
func TestKinds(t *testing.T) {
	a := New(Config{BPFDir: "/x", Log: slog.New(slog.DiscardHandler)})
	for h, row := range devices {
		pins := map[string]Kind{}
		for _, k := range row.kinds {
			impl, ok := a.kinds[k]
			if !ok {
				t.Errorf("%s: kind %s is not constructed", h, k)
				continue
			}
			pin := impl.pin(point{7, h})
			if other, taken := pins[pin]; taken {
				t.Errorf("%s: the kinds %s and %s have the same pin", h, k, other)
			}
			pins[pin] = k
		}
		if len(pins) == 0 {
			t.Errorf("%s has no kind", h)
		}
	}
}
