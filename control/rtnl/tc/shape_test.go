// SPDX-License-Identifier: Apache-2.0

package tc

import (
	"errors"
	"math"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// An existing limit of any size is recognized, and not set twice.
func TestShape(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	l, err := h.CreateVeth(rtnl.Veth{Name: "fl0", PeerName: "eth0", PeerNS: ns, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		limit model.Limit
		want  shaper
	}{
		{model.Limit{Rate: 20e6, Burst: 400e3}, shaper{ShaperHandle, 2_500_000, 312_500, minQueue}},
		{model.Limit{Rate: 4e3, Burst: 12144}, shaper{ShaperHandle, 500, 47_437_500, minQueue}},
		{model.Limit{Rate: 1e9, Burst: 1e6}, shaper{ShaperHandle, 125_000_000, 15_625, 3_125_000}},
		{model.Limit{Rate: 1e12, Burst: 1e6}, shaper{ShaperHandle, 125_000_000_000, 16, 3_125_000_000}}, // rounded up
		{model.Limit{Rate: 1e15, Burst: 8 * math.MaxUint32}, shaper{ShaperHandle, 125_000_000_000_000, 537, math.MaxUint32}},
		// What passes in 4.3 s, the most that the kernel can count.
		{model.Limit{Rate: 1e6, Burst: math.MaxUint32}, shaper{ShaperHandle, 125_000, uint32(maxTicks), minQueue}},
	} {
		for _, changes := range []bool{true, false} {
			have, err := ListShapers(h.TC())
			if err != nil {
				t.Fatal(err)
			}
			if changed, err := Shape(h.TC(), l.Index, tt.limit, have); err != nil || changed != changes {
				t.Errorf("%+v: changed %t, %v, want %t", tt.limit, changed, err, changes)
			}
		}
		if have, err := ListShapers(h.TC()); err != nil || have[l.Index] != tt.want {
			t.Errorf("%+v is %+v, %v, want %+v", tt.limit, have[l.Index], err, tt.want)
		}
	}
	for _, changes := range []bool{true, false} {
		have, err := ListShapers(h.TC())
		if err != nil {
			t.Fatal(err)
		}
		if changed, err := Shape(h.TC(), l.Index, model.Limit{}, have); err != nil || changed != changes {
			t.Errorf("without a limit: changed %t, %v, want %t", changed, err, changes)
		}
	}
	if err := h.DeleteLink(l.Index); err != nil {
		t.Fatal(err)
	}
	if _, err := Shape(h.TC(), l.Index, model.Limit{Rate: 1e6, Burst: 1e6}, nil); !errors.Is(err, rtnl.ErrNoDevice) {
		t.Errorf("on a deleted device: %v, want ErrNoDevice", err)
	}
}

func TestProbeShaping(t *testing.T) {
	if err := ProbeShaping(); err != nil {
		t.Error(err)
	}
}
