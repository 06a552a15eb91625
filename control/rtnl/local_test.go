// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func runIP(t *testing.T, commands ...string) {
	t.Helper()
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip: %v\n%s", err, out)
	}
}

// Local routes that do not come from an address are listed, from the local table only, and their
// changes are reported. Other routes are not.
func TestLocalPrefixes(t *testing.T) {
	h := testHandle(t)
	runIP(t, "link set lo up", "address add 192.0.2.1/32 dev lo", "address add 2001:db8::1/128 dev lo",
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
		done <- h.Watch(ctx, Listener{Changed: func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}, FilterRemoved: func(int) {}, Link: func(Link) {}, Addr: func(uint32) {}})
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
		runIP(t, "route replace local 203.0.113.0/24 dev lo mtu "+[]string{"1400", "1401"}[i%2])
		if waitChange(10 * time.Millisecond) {
			break
		}
	}
	for waitChange(100 * time.Millisecond) {
	}
	runIP(t, "route add 198.18.0.0/24 dev lo", "route add 2001:db8:5::/64 dev lo")
	if waitChange(100 * time.Millisecond) {
		t.Error("routes that are not local are reported")
	}
	for _, prefix := range []string{"203.0.113.77/32", "2001:db8:aa::/64"} {
		runIP(t, "route add local "+prefix+" dev lo")
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
	runIP(t, "route del local 203.0.113.0/24 dev lo")
	if !waitChange(5 * time.Second) {
		t.Error("the removal of a local route is not reported")
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("the watch ended with %v", err)
	}
}
