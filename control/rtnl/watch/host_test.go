// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

func TestHost(t *testing.T) {
	h := rtnltest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 1), make(chan error, 1)
	unfiltered := make(chan int, 10)
	go func() {
		done <- Host(ctx, h, Listener{
			Changed: func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			},
			FilterRemoved: func(ifindex int) { unfiltered <- ifindex },
			Link:          func(rtnl.Link) {}, Addr: func(uint32) {},
		})
	}()
	// Changes are missed until the watch runs, so make some until one is seen.
	seen := false
	for i := 0; i < 500 && !seen; i++ {
		up := i%2 == 0
		if err := h.SetLink(1, rtnl.LinkChange{Up: &up}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
			seen = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	if !seen {
		t.Error("no change was seen")
	}
	tc := func(args ...string) {
		t.Helper()
		if err := rtnltest.Run("tc", args...); err != nil {
			t.Fatal(err)
		}
	}
	tc("qdisc", "add", "dev", "lo", "clsact")
	tc("filter", "add", "dev", "lo", "ingress", "bpf", "bytecode", "1,6 0 0 0")
	if len(unfiltered) > 0 {
		t.Error("a new filter is reported as removed")
	}
	tc("filter", "del", "dev", "lo", "ingress")
	tc("qdisc", "del", "dev", "lo", "clsact")
	for _, what := range []string{"filter", "qdisc"} {
		select {
		case got := <-unfiltered:
			if got != 1 {
				t.Errorf("%s of device %d reported, want 1", what, got)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("the removal of a %s is not reported", what)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}
