// SPDX-License-Identifier: Apache-2.0

package stacked

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// A device has the address of its lease until that ends, and no address of an earlier one. Addresses without an end stay.
func TestSetLease(t *testing.T) {
	h := rtnltest.New(t)
	if err := rtnltest.IP("link add v type veth peer name w", "link set v up", "link set w up", "addr add 198.51.100.1/24 dev v"); err != nil {
		t.Fatal(err)
	}
	l, err := h.LinkByName("v")
	if err != nil {
		t.Fatal(err)
	}
	here, err := rtnl.CurrentNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	for _, tc := range []struct {
		address string
		rest    time.Duration
		changed int
		want    string
	}{
		{"192.0.2.9/24", time.Hour, 1, "198.51.100.1/24 192.0.2.9/24"},
		{"192.0.2.9/24", time.Hour - time.Second, 0, "198.51.100.1/24 192.0.2.9/24"},
		{"192.0.2.9/24", 2 * time.Hour, 1, "198.51.100.1/24 192.0.2.9/24"},
		{"192.0.2.10/24", time.Hour, 2, "198.51.100.1/24 192.0.2.10/24"},
		{"192.0.2.10/25", 10 * 365 * 24 * time.Hour, 2, "198.51.100.1/24 192.0.2.10/25"},
		{"192.0.2.10/25", 10 * 365 * 24 * time.Hour, 0, "198.51.100.1/24 192.0.2.10/25"},
		{"192.0.2.10/25", -time.Second, 0, "198.51.100.1/24 192.0.2.10/25"},
		{"", 0, 1, "198.51.100.1/24"},
		{"192.0.2.9/24", time.Second, 1, "198.51.100.1/24 192.0.2.9/24"},
	} {
		var want netip.Prefix
		if tc.address != "" {
			want = netip.MustParsePrefix(tc.address)
		}
		changed, err := SetLease(h.TC(), l.Index, want, tc.rest)
		_, addrs, _ := rtnltest.Read(t, here)
		if got := strings.Join(addrs["v"], " "); err != nil || changed != tc.changed || got != tc.want {
			t.Errorf("%s for %v: %d changes, %v, addresses %s; want %d, %s", tc.address, tc.rest, changed, err, got, tc.changed, tc.want)
		}
	}
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) { // the kernel removes it by itself
		list, err := h.TC().AddrList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(l.Index)}}, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 {
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("the addresses are still %v", list)
		}
	}
}
