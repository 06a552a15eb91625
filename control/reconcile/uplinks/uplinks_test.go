// SPDX-License-Identifier: Apache-2.0

package uplinks

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/uplink"
)

// An address that the host lost is kept until its time is over, which does not count while the
// device is down, and not at all if it comes back.
func TestLostAddrs(t *testing.T) {
	var lost lostAddrs
	a, back := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	lost.add(a, 2)
	lost.add(back, 2)
	if list := lost.addrs(); len(list) != 2 || list[0].Prefix.Addr() != a || list[0].IfIndex != 2 || list[1].Prefix.Bits() != 128 {
		t.Errorf("lost are %v", list)
	}
	up, down := []rtnl.Link{{Index: 2, Up: true}}, []rtnl.Link{{Index: 2}}
	now := map[netip.Addr]uint32{back: 3}
	for name, tt := range map[string]struct {
		links  []rtnl.Link
		linger time.Duration
		want   int
	}{"within its time": {up, time.Hour, 0}, "down": {down, 0, 0}} {
		if list := lost.expired(now, tt.links, tt.linger); len(list) != tt.want || len(lost) != 1 {
			t.Errorf("%s: expired are %v, lost are %v", name, list, lost)
		}
	}
	time.Sleep(time.Millisecond)
	if list := lost.expired(now, up, 0); len(list) != 1 || list[0] != a || len(lost) != 0 {
		t.Errorf("expired are %v, lost are %v", list, lost)
	}
}

// A device that has the name of a recent uplink is new until it is an uplink itself; a name
// expires with the time.
func TestRecent(t *testing.T) {
	var r recent
	links := []rtnl.Link{{Index: 2, Up: true, Name: "up0"}}
	r.note([]uplink.Uplink{{IfIndex: 2, Name: "up0"}}, links, time.Hour)
	for name, tt := range map[string]struct {
		l    rtnl.Link
		want bool
	}{
		"the same device": {rtnl.Link{Index: 2, Name: "up0"}, false},
		"created again":   {rtnl.Link{Index: 5, Name: "up0"}, true},
		"another":         {rtnl.Link{Index: 6, Name: "up1"}, false},
		"pinned":          {rtnl.Link{Index: 7, Name: "pinned"}, true},
	} {
		if got := r.isNew(tt.l, []string{"pinned"}); got != tt.want {
			t.Errorf("%s: new is %t, want %t", name, got, tt.want)
		}
	}
	time.Sleep(time.Millisecond)
	r.note([]uplink.Uplink{{IfIndex: 2, Name: "up0", Kept: true}}, links, time.Hour)
	if !r.names()["up0"] {
		t.Error("the uplink is forgotten within its time")
	}
	r.note(nil, links, 0)
	if len(r.names()) != 0 {
		t.Errorf("kept are %v", r.names())
	}
}
