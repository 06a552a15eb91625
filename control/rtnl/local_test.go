// SPDX-License-Identifier: Apache-2.0

package rtnl_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
)

// Local routes that do not come from an address are listed, from the local table only, and their
// changes are reported. Other routes are not.
func TestLocalPrefixes(t *testing.T) {
	h := rtnltest.New(t)
	ip := func(commands ...string) {
		t.Helper()
		if err := rtnltest.IP(commands...); err != nil {
			t.Fatal(err)
		}
	}
	ip("link set lo up", "address add 192.0.2.1/32 dev lo", "address add 2001:db8::1/128 dev lo",
		"route add local default dev lo table 100", "route add local 198.51.100.0/24 dev lo table 100")
	list := func() []netip.Prefix {
		t.Helper()
		addrs, err := h.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.LocalPrefixes(addrs)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := list(); len(got) > 0 {
		t.Errorf("without local routes: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- watch.Host(ctx, h, watch.Listener{Changed: func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}, FilterRemoved: func(int) {}, Link: func(rtnl.Link) {}, Addr: func(uint32) {}})
	}()
	waitChange := func(within time.Duration) bool {
		select {
		case <-changed:
			return true
		case <-time.After(within):
			return false
		}
	}
	for i := range 500 { // until the watch runs
		ip("route replace local 203.0.113.0/24 dev lo mtu " + []string{"1400", "1401"}[i%2])
		if waitChange(10 * time.Millisecond) {
			break
		}
	}
	for waitChange(100 * time.Millisecond) {
	}
	ip("route add 198.18.0.0/24 dev lo", "route add 2001:db8:5::/64 dev lo")
	if waitChange(100 * time.Millisecond) {
		t.Error("routes that are not local are reported")
	}
	for _, prefix := range []string{"203.0.113.77/32", "2001:db8:aa::/64"} {
		ip("route add local " + prefix + " dev lo")
		if !waitChange(5 * time.Second) {
			t.Errorf("a new local route to %s is not reported", prefix)
		}
		for waitChange(100 * time.Millisecond) {
		}
	}
	want := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("203.0.113.77/32"), netip.MustParsePrefix("2001:db8:aa::/64")}
	if diff := cmp.Diff(want, list(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("local prefixes (-want +got):\n%s", diff)
	}
	ip("route del local 203.0.113.0/24 dev lo")
	if !waitChange(5 * time.Second) {
		t.Error("the removal of a local route is not reported")
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("the watch ended with %v", err)
	}
}
