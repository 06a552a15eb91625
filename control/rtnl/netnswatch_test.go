// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// testWatch returns a watch that runs until the test ends, and channels for the numbers that it
// reports and for lost messages.
func testWatch(t *testing.T) (w *NetNSWatch, changed chan int32, lost chan bool) {
	t.Helper()
	w, err := NewNetNSWatch()
	if err != nil {
		t.Fatal(err)
	}
	changed, lost = make(chan int32), make(chan bool)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.Run(ctx, func(number int32) {
			select {
			case changed <- number:
			case <-ctx.Done():
			}
		}, func() {
			select {
			case lost <- true:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, changed, lost
}

// in runs f with a socket in a namespace.
func in(t *testing.T, ns *NetNS, f func(c *conn) error) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := dial()
		if err != nil {
			return err
		}
		defer c.close()
		return f(c)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// untilQuiet returns the numbers received until there is none for the duration first initially,
// or while later.
func untilQuiet(changed <-chan int32, first, while time.Duration) (numbers []int32) {
	for wait := first; ; wait = while {
		select {
		case n := <-changed:
			numbers = append(numbers, n)
		case <-time.After(wait):
			return numbers
		}
	}
}

func TestInsidesWatch(t *testing.T) {
	h := testHandle(t)
	_, ns := testNetNS(t)
	_, unwatched := testNetNS(t)
	_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	if _, err := ConfigureSandbox(ns, []SandboxDevice{d}); err != nil {
		t.Fatal(err)
	}
	if _, err := ConfigureSandbox(unwatched, nil); err != nil {
		t.Fatal(err)
	}
	w, changed, _ := testWatch(t)
	number, err := w.Add(ns)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.Add(ns); err != nil || again != number {
		t.Errorf("the number is %d, and %d, %v when added again", number, again, err)
	}

	untilQuiet(changed, 2*time.Second, 2*time.Second) // carrier changes settle within 1 s

	four, six := d.Gateways[0], d.Gateways[1]
	route := func(c *conn, kind, flags int, dst netip.Prefix, gw netip.Addr) error {
		msg := nl.NewRtMsg()
		msg.Family, msg.Dst_len = uint8(family(gw)), uint8(dst.Bits())
		return c.do(kind, flags, msg, addr(unix.RTA_DST, dst.Addr()), addr(unix.RTA_GATEWAY, gw))
	}
	down, mtu := false, 1300
	const quiet = 500 * time.Millisecond
	tests := []struct {
		name      string
		ns        *NetNS
		change    func(c *conn) error
		wantEvent bool
	}{
		{"a unwatched's loopback down", unwatched, func(c *conn) error { return c.setLink(1, LinkChange{Up: &down}) }, false},
		{"a host's device changed", h.ns, func(c *conn) error { return c.setLink(1, LinkChange{MTU: &mtu}) }, false},
		{"another route added", ns, func(c *conn) error {
			return route(c, unix.RTM_NEWROUTE, unix.NLM_F_CREATE, netip.MustParsePrefix("198.51.100.0/24"), four)
		}, false},
		{"limit set", ns, func(*conn) error { return limit(d.PeerIndex) }, false},
		{"limit replaced by another qdisc", ns, func(*conn) error { return pfifo(d.PeerIndex) }, true},
		{"other qdisc replaced", ns, func(*conn) error { return limit(d.PeerIndex) }, false},
		{"MTU changed", ns, func(c *conn) error { return c.setLink(d.PeerIndex, LinkChange{MTU: &mtu}) }, true},
		{"address removed", ns, func(c *conn) error {
			return c.do(unix.RTM_DELADDR, 0, addrMsg(d.PeerIndex, d.Addrs[1]), addr(unix.IFA_LOCAL, d.Addrs[1].Addr()))
		}, true},
		{"IPv4 default route removed", ns, func(c *conn) error {
			return c.deleteDefault(Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: four})
		}, true},
		{"IPv6 default route removed", ns, func(c *conn) error {
			return c.deleteDefault(Route{Dst: netip.MustParsePrefix("::/0"), Gateway: six})
		}, true},
		{"device down", ns, func(c *conn) error { return c.setLink(d.PeerIndex, LinkChange{Up: &down}) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in(t, tt.ns, tt.change)
			first := quiet
			if tt.wantEvent {
				first = 5 * time.Second // a program may have to wait for its turn
			}
			got := untilQuiet(changed, first, quiet)
			if len(got) > 0 != tt.wantEvent {
				t.Errorf("events from %v; want any: %t", got, tt.wantEvent)
			}
			if slices.ContainsFunc(got, func(n int32) bool { return n != number }) {
				t.Errorf("events from %v, want %d", got, number)
			}
		})
	}
}

// A watch that is too slow reports that it lost messages.
func TestInsidesWatchLoses(t *testing.T) {
	testHandle(t)
	_, ns := testNetNS(t)
	w, changed, lost := testWatch(t)
	number, err := w.Add(ns)
	if err != nil {
		t.Fatal(err)
	}
	in(t, ns, func(c *conn) error {
		for i := range 10000 {
			up := i%2 == 0
			if err := c.setLink(1, LinkChange{Up: &up}); err != nil {
				return err
			}
		}
		return nil
	})
	for received := 0; ; received++ {
		select {
		case <-lost:
			t.Logf("lost after %d", received)
			return
		case got := <-changed:
			if got != number {
				t.Fatalf("number %d, want %d", got, number)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing lost in %d messages", received)
		}
	}
}
